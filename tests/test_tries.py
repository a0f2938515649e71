"""What fails has further tries: one on any machine, more where the host took time from it."""

import itertools

import pytest
import tries

FAILS = """
import pathlib

import pytest

COUNT = pathlib.Path(__file__).with_name("count")


def test_that_is_not_tried_again():
    assert not COUNT.exists()


def test_that_fails_at_first():
    count = len(COUNT.read_text()) + 1 if COUNT.exists() else 1
    COUNT.write_text("x" * count)
    assert count > {failures}
"""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run a test that fails so many times; return what pytest returned, and how often it ran."""

    def run_a_test_that_fails(failures, body=FAILS):
        (tmp_path / "pytest.ini").write_text("[pytest]\n")
        (tmp_path / "test_it.py").write_text(body.replace("{failures}", str(failures)))
        monkeypatch.chdir(tmp_path)
        code = tries.run_with_tries(["-q", "test_it.py"], most_wait=0.0)
        count = tmp_path / "count"
        return code, len(count.read_text()) if count.exists() else 0

    return run_a_test_that_fails


@pytest.fixture
def stolen(monkeypatch):
    """Make it so that the host takes more and more."""
    seconds = itertools.count(step=100.0)
    monkeypatch.setattr(tries, "stolen_time", lambda: next(seconds))


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr(tries, "stolen_time", lambda: 7.0)


@pytest.mark.parametrize(("failures", "expected"), [(0, (0, 1)), (1, (0, 2)), (9, (1, 2))])
def test_on_a_quiet_machine_there_are_two_tries(run, quiet, failures, expected):
    assert run(failures) == expected


@pytest.mark.parametrize(("failures", "expected"), [(0, (0, 1)), (4, (0, 5)), (9, (1, 5))])
def test_where_the_host_takes_time_there_are_five(run, stolen, failures, expected):
    assert run(failures) == expected


def test_what_is_no_failure_of_a_test_is_not_tried_again(run, stolen, capfd):
    code, _ = run(0, "this is not Python")
    assert code == 2
    assert "trying again" not in capfd.readouterr().out


def test_it_waits_until_the_host_leaves_the_machine_alone(monkeypatch, capsys):
    taken = iter([0.0, 1.0, 1.0, 2.0, 2.0, 2.0])
    monkeypatch.setattr(tries, "stolen_time", lambda: next(taken))
    tries.wait_for_quiet(during=0.001)
    assert next(taken, None) is None
    assert capsys.readouterr().out.count("waiting until it does not") == 2


def test_it_does_not_wait_for_ever(stolen, capsys):
    tries.wait_for_quiet(most=0.05, during=0.01)
    assert "the host takes" in capsys.readouterr().out
