"""The documents say what is so."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "examples/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
SOURCES = [
    path for side in ("remote_env", "server", "agents") for path in ROOT.glob(f"{side}/**/*.py")
]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def test_the_first_example_of_the_readme_has_ten_lines_and_runs():
    first = blocks(ROOT / "README.md", "python")[0]
    assert len([line for line in first.splitlines() if line.strip()]) <= 10
    subprocess.run([sys.executable, "-W", "error", "-c", first], check=True, timeout=60)


@pytest.mark.parametrize("example", blocks(ROOT / "README.md", "python"))
def test_every_python_example_of_the_readme_compiles(example):
    compile(example, "README.md", "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_somewhere(page):
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_the_readme_says_that_it_is_no_certified_safety_function():
    assert "not a certified safety function" in (ROOT / "README.md").read_text()


def test_the_readme_names_the_command_that_tests():
    assert "make test" in (ROOT / "README.md").read_text()


def test_the_architecture_names_files_and_names_that_exist():
    text = (ROOT / "docs/architecture.md").read_text()
    files = {path.name for path in SOURCES}
    code = "\n".join(path.read_text() for path in SOURCES)
    named = re.findall(r"`([\w/]+\.py)`", text)
    assert named
    assert [name for name in named if Path(name).name not in files] == []
    names = {n for quoted in re.findall(r"`([\w.]+)`", text) for n in quoted.split(".")}
    names -= {"py", "md", "async", "def", "step", "dtype", "info", "remote"}
    assert [name for name in sorted(names) if not re.search(rf"\b{name}\b", code)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_module_is_longer_than_one_idea(path):
    assert len(path.read_text().splitlines()) <= 500
