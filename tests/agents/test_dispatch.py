"""Whatever happens, each episode counts exactly once or is reported as missing."""

from collections import Counter
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_up_episodes import episode

from remote_env import ConfigurationError
from remote_env_agents import EpisodeKey
from remote_env_agents.dispatch import Desk, EpisodeQueue
from remote_env_agents.keys import cross

ATTEMPTS = 3


class Notes:
    """What is written down: it outlives the desk."""

    def __init__(self):
        self.episodes = []

    def add(self, one):
        self.episodes.append(one)

    def note(self, event):
        pass

    @property
    def counted(self):
        return Counter(one.key for one in self.episodes if not one.spoiled)

    def desk(self, keys):
        """Return a desk that goes on from here."""
        begun = Counter(one.key for one in self.episodes if one.spoiled)
        queue = EpisodeQueue(keys, attempts=ATTEMPTS, counted=self.counted, begun=begun)
        return queue, Desk(queue, record=self)


def result_of(assignment, *, spoiled=""):
    seed, attempt = assignment.key.seed, assignment.attempt
    return episode(seed, options=assignment.key.options, attempt=attempt, spoiled=spoiled)


@given(st.data())
def test_each_episode_counts_once_whatever_happens_in_whatever_order(data):
    keys = cross(
        range(data.draw(st.integers(1, 5))), data.draw(st.sampled_from([(), ({}, {"a": 1})]))
    )
    notes = Notes()
    queue, desk = notes.desk(keys)
    held, closed = [], []
    deeds = ["take", "take", "done", "done", "spoiled", "not begun", "twice", "late", "crash"]
    for deed in data.draw(st.lists(st.sampled_from(deeds), max_size=60)):
        if deed == "take" and (assignment := desk.take()) is not None:
            held.append(assignment)
        elif deed == "crash":  # the evaluator is killed, and begins again from what is written
            queue, desk = notes.desk(keys)
            closed += held  # their robots may still hand something in
            held = []
        elif deed in ("twice", "late") and closed:
            old = data.draw(st.sampled_from(closed))
            if queue.is_open(old):
                continue  # a new desk has given the same ticket out for the same episode
            before = len(notes.episodes)
            assert not desk.hand_in(old, result_of(old))
            assert not desk.hand_back(old)
            assert len(notes.episodes) == before
        elif deed in ("done", "spoiled", "not begun") and held:
            assignment = held.pop(data.draw(st.integers(0, len(held) - 1)))
            closed.append(assignment)
            if deed == "not begun":
                assert desk.hand_back(assignment)
            else:
                spoiled = "cable" if deed == "spoiled" else ""
                assert desk.hand_in(assignment, result_of(assignment, spoiled=spoiled))
        assert max(notes.counted.values(), default=0) <= 1
        assert len({assignment.key for assignment in held}) == len(held) == queue.in_flight
        assert queue.counted == len(notes.counted)
        assert set(queue.missing) == set(keys) - set(notes.counted)
    for assignment in held:
        desk.hand_in(assignment, result_of(assignment))
    while (assignment := desk.take()) is not None:
        desk.hand_in(assignment, result_of(assignment))
    assert desk.is_finished
    assert max(notes.counted.values(), default=0) <= 1
    spoiled = Counter(one.key for one in notes.episodes if one.spoiled)
    assert all(spoiled[key] >= ATTEMPTS for key in queue.missing)
    assert set(notes.counted) | set(queue.missing) == set(keys)


def test_attempts_are_limited_and_counted_on_after_a_crash():
    notes = Notes()
    _, desk = notes.desk([EpisodeKey(4)])
    attempts = []
    for _ in range(2):
        while (assignment := desk.take()) is not None:
            attempts.append(assignment.attempt)
            desk.hand_in(assignment, result_of(assignment, spoiled="cable"))
        queue, desk = notes.desk([EpisodeKey(4)])
    assert attempts == [1, 2, 3, 4, 5, 6]  # who runs it again wants it tried again
    assert queue.missing == (EpisodeKey(4),)


def test_a_reset_that_always_fails_is_not_tried_for_ever():
    queue, desk = Notes().desk(cross(range(2)))
    resets = Counter()
    while (assignment := desk.take()) is not None:
        resets[assignment.key.seed] += 1
        if assignment.key.seed == 0:
            desk.hand_back(assignment)
        else:
            desk.hand_in(assignment, result_of(assignment))
    assert resets == {0: 20, 1: 1}
    assert queue.missing == (EpisodeKey(0),)


def test_what_hinders_one_episode_does_not_hold_up_the_others():
    _, desk = Notes().desk(cross(range(3)))
    desk.hand_back(desk.take())
    assert [desk.take().key.seed for _ in range(3)] == [1, 2, 0]


def test_the_same_episode_twice_is_refused():
    with pytest.raises(ConfigurationError, match="the episode 3 is given 2 times"):
        EpisodeQueue([EpisodeKey(3), EpisodeKey(4), EpisodeKey(3)])


def test_an_episode_is_written_down_before_it_counts_and_before_anybody_is_told():
    class Full(Notes):
        def add(self, one):
            raise OSError("disk full")

    told = []
    queue = EpisodeQueue([EpisodeKey(1)])
    desk = Desk(queue, record=Full(), on_episode=told.append)
    assignment = desk.take()
    with pytest.raises(OSError, match="disk full"):
        desk.hand_in(assignment, result_of(assignment))
    assert (queue.counted, desk.episodes, told) == (0, [], [])


class Pool:
    """An executor that is no robot's thread: futures, as Ray or concurrent.futures have them."""

    def run(self, job, desk):
        with ThreadPoolExecutor(3) as pool:
            running = {}
            while not desk.is_finished:
                while len(running) < 3 and (assignment := desk.take()) is not None:
                    running[pool.submit(result_of, assignment)] = assignment
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    desk.hand_in(running.pop(future), future.result())


def test_a_cluster_can_take_the_place_of_the_threads(serve):
    from reaching import Reach, stay

    from remote_env_agents import evaluate

    robot = Reach()
    evaluation = evaluate(stay, [serve(robot).url], episodes=20, seed=0, executor=Pool())
    assert [one.seed for one in evaluation.episodes] == list(range(20))
    assert robot.seeds == []
