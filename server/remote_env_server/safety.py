"""What stands between an action and the motors. Pure: it is told the time.

Every action passes the guard before anything moves, and in realtime every action expires.
Branch coverage of this file is 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ActionRefusedError
from remote_env.spaces import SpaceCodec
from remote_env.spec import OutOfBounds

__all__ = ["ActionGuard", "ActionWatchdog", "GuardedAction", "action_lifetime"]

# An action must live for two periods, or a healthy loop would trip between two of them. Beyond
# that five periods, but not less than a network hiccup (0.1 s) nor more than a person would
# accept from a moving arm (0.5 s). Compare: Franka allows 20 ms, UR 20 to 200 ms, ROS 500 ms.
_SHORTEST: Final = 0.1
_LONGEST: Final = 0.5


def action_lifetime(control_period: float) -> float:
    """Return for how many seconds an action counts, given the seconds of a period."""
    return max(2 * control_period, min(max(5 * control_period, _SHORTEST), _LONGEST))


@dataclass(frozen=True, slots=True)
class GuardedAction:
    """An action that may go to the robot.

    Attributes:
        value: A value of the action space, within its bounds unless the policy is to pass.
        was_clipped: Whether the guard changed it.
    """

    value: Any
    was_clipped: bool = False


class ActionGuard:
    """Checks actions: finite, then bounds. Shape and dtype come first, in the codec.

    Finite comes first because a clamp lets NaN through: every comparison with it is false.
    """

    def __init__(self, space: spaces.Space[Any], out_of_bounds: OutOfBounds) -> None:
        self._codec = SpaceCodec(space, root="action")
        self._out_of_bounds = out_of_bounds

    def check(self, arrays: Sequence[NDArray[Any]]) -> GuardedAction:
        """Check an action as it came off the wire.

        Args:
            arrays: One per leaf of the action space, of exactly its shape.

        Returns:
            The action, for the driver. Copies what it clips; the rest are views.

        Raises:
            ActionRefusedError: Naming the value, the bound and the policy.
        """
        checked = []
        was_clipped = False
        for spec, space, array in zip(
            self._codec.layout, self._codec.leaf_spaces, arrays, strict=True
        ):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise ActionRefusedError(
                    f"{spec.name!r} holds NaN or infinity: {_shown(array)}. The robot did not "
                    "move; look for a division by zero or a diverged policy",
                    code="robot.action.not_finite",
                )
            low, high = _bounds(space)
            if self._out_of_bounds is not OutOfBounds.PASS and (
                np.any(array < low) or np.any(array > high)
            ):
                if self._out_of_bounds is OutOfBounds.REFUSE or not isinstance(space, spaces.Box):
                    raise ActionRefusedError(
                        f"{spec.name!r} is out of bounds: {_shown(array)} is not within "
                        f"{_shown(low)} to {_shown(high)}. The robot did not move; clip the "
                        'action, or declare out_of_bounds="clip" on the robot',
                        code="robot.action.bounds",
                    )
                array = np.clip(array, low, high)
                was_clipped = True
            if self._out_of_bounds is not OutOfBounds.PASS and array.dtype != spec.dtype:
                array = array.astype(spec.dtype)
            checked.append(array)
        return GuardedAction(self._codec.unflatten(checked), was_clipped)


def _bounds(space: spaces.Space[Any]) -> tuple[Any, Any]:
    if isinstance(space, spaces.Box):
        return space.low, space.high
    if isinstance(space, spaces.Discrete):
        return space.start, space.start + space.n - 1
    if isinstance(space, spaces.MultiDiscrete):
        return space.start, space.start + space.nvec - 1
    return 0, 1  # MultiBinary


def _shown(value: Any) -> str:
    array = np.asarray(value)
    if array.ndim and array.size and np.all(array == array.flat[0]):
        array = array.flat[0]
    return np.array2string(np.asarray(array), precision=6, threshold=8, separator=", ")


class ActionWatchdog:
    """The age of the last action; nothing else decides whether the robot may go on moving.

    A silent socket, a stopped learner, a pulled cable and a dead host look the same here.
    """

    def __init__(self, lifetime: float) -> None:
        """Begin at rest: a robot that was just started has no action to follow.

        Args:
            lifetime: For how long an action counts, in seconds.
        """
        self.lifetime = lifetime
        self._deadline = math.inf
        self._held_since: float | None = None

    @property
    def deadline(self) -> float:
        """When the last action expires; infinity if there is none to expire."""
        return self._deadline

    def is_expired(self, now: float) -> bool:
        """Whether the robot must be told to hold now."""
        return now >= self._deadline

    def feed(self, now: float) -> float:
        """Note that an action was applied.

        Returns:
            For how many seconds the robot had been holding because its last action had
            expired; 0 if it had not.
        """
        held = 0.0 if self._held_since is None else now - self._held_since
        self._deadline = now + self.lifetime
        self._held_since = None
        return held

    def hold(self, now: float) -> None:
        """Note that the robot was told to hold because its last action expired."""
        self._deadline = math.inf
        self._held_since = now

    def rest(self) -> None:
        """Note that there is no action to follow and none is expected: between episodes."""
        self._deadline = math.inf
        self._held_since = None
