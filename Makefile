# make test     sets everything up (once) and runs all tests
# make lint     formatting, style, types, layers
# make wheel    builds the wheel and tries it in an empty environment
# make coverage the protocol core and safety.py must be covered, every branch
# make fuzz     the property tests with many more examples (minutes)
# make bench    what a step costs
# make golden   writes the golden frames anew, after a change on the wire

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
NODE_INSTALLED := tests/interop/node_modules/.installed

.PHONY: setup test lint coverage wheel fuzz bench golden clean

setup: $(INSTALLED) $(NODE_INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; call make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The client in another language. Without Node its test skips and says so.
$(NODE_INSTALLED): tests/interop/package.json
	@if command -v npm >/dev/null; then \
		cd tests/interop && npm install --no-audit --no-fund --no-package-lock --silent && touch node_modules/.installed; \
	else echo "npm is not installed: the test of the Node client will be skipped"; fi

# Real time is tested alone: beside other tests two cores are too few.
test: setup
	$(BIN)/python -m pytest -n 2 -m "not realtime"
	$(BIN)/python -m pytest -m realtime

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(INSTALLED)
	$(BIN)/python -m coverage run -m pytest -q tests/protocol tests/server/test_safety.py
	$(BIN)/python -m coverage report --show-missing --fail-under=100

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) tests/smoke_wheel.py dist/*.whl

fuzz: $(INSTALLED)
	HYPOTHESIS_PROFILE=fuzz $(BIN)/python -m pytest -n 2 --timeout 3600 tests/protocol

bench: $(INSTALLED)
	$(BIN)/python benchmarks/step.py

golden: $(INSTALLED)
	$(BIN)/python -m tests.golden.make

clean:
	rm -rf $(VENV) tests/interop/node_modules dist
