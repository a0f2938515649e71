# make demo     simulated arms learn to reach, in a minute; sets itself up (once)
# make test     sets everything up (once) and runs all tests
# make test-plain  parity, faults and observers again, without the fast lane
# make test-shared  the same, with shared memory for frames of all sizes
# make lint     formatting, style, types, layers
# make wheel    builds the wheel and tries it in an empty environment
# make coverage the protocol core and what guards the robot must be covered, every branch
# make fuzz     the property tests with many more examples, a million actions, 1e5 rules (minutes)
# make bench    every goal of speed, beside raw TCP and what others use (a quarter of an hour)
# make bench-more  what a step of several robots costs, the guard, learning, evaluation (half an hour)
# make profile  where the time of a step goes
# make reliability  what holds when things go wrong, as a table (a quarter of an hour)
# make soak     the long ones of that: a million steps, a thousand connections (half an hour)
# make golden   writes the golden frames anew, after a change on the wire

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DEMO_INSTALLED := $(VENV)/.installed-demo
BENCH_INSTALLED := $(VENV)/.installed-bench
NODE_INSTALLED := tests/interop/node_modules/.installed
PYTHON_IS_NEW := 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; call make PYTHON=python3.11")'

# Tests start hundreds of processes: each compiles all of it where nothing may be kept.
export PYTHONPYCACHEPREFIX := $(abspath $(VENV))/bytecode
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo setup test test-plain test-shared lint coverage wheel fuzz bench bench-more profile reliability soak golden clean

demo: $(DEMO_INSTALLED)
	$(BIN)/remote-env demo

# Where everything for the tests is installed already, this finds nothing to do.
$(DEMO_INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c $(PYTHON_IS_NEW)
	@echo "installing into $(VENV): once, about 1 GB, a minute or two"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[demo]'
	touch $@

setup: $(INSTALLED) $(NODE_INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c $(PYTHON_IS_NEW)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

# The client in another language. Without Node its test skips and says so.
$(NODE_INSTALLED): tests/interop/package.json
	@if command -v npm >/dev/null; then \
		cd tests/interop && npm install --no-audit --no-fund --no-package-lock --silent && touch node_modules/.installed; \
	else echo "npm is not installed: the test of the Node client will be skipped"; fi

# What is tested in real time mostly waits: two at a time, and not beside tests that keep a core
# busy. A host may stop a virtual machine for longer than a stream may be old, so what fails is
# tried again, alone, when it does not (tests/tries.py). All that failed stays in sight.
test: setup
	$(BIN)/python tests/tries.py -n 2 -m "not realtime"
	$(BIN)/python tests/tries.py -n 2 -m realtime

# What must hold whatever carries the frames, with the WebSocket library's own ends.
test-plain: setup
	REMOTE_ENV_FAST=0 $(BIN)/python tests/tries.py -n 2 -m "not realtime" tests/test_parity.py tests/test_link_loss.py \
		tests/test_split_step.py tests/test_bad_input.py tests/server/test_leaving_out.py tests/test_asked_streams.py \
		tests/server/test_worst_moments.py tests/server/test_observers.py tests/interop

# And when every frame, however small, goes through shared memory.
test-shared: setup
	REMOTE_ENV_TEST_SHARES_ALL=1 $(BIN)/python tests/tries.py -n 2 -m "not realtime" tests/test_parity.py \
		tests/test_link_loss.py tests/test_split_step.py tests/server/test_leaving_out.py \
		tests/server/test_worst_moments.py

lint: $(INSTALLED)
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

coverage: $(INSTALLED)
	$(BIN)/python -m coverage run -m pytest -q tests/protocol tests/server/test_safety.py tests/server/test_motion.py tests/server/test_core.py tests/server/test_lease.py
	$(BIN)/python -m coverage report --show-missing --fail-under=100

wheel: $(INSTALLED)
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist
	$(PYTHON) tests/smoke_wheel.py dist/*.whl

fuzz: $(INSTALLED)
	HYPOTHESIS_PROFILE=fuzz REMOTE_ENV_TEST_ACTIONS=1000000 $(BIN)/python -m pytest -n 2 --timeout 3600 \
		tests/protocol tests/server/test_safety.py tests/server/test_motion.py tests/server/test_action_flood.py \
		tests/server/test_core_machine.py tests/transport/test_fast_frames.py tests/transport/test_lanes_agree.py

# openpi-client asks for numpy<2, which its client does not need.
$(BENCH_INSTALLED): $(INSTALLED)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable '.[dev,bench]'
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps openpi-client \
		|| echo "openpi-client cannot be installed: it will be missing in the table"
	touch $@

bench: $(BENCH_INSTALLED)
	$(BIN)/python benchmarks/goals.py

profile: $(INSTALLED)
	$(BIN)/python benchmarks/where_time_goes.py

bench-more: $(INSTALLED)
	$(BIN)/python benchmarks/same_host.py
	$(BIN)/python benchmarks/head_of_line.py
	$(BIN)/python benchmarks/codecs.py
	$(BIN)/python benchmarks/guard.py
	$(BIN)/python benchmarks/vector.py
	$(BIN)/python benchmarks/vector_step.py
	$(BIN)/python benchmarks/learning.py
	$(BIN)/python benchmarks/learning_with_kills.py
	$(BIN)/python benchmarks/realtime_learning.py --seconds 120
	$(BIN)/python benchmarks/evaluation_kills.py --rounds 2
	$(BIN)/python benchmarks/wrappers.py

reliability: $(INSTALLED)
	$(BIN)/python benchmarks/reliability.py

soak: $(INSTALLED)
	$(BIN)/python benchmarks/reliability.py --only cycles --only memory --only actions --only driver --steps 1000000

golden: $(INSTALLED)
	$(BIN)/python -m tests.golden.make

clean:
	rm -rf $(VENV) tests/interop/node_modules dist
