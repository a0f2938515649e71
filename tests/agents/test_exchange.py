"""What a collector and its background learner share is whole, and never waited for."""

import multiprocessing
import threading
import time

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import numpy as np
import torch
from gymnasium import spaces

from remote_env_agents.exchange import TransitionRing, WeightSlot, transition_dtype

CONTEXT = multiprocessing.get_context("spawn")
PICTURE = spaces.Box(0, 255, (3, 4, 5), np.uint8)
OBSERVED = spaces.Dict({"arm/pos": spaces.Box(-1, 1, (2,), np.float64), "picture": PICTURE})
ACTIONS = spaces.Box(-5, 5, (3,), np.float32)


def ring_of(observation_space, robots=2, rows=3):
    return TransitionRing(CONTEXT, transition_dtype(observation_space, ACTIONS, robots), rows)


def step(number, robots=2, **infos):
    """Return a step of all robots in which everything is this number."""

    def full(shape, dtype):
        return np.full((robots, *shape), number, dtype)

    observation = {"arm/pos": full((2,), np.float64), "picture": full((3, 4, 5), np.uint8)}
    following = {name: array + 1 for name, array in observation.items()}
    action, reward = full((3,), np.float32) / 10, full((), np.float32)
    infos = [{"TimeLimit.truncated": False, "remote": {}, **infos}] * robots
    return observation, following, action, reward, np.zeros(robots, np.bool_), infos


def test_a_transition_arrives_as_it_was_put():
    ring = ring_of(OBSERVED)
    executed = np.float32([1, 2, 5])
    given = step(7, **{"TimeLimit.truncated": True, "remote": {"action_executed": executed}})
    assert ring.put_nowait(*given)
    begins_anew, taken = ring.take(0.0)
    assert not begins_anew
    for mine, its in zip(given[:2], taken[:2], strict=True):
        assert {k: v.tolist() for k, v in mine.items()} == {k: v.tolist() for k, v in its.items()}
    assert [part.tolist() for part in taken[2:5]] == [part.tolist() for part in given[2:5]]
    assert taken[5][1]["TimeLimit.truncated"] is True
    assert taken[5][1]["remote"]["action_executed"].tolist() == executed.tolist()
    assert "invalid_transition" not in taken[5][1]["remote"]


def test_an_observation_without_names_arrives_too():
    ring = ring_of(spaces.Box(-1, 1, (2,), np.float32), robots=1)
    observation = np.float32([[0.25, 0.5]])
    ring.put_nowait(observation, observation * 2, np.zeros((1, 3)), np.ones(1), [True], [{}])
    _, taken = ring.take(0.0)
    assert taken[1].tolist() == [[0.5, 1.0]]
    assert taken[4].tolist() == [True]
    assert taken[5] == [{"TimeLimit.truncated": False, "remote": {}}]


@pytest.mark.parametrize("remote", [{"invalid_transition": True}, {"stale": ["cam/image"]}])
def test_what_is_no_transition_is_still_none(remote):
    ring = ring_of(OBSERVED)
    ring.put_nowait(*step(1, remote=remote))
    _, taken = ring.take(0.0)
    assert taken[5][0]["remote"] == {"invalid_transition": True}


def test_a_full_ring_drops_and_says_that_what_follows_does_not_follow():
    ring = ring_of(OBSERVED, rows=2)
    assert [ring.put_nowait(*step(number)) for number in range(4)] == [True, True, False, False]
    assert ring.dropped == 2
    assert [ring.take(0.0)[1][3][0] for _ in range(2)] == [0, 1]
    assert ring.take(0.0) is None
    ring.put_nowait(*step(4))
    ring.put_nowait(*step(5))
    assert [(anew, taken[3][0]) for anew, taken in (ring.take(0.0), ring.take(0.0))] == [
        (True, 4),
        (False, 5),
    ]


def test_weights_arrive_once():
    here = {"a.weight": torch.zeros(2, 3), "b": torch.zeros((), dtype=torch.int64)}
    slot = WeightSlot(CONTEXT, here)
    assert not slot.take_nowait(here)
    assert slot.publish({"a.weight": torch.ones(2, 3), "b": torch.tensor(9)}, 1.0)
    assert slot.take_nowait(here)
    assert (here["a.weight"].tolist(), int(here["b"])) == ([[1.0] * 3] * 2, 9)
    assert not slot.take_nowait(here)


def test_weights_are_never_torn():
    here = {"a": torch.zeros(50_000), "b": torch.zeros(9)}
    slot = WeightSlot(CONTEXT, here)
    stop = threading.Event()

    def publish():
        number = 0
        while not stop.is_set():
            number += 1
            slot.publish({name: torch.full_like(part, number) for name, part in here.items()}, 1.0)

    writer = threading.Thread(target=publish)
    writer.start()
    seen, deadline = [], time.monotonic() + 20
    while len(seen) < 100 and time.monotonic() < deadline:
        if slot.take_nowait(here):
            seen.append({float(f(part)) for part in here.values() for f in (torch.min, torch.max)})
    stop.set()
    writer.join()
    assert len(seen) == 100
    assert {len(values) for values in seen} == {1}


def test_what_a_killed_learner_left_half_written_is_never_taken():
    class KilledError(BaseException):
        """Stands for SIGKILL: nothing of ours handles it."""

    class Fatal(dict):
        def __getitem__(self, name):
            if name == "b":
                raise KilledError
            return super().__getitem__(name)

    here = {"a": torch.zeros(4), "b": torch.zeros(4)}
    slot = WeightSlot(CONTEXT, here)
    with pytest.raises(KilledError):
        slot.publish(Fatal(a=torch.ones(4), b=torch.ones(4)), 1.0)
    began = time.monotonic()
    assert not slot.take_nowait(here)
    assert time.monotonic() - began < 5  # it does not wait for it either
    assert here["a"].tolist() == [0.0] * 4
