"""Everything about a robot that does not change: spaces, streams, rates, cameras.

The server builds a ``RobotSpec`` from the robot's declarations, and the client builds the
same one from the ``Welcome``; nothing is configured twice. It can be saved to a file, and
spaces can be built from that without a robot.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gymnasium import spaces

from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.protocol.arrays import ArraySpec, Layout
from remote_env.protocol.codec import CLIENT_LIMITS, Layouts, decode, encode
from remote_env.protocol.messages import Welcome
from remote_env.protocol.values import Value
from remote_env.spaces import SpaceCodec, describe_space, read_space

__all__ = ["Mode", "OutOfBounds", "RobotSpec", "StreamKind", "StreamSpec"]


class Mode(enum.StrEnum):
    """Who owns time."""

    LOCKSTEP = "lockstep"
    REALTIME = "realtime"


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
    """

    array: ArraySpec
    kind: StreamKind
    space: spaces.Space[Any]
    camera: str = ""
    unit: str = ""
    on_request: bool = False
    hz: float = 0.0

    @property
    def name(self) -> str:
        """Unique; the key in the observation."""
        return self.array.name


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
        out_of_bounds: What happens to actions outside the bounds.
        action_lifetime: Seconds until the robot holds if no new action comes; 0 in lockstep.
        seedable: Whether ``reset(seed=...)`` decides the episode.
        reset_options: What ``reset(options=...)`` may hold, with one line for each; None if
            everything is handed on.
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
    action_lifetime: float = 0.0
    seedable: bool = False
    reset_options: Mapping[str, str] | None = field(default_factory=dict)
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
        """Return what changes if and only if a policy could no longer be used."""
        bare = RobotSpec(
            "", self.mode, self.observation_space, self.action_space, self.streams
        ).to_welcome(message_id=0, session="", server="", frame_size=0)
        return hashlib.sha256(b"".join(encode(bare, Layouts()))).hexdigest()

    def _metadata(self) -> dict[str, Value]:
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        plain["mode"] = self.mode.value
        plain["out_of_bounds"] = self.out_of_bounds.value
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
                )
                for array, raw in zip(welcome.streams, plain["streams"], strict=True)
            )
            spec = cls(**plain)
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
