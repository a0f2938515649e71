"""What a check is. A check is one function; its name is the sentence that it proves.

::

    @check(mode=Mode.REALTIME, sees_code=True)
    def apply_action_returns_at_once(bench: Bench) -> str:
        # A docstring says why it matters; CheckFailedError how to repair it.
        ...
        if median > 0.5 * bench.spec.control_period:
            raise CheckFailedError(f"it took {median:.3f} s", "write the command, do not wait")
        return f"{median * 1e3:.1f} ms"

It goes into ``CHECKS`` of ``testing/checks/__init__.py``; the function that checks a robot, the
command line and the pytest class run whatever stands there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from remote_env.spec import Mode
from remote_env_server.testing.bench import Bench
from remote_env_server.testing.report import Status

__all__ = ["Check", "CheckFailedError", "CheckSkippedError", "check"]

CheckFunction: TypeAlias = Callable[[Bench], str]


class CheckFailedError(Exception):
    """What a check found.

    Attributes:
        what: What happened, with the values.
        advice: What to do about it.
    """

    def __init__(self, what: str, advice: str) -> None:
        super().__init__(f"{what}; {advice}")
        self.what = what
        self.advice = advice


class CheckSkippedError(Exception):
    """Why a check has nothing to say about this robot."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check.

    Attributes:
        function: Does it. Returns what it measured, or raises.
        moves: Whether it resets or steps the robot.
        mode: The only mode in which it makes sense, or None. What holds in realtime holds in
            delayed too.
        sees_code: Whether it needs to see the calls of the robot's own code, which over a url
            cannot be seen.
        opens: Whether it opens the robot itself; all others find it open.
        needs: Names of the checks without which it has nothing to stand on.
    """

    function: CheckFunction
    moves: bool = True
    mode: Mode | None = None
    sees_code: bool = False
    opens: bool = False
    needs: tuple[str, ...] = ()

    @property
    def identifier(self) -> str:
        """The name of the function."""
        return self.function.__name__

    @property
    def name(self) -> str:
        """A sentence that holds for a good robot."""
        return self.identifier.replace("_", " ")

    def reason_to_skip(self, bench: Bench, done: Mapping[str, Status]) -> str:
        """Return why this check is not run, or nothing.

        Args:
            bench: With the robot.
            done: What came of earlier checks, by identifier.
        """
        for name in self.needs:
            if done.get(name) is Status.FAILED:
                return f"needs that {name.replace('_', ' ')}"
        if bench.is_open and self.mode is not None and not _is_like(self.mode, bench.spec.mode):
            return f"only in {self.mode.value}"
        if self.sees_code and not bench.sees_code:
            return "needs to see the robot's own code, not a url"
        if self.moves and not bench.moves:
            return "the robot is not to be moved"
        return ""


def _is_like(a: Mode, b: Mode) -> bool:
    return (a is Mode.LOCKSTEP) is (b is Mode.LOCKSTEP)


def check(
    *,
    moves: bool = True,
    mode: Mode | None = None,
    sees_code: bool = False,
    opens: bool = False,
    needs: tuple[str, ...] = (),
) -> Callable[[CheckFunction], Check]:
    """Make a check of a function; see ``Check`` for the arguments."""

    def make(function: CheckFunction) -> Check:
        return Check(function, moves, mode, sees_code, opens, needs)

    return make
