"""What stands between an action and the motors. Pure: it is told the time.

Every action passes the guard before anything moves, and in realtime every action expires.
Branch coverage of this file is 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ActionRefusedError, ConfigurationError
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.records import record
from remote_env.protocol.values import Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import OutOfBounds

__all__ = [
    "ActionGuard",
    "ActionTally",
    "ActionWatchdog",
    "GuardStatistics",
    "GuardedAction",
    "action_lifetime",
    "all_true",
    "finite_bounds",
]

# An action must live for two periods, or a healthy loop would trip between two of them. Beyond
# that five periods, but not less than a network hiccup (0.1 s) nor more than a person would
# accept from a moving arm (0.5 s). Compare: Franka allows 20 ms, UR 20 to 200 ms, ROS 500 ms.
_SHORTEST: Final = 0.1
_LONGEST: Final = 0.5


def action_lifetime(control_period: float) -> float:
    """Return for how many seconds an action counts, given the seconds of a period."""
    return max(2 * control_period, min(max(5 * control_period, _SHORTEST), _LONGEST))


@record(frozen=True, slots=True)
class GuardedAction:
    """An action that may go to the robot.

    Attributes:
        value: A value of the action space, within its bounds unless the policy is to pass.
        was_clipped: Whether the guard changed it.
    """

    value: Any
    was_clipped: bool = False


@dataclass(frozen=True, slots=True)
class GuardStatistics:
    """What became of the actions that came so far.

    Attributes:
        checked: All of them.
        clipped: Those that were changed.
        refused: Those that were refused, by reason: the last part of the error's code.
    """

    checked: int
    clipped: int
    refused: Mapping[str, int]

    def to_info(self) -> dict[str, Value]:
        """Return the same as plain values that the wire can carry."""
        return {"checked": self.checked, "clipped": self.clipped, "refused": dict(self.refused)}


class ActionTally:
    """Counts what becomes of actions. One thread counts; any may read."""

    __slots__ = ("_clipped", "_passed", "_refused")

    def __init__(self) -> None:
        self._passed = 0
        self._clipped = 0
        self._refused: dict[str, int] = {}

    def note_passed(self, action: GuardedAction) -> None:
        """Count an action that may go to the robot."""
        self._passed += 1
        self._clipped += action.was_clipped

    def note_refused(self, error: ActionRefusedError) -> None:
        """Count an action that was refused, under the last part of the error's code."""
        reason = error.code.rpartition(".")[2]
        self._refused[reason] = self._refused.get(reason, 0) + 1

    def statistics(self) -> GuardStatistics:
        """Return the counts of now."""
        refused = self._refused.copy()
        return GuardStatistics(self._passed + sum(refused.values()), self._clipped, refused)


class ActionGuard:
    """Checks actions, in this order: shape, dtype, finite, bounds.

    What is checked is what the robot would get: an action of another dtype is converted first,
    so that nothing overflows, wraps or loses a fraction after the check. Finite comes before
    bounds because a clamp lets NaN through: every comparison with it is false.

    With ``OutOfBounds.PASS`` dtypes and bounds are the learner's business; NaN and infinity are
    refused all the same, and so is a fraction for a Discrete.
    """

    def __init__(self, space: spaces.Space[Any], out_of_bounds: OutOfBounds) -> None:
        """Prepare for an action space.

        Raises:
            ConfigurationError: If no finite action can be within the bounds.
            UnsupportedSpaceError: If a part of the space has no fixed shape.
        """
        self._codec = SpaceCodec(space, root="action")
        self._leaves = tuple(map(_Leaf, self._codec.layout, self._codec.leaf_spaces))
        self._out_of_bounds = out_of_bounds
        self._tally = ActionTally()

    def check(self, arrays: Sequence[NDArray[Any]]) -> GuardedAction:
        """Check an action as it came off the wire.

        Args:
            arrays: One per leaf of the action space.

        Returns:
            The action, for the driver. Copies what it clips or converts; the rest are views.

        Raises:
            ActionRefusedError: Naming the value, the bound and the policy.
        """
        try:
            action = self._check(arrays)
        except ActionRefusedError as error:
            self._tally.note_refused(error)
            raise
        self._tally.note_passed(action)
        return action

    def statistics(self) -> GuardStatistics:
        """Return what became of the actions so far. Safe to call from any thread."""
        return self._tally.statistics()

    def _check(self, arrays: Sequence[NDArray[Any]]) -> GuardedAction:
        if len(arrays) != len(self._leaves):
            raise ActionRefusedError(
                f"the action has {len(arrays)} arrays and its space {len(self._leaves)} leaves: "
                f"{', '.join(self._codec.layout.names)}. Send one array for each",
                code="robot.action.shape",
            )
        checked = []
        was_clipped = False
        for leaf, array in zip(self._leaves, arrays, strict=True):
            if array.shape != leaf.shape:
                raise ActionRefusedError(
                    f"{leaf.name!r} must have the shape {leaf.shape}, not {array.shape}. The "
                    "robot did not move; send what its action space says",
                    code="robot.action.shape",
                )
            if self._out_of_bounds is OutOfBounds.PASS:
                leaf.check_unbounded(array)
            elif array.dtype != leaf.dtype or not leaf.contains(array):
                with np.errstate(all="ignore"):  # what overflows is refused, not warned of
                    may_clip = self._out_of_bounds is OutOfBounds.CLIP
                    array, is_clipped = leaf.fit(array, may_clip=may_clip)
                was_clipped |= is_clipped
            checked.append(array)
        return GuardedAction(self._codec.unflatten(checked), was_clipped)


class _Leaf:
    """What one array of an action must be."""

    __slots__ = (
        "_high",
        "_is_box",
        "_is_float",
        "_low",
        "_must_be_integer",
        "dtype",
        "name",
        "shape",
    )

    def __init__(self, spec: ArraySpec, space: spaces.Space[Any]) -> None:
        self.name = spec.name
        self.shape = spec.shape
        self.dtype = spec.dtype
        self._is_float = spec.dtype.kind == "f"
        self._is_box = isinstance(space, spaces.Box)
        self._must_be_integer = isinstance(space, spaces.Discrete)  # it becomes a Python int
        self._low, self._high = finite_bounds(spec, space)

    def contains(self, array: NDArray[Any]) -> bool:
        """Whether all is within the bounds, which are finite: False for NaN and infinity too.

        Args:
            array: Of this dtype, or of Python integers.
        """
        return all_true((array >= self._low) & (array <= self._high))

    def check_unbounded(self, array: NDArray[Any]) -> None:
        """Refuse what no robot could use, whatever its bounds."""
        if array.dtype.kind == "f" and not self._must_be_integer:
            if not all_true(np.isfinite(array)):
                raise self._not_finite(array)
        elif array.dtype.kind not in "biu":
            raise self._wrong_dtype(array)

    def fit(self, array: NDArray[Any], *, may_clip: bool) -> tuple[NDArray[Any], bool]:
        """Turn an array into one of this dtype within the bounds, or refuse it.

        Returns:
            The array, and whether it was clipped.
        """
        if array.dtype.kind not in ("biuf" if self._is_float else "biu"):
            raise self._wrong_dtype(array)
        if self._is_float:
            exact = array.astype(self.dtype, copy=False)
            if not all_true(np.isfinite(exact)):
                raise self._not_finite(array)
        else:
            exact = array.astype(object)  # Python integers: none wraps, whatever it is beside
        if self.contains(exact):
            return exact.astype(self.dtype, copy=False), False
        if not (may_clip and self._is_box):
            raise ActionRefusedError(
                f"{self.name!r} is out of bounds: {_shown(array)} is not within "
                f"{_shown(self._low)} to {_shown(self._high)}. The robot did not move; clip the "
                'action, or declare out_of_bounds="clip" on the robot',
                code="robot.action.bounds",
            )
        return np.asarray(np.clip(exact, self._low, self._high), self.dtype), True

    def _wrong_dtype(self, array: NDArray[Any]) -> ActionRefusedError:
        return ActionRefusedError(
            f"{self.name!r} must be {self.dtype}, not {array.dtype}: {_shown(array)}. The robot "
            "did not move; send what its action space says",
            code="robot.action.dtype",
        )

    def _not_finite(self, array: NDArray[Any]) -> ActionRefusedError:
        what = "holds NaN or infinity"
        if all_true(np.isfinite(array)):
            what = f"holds more than {self.dtype} can, which would be infinity"
        return ActionRefusedError(
            f"{self.name!r} {what}: {_shown(array)}. The robot did not move; look for a division "
            "by zero or a diverged policy",
            code="robot.action.not_finite",
        )


def all_true(mask: NDArray[np.bool_]) -> bool:
    """Whether all of a mask is True; a fifth of the time of ``mask.all()`` for 32 of them."""
    return b"\0" not in mask.tobytes()


def finite_bounds(spec: ArraySpec, space: spaces.Space[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the least and the greatest value of a leaf, both finite and of its dtype.

    Raises:
        ConfigurationError: If there is no value between them.
    """
    if isinstance(space, spaces.Box):
        low, high = space.low.astype(object), space.high.astype(object)
    elif isinstance(space, spaces.MultiBinary):
        low, high = np.full(spec.shape, 0, object), np.full(spec.shape, 1, object)
    else:  # as Python integers, because start + n may not fit into the dtype
        assert isinstance(space, (spaces.Discrete, spaces.MultiDiscrete))
        low = np.asarray(space.start).astype(object)
        count = space.n if isinstance(space, spaces.Discrete) else space.nvec
        high = low + np.asarray(count).astype(object) - 1
    least, most = _extremes(spec.dtype)
    with np.errstate(invalid="ignore"):  # NaN, for which low <= high is False
        finite_low, finite_high = np.maximum(low, least), np.minimum(high, most)
        is_possible = np.all((low <= high) & (finite_low <= finite_high))
    if not is_possible:
        raise ConfigurationError(
            f"no {spec.dtype} is within the bounds of {spec.name!r}: {space}. Declare "
            "low and high with low <= high, neither NaN"
        )
    return np.asarray(finite_low, spec.dtype), np.asarray(finite_high, spec.dtype)


def _extremes(dtype: np.dtype[Any]) -> tuple[Any, Any]:
    if dtype.kind == "b":
        return False, True
    if dtype.kind == "f":
        return np.finfo(dtype).min.item(), np.finfo(dtype).max.item()
    return np.iinfo(dtype).min, np.iinfo(dtype).max


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
