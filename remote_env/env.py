"""The learner's side: a robot, anywhere on the network, as a ``gymnasium.Env``."""

from __future__ import annotations

import logging
import math
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from remote_env.arguments import check_max_age, check_steps, check_timeout
from remote_env.client import RobotClient
from remote_env.closing import close_soon
from remote_env.embedded import EmbeddedServer, start_embedded
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    ConnectionLostError,
    EpisodeOverError,
    LocalProtocolError,
    TransportError,
)
from remote_env.pictures import pictures_of, tile
from remote_env.protocol import EndReason, OnStale, ResetDone, StepDone, Value
from remote_env.relabelling import Relabelling
from remote_env.resuming import RobotLostError, ServerStoppedError
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind
from remote_env.timing import ClientStatistics

__all__ = ["RemoteRobotEnv"]

logger = logging.getLogger(__name__)

# How long reset waits before it connects once more, and the least that is left for the last
# attempt, in seconds.
_RETRY: Final = 0.1
_LEAST: Final = 0.01


class RemoteRobotEnv(Relabelling, gymnasium.Env[Any, Any]):
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
    ``ages``               realtime: seconds since each stream was measured, at the
                           moment when the answer was read
    ``held``               realtime: seconds for which the robot had held before the
                           action, because the one before had expired
    ``overruns``           realtime: control periods missed so far
    ``action_age``         realtime: seconds from the action to its observation; a learner
                           that thinks for most of a period sees little of its action
    ``incoherent``         realtime: cameras whose image and depth come from
                           different captures
    ``age_error``          realtime: by how much the ages may be wrong, in seconds
    ``stale``              realtime: streams older than they may be, by name: ``cause``,
                           ``age`` and ``max_age`` in seconds, ``text`` for people
    ``guard``              at a step: actions ``clipped`` and ``refused`` in this episode
    ``timing``             where the time went, in seconds: ``round_trip``,
                           ``serialize``, ``network``, ``queued``, ``worked``,
                           ``waited``, ``deserialize``, ``period``; in lockstep only
                           with ``timing=True``
    ``invalid_transition`` True if the observation is not what the action led to: keep
                           this step out of the replay buffer
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
        max_steps: int | None = None,
        connect_timeout: float = 5.0,
        step_timeout: float = 10.0,
        reset_timeout: float = 120.0,
        reconnect_timeout: float = 30.0,
        on_link_loss: str = "truncate",
        max_age: float | Mapping[str, float] | None = None,
        on_stale: OnStale | str = OnStale.TRUNCATE,
        timing: bool | None = None,
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
            max_steps: After how many steps the robot truncates the episode, and holds, if it
                does not before; None for the robot's own limit. (The ``max_episode_steps`` of
                ``gym.make`` is a wrapper on this side, of which the robot does not know.)
            connect_timeout: In seconds.
            step_timeout: In seconds.
            reset_timeout: In seconds; robots may take long.
            reconnect_timeout: How long ``reset`` tries to reach a robot that was lost, in
                seconds, at most ``reset_timeout``.
            on_link_loss: What ``step`` does when the connection is lost and cannot be resumed
                within ``step_timeout``: ``"truncate"`` returns the last observation again,
                with reward 0, ``truncated``, ``end_reason`` ``"link_lost"`` and
                ``invalid_transition``; ``"raise"`` raises the ``ConnectionLostError``.
            max_age: From which age on a stream is stale, in seconds, for all streams or by
                name; what the robot declares if None. Realtime only.
            on_stale: What a step comes to that finds a stale stream: ``"truncate"`` ends the
                episode, ``"flag"`` only says so in ``info["remote"]["stale"]``, ``"raise"``
                raises a ``SensorError``.
            timing: Whether ``info["remote"]["timing"]`` says where the time went; None for
                yes unless in lockstep, where ``info`` is then the same in every run.

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
        check_timeout("reconnect_timeout", reconnect_timeout)
        if on_link_loss not in ("truncate", "raise"):
            raise ConfigurationError(
                f"on_link_loss must be 'truncate' or 'raise', not {on_link_loss!r:.40}"
            )
        try:
            self._on_stale = OnStale(on_stale)
        except ValueError:
            raise ConfigurationError(
                f"on_stale must be 'truncate', 'flag' or 'raise', not {on_stale!r:.40}"
            ) from None
        self.render_mode = render_mode
        self._take = take
        self._max_steps = check_steps(max_steps)
        self._step_timeout = step_timeout
        self._reset_timeout = reset_timeout
        self._reconnect_timeout = reconnect_timeout
        self._truncates_on_loss = on_link_loss == "truncate"
        self._max_age = max_age
        self._wants_timing = timing
        self._server: EmbeddedServer | None = None
        self._is_closed = False
        if url is None:
            self._server = start_embedded(robot or "double-pendulum")
            weakref.finalize(self, close_soon, os.getpid(), self._server.stop)
            url = self._server.url
        self._client = RobotClient(url, token=token, owner=owner, connect_timeout=connect_timeout)
        deadline = time.monotonic() + connect_timeout
        try:
            spec = self._client.connect()
            self._choose(spec, streams, flatten)
            self._subscribe(deadline)
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
        shown = pictures_of(spec, observed) if self.render_mode else []
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
        self._ended_by = ""  # why no further step is worth sending
        self._max_ages = check_max_age(self._max_age, spec, self._subscribed)
        self._last_arrays: tuple[NDArray[Any], ...] = ()
        self._last_remote: dict[str, Any] = {}
        if self._wants_timing is None:
            self._wants_timing = spec.mode is not Mode.LOCKSTEP

    def _subscribe(self, deadline: float) -> None:
        self._client.subscribe(
            self._subscribed,
            max_ages=self._max_ages,
            on_stale=self._on_stale,
            timeout=max(deadline - time.monotonic(), _LEAST),
        )

    @property
    def spec_of_robot(self) -> RobotSpec:
        """What the robot is: streams, cameras, rates, limits."""
        return self._spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Value] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; reconnects if the connection was lost, and says so in the log.

        Args:
            seed: For the robot; ``info["remote"]["seed_applied"]`` tells whether it was used.
            options: For the robot; ``remote-env info URL`` lists what it knows.

        Raises:
            LeaseError: If somebody else commands the robot; names the owner.
            EmergencyStopError: If somebody pressed the emergency stop.
            SensorError: If a stream that is subscribed to does not deliver; names it.
            UnknownOptionError: If the robot does not know an option.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        if self._is_closed:
            raise LocalProtocolError("reset after close; make a new environment")
        super().reset(seed=seed)
        self._is_running, self._ended_by = False, ""
        done = self._begin(seed, options)
        self._episode, self._steps, self._tick = done.episode, 0, done.tick
        self._is_running = True
        observation, info = self._take_in(done)
        return observation, info

    def _begin(self, seed: int | None, options: dict[str, Value] | None) -> ResetDone:
        """Reset the robot, also one that was lost since; once more if it is lost meanwhile."""
        deadline = time.monotonic() + self._reset_timeout
        was_lost = False
        while True:
            if not self._client.is_connected:
                self._reconnect(min(deadline, time.monotonic() + self._reconnect_timeout))
            try:
                return self._client.reset(
                    seed=seed,
                    options=options,
                    take=self._take,
                    max_steps=self._max_steps,
                    timeout=max(deadline - time.monotonic(), 0.001),
                    reconnect_timeout=self._reconnect_timeout,
                )
            except RobotLostError:
                raise  # it was looked for as long as was asked for
            except ConnectionLostError as error:
                # The server, if it is there at all, gave that reset up with the session.
                if was_lost or self._is_closed or time.monotonic() >= deadline:
                    raise
                was_lost = True
                logger.warning("%s; connecting again", error)

    def _reconnect(self, deadline: float) -> None:
        """Connect, with patience.

        Raises:
            TransportError: If the robot cannot be reached by the deadline.
            ConfigurationError: If it is not the same robot any more.
        """
        while True:
            if self._is_closed:  # by another thread
                raise LocalProtocolError("close() was called in the middle of reset()")
            left = deadline - time.monotonic()
            self._client.connect(timeout=max(left, _LEAST), wait=True)
            if self._client.spec_hash != self._spec_hash:
                what = "has other spaces"
                break
            if self._client.spec.goal_reward != self._spec.goal_reward:
                what = "rewards goals otherwise"
                break
            try:
                self._subscribe(deadline)
                return
            except TransportError as error:
                if time.monotonic() + _RETRY >= deadline:
                    raise
                logger.warning("%s; connecting again", error)
            time.sleep(_RETRY)
        self._client.close()
        raise ConfigurationError(
            f"the robot at {self._client.url} {what} than before; make a new environment"
        )

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
        if self._ended_by and not self._is_closed:
            raise EpisodeOverError(
                f"the episode ended after {self._steps} steps ({self._ended_by}); call env.reset() "
                "to begin the next one"
            )
        if not self._is_running:
            if self._is_closed:
                raise LocalProtocolError("step after close; make a new environment")
            when = "after the episode was cut short" if self._episode else "before reset"
            raise LocalProtocolError(f"step {when}; call env.reset() first")
        keeps_dtype = self._spec.out_of_bounds is OutOfBounds.PASS
        try:
            arrays = self._action.flatten(action, keep_dtype=keeps_dtype)
        except (ValueError, TypeError, RuntimeError) as error:  # the last is torch's
            raise ActionRefusedError(
                f"the action does not fit the action space: {error}", code="robot.action.shape"
            ) from None
        differ = any(a.dtype != s.dtype for a, s in zip(arrays, self._action.layout, strict=True))
        try:
            done = self._client.step(
                [np.asarray(array, order="C") for array in arrays],
                episode=self._episode,
                step=self._steps + 1,
                tick=self._tick,
                dtypes=[array.dtype.str for array in arrays] if differ else (),
                timeout=self._step_timeout,
            )
        except ActionRefusedError as error:
            if error.code != "robot.action.expired":
                raise
            # It was under way while the link was down, too long to be executed any more.
            return self._lose(ConnectionLostError(str(error)))
        except ConnectionLostError as error:
            if self._is_closed:  # by another thread, in the middle of this
                raise
            return self._lose(error)
        if not done.remote.get("invalid_transition"):
            self._steps = done.step
        self._tick = done.tick
        observation, info = self._take_in(done)
        remote = info["remote"]
        if "invalid_transition" in remote:
            self._end(done.end_reason or EndReason.ROBOT)
        elif "action_executed" not in remote:
            remote["action_executed"] = self._action.unflatten([a.copy() for a in arrays])
        remote.setdefault("guard", {"clipped": 0, "refused": {}})
        if done.end_reason is not None:
            remote["end_reason"] = done.end_reason.value
        return observation, done.reward, done.terminated, done.truncated, info

    def _lose(self, error: ConnectionLostError) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """End the episode because the robot was lost.

        Raises:
            ConnectionLostError: If that is what was asked for.
        """
        was_stopped = isinstance(error, ServerStoppedError)
        reason = EndReason.SERVER_SHUTDOWN if was_stopped else EndReason.LINK_LOST
        self._end(reason)
        if not self._truncates_on_loss:
            raise error
        logger.warning("the episode is cut short: %s", error)
        remote = {
            **self._last_remote,
            "end_reason": reason.value,
            "end_cause": str(error),
            "invalid_transition": True,
        }
        observed = [array.copy() for array in self._last_arrays]
        return self._observation.unflatten(observed), 0.0, False, True, {"remote": remote}

    def _end(self, reason: EndReason) -> None:
        """Note that no further step of this episode is worth sending."""
        self._is_running = False
        self._ended_by = reason.value

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
        if self._spec.mode is not Mode.LOCKSTEP and done.stamps:
            self._add_ages(done, remote)
        if self._wants_timing:
            remote["timing"] = self._client.timing
        if self._shown:
            # A copy: what is handed out may be written to.
            self._pictures = [arrays[index].copy() for index in self._shown]
        observed = arrays[: len(self._observation.layout)]
        if self._truncates_on_loss:
            # Also a copy, for the step that finds the robot lost.
            self._last_arrays = tuple(array.copy() for array in observed)
            self._last_remote = {"step": self._steps, "time": done.time}
        return self._observation.unflatten(observed), {**done.info, "remote": remote}

    def _add_ages(self, done: ResetDone | StepDone, remote: dict[str, Any]) -> None:
        """Say how old each stream is now, on our side of the network."""
        since_sent, error = self._client.age_of(done.sent)
        since_sent = max(0.0, since_sent) if math.isfinite(error) else 0.0
        since_taken = since_sent + (*done.durations, 0.0, 0.0, 0.0, 0.0)[3]
        remote["ages"] = {
            name: done.time - stamp + since_taken
            for name, stamp in zip(self._subscribed, done.stamps, strict=True)
            if math.isfinite(stamp)
        }
        remote["age_error"] = error

    def statistics(self) -> ClientStatistics:
        """Return where the time of all steps went, with jitter; see ``ClientStatistics``."""
        return self._client.statistics()

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
