"""The learner's side: a robot, anywhere on the network, as a ``gymnasium.Env``."""

from __future__ import annotations

import logging
import math
import os
import weakref
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from remote_env.client import RobotClient, check_timeout, close_soon
from remote_env.embedded import EmbeddedServer, start_embedded
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LocalProtocolError,
    TransportError,
)
from remote_env.pictures import tile
from remote_env.protocol import ResetDone, StepDone, Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind

__all__ = ["RemoteRobotEnv"]

logger = logging.getLogger(__name__)


class RemoteRobotEnv(gymnasium.Env[Any, Any]):
    """A robot behind a url, as an environment.

    Spaces come from the robot. Every array handed out is the caller's own and writable. What
    we add to ``info`` stands under ``info["remote"]``: what the robot's own ``info`` holds
    stays as it is.

    =====================  =========================================================
    ``seed_applied``       at reset: whether the seed decides this episode
    ``step``               steps of the episode so far
    ``time``               the robot's clock at the observation, in seconds
    ``end_reason``         once the episode ended: ``"task"``, ``"time_limit"``, ...
    ``action_executed``    at a step: what the robot executed, after clipping
    ``cameras``            calibration that is known: ``intrinsics`` (3, 3) px,
                           ``extrinsics`` (4, 4) camera-to-world, m
    ``ages``               realtime: seconds since each stream was measured
    ``held``               realtime: seconds for which the robot had held before the
                           action, because the one before had expired
    ``overruns``           realtime: control periods missed so far
    ``action_age``         realtime: seconds from the action to its observation; a learner
                           that thinks for most of a period sees little of its action
    ``incoherent``         realtime: cameras whose image and depth come from
                           different captures
    =====================  =========================================================
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as in gymnasium.Env)

    def __init__(
        self,
        url: str | None = None,
        *,
        robot: str | None = None,
        streams: Sequence[str] | None = None,
        flatten: bool = False,
        render_mode: str | None = None,
        token: str | None = None,
        owner: str | None = None,
        take: bool = False,
        connect_timeout: float = 5.0,
        step_timeout: float = 10.0,
        reset_timeout: float = 120.0,
    ) -> None:
        """Connect; the robot does not move before ``reset``.

        Args:
            url: ``ws://host:port``. None simulates a robot inside this process.
            robot: Which to simulate without a url, a name as in ``remote-env serve NAME``;
                the double pendulum if None.
            streams: The streams to observe, by name, as a flat Dict; None for the robot's
                own observation space. ``remote-env info URL`` lists them.
            flatten: Whether to flatten the robot's own observation space to a flat Dict.
            render_mode: ``"rgb_array"`` for ``render()``, or None.
            token: What the server asks for, if it does.
            owner: The name that others are shown while this one commands.
            take: Whether ``reset`` takes the robot from another owner.
            connect_timeout: In seconds.
            step_timeout: In seconds.
            reset_timeout: In seconds; robots may take long.

        Raises:
            ConfigurationError: If an argument makes no sense for this robot.
            ConnectFailedError: If no robot server answers there.
            AccessDeniedError: If the server refuses this client.
            VersionMismatchError: If the server speaks another wire version.
        """
        if render_mode not in (None, *self.metadata["render_modes"]):
            raise ConfigurationError(
                f"render_mode must be 'rgb_array' or None, not {render_mode!r}"
            )
        if url is not None and robot is not None:
            raise ConfigurationError(
                f"robot={robot!r} is simulated here and url={url!r} is elsewhere; give one of them"
            )
        check_timeout("step_timeout", step_timeout)
        check_timeout("reset_timeout", reset_timeout)
        self.render_mode = render_mode
        self._take = take
        self._step_timeout = step_timeout
        self._reset_timeout = reset_timeout
        self._server: EmbeddedServer | None = None
        self._is_closed = False
        if url is None:
            self._server = start_embedded(robot or "double-pendulum")
            weakref.finalize(self, close_soon, os.getpid(), self._server.stop)
            url = self._server.url
        self._client = RobotClient(url, token=token, owner=owner, connect_timeout=connect_timeout)
        try:
            spec = self._client.connect()
            self._choose(spec, streams, flatten)
            self._client.subscribe(self._subscribed)
        except BaseException:
            self.close()
            raise

    def _choose(self, spec: RobotSpec, streams: Sequence[str] | None, flatten: bool) -> None:
        """Decide what is subscribed to, and what of it is the observation."""
        self.observation_space = spec.space_of(streams, flatten=flatten)
        self.action_space = spec.action_space
        has_camera = any(stream.kind is StreamKind.IMAGE for stream in spec.streams)
        self.metadata = {
            "render_modes": ["rgb_array"] if has_camera else [],
            "render_fps": max(1, round(spec.control_hz)),
        }
        self._spec = spec
        self._observation = SpaceCodec(self.observation_space, root="observation")
        self._action = SpaceCodec(self.action_space, root="action")
        observed = list(self._observation.layout.names)
        shown = self._pictures_to_show(spec, observed) if self.render_mode else []
        calibration = spec.calibration_of(observed)
        extra = [name for name in shown if name not in observed]
        self._subscribed = (*observed, *calibration, *extra)
        index = {name: i for i, name in enumerate(self._subscribed)}
        self._shown = [index[name] for name in shown]
        self._calibration = [
            (spec.stream(name).camera, spec.stream(name).kind.value, index[name])
            for name in self._subscribed
            if spec.stream(name).kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
        ]
        self._pictures: list[NDArray[Any]] = []
        self._spec_hash = self._client.spec_hash
        self._episode = 0
        self._steps = 0
        self._tick = 0
        self._is_running = False

    def _pictures_to_show(self, spec: RobotSpec, observed: Sequence[str]) -> list[str]:
        """Return the image streams to render: those observed, else the first there is."""
        images = [s.name for s in spec.streams if s.kind is StreamKind.IMAGE]
        shown = [name for name in images if name in observed] or images[:1]
        if not shown:
            reason = str(spec.extra.get("no_camera", ""))
            raise ConfigurationError(
                f"render_mode='rgb_array' needs a camera, and {spec.name} offers none"
                f"{f' ({reason})' if reason else ''}; use render_mode=None"
            )
        return shown

    @property
    def spec_of_robot(self) -> RobotSpec:
        """What the robot is: streams, cameras, rates, limits."""
        return self._spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Value] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; reconnects if the connection was lost.

        Args:
            seed: For the robot; ``info["remote"]["seed_applied"]`` tells whether it was used.
            options: For the robot; ``remote-env info URL`` lists what it knows.

        Raises:
            LeaseError: If somebody else commands the robot; names the owner.
            SensorError: If a stream that is subscribed to does not deliver; names it.
            UnknownOptionError: If the robot does not know an option.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        if self._is_closed:
            raise LocalProtocolError("reset after close; make a new environment")
        super().reset(seed=seed)
        self._is_running = False
        if not self._is_connected():
            self._reconnect()
        done = self._client.reset(
            seed=seed, options=options, take=self._take, timeout=self._reset_timeout
        )
        self._episode, self._steps, self._tick = done.episode, 0, done.tick
        self._is_running = True
        observation, info = self._take_in(done)
        return observation, info

    def _is_connected(self) -> bool:
        """Look before the robot moves: a reset whose fate is unknown is never sent twice."""
        try:
            self._client.ping()
        except TransportError:
            return False
        return True

    def _reconnect(self) -> None:
        self._client.connect()
        if self._client.spec_hash != self._spec_hash:
            self._client.close()
            raise ConfigurationError(
                f"the robot at {self._client.url} has other spaces than before; make a new "
                "environment"
            )
        self._client.subscribe(self._subscribed)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Execute an action and return what came of it.

        Args:
            action: Of ``action_space``. What happens out of bounds is the robot's choice,
                ``spec_of_robot.out_of_bounds``.

        Raises:
            ActionRefusedError: If shape, dtype or values are wrong; nothing moved.
            LocalProtocolError: If there was no ``reset``.
            EpisodeOverError: If the episode has ended.
            LeaseError: If somebody else took the robot over.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        if not self._is_running:
            what = (
                "after close; make a new environment"
                if self._is_closed
                else ("before reset; call env.reset() first")
            )
            raise LocalProtocolError(f"step {what}")
        keeps_dtype = self._spec.out_of_bounds is OutOfBounds.PASS
        try:
            arrays = self._action.flatten(action, keep_dtype=keeps_dtype)
        except (ValueError, TypeError, RuntimeError) as error:  # the last is torch's
            raise ActionRefusedError(
                f"the action does not fit the action space: {error}", code="robot.action.shape"
            ) from None
        differ = any(a.dtype != s.dtype for a, s in zip(arrays, self._action.layout, strict=True))
        done = self._client.step(
            [np.asarray(array, order="C") for array in arrays],
            episode=self._episode,
            step=self._steps + 1,
            tick=self._tick,
            dtypes=[array.dtype.str for array in arrays] if differ else (),
            timeout=self._step_timeout,
        )
        self._steps, self._tick = done.step, done.tick
        observation, info = self._take_in(done)
        remote = info["remote"]
        if "action_executed" not in remote:
            remote["action_executed"] = self._action.unflatten([a.copy() for a in arrays])
        if done.end_reason is not None:
            remote["end_reason"] = done.end_reason.value
        return observation, done.reward, done.terminated, done.truncated, info

    def _take_in(self, done: ResetDone | StepDone) -> tuple[Any, dict[str, Any]]:
        arrays = done.observation
        remote: dict[str, Any] = dict(done.remote)
        remote["step"] = self._steps
        remote["time"] = done.time
        if self._calibration:
            cameras: dict[str, dict[str, Any]] = {}
            for camera, kind, index in self._calibration:
                if done.sequences[index] == 0:
                    continue  # neither declared nor measured
                cameras.setdefault(camera, {})[kind] = arrays[index].copy()
            remote["cameras"] = cameras
        if self._spec.mode is Mode.REALTIME and done.stamps:
            remote["ages"] = {
                name: done.time - stamp
                for name, stamp in zip(self._subscribed, done.stamps, strict=True)
                if math.isfinite(stamp)
            }
        if self._shown:
            # A copy: what is handed out may be written to.
            self._pictures = [arrays[index].copy() for index in self._shown]
        observed = arrays[: len(self._observation.layout)]
        return self._observation.unflatten(observed), {**done.info, "remote": remote}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the newest pictures side by side, ``(height, width, 3)`` uint8 RGB.

        Raises:
            LocalProtocolError: If there was no ``reset``.
        """
        if self.render_mode is None:
            gymnasium.logger.warn(
                "render() was called without a render_mode; make the environment with "
                'render_mode="rgb_array"'
            )
            return None
        if not self._pictures:
            raise LocalProtocolError("render before reset; call env.reset() first")
        return tile(self._pictures)

    def close(self) -> None:
        """Return the lease and disconnect. Idempotent; takes at most about two seconds."""
        self._is_running = False
        self._is_closed = True
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
        if self._server is not None:
            self._server.stop()
            self._server = None
