"""Checks whether a robot behaves as every robot must, and says what is wrong and what to do.

::

    report = check_robot("my_robot.py:MyRobot")     # or a factory, or "ws://robot:8765"
    report.raise_if_failed()

The same from the command line: ``remote-env check my_robot.py:MyRobot``. And with pytest, one
test for each check::

    class TestMyRobot(RobotConformance):
        def make_robot(self):
            return MyRobot()

**A check may move the robot.** Behind a robot in realtime every action is small: within 2 % of
its range around 0, or around the middle of the range where 0 is outside; Discrete actions stay
at their first value. That is right for velocities, forces and torques. For a robot that is
commanded by position, choose actions yourself: ``action=lambda observation:
observation["joint_pos"]``. Resets move the robot as they always do. In lockstep the whole
action space is sampled. ``moves=False`` only looks.
A whole check resets a robot up to 40 times, and sends it 100 to 300 actions.
"""

from __future__ import annotations

import time
import unittest
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from remote_env.errors import ConfigurationError
from remote_env.spec import Mode
from remote_env_server.robot import Robot
from remote_env_server.testing.bench import Bench, StepsUsedUpError, Target
from remote_env_server.testing.check import Check, CheckFailedError, CheckSkippedError
from remote_env_server.testing.checks import CHECKS
from remote_env_server.testing.report import ConformanceError, Report, Result, Status

__all__ = ["RobotConformance", "check_robot"]

_UNEXPECTED = "repair what the message names; the robot's log says more (--verbose)"


def check_robot(
    target: Target,
    *,
    token: str | None = None,
    mode: Mode | str | None = None,
    moves: bool = True,
    max_steps: int = 2000,
    patience: float = 1.0,
    reset_timeout: float = 60.0,
    action: Callable[[Any], Any] | None = None,
    checks: Sequence[Check] = CHECKS,
    on_start: Callable[[Check], None] | None = None,
    on_result: Callable[[Result], None] | None = None,
) -> Report:
    """Run all checks against a robot. It may move: see the top of this module.

    Args:
        target: A name as in ``remote-env serve NAME`` or a factory, a callable that returns a
            new ``Robot``: both are served here, on a free port, for the time of the check.
            Or the url of a robot that is served elsewhere: then only what the wire shows is
            checked.
        token: What the server behind a url asks for.
        mode: In which a name or a factory is served; the robot's own default if None.
        moves: Whether the robot may be moved; if not, most checks are skipped.
        max_steps: How many actions may be sent in all.
        patience: Bounds on real time are multiplied by this; for busy machines.
        reset_timeout: How long one reset may take, in seconds.
        action: Chooses actions, from the observation; None for small ones.
        checks: Which to run, in this order; by default all.
        on_start: Is told of each check before it runs.
        on_result: Is told of each result.

    Returns:
        The results, one for each check. Whatever goes wrong with the robot stands in there.

    Raises:
        ConfigurationError: If a mode is given for a robot that is served elsewhere.
    """
    if mode is not None and isinstance(target, str) and "://" in target:
        raise ConfigurationError(
            f"{target} is served already; its mode is chosen where it is served"
        )
    bench = Bench(
        target,
        token=token,
        mode=None if mode is None else Mode(mode),
        moves=moves,
        max_steps=max_steps,
        patience=patience,
        reset_timeout=reset_timeout,
        choose=action,
    )
    results: list[Result] = []
    done: dict[str, Status] = {}
    try:
        for check in checks:
            if on_start is not None:
                on_start(check)
            result = _run(check, bench, done)
            done[check.identifier] = result.status
            results.append(result)
            if on_result is not None:
                on_result(result)
    finally:
        bench.shut()
    return Report(_name_of(target), tuple(results))


def _name_of(target: Target) -> str:
    return target if isinstance(target, str) else getattr(target, "__qualname__", repr(target))


def _run(check: Check, bench: Bench, done: Mapping[str, Status]) -> Result:
    """Run one check; a robot that is served here is served anew after a failure."""
    began_at = time.monotonic()
    bench.warnings.clear()
    status, what, advice = _outcome_of(check, bench, done)
    try:
        bench.close_environments()
    except Exception as error:  # of the learner's side, after all was said
        bench.warn(f"closing the environment raised {error!r}", _UNEXPECTED)
    if status is Status.FAILED:
        bench.shut()
        bench.logged()
    if bench.warnings and status is Status.PASSED:
        status = Status.WARNING
        what = "; ".join(dict.fromkeys(text for text, _ in bench.warnings))
        advice = "; ".join(dict.fromkeys(text for _, text in bench.warnings))
    return Result(check.name, status, what, advice, time.monotonic() - began_at)


def _outcome_of(check: Check, bench: Bench, done: Mapping[str, Status]) -> tuple[Status, str, str]:
    try:
        reason = check.reason_to_skip(bench, done) or _reopened(check, bench)
        reason = reason or check.reason_to_skip(bench, done)  # now that its mode is known
        if reason:
            return Status.SKIPPED, reason, ""
        return Status.PASSED, check.function(bench), ""
    except CheckSkippedError as skipped:
        return Status.SKIPPED, str(skipped), ""
    except StepsUsedUpError as error:
        return Status.SKIPPED, str(error), "allow more steps"
    except CheckFailedError as failed:
        return Status.FAILED, failed.what, failed.advice
    except Exception as error:
        return Status.FAILED, f"{type(error).__name__}: {error}", _UNEXPECTED


def _reopened(check: Check, bench: Bench) -> str:
    """Open the robot again, if a failure closed it; return why it is not open, or nothing."""
    if check.opens:
        return ""
    try:
        bench.open()
    except Exception as error:
        return f"the robot could not be opened again: {error}"
    return ""


class ConformanceWarning(UserWarning):
    """What a check warns of, for a person to judge."""


class RobotConformance:
    """A class of tests for pytest, one test for each check; implement ``make_robot``.

    All tests of a class share one robot, and get a new one after a failure.

    Attributes:
        mode: In which the robot is served; its own default if None.
        moves: See ``check_robot``, as for the next three.
        max_steps: For all tests together.
        patience: For busy machines.
        reset_timeout: In seconds.
    """

    mode: ClassVar[Mode | str | None] = None
    moves: ClassVar[bool] = True
    max_steps: ClassVar[int] = 2000
    patience: ClassVar[float] = 1.0
    reset_timeout: ClassVar[float] = 60.0

    _bench: ClassVar[Bench | None] = None
    _done: ClassVar[dict[str, Status]] = {}

    def make_robot(self) -> Robot:
        """Return a new robot, not opened. Called again after a failure, and at the end."""
        raise NotImplementedError(f"{type(self).__name__} must implement make_robot()")

    def choose_action(self, observation: Any) -> Any:
        """Choose an action that does no harm; by default a small one.

        A robot that is commanded by position returns the position that it measured.
        """
        return None

    @classmethod
    def setup_class(cls) -> None:
        """Begin with a robot of this class's own. Called by pytest."""
        cls._bench = None
        cls._done = {}

    @classmethod
    def teardown_class(cls) -> None:
        """Close the robot. Called by pytest."""
        if cls._bench is not None:
            cls._bench.shut()
            cls._bench = None

    def _check(self, check: Check) -> None:
        cls = type(self)
        if cls._bench is None:
            cls._bench = Bench(
                self.make_robot,
                mode=None if cls.mode is None else Mode(cls.mode),
                moves=cls.moves,
                max_steps=cls.max_steps,
                patience=cls.patience,
                reset_timeout=cls.reset_timeout,
                choose=self.choose_action if _is_overridden(cls) else None,
            )
        result = _run(check, cls._bench, cls._done)
        cls._done[check.identifier] = result.status
        if result.status is Status.SKIPPED:
            raise unittest.SkipTest(result.what)  # pytest understands it, and is not needed here
        if result.status is Status.WARNING:
            warnings.warn(str(result), ConformanceWarning, stacklevel=2)
        if result.status is Status.FAILED:
            raise ConformanceError(str(result))


def _is_overridden(cls: type[RobotConformance]) -> bool:
    return cls.choose_action is not RobotConformance.choose_action


def _add_tests(checks: Sequence[Check]) -> None:
    for check in checks:

        def test(self: RobotConformance, *, _of: Check = check) -> None:
            self._check(_of)

        test.__name__ = f"test_{check.identifier}"
        test.__doc__ = check.function.__doc__
        setattr(RobotConformance, test.__name__, test)


_add_tests(CHECKS)
