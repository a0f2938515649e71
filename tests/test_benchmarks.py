"""The benchmarks still run, and their tables say what was measured. No figure is judged here."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inside, scaling, streaming, unchanged
from benchmarks.contest import Figures, Result, compare_arrays, contest, versus
from benchmarks.goals import PARTS, Run, measure, write
from benchmarks.goals_table import (
    GOALS,
    NOT_HERE,
    markdown,
    markdown_of_peers,
    put_into_page,
    row,
)
from benchmarks.payloads import PAYLOADS, observation_of
from benchmarks.peers import OURS, PEERS, RAW, Peer
from benchmarks.peers.ours import sizes_of
from benchmarks.reliability_rig import ServerProcess
from benchmarks.where_time_goes import (
    BACK,
    NETWORK,
    OVER,
    SERVE,
    STEP,
    THERE,
    line_of,
    lines,
    means,
    own_times,
    profile,
)

ROOT = Path(__file__).parents[1]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and process clocks")
SMALL = ((8, 8, True), (4, 6, False))


# Each way to make a step


@LINUX
@pytest.mark.parametrize("name", PEERS)
def test_each_way_returns_the_arrays_that_were_sent(name):
    peer = PEERS[name]
    if peer.missing:
        pytest.skip(f"{peer.missing} is not installed; make bench does that")
    found = versus(peer, SMALL, seconds=0.02, rounds=1)
    for way in (RAW.name, OURS.name, name):
        assert 0 < found.figure(way) <= found.figure(way, "p99")
        assert found.figure(way, "cpu") > 0


@LINUX
def test_a_way_that_does_not_start_is_an_error():
    nowhere = Peer("nowhere", "vector_env", "", options={"port": 1})  # knows no such option
    with pytest.raises(EOFError):
        contest((RAW, nowhere), SMALL, seconds=0.02, rounds=1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda array: None, r"returned \["),
        (lambda array: array + 1, "another joint_pos"),
        (lambda array: array.astype(np.float64), "another joint_pos"),
    ],
)
def test_a_way_that_returns_something_else_is_found_out(change, message):
    expected = observation_of(SMALL)
    compare_arrays("mine", expected, expected)
    arrays = {**expected, "joint_pos": change(expected["joint_pos"])}
    if arrays["joint_pos"] is None:
        del arrays["joint_pos"]
    with pytest.raises(RuntimeError, match=f"mine.*{message}"):
        compare_arrays("mine", arrays, expected)


@LINUX
def test_steps_can_be_paced_and_pinned():
    found = contest((RAW, OURS), (), seconds=0.05, rounds=2, pinned=True, period=0.002)
    assert len(found.rounds) == 2
    assert found.values()[OURS.name]["x_raw"] == found.ratio(OURS.name, RAW.name)


def test_of_rounds_the_median_counts_and_the_ratio_is_of_one_round():
    rounds = [(1.0, 2.0), (2.0, 8.0), (3.0, 3.0)]
    found = Result(tuple({"a": Figures(a, a, a, 1), "b": Figures(b, b, b, 1)} for a, b in rounds))
    assert found.figure("a") == 2.0
    assert found.figure("b") == 3.0
    assert found.ratio("b", "a") == 2.0  # of 2, 4 and 1; not 3 / 2
    assert found.ratios("b", "a") == (2.0, 4.0, 1.0)


@pytest.mark.parametrize("sizes", [*PAYLOADS.values(), SMALL])
def test_what_a_step_carries_tells_of_which_cameras_it_is(sizes):
    assert sizes_of(observation_of(sizes)) == sizes


# Goals


@pytest.mark.parametrize(
    ("key", "value", "verdict"),
    [
        ("1 P2", 1.1, "reached"),
        ("1 P2", 1.4, "met"),
        ("1 P2", 1.41, "missed"),
        ("5 P2", 11.0, "reached"),
        ("5 P2", 7.0, "met"),
        ("5 P2", 6.9, "missed"),
        ("22", None, "not measured"),
    ],
)
def test_a_goal_is_met_or_missed(key, value, verdict):
    assert row(key, value).verdict == verdict


def test_the_table_has_bounds_figures_verdicts_and_what_is_not_measured():
    text = markdown([row("1 P2", 1.234, (2e-3, 3e-3), (1e-3, 1.5e-3)), row("22", None, note="why")])
    assert "| 1 P2 | step / raw TCP, the same bytes | <= 1.4 | <= 1.1 | 1.23 |" in text
    assert "| 2,000 (3,000) | 1,000 (1,500) | met |" in text
    assert "| why |  |  | not measured |" in text
    assert "| 2 (1 to 4) |" in markdown([row("1 P2", 2.0, rounds=(4.0, 2.0, 1.0))])
    assert all(key in text for key in NOT_HERE)


def test_a_peer_that_is_missing_is_named():
    table = {"P0": {"ours": {"p50_us": 1.0, "p99_us": 2.0}}, "P2": {}}
    text = markdown_of_peers(table, {"gRPC": "grpcio is not installed"})
    assert "| ours | 1 (2) |  |" in text
    assert "| gRPC | not measured: grpcio is not installed | |" in text


def test_tables_replace_what_stands_between_their_markers(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- x: begin -->\nold\n<!-- x: end -->\nb\n")
    for _ in range(2):  # a page that was written can be written again
        put_into_page(page, {"x": "new"})
    assert page.read_text() == "a\n<!-- x: begin -->\nnew\n<!-- x: end -->\nb\n"
    with pytest.raises(ValueError, match="<!-- y: begin -->"):
        put_into_page(page, {"y": "new"})


def test_the_page_has_a_place_for_every_table():
    text = (ROOT / "docs" / "performance.md").read_text()
    for name in ("machine", "goals", "peers", "alone", "how", "scaling", "profile"):
        assert f"<!-- {name}: begin -->" in text
        assert f"<!-- {name}: end -->" in text


@LINUX
@pytest.mark.parametrize("part", ["inside", "streams"])
def test_a_part_of_the_goals_is_measured_and_written(part, tmp_path):
    run = Run(pace=0.01, rounds=1, say=lambda text: None)
    rows = measure(run, [part])
    assert run.failures == []
    assert rows
    assert all(one.value > 0 for one in rows)
    write(tmp_path / "new" / "latest.json", run, rows, {})
    found = json.loads((tmp_path / "new" / "latest.json").read_text())
    assert [goal["goal"] for goal in found["goals"]] == [one.goal.key for one in rows]


def test_a_part_that_fails_is_told_and_the_others_are_measured(monkeypatch, capsys):
    def fail(run):
        raise OSError("no such thing")
        yield

    monkeypatch.setitem(PARTS, "streams", fail)
    monkeypatch.setitem(PARTS, "inside", lambda run: iter([row("17", 1.0)]))
    run = Run()
    assert [one.goal.key for one in measure(run, ["streams", "inside"])] == ["17"]
    assert run.failures == ["streams: OSError: no such thing"]
    assert "no such thing" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["goals", "scaling", "step", "unchanged", "where_time_goes"])
def test_a_script_starts_and_says_what_it_is(name):
    script = ROOT / "benchmarks" / f"{name}.py"
    command = [sys.executable, str(script), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert "usage" in done.stdout


def test_every_goal_has_a_bound_that_is_harder_to_reach_than_to_meet():
    for goal in GOALS.values():
        assert goal.is_met(goal.reach)
        assert not goal.is_met(goal.must * (0.99 if goal.is_least else 1.01))


# What else is measured


@LINUX
def test_streams_and_unchanged_pictures_are_measured():
    (rates,) = streaming.fractions(SMALL, seconds=0.1, rounds=1)
    assert rates["ours"] > 0
    assert rates["raw"] > 0
    with ServerProcess(unchanged.Rig, {"sizes": SMALL}, mode="lockstep") as server:
        found = unchanged.measure(server.url, 0.2, keeps=False)
    assert found["bytes"] > sum(array.nbytes for array in observation_of(SMALL).values()) - 300
    assert found["hz"] > 0


def test_a_sensors_waits_are_those_of_its_own_thread():
    assert len(inside.waits(0.1)) >= 10


@LINUX
def test_growth_is_measured_and_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "COMPARED", ("openpi's way",))
    shown = []
    scale = scaling.Scale(seconds=0.02, rounds=1, say=shown.append)
    found = {
        "bytes": scaling.bytes_of_steps(scale, (None, (8, 8))),
        "cameras": scaling.cameras(scale, (1, 2)),
        "observers": scaling.observers(scale, (1, 2)),
    }
    assert len(shown) == 8
    text = scaling.markdown(found)
    assert "| 84 B |" in text
    assert "| cameras of 640x480 |" in text
    assert all(figures["hz"] > 0 for figures in found["observers"].values())
    pytest.importorskip("matplotlib", reason="matplotlib is not installed; make bench does that")
    from benchmarks.scaling_plots import draw

    assert len(draw(found, tmp_path)) == 3
    assert all(path.stat().st_size > 5000 for path in tmp_path.iterdir())


# Where the time goes


@LINUX
def test_a_step_is_followed_through_all_threads_and_nothing_is_missing():
    found = profile((), steps=60, pinned=False)
    assert found.absent == ()  # or the tables at the top of where_time_goes.py need new names
    assert {STEP, THERE, NETWORK, OVER, SERVE, BACK} <= found.stages.keys()
    assert {"learner: encode", "robot: decode"} <= found.stages.keys()
    assert all(us >= 0 for us in found.stages.values())
    assert sum(found.stages.values()) > 20
    assert any("remote-env control" in name for name in found.cpu)


def test_time_belongs_to_the_innermost_call():
    calls = [("outer", 1, 0, 10), ("inner", 1, 2, 5)]
    assert list(own_times(calls, 0, 12, "rest")) == [
        ("outer", 2),
        ("inner", 3),
        ("outer", 5),
        ("rest", 2),
    ]


LEARNER_CALLS = [
    (STEP, 1, 0, 100),
    ("learner: write to the socket", 1, 10, 20),
    ("learner: wait and read from the socket", 1, 22, 90),
    ("learner: decode", 1, 91, 95),
]
SERVER_CALLS = [
    ("robot: read", 2, 25, 27),
    (NETWORK, 2, 28, 44),
    ("robot: hand to the loop", 2, 38, 42),
    (SERVE, 3, 50, 80),
    ("robot: write to the socket", 3, 70, 76),
]


def test_the_line_of_time_has_no_gap():
    line = line_of(LEARNER_CALLS, SERVER_CALLS)
    assert sum(length for _, length in line) == 100
    assert (THERE, 5) in line
    assert (OVER, 8) in line
    assert (BACK, 14) in line


def test_what_overlaps_is_counted_once():
    server = [(n, t, a - 10, b - 10) for n, t, a, b in SERVER_CALLS]  # woken before write returns
    line = line_of(LEARNER_CALLS, server)
    assert sum(length for _, length in line) == 100
    assert (THERE, 0) in line


def test_a_step_that_is_not_whole_is_left_out():
    assert line_of(LEARNER_CALLS, SERVER_CALLS[:3]) == []
    later = [(n, t, a + 200, b + 200) for n, t, a, b in LEARNER_CALLS]
    found = list(lines([*LEARNER_CALLS, *later], SERVER_CALLS))
    assert len(found) == 1
    assert means(found)[THERE] == pytest.approx(0.005)


@LINUX
def test_bare_robots_answer():
    found = subprocess.run(
        [
            sys.executable,
            "benchmarks/bare_robots.py",
            *("--robots", "2", "--payloads", "P3", "--seconds", "0.05", "--rounds", "1"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    cells = found.stdout.splitlines()[-1].split("|")
    assert cells[1].strip() == "P3, 2"
    assert all("us" in cell for cell in cells[2:4])
