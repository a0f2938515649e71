"""What is written down outlives whoever writes it, and counts once."""

import json
import math
import multiprocessing
import os
import signal
from dataclasses import replace

import pytest
from made_up_episodes import ROBOTS, about, episode

from remote_env import ConfigurationError
from remote_env_agents.dispatch import RobotEvent
from remote_env_agents.keys import cross
from remote_env_agents.results import ResultsFile, read_results

KEYS = cross(range(4))


def open_file(path, keys=KEYS, **more):
    return ResultsFile(path, about(keys, **more), keys, ROBOTS)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "episodes.jsonl"


@pytest.fixture
def quickly(monkeypatch):
    """Do not wait for the disk: hundreds of files are written."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def test_what_was_written_is_read_again_bit_by_bit(path):
    first = episode(0, episode_return=-0.1 - 0.2, seconds=1 / 3)
    spoiled = episode(1, spoiled="the \u2028 cable\n", robot=ROBOTS[1])
    odd = episode(2, episode_return=-math.inf)
    with open_file(path) as file:
        file.add(first)
        file.add(spoiled)
        file.note(RobotEvent(ROBOTS[1], "lost", "cable"))
        file.add(odd)
    found = read_results(path)
    assert (found.about, found.keys, found.robots) == (about(KEYS), KEYS, ROBOTS)
    assert found.episodes == (first, odd)
    assert math.isnan(found.spoiled[0].episode_return)
    assert (found.spoiled[0].key, found.spoiled[0].spoiled) == (KEYS[1], spoiled.spoiled)
    assert found.events == (RobotEvent(ROBOTS[1], "lost", "cable"),)
    assert found.missing == (KEYS[1], KEYS[3])
    assert found.sessions == 1


def test_a_line_is_json_and_ends_when_the_episode_does(path):
    with open_file(path) as file:
        file.add(episode(0))
        lines = path.read_bytes().splitlines(keepends=True)
        kinds = [next(iter(json.loads(line))) for line in lines]
        assert kinds == ["evaluation", "session", "episode"]
        assert all(line.endswith(b"\n") for line in lines)


def test_a_line_torn_at_any_byte_is_cut_and_the_rest_counts(path, quickly):
    with open_file(path) as file:
        file.add(episode(0))
        whole = path.read_bytes()
        file.add(episode(1))
    data = path.read_bytes()
    for size in range(len(whole), len(data)):
        path.write_bytes(data[:size])
        assert [one.seed for one in read_results(path).episodes] == [0]
        assert path.read_bytes() == data[:size]  # who only looks changes nothing
        with open_file(path) as file:
            assert [one.seed for one in file.earlier.episodes] == [0]
            file.add(episode(1))
        assert [one.seed for one in read_results(path).episodes] == [0, 1]


def test_a_first_line_torn_at_any_byte_is_begun_anew(path, quickly):
    with open_file(path):
        pass
    first = path.read_bytes().splitlines(keepends=True)[0]
    for size in range(len(first)):
        path.write_bytes(first[:size])
        assert read_results(path) is None
        with open_file(path) as file:
            file.add(episode(3))
        assert [one.seed for one in read_results(path).episodes] == [3]


def test_a_last_line_of_noise_is_what_a_power_failure_leaves(path):
    with open_file(path) as file:
        file.add(episode(0))
    with path.open("ab") as file:
        file.write(b"\0" * 50 + b"\n")
    with open_file(path) as file:
        file.add(episode(1))
    assert [one.seed for one in read_results(path).episodes] == [0, 1]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"spec_hash": "f00d"}, "the robots' spec hash was cafe and is f00d"),
        ({"control_hz": 10.0}, "the robots' control_hz was 20.0 and is 10.0"),
        ({"streams": None}, "streams was .*joint_pos.* and is None"),
        ({"max_steps": 5}, "the limit of steps was None and is 5"),
        ({"version": "99"}, "remote-robot-env was .* and is 99"),
    ],
)
def test_another_evaluation_is_refused_with_what_differs(path, more, message):
    with open_file(path) as file:
        file.add(episode(0))
    with path.open("ab") as torn:
        torn.write(b'{"epis')
    before = path.read_bytes()
    with pytest.raises(ConfigurationError, match=f"another evaluation: {message}.*give another"):
        open_file(path, **more)
    assert path.read_bytes() == before


def test_another_policy_or_list_is_refused_and_another_path_of_the_same_policy_is_not(path):
    policy = about(KEYS).policy
    with open_file(path):
        pass
    with pytest.raises(ConfigurationError, match="the policy was 5eed and is beef"):
        open_file(path, policy=replace(policy, sha256="beef"))
    with pytest.raises(ConfigurationError, match="the list of episodes was 4 with"):
        open_file(path, keys=KEYS[:3])
    with open_file(path, policy=replace(policy, name="../policy.zip")):
        pass


@pytest.mark.parametrize("text", ["notes\n", "no end", "{}\n", '{"evaluation":{}}\n'])
def test_something_else_is_refused_and_left_alone(path, text):
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="give another"):
        open_file(path)
    assert path.read_text() == text


@pytest.mark.parametrize("seed", [0, 99])
def test_an_episode_that_is_counted_twice_or_belongs_elsewhere_is_an_error(path, seed):
    with open_file(path) as file:
        file.add(episode(0))
        file.add(episode(seed))
    with pytest.raises(ConfigurationError, match="line 4 of .* is damaged"):
        read_results(path)


def test_two_evaluators_at_once_are_refused(path):
    with open_file(path) as file:
        with pytest.raises(ConfigurationError, match="being written by another evaluation"):
            open_file(path)
        file.add(episode(0))
    with open_file(path) as file:
        assert file.earlier.sessions == 1


def _write_until_killed(path, pipe):
    with open_file(path) as file:
        for seed in range(3):
            file.add(episode(seed))
        pipe.send("written")
        signal.pause()


def test_a_writer_that_was_killed_leaves_its_episodes_and_no_lock(path):
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_write_until_killed, args=(path, theirs))
    process.start()
    assert ours.poll(60)
    with pytest.raises(ConfigurationError, match="being written by another"):
        open_file(path)
    os.kill(process.pid, signal.SIGKILL)
    process.join(60)
    with open_file(path) as file:
        assert [one.seed for one in file.earlier.episodes] == [0, 1, 2]


def test_a_line_is_on_the_disk_before_the_episode_counts(path, monkeypatch):
    synced = []
    with open_file(path) as file:
        monkeypatch.setattr(os, "fsync", lambda fd: synced.append(path.read_bytes()))
        file.add(episode(0))
        assert synced == [path.read_bytes()]


def test_a_full_disk_says_so_and_leaves_whole_lines(path, monkeypatch):
    write = os.write
    with open_file(path) as file:
        file.add(episode(0))
        monkeypatch.setattr(os, "write", lambda fd, data: write(fd, data[:9]))
        with pytest.raises(ConfigurationError, match="the disk is full.*make room"):
            file.add(episode(1))
        monkeypatch.undo()
        file.add(episode(2))
    assert [one.seed for one in read_results(path).episodes] == [0, 2]


def test_sessions_add_up(path):
    for seed in range(2):
        with open_file(path) as file:
            file.add(episode(seed))
    found = read_results(path)
    assert found.sessions == 2
    assert found.seconds > 0
