"""What moves the robot: an action, within its limits and its time. For the control thread.

In realtime, limits are compared with what the robot measures now: the value of a sensor that
died is no measurement, so an action that needs it is refused.
"""

from __future__ import annotations

import time
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ActionRefusedError
from remote_env.spec import Mode
from remote_env_server.driver import Driver
from remote_env_server.freshness import FreshnessJudge
from remote_env_server.motion import MotionLimiter
from remote_env_server.requests import Captured, PendingStep
from remote_env_server.safety import ActionWatchdog
from remote_env_server.sensors import failed_threads

__all__ = ["Mover"]

# An action that waited for the robot's code for longer than this, and than it lives, is old.
_LONGEST_QUEUED: Final = 1.0


class Mover:
    """Applies the actions of one robot.

    Attributes:
        limiter: Of the motion.
        watchdog: Knows when the last action is too old; at rest in lockstep.
    """

    def __init__(self, driver: Driver, judge: FreshnessJudge) -> None:
        """Begin with a robot that is open, and that no action has moved."""
        spec = driver.spec
        self.limiter = MotionLimiter(
            spec.action_space,
            spec.action_limits,
            spec.out_of_bounds,
            control_period=spec.control_period,
        )
        self.watchdog = ActionWatchdog(spec.action_lifetime)
        self._driver = driver
        self._judge = judge
        self._is_realtime = spec.mode is not Mode.LOCKSTEP
        self._period = spec.control_period
        self._applied_at: float | None = None

    @property
    def is_at_rest(self) -> bool:
        """Whether no action is in force: since a reset, or a hold."""
        return self._applied_at is None

    def apply(self, step: PendingStep, now: float, latest: Captured | None) -> None:
        """Let the robot move.

        Args:
            step: With the action; notes what became of it.
            now: The monotonic clock.
            latest: The newest observation.

        Raises:
            ActionRefusedError: If a limit or the driver refuses it: then it counts for nothing.
            RobotError: If the robot's code failed.
        """
        before = self.limiter.executed
        action = self._limit(step, now, latest)
        simulated = step.request.step * self._period
        try:
            self._driver.apply_action(action, simulated_time=simulated)
        except ActionRefusedError:
            self.limiter.executed = before
            step.executed = None
            raise
        # After it: an action that the driver refuses keeps nothing alive.
        self._applied_at = step.applied_at = now
        if self._is_realtime:
            step.held = self.watchdog.feed(now)
        step.worked += time.monotonic() - now

    def check_in_time(self, received_at: float, now: float) -> None:
        """Refuse an action that waited for the robot's code for longer than it lives.

        Raises:
            ActionRefusedError: If it did.
        """
        waited = now - received_at
        if waited > max(self.watchdog.lifetime, _LONGEST_QUEUED):
            raise ActionRefusedError(
                f"the action waited {waited:.3g} s for the robot's own code, a hold() perhaps, "
                "and is too old now. The robot did not move; let that code return earlier",
                code="robot.action.expired",
                retryable=True,
            )

    def check_due(self, due: float, now: float) -> None:
        """Refuse an action whose moment is over for longer than it lives: nobody ran us.

        Raises:
            ActionRefusedError: If it is.
        """
        late = now - due
        if late > self.watchdog.lifetime:
            raise ActionRefusedError(
                f"the action should have been applied {late:.3g} s ago, and is too old now. The "
                "robot did not move; look for what keeps its computer busy",
                code="robot.action.expired",
                retryable=True,
            )

    def forget_motion(self) -> None:
        """Note that no action is in force, and none is expected."""
        self.watchdog.rest()
        self.forget_action()

    def forget_action(self) -> None:
        """Note that the robot does not do any more what the last action said."""
        self._applied_at = None
        self.limiter.forget()

    def _limit(self, step: PendingStep, now: float, latest: Captured | None) -> Any:
        since = None
        if self._applied_at is not None:  # steps come a little early or late
            since = max(now - self._applied_at if self._is_realtime else 0.0, self._period)
        limited = self.limiter.check(
            step.request.action, measured=self._measure(latest), seconds=since
        )
        self.limiter.note_executed(limited.value)
        if limited.was_clipped:
            step.executed = limited.value
        return limited.value

    def _measure(self, latest: Captured | None) -> dict[str, NDArray[Any]]:
        """Return the newest values of what limits are compared with, without stale ones."""
        names = self.limiter.measured
        if not names:
            return {}
        fields = self._driver.newest(names, latest)
        stale: set[str] = set()
        if self._is_realtime:
            robot = self._driver.robot
            judged = self._judge.judge(
                fields,
                fields,
                now=float(robot.now()),
                monotonic=time.monotonic(),
                failed_threads=failed_threads(robot.sensors),
            )
            stale = {s.name for s in judged}
        return {n: np.asarray(f.array) for n, f in fields.items() if n not in stale}
