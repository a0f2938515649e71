"""Lockstep: the seed and the actions decide everything, and no clock has a say."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from remote_env.protocol.values import Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode
from remote_env_server.testing.bench import Bench, Moment
from remote_env_server.testing.check import CheckFailedError, CheckSkippedError, check

__all__ = [
    "another_seed_gives_another_trajectory",
    "lockstep_does_not_depend_on_the_clock",
    "the_same_seed_gives_the_same_trajectory",
]

_STEPS = ("it_opens_and_describes_itself", "reset_works_twice_in_a_row", "steps_follow_a_reset")
_REPEATS = (*_STEPS, "the_same_seed_gives_the_same_trajectory")
_SEED = 11
# Longer than any control period in which somebody would wait for a simulator.
_PAUSE = 0.15


@check(mode=Mode.LOCKSTEP, needs=_STEPS)
def the_same_seed_gives_the_same_trajectory(bench: Bench) -> str:
    """Bit by bit: what is only nearly the same is not reproducible."""
    return _check_same(
        bench,
        _trajectory(bench, _SEED),
        _trajectory(bench, _SEED),
        "two episodes with the same seed and actions differ",
        "draw every random number from a generator that reset(seed=...) makes, and begin each "
        "episode from the same state; or say seedable = False",
    )


@check(mode=Mode.LOCKSTEP, needs=_REPEATS)
def lockstep_does_not_depend_on_the_clock(bench: Bench) -> str:
    """A learner that thinks for a minute must find the world as it left it."""
    return _check_same(
        bench,
        _trajectory(bench, _SEED),
        _trajectory(bench, _SEED, pause=_PAUSE),
        f"an episode with pauses of {_PAUSE} s between steps differs",
        "use self.now(), which counts steps, in place of time.monotonic(); start no threads in "
        "lockstep",
    )


@check(mode=Mode.LOCKSTEP, needs=_STEPS)
def another_seed_gives_another_trajectory(bench: Bench) -> str:
    """A seed that changes nothing is often one that is not used."""
    _skip_unless_seedable(bench)
    one, other = _trajectory(bench, _SEED, steps=5), _trajectory(bench, _SEED + 1, steps=5)
    if _first_difference(bench, one, other) is None:
        bench.warn(
            f"the seeds {_SEED} and {_SEED + 1} give the same episode",
            "use the seed, or say seedable = False if nothing is random",
        )
    return ""


def _skip_unless_seedable(bench: Bench) -> None:
    if not bench.spec.seedable:
        raise CheckSkippedError("the robot says seedable = False")


def _trajectory(bench: Bench, seed: int, *, steps: int = 20, pause: float = 0.0) -> list[Moment]:
    """One episode; pauses before the first three steps."""
    _skip_unless_seedable(bench)
    env = bench.env()
    actions = bench.actions()
    moments = [bench.reset(env, seed=seed)]
    for step in range(steps):
        if moments[-1].is_last:
            break
        if pause and step < 3:
            time.sleep(pause)
        moments.append(bench.step(env, actions.next(moments[-1].observation)))
    return moments


def _check_same(
    bench: Bench, one: list[Moment], other: list[Moment], what: str, advice: str
) -> str:
    difference = _first_difference(bench, one, other)
    if difference is not None:
        raise CheckFailedError(f"{what}: {difference}", advice)
    return f"{len(one) - 1} steps, bit by bit"


def _first_difference(bench: Bench, one: list[Moment], other: list[Moment]) -> str | None:
    codec = SpaceCodec(bench.spec.observation_space, root="observation")
    for step, (a, b) in enumerate(zip(one, other, strict=False)):
        where = f"step {step}" if step else "the reset"
        pairs = zip(codec.flatten(a.observation), codec.flatten(b.observation), strict=True)
        for name, (x, y) in zip(codec.layout.names, pairs, strict=True):
            if x.tobytes() != y.tobytes():
                index = tuple(int(i) for i in np.argwhere(x != y)[0]) if np.any(x != y) else ()
                return f"at {where} {name!r}{list(index) or ''} is {x[index]} and {y[index]}"
        for key in ("reward", "terminated", "truncated", "info"):
            x, y = getattr(a, key), getattr(b, key)
            if not _is_same(x, y):
                return f"at {where} {key} is {x!r:.200} and {y!r:.200}"
    if len(one) != len(other):
        return f"one ended after {len(one) - 1} steps, the other after {len(other) - 1}"
    return None


def _is_same(a: Value | Any, b: Value | Any) -> bool:
    """Whether two values are the same, NaN included."""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_is_same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(_is_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (np.ndarray, np.generic)) or isinstance(b, (np.ndarray, np.generic)):
        first, second = np.asarray(a), np.asarray(b)
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    return bool(a == b) or (a != a and b != b)
