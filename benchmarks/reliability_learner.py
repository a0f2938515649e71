"""A learner whose calls are timed and noted, and what the robot's journal must then say.

Every reset and every action carries a number that is used once. A robot that executed a number
twice, or one that was not sent, or did not execute one that the learner was told of, is a
failure; so is a call that outlived its deadline.
"""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

import remote_env
from benchmarks.reliability_rig import Journal

CONNECT: Final = 1.0
RESET: Final = 2.0
STEP: Final = 1.5
CLOSE: Final = 2.0
SLACK: Final = 0.1  # what a call may take beyond its deadline


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a learner.

    Attributes:
        what: ``"connect"``, ``"reset"``, ``"step"``, ``"close"``, ...
        number: What was sent with it, used once.
        allowed: Its deadline, in seconds.
        took: How long it took, in seconds.
        result: ``"done"``, ``"lost"`` for a transition that is not valid, or the error.
    """

    what: str
    number: int
    allowed: float
    took: float
    result: str


@dataclass
class Learner:
    """One environment, and the calls that were made of it.

    Attributes:
        url: Of the robot.
        first: The first of its numbers; the first reset has it.
        calls: All so far.
        problems: What was wrong with what came back.
    """

    url: str
    first: int
    calls: list[Call] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Begin without a connection."""
        self._env: remote_env.RemoteRobotEnv | None = None
        self._next = self.first
        self._executed = 0

    def connect(self) -> bool:
        """Make the environment."""
        with self._timed("connect", 0, CONNECT) as done:
            self._env = remote_env.RemoteRobotEnv(
                self.url, connect_timeout=CONNECT, reset_timeout=RESET, step_timeout=STEP
            )
            done()
        return self._env is not None

    def reset(self) -> bool:
        """Reset, with a new number."""
        number = self._take()
        with self._timed("reset", number, RESET) as done:
            assert self._env is not None
            observation, _ = self._env.reset(options={"number": number})
            done()
            self._executed = 0
            self._compare(observation["seen"], [number, 0, 0])
        return self.calls[-1].result == "done"

    def step(self) -> bool:
        """Step, with a new number; return whether the transition is valid."""
        number = self._take()
        with self._timed("step", number, STEP) as done:
            assert self._env is not None
            observation, *_, info = self._env.step(np.array([number], np.float64))
            is_valid = not info["remote"].get("invalid_transition")
            done("done" if is_valid else "lost")
            if is_valid:
                self._executed += 1
                self._compare(observation["seen"][1:], [number, self._executed])
        return self.calls[-1].result == "done"

    def close(self) -> bool:
        """Close the environment."""
        with self._timed("close", 0, CLOSE) as done:
            if self._env is not None:
                self._env.close()
            done()
        return True

    def begin(self) -> None:
        """Connect, reset, and take a few steps, on a line that is sound.

        Raises:
            RuntimeError: If that fails.
        """
        if not (self.connect() and self.reset() and all(self.step() for _ in range(3))):
            raise RuntimeError(f"could not even begin: {self.calls[-1]}")

    def _take(self) -> int:
        number, self._next = self._next, self._next + 1
        return number

    def _compare(self, seen: Any, expected: list[int]) -> None:
        if list(seen) != expected:
            self.problems.append(f"the observation says {list(seen)}, not {expected}")

    @contextlib.contextmanager
    def _timed(self, what: str, number: int, allowed: float) -> Iterator[Callable[..., None]]:
        results = []
        began = time.monotonic()
        ended = began

        def done(result: str = "done") -> None:
            nonlocal ended
            ended = time.monotonic()
            results.append(result)

        try:
            yield done
        except remote_env.RemoteEnvError as error:
            done(type(error).__name__)
        self.calls.append(Call(what, number, allowed, ended - began, results[0]))


def find_problems(calls: list[Call], journal: Journal) -> list[str]:
    """Return everything that breaks a promise; see the module."""
    problems = [
        f"{call.what} took {call.took:.2f} s of {call.allowed:g} ({call.result})"
        for call in calls
        if call.took > call.allowed + SLACK
    ]
    for what, kind in (("reset", "reset"), ("step", "apply")):
        entries = [entry for entry in journal.read() if entry.what == kind]
        sent = {call.number: call.result for call in calls if call.what == what}
        executed = {entry.number for entry in entries}
        # A reset that a server did not live to finish is asked of the next one.
        counts = Counter((e.number, e.process if what == "reset" else 0) for e in entries)
        problems += [
            f"{what} {number} was executed {times} times"
            for (number, _), times in counts.items()
            if times > 1
        ]
        problems += [f"{what} {n} was executed and not sent" for n in executed - sent.keys()]
        problems += [
            f"{what} {number} is said to be done and was not executed"
            for number, result in sent.items()
            if result == "done" and number not in executed
        ]
    return problems
