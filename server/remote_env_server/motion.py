"""How fast actions may change, and how far they may be from what the robot feels.

The last check before the motors, on the control thread, after ``safety.ActionGuard``. Pure: it
is told the seconds and the measured state. Branch coverage of this file is 100 %.

Each limit is a window: a centre, and how far from it an action may be. An action must be in all
windows. Every comparison is written so that NaN fails it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ActionRefusedError
from remote_env.protocol.arrays import ArraySpec
from remote_env.spaces import SpaceCodec
from remote_env.spec import ActionLimit, OutOfBounds
from remote_env_server.safety import (
    ActionTally,
    GuardedAction,
    GuardStatistics,
    all_true,
    finite_bounds,
)

__all__ = ["MotionLimiter"]

# Of a second: no time at all would make 0 times infinity of a rate without a limit.
_SHORTEST: Final = 1e-9
# So many roundings of the action's dtype are no violation. A learner that goes exactly to the
# limit rounds its action, the seconds and the product of both.
_ROUNDINGS: Final = 2


class MotionLimiter:
    """Keeps the change per second, and the distance to the measured state, within limits.

    Belongs to one thread, but for ``statistics``.

    Attributes:
        executed: The limited parts of the action that counts, or None; to be put back if the
            robot refuses the one after it.
    """

    def __init__(
        self,
        space: spaces.Space[Any],
        limits: Mapping[str, ActionLimit],
        out_of_bounds: OutOfBounds,
        *,
        control_period: float,
    ) -> None:
        """Prepare; nothing has been executed yet.

        Args:
            space: Of actions.
            limits: By the name of the leaf, as ``RobotSpec.action_limits``, checked.
            out_of_bounds: Whether to refuse an action or to move it.
            control_period: Seconds, in which the first action may change.
        """
        self._codec = SpaceCodec(space, root="action")
        self._limits = tuple(
            _LeafLimit(index, spec, leaf, limits[spec.name])
            for index, (spec, leaf) in enumerate(
                zip(self._codec.layout, self._codec.leaf_spaces, strict=True)
            )
            if spec.name in limits
        )
        self._may_clip = out_of_bounds is OutOfBounds.CLIP
        self._control_period = control_period
        self.executed: tuple[NDArray[np.float64], ...] | None = None
        self._tally = ActionTally()

    @property
    def measured(self) -> frozenset[str]:
        """The streams that ``check`` must be given."""
        return frozenset(limit.measured for limit in self._limits) - {""}

    def check(
        self, action: Any, *, measured: Mapping[str, NDArray[Any]], seconds: float | None
    ) -> GuardedAction:
        """Check an action that is about to be executed.

        Args:
            action: A value of the action space that passed the guard.
            measured: The newest values of at least the streams in ``self.measured``.
            seconds: Since the previous executed action; None if none counts, which makes
                this a first action: it starts from the measured state, with one control period
                to get there.

        Returns:
            The action, or under the policy "clip" the nearest that is within all limits and
            within the bounds of the space, in arrays of its own.

        Raises:
            ActionRefusedError: Naming the value, the limit and what to do. Under "clip" only
                if the measured state is unknown, or if no action is within all limits.
        """
        try:
            checked = self._check(action, measured, seconds)
        except ActionRefusedError as error:
            self._tally.note_refused(error)
            raise
        self._tally.note_passed(checked)
        return checked

    def note_executed(self, action: Any) -> None:
        """Note what the next action is compared with; copies it.

        Args:
            action: What the robot got. Call this before the robot's code may write to it.
        """
        if not self._limits:
            return
        parts = self._codec.parts(action)
        self.executed = tuple(np.array(parts[leaf.index], np.float64) for leaf in self._limits)

    def forget(self) -> None:
        """Note that no action counts any more: after a reset, and after a hold."""
        self.executed = None

    def statistics(self) -> GuardStatistics:
        """Return what became of the actions so far. Safe to call from any thread."""
        return self._tally.statistics()

    def _check(
        self, action: Any, measured: Mapping[str, NDArray[Any]], seconds: float | None
    ) -> GuardedAction:
        if not self._limits:
            return GuardedAction(action)
        parts = self._codec.parts(action)
        was_clipped = False
        executed = self.executed
        if seconds is None or executed is None:  # a first action
            executed, seconds = None, self._control_period
        lapse = max(_SHORTEST, seconds)  # NaN is not greater: it counts as no time
        with np.errstate(all="ignore"):  # what overflows is refused, not warned of
            for number, limit in enumerate(self._limits):
                previous = None if executed is None else executed[number]
                windows = limit.windows(measured, previous, lapse)
                value = np.asarray(parts[limit.index], np.float64)
                violated = [window for window in windows if not window.contains(value)]
                if violated and not self._may_clip:
                    raise violated[0].refusal(limit.name, value)
                if violated:
                    parts[limit.index] = limit.clip(value, windows)
                    was_clipped = True
        return GuardedAction(self._codec.unflatten(parts) if was_clipped else action, was_clipped)


class _LeafLimit:
    """The limit of one leaf of the action space, as arrays."""

    __slots__ = (
        "_dtype",
        "_high",
        "_low",
        "_max_rate",
        "_max_step",
        "index",
        "measured",
        "name",
        "rounding",
        "smallest",
    )

    def __init__(
        self, index: int, spec: ArraySpec, space: spaces.Space[Any], limit: ActionLimit
    ) -> None:
        self.index = index
        self.name = spec.name
        self.measured = limit.measured
        self._dtype = spec.dtype
        self._low, self._high = finite_bounds(spec, space)
        self.rounding = _ROUNDINGS * np.finfo(spec.dtype).eps.item()
        self.smallest = np.nextafter(spec.dtype.type(0), spec.dtype.type(1)).item()
        self._max_rate = None if limit.max_rate is None else np.asarray(limit.max_rate)
        self._max_step = None if limit.max_step is None else np.asarray(limit.max_step)

    def windows(
        self,
        measured: Mapping[str, NDArray[Any]],
        executed: NDArray[np.float64] | None,
        seconds: float,
    ) -> list[_Window]:
        """Return where the action may be.

        Args:
            measured: The newest values by stream.
            executed: The previous action, or None for a first action.
            seconds: In which the action changes.

        Raises:
            ActionRefusedError: If a stream that is needed is not there.
        """
        windows = []
        if self._max_rate is not None and (executed is not None or self.measured):
            start = self._state(measured) if executed is None else executed
            windows.append(_Window(start, self._max_rate * seconds, self, seconds))
        if self._max_step is not None:
            windows.append(_Window(self._state(measured), self._max_step, self, None))
        return windows

    def _state(self, measured: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        try:
            return measured[self.measured]
        except KeyError:
            raise self.unknown("is not there") from None

    def unknown(self, what: str) -> ActionRefusedError:
        """Return the error that says that the measured state is unknown."""
        return ActionRefusedError(
            f"{self.name!r} cannot be compared with the measured state: {self.measured!r} {what}. "
            "The robot did not move; look at the sensor that publishes it",
            code="robot.action.measured",
        )

    def clip(self, value: NDArray[np.float64], windows: Sequence[_Window]) -> NDArray[Any]:
        """Return what is nearest to a value, within all windows and the bounds of the space.

        Raises:
            ActionRefusedError: If there is nothing.
        """
        low = np.maximum.reduce([self._low, *(w.centre - w.reach for w in windows)])
        high = np.minimum.reduce([self._high, *(w.centre + w.reach for w in windows)])
        if not all_true((low <= high) & np.isfinite(value)):
            violated = next(window for window in windows if not window.contains(value))
            raise violated.refusal(self.name, value, "no action is within all limits and bounds")
        return np.asarray(np.clip(value, low, high), self._dtype)


class _Window(NamedTuple):
    """Everything that is no further from the centre than the reach.

    Attributes:
        centre: What was executed or measured.
        reach: In units of the action.
        limit: Whose window it is.
        seconds: In which the action changes, for a window of the rate; else None.
    """

    centre: NDArray[Any]
    reach: NDArray[np.float64]
    limit: _LeafLimit
    seconds: float | None

    def contains(self, value: NDArray[np.float64]) -> bool:
        """Whether all of a value is inside: False for NaN.

        Raises:
            ActionRefusedError: If there is a NaN or infinity in the centre.
        """
        distance = np.abs(value - self.centre)
        if all_true(distance <= self.reach):
            return True
        if not all_true(np.isfinite(self.centre)):
            raise self.limit.unknown(f"is {np.array2string(self.centre, threshold=8)}")
        rounding = self.limit.rounding * (np.abs(self.centre) + self.reach) + self.limit.smallest
        return all_true(distance <= self.reach + rounding)

    def refusal(self, name: str, value: NDArray[np.float64], why: str = "") -> ActionRefusedError:
        """Return the error that names the element which is furthest outside.

        Args:
            name: Of the leaf.
            value: That is not inside.
            why: What else there is to say.
        """
        excess = np.nan_to_num(np.abs(value - self.centre) - self.reach, nan=np.inf)
        index = np.unravel_index(np.argmax(excess), excess.shape)
        element = f"{name!r}{[int(i) for i in index]}" if index else repr(name)
        reach = np.broadcast_to(self.reach, value.shape)[index]
        told = f"{element} is {value[index]:.6g}"
        advice = f"{why}. The robot did not move; " if why else "The robot did not move; "
        if self.seconds is None:
            return ActionRefusedError(
                f"{told} where {self.centre[index]:.6g} is measured, and max_step is {reach:.6g}. "
                f"{advice}command something nearer to where the robot is, or declare "
                'out_of_bounds="clip" on the robot',
                code="robot.action.step",
            )
        return ActionRefusedError(
            f"{told} after {self.centre[index]:.6g}, {self.seconds * 1e3:.3g} ms before, and "
            f"max_rate allows a change of {reach:.6g} in that time. {advice}take smaller steps, "
            'or declare out_of_bounds="clip" on the robot',
            code="robot.action.rate",
        )
