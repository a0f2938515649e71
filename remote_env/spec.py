"""Everything about a robot that does not change: spaces, streams, rates, cameras.

The server builds a ``RobotSpec`` from the robot's declarations, and the client builds the
same one from the ``Welcome``; nothing is configured twice. It can be saved to a file, and
spaces can be built from that without a robot.
"""

from __future__ import annotations

import enum
import hashlib
import math
import numbers
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.goals import GoalReward, check_goals
from remote_env.protocol.arrays import ArraySpec, Layout
from remote_env.protocol.codec import CLIENT_LIMITS, Layouts, decode, encode
from remote_env.protocol.messages import Welcome
from remote_env.protocol.values import Value
from remote_env.protocol.wiretypes import OnStale
from remote_env.spaces import SpaceCodec, describe_space, read_space
from remote_env.stream_requests import StreamRequest

__all__ = [
    "ActionLimit",
    "Mode",
    "OnStale",
    "OutOfBounds",
    "RobotSpec",
    "StreamKind",
    "StreamSpec",
]


class Mode(enum.StrEnum):
    """Who owns time, and when an action is applied.

    ``LOCKSTEP``: the robot waits for actions. ``REALTIME``: an action is applied when it comes,
    and the observation is taken at the end of that control period. ``DELAYED``: an action is
    applied at the end of the control period in which it came, just after the observation, so
    that its delay is one period whatever the learner and the network take of it.
    """

    LOCKSTEP = "lockstep"
    REALTIME = "realtime"
    DELAYED = "delayed"


class OutOfBounds(enum.StrEnum):
    """What the robot does with an action outside its bounds."""

    REFUSE = "refuse"
    CLIP = "clip"
    PASS = "pass"  # noqa: S105 (a policy, not a password)


class StreamKind(enum.StrEnum):
    """What a stream holds."""

    IMAGE = "image"
    DEPTH = "depth"
    INTRINSICS = "intrinsics"
    EXTRINSICS = "extrinsics"
    PROPRIOCEPTION = "proprioception"
    OBSERVATION = "observation"


# What is published once, and what the robot's own code makes anew for each observation.
# A smaller array is sent as fast as it is copied by who keeps it, in bytes.
_LARGE: Final = 16 << 10
_AGELESS = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS, StreamKind.OBSERVATION)


@dataclass(frozen=True, slots=True, eq=False)
class ActionLimit:
    """How fast an action may change, and how far it may be from what the robot feels.

    A limit is one number for all elements of the action, or an array of its shape; infinity
    is no limit for that element.

    Attributes:
        max_rate: Largest change per second from one executed action to the next, in units of
            the action per second; None is no limit. Steps come a little early or late in real
            time, so leave room above what the learner does.
        max_step: Largest distance of an action from the measured state, in units of the
            action; None is no limit.
        measured: Name of the stream that measures what the action commands, of the same
            shape. ``max_step`` needs it; for ``max_rate`` it is where the first action of an
            episode, and the first after a hold, starts from. Without it that action may be
            anywhere.
    """

    max_rate: ArrayLike | None = None
    max_step: ArrayLike | None = None
    measured: str = ""

    def __post_init__(self) -> None:
        """Check what can be checked without the robot.

        Raises:
            ConfigurationError: Saying what to declare.
        """
        for name in ("max_rate", "max_step"):
            object.__setattr__(self, name, _read_limit(name, getattr(self, name)))
        if not isinstance(self.measured, str):
            raise ConfigurationError(
                f"measured must be the name of a stream, not {self.measured!r:.40}"
            )
        if self.max_rate is None and self.max_step is None:
            raise ConfigurationError("an ActionLimit needs max_rate, or max_step and measured")
        if self.max_step is not None and not self.measured:
            raise ConfigurationError(
                "max_step needs measured: the name of the stream that measures what the action "
                'commands, such as measured="joint_pos"'
            )


def _read_limit(name: str, limit: Any) -> float | NDArray[np.float64] | None:
    if limit is None:
        return None
    try:
        array = np.array(limit, np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{name} must be numbers, not {limit!r:.60}") from error
    if not np.all(array >= 0):  # also NaN
        raise ConfigurationError(f"{name} must be 0 or more, not {limit!r:.60}")
    array.flags.writeable = False
    return array if array.ndim else float(array)


@dataclass(frozen=True, slots=True)
class StreamSpec:
    """One stream that can be subscribed to.

    Attributes:
        array: Name, dtype and shape.
        kind: What it holds.
        space: Its bounds.
        camera: Of which camera it is, or "".
        unit: For people.
        on_request: Whether it is sent only to those who ask for it by name.
        hz: Nominal rate, for people; 0 if it has none.
        max_age: After how many seconds without anything new it is stale; infinity is never.
        request: What is done to it before it is sent; the rest already says what it is then.
    """

    array: ArraySpec
    kind: StreamKind
    space: spaces.Space[Any]
    camera: str = ""
    unit: str = ""
    on_request: bool = False
    hz: float = 0.0
    max_age: float = math.inf
    request: StreamRequest = field(default_factory=StreamRequest)

    @property
    def name(self) -> str:
        """Unique; the key in the observation."""
        return self.array.name

    @property
    def can_age(self) -> bool:
        """Whether a learner may say how old it may be: not what is calibrated or computed."""
        return self.kind not in _AGELESS


@dataclass(frozen=True, slots=True)
class RobotSpec:
    """What a robot is, as both sides know it.

    Attributes:
        name: For people.
        mode: Who owns time.
        observation_space: As the robot has it, with its own structure.
        action_space: As the robot has it.
        streams: Everything that can be subscribed to, in the order of the wire.
        control_hz: Actions per second; 0 if time means nothing to this robot.
        max_episode_steps: The robot's own limit, or None.
        out_of_bounds: What happens to actions outside the bounds or the limits.
        action_limits: How fast actions may change and how far they may reach, by the name of
            the leaf of the action space; leaves without limits are not in it.
        action_lifetime: Seconds until the robot holds if no new action comes; 0 in lockstep.
        seedable: Whether ``reset(seed=...)`` decides the episode.
        reset_options: What ``reset(options=...)`` may hold, with one line for each; None if
            everything is handed on.
        goal_reward: What a step is worth for any goal, if the robot describes that; None if not.
        extra: What the robot's ``get_metadata`` returned.
    """

    name: str
    mode: Mode
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    streams: tuple[StreamSpec, ...]
    control_hz: float = 0.0
    max_episode_steps: int | None = None
    out_of_bounds: OutOfBounds = OutOfBounds.REFUSE
    action_limits: Mapping[str, ActionLimit] = field(default_factory=dict)
    action_lifetime: float = 0.0
    seedable: bool = False
    reset_options: Mapping[str, str] | None = field(default_factory=dict)
    goal_reward: GoalReward | None = None
    extra: Mapping[str, Value] = field(default_factory=dict)

    @property
    def control_period(self) -> float:
        """Seconds per step; 0 if time means nothing to this robot."""
        return 1.0 / self.control_hz if self.control_hz else 0.0

    @property
    def observed(self) -> tuple[str, ...]:
        """Names of the streams of ``observation_space``, in its order."""
        return SpaceCodec(self.observation_space, root="observation").layout.names

    def stream(self, name: str) -> StreamSpec:
        """Return the stream of this name.

        Raises:
            ConfigurationError: Naming the streams that there are.
        """
        for stream in self.streams:
            if stream.name == name:
                return stream
        offered = ", ".join(repr(s.name) for s in self.streams)
        raise ConfigurationError(f"{self.name} has no stream {name!r}; it offers {offered}")

    def worth_keeping(self, names: Collection[str], hz: float) -> tuple[str, ...]:
        """Return which streams come less often than they are asked for, and are worth a copy.

        Those are the large ones, and those that are asked for less often than they come.

        Args:
            names: Of streams; others are ignored.
            hz: How often an observation is taken, in Hz.
        """
        chosen = [stream for stream in self.streams if stream.name in names]
        return tuple(
            s.name
            for s in chosen
            if s.request.is_paced or (0 < s.hz < hz and s.array.nbytes >= _LARGE)
        )

    def check_action_limits(self) -> None:
        """Check that the action limits fit the action space, the streams and the policy.

        Raises:
            ConfigurationError: Saying what does not fit, and what to declare.
        """
        if self.action_limits and self.out_of_bounds is OutOfBounds.PASS:
            raise ConfigurationError(
                "action_limits do nothing with out_of_bounds='pass'; declare 'refuse' or 'clip'"
            )
        codec = SpaceCodec(self.action_space, root="action")
        leaves = dict(zip(codec.layout.names, codec.leaf_spaces, strict=True))
        for name, limit in self.action_limits.items():
            leaf = leaves.get(name)
            if leaf is None:
                raise ConfigurationError(
                    f"action_limits has {name!r}, which is no leaf of the action space; map the "
                    f"names of its leaves to limits: {', '.join(map(repr, leaves))}"
                )
            if not isinstance(leaf, spaces.Box) or np.dtype(leaf.dtype).kind != "f":
                raise ConfigurationError(
                    f"action_limits[{name!r}]: only a Box of floats can have limits, not {leaf}"
                )
            self._check_action_limit(f"action_limits[{name!r}]", limit, leaf.shape)

    def _check_action_limit(self, where: str, limit: ActionLimit, shape: tuple[int, ...]) -> None:
        for what in ("max_rate", "max_step"):
            given = np.shape(getattr(limit, what))
            if given not in ((), shape):
                raise ConfigurationError(
                    f"{where}.{what} has the shape {given}; it must be one number, or have the "
                    f"shape of the action, {shape}"
                )
        if limit.max_rate is not None and not self.control_hz:
            raise ConfigurationError(f"{where}.max_rate is per second; declare control_hz")
        if not limit.measured:
            return
        try:
            measured = self.stream(limit.measured).array
        except ConfigurationError as error:
            raise ConfigurationError(f"{where}.measured: {error}") from error
        if measured.shape != shape:
            raise ConfigurationError(
                f"{where}.measured is {limit.measured!r}, which has the shape {measured.shape}; "
                f"it must measure what the action commands, in the shape {shape}"
            )

    def check_goal_reward(self) -> None:
        """Check that the robot has the goals that its reward is about.

        Raises:
            ConfigurationError: Saying what to declare.
        """
        if self.goal_reward is not None:
            names = [stream.name for stream in self.streams]
            check_goals(self.goal_reward, self.observation_space, names)

    def calibration_of(self, names: Sequence[str]) -> tuple[str, ...]:
        """Return the calibration streams of the cameras that these streams belong to."""
        cameras = {self.stream(name).camera for name in names} - {""}
        return tuple(
            s.name
            for s in self.streams
            if s.camera in cameras
            and s.kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
            and s.name not in names
        )

    def max_ages(self, asked: Mapping[str, float] | None = None) -> dict[str, float]:
        """Return after how many seconds each stream is stale, for a learner with wishes.

        Args:
            asked: By stream name, in seconds, in place of what the robot declares; infinity
                is never.

        Returns:
            By stream name, of all streams; infinity is never.

        Raises:
            ConfigurationError: If there is no such stream, it never goes stale whatever
                anyone asks, or the age is not positive.
        """
        ages = {stream.name: stream.max_age for stream in self.streams}
        for name, age in (asked or {}).items():
            if not self.stream(name).can_age:
                raise ConfigurationError(
                    f"max_age of {name!r}: {self.stream(name).kind.value} never goes stale; "
                    "leave it out"
                )
            try:
                ages[name] = _positive(age, f"max_age of {name!r}")
            except (TypeError, ValueError) as error:
                raise ConfigurationError(f"{error}; give seconds, or math.inf for never") from error
        return ages

    def space_of(self, names: Sequence[str] | None, *, flatten: bool = False) -> spaces.Space[Any]:
        """Return the observation space of some streams.

        Args:
            names: Of the streams, for a flat Dict of exactly these; None for the robot's
                own observation space.
            flatten: Whether to return the flat Dict even if ``names`` is None.

        Raises:
            ConfigurationError: If there is no such stream.
        """
        if names is None and not flatten:
            return self.observation_space
        chosen = self.observed if names is None else names
        return spaces.Dict([(name, self.stream(name).space) for name in chosen])

    def to_welcome(self, *, message_id: int, session: str, server: str, frame_size: int) -> Welcome:
        """Return the message that says all this."""
        return Welcome(
            id=message_id,
            session=session,
            resumed=False,
            server=server,
            spec_hash=self.hash() if message_id else "",
            capabilities=(),
            max_frame_size=frame_size,
            streams=tuple(stream.array for stream in self.streams),
            subscribed=self.observed,
            action=tuple(SpaceCodec(self.action_space, root="action").layout),
            metadata=self._metadata(),
        )

    def hash(self) -> str:
        """Return what changes if and only if a policy could no longer be used.

        Spaces, arrays, their order, kinds and units, and the mode are in it; how often and when
        a stream comes is not, and neither is what a step is worth.
        """
        streams = tuple(
            replace(stream, on_request=False, hz=0.0, max_age=math.inf) for stream in self.streams
        )
        bare = RobotSpec(
            "", self.mode, self.observation_space, self.action_space, streams
        ).to_welcome(message_id=0, session="", server="", frame_size=0)
        return hashlib.sha256(b"".join(encode(bare, Layouts()))).hexdigest()

    def _metadata(self) -> dict[str, Value]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["mode"] = self.mode.value
        plain["out_of_bounds"] = self.out_of_bounds.value
        plain["action_limits"] = {
            name: {f.name: getattr(limit, f.name) for f in fields(limit)}
            for name, limit in self.action_limits.items()
        }
        plain["goal_reward"] = self.goal_reward.describe() if self.goal_reward else None
        plain["observation_space"] = describe_space(self.observation_space)
        plain["action_space"] = describe_space(self.action_space)
        plain["streams"] = [
            {
                "kind": stream.kind.value,
                "space": describe_space(stream.space),
                "camera": stream.camera,
                "unit": stream.unit,
                "on_request": stream.on_request,
                "hz": float(stream.hz),
                "max_age": float(stream.max_age),
            }
            for stream in self.streams
        ]
        return plain

    @classmethod
    def from_welcome(cls, welcome: Welcome) -> RobotSpec:
        """Build the spec that a server described.

        Raises:
            RemoteProtocolError: If the description is malformed or contradicts itself.
        """
        try:
            plain: dict[str, Any] = dict(welcome.metadata)
            plain["mode"] = Mode(plain["mode"])
            plain["out_of_bounds"] = OutOfBounds(plain["out_of_bounds"])
            plain["action_limits"] = {
                name: ActionLimit(**raw) for name, raw in plain["action_limits"].items()
            }
            if plain["goal_reward"] is not None:
                plain["goal_reward"] = GoalReward(**plain["goal_reward"])
            plain["observation_space"] = read_space(plain["observation_space"])
            plain["action_space"] = read_space(plain["action_space"])
            plain["streams"] = tuple(
                StreamSpec(
                    array=array,
                    kind=StreamKind(raw["kind"]),
                    space=read_space(raw["space"]),
                    camera=raw["camera"],
                    unit=raw["unit"],
                    on_request=raw["on_request"],
                    hz=raw["hz"],
                    max_age=_positive(raw["max_age"], "max_age"),
                )
                for array, raw in zip(welcome.streams, plain["streams"], strict=True)
            )
            spec = cls(**plain)
            spec.check_action_limits()
            spec.check_goal_reward()
            agrees = (
                Layout(welcome.action) == SpaceCodec(spec.action_space, root="action").layout
                and all(s.space.shape == s.array.shape for s in spec.streams)
                and set(spec.observed) <= {s.name for s in spec.streams}
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RemoteProtocolError(f"the server's metadata are malformed: {error!r}") from error
        if not agrees:
            raise RemoteProtocolError("the server's spaces contradict the arrays it announces")
        return spec

    def save(self, path: str | Path) -> None:
        """Write the spec to a file: one ``Welcome`` frame."""
        welcome = self.to_welcome(message_id=1, session="", server="", frame_size=0)
        Path(path).write_bytes(b"".join(encode(welcome, Layouts())))

    @classmethod
    def load(cls, path: str | Path) -> RobotSpec:
        """Read a spec that ``save`` wrote; no robot is needed.

        Raises:
            RemoteProtocolError: If the file holds no spec.
        """
        message = decode(Path(path).read_bytes(), Layouts(), limits=CLIENT_LIMITS)
        if not isinstance(message, Welcome):
            raise RemoteProtocolError(f"{path} holds no robot spec")
        return cls.from_welcome(message)


def _positive(value: Any, what: str) -> float:
    """Return a positive float.

    Raises:
        ValueError: If it is not positive, or NaN.
        TypeError: If it is no number.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{what} is {value!r:.40}, not a number")
    number = float(value)
    if not number > 0:  # also refuses NaN
        raise ValueError(f"{what} must be positive, not {number}")
    return number
