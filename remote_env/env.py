"""The learner's side: a robot, anywhere on the network, as a ``gymnasium.Env``."""

from __future__ import annotations

import logging
import os
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import gymnasium
import numpy as np
from numpy.typing import NDArray

from remote_env.arguments import check_max_age, check_steps, check_timeout
from remote_env.choosing import Choice, choose_urls
from remote_env.client import RobotClient
from remote_env.closing import close_soon
from remote_env.codec_choice import choose_codecs, measure_bandwidth
from remote_env.embedded import EmbeddedServer, start_embedded
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    ConnectionLostError,
    EpisodeOverError,
    LocalProtocolError,
)
from remote_env.protocol import EndReason, OnStale, ResetDone, StepDone, Value
from remote_env.recovery import Recovery
from remote_env.relabelling import Relabelling
from remote_env.requesting import Wishes, requested, resolve
from remote_env.resuming import ServerStoppedError
from remote_env.spec import Mode, RobotSpec
from remote_env.stream_requests import StreamRequest
from remote_env.timing import ClientStatistics
from remote_env.translation import Translator, check_render_mode

__all__ = ["RemoteRobotEnv"]

logger = logging.getLogger(__name__)


class RemoteRobotEnv(Relabelling, gymnasium.Env[Any, Any]):
    """A robot behind a url, as an environment.

    Spaces come from the robot; ``url`` says where it is. Every array handed out is the caller's
    own and writable. What we add to ``info`` stands under ``info["remote"]``: what the robot's own
    ``info`` holds stays as it is.

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
    _make_client: type[RobotClient] = RobotClient

    def __init__(
        self,
        url: str | None = None,
        *,
        urls: Sequence[str] | None = None,
        robot: str | None = None,
        streams: Sequence[str] | Mapping[str, StreamRequest | None] | None = None,
        image_size: tuple[int, int] | None = None,
        grayscale: bool = False,
        codec: str | Sequence[str] = "raw",
        quality: int | None = None,
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
        copy: bool = True,
    ) -> None:
        """Connect; the robot does not move before ``reset``.

        Args:
            url: ``ws://host:port`` or ``ws+unix:///path``. None takes one of the environment
                variable ``REMOTE_ENV_URLS`` as of ``urls``, and simulates a robot inside this
                process if there is none.
            urls: In place of ``url``: the first that no other environment of this user on this
                machine was given so, for programs that give all of theirs the same arguments.
            robot: Which to simulate without a url, a name as in ``remote-env serve NAME``;
                the double pendulum if None.
            streams: The streams to observe, by name, as a flat Dict; None for the robot's
                own observation space. ``remote-env info URL`` lists them. A mapping also says
                what is wanted of each, as a ``StreamRequest``: the robot's side crops, resizes,
                encodes and leaves captures out, and corrects the intrinsics.
            image_size: Height and width of all cameras that are observed, in pixels, at most
                those of the robot.
            grayscale: Whether all pictures that are observed have one channel.
            codec: How cameras that are observed travel: ``"raw"``, ``"jpeg"``, ``"depth16"``,
                ``"auto"``, or several of these, each for the streams that it is made for.
            quality: Of JPEG, 1 to 100; 85 if None.
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
                ``invalid_transition``, and with what you wrote into its pictures, if you did;
                ``"raise"`` raises the ``ConnectionLostError``.
            max_age: From which age on a stream is stale, in seconds, for all streams or by
                name; what the robot declares if None. Realtime only.
            on_stale: What a step comes to that finds a stale stream: ``"truncate"`` ends the
                episode, ``"flag"`` only says so in ``info["remote"]["stale"]``, ``"raise"``
                raises a ``SensorError``.
            timing: Whether ``info["remote"]["timing"]`` says where the time went; None for
                yes unless in lockstep, where ``info`` is then the same in every run.
            copy: A picture of a camera that is slower than the steps is sent once. Where it has
                not changed, whether it is handed out as a copy; if False, pictures of such
                cameras are read-only, and the same array until there is a newer one.

        Raises:
            ConfigurationError: If an argument makes no sense for this robot.
            ConnectFailedError: If no robot server answers there.
            AccessDeniedError: If the server refuses this client.
            VersionMismatchError: If the server speaks another wire version.
        """
        check_render_mode(render_mode)
        if url is not None and robot is not None:
            raise ConfigurationError(
                f"robot={robot!r} is simulated here and url={url!r} is elsewhere; give one of them"
            )
        if urls is not None and (url or robot) is not None:
            raise ConfigurationError(f"urls and {url or robot!r}; give one of them")
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
        wishes = Wishes(streams, image_size, grayscale, codec, quality)
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
        self._choice: Choice | None = None
        self._is_closed = False
        if url is None and robot is None:
            self._choice = choose_urls(self, urls, 1)
        if self._choice is not None:
            url, token = self._choice.urls[0], token or self._choice.token
        if url is None:
            self._server = start_embedded(robot or "double-pendulum")
            weakref.finalize(self, close_soon, os.getpid(), self._server.stop)
            url = self._server.url
        self._client = self._make_client(
            url, token=token, owner=owner, connect_timeout=connect_timeout, copy=copy
        )
        self.url = self._client.url
        deadline = time.monotonic() + connect_timeout
        try:
            spec = self._client.connect()
            self._choose(spec, wishes, flatten)
            self._recovery.subscribe(deadline)
        except BaseException:
            self.close()
            raise

    def _choose(self, spec: RobotSpec, wishes: Wishes, flatten: bool) -> None:
        """Decide what is subscribed to, and what of it is the observation."""
        requests = choose_codecs(
            spec,
            resolve(spec, wishes),
            hz=spec.control_hz,
            url=self._client.url,
            capabilities=self._client.capabilities,
            bandwidth=lambda: measure_bandwidth(self._client.probe),
        )
        spec = requested(spec, requests)
        self._translator = Translator(
            spec,
            streams=wishes.names,
            flatten=flatten,
            render_mode=self.render_mode,
            keeps_last=self._truncates_on_loss,
            age_of=self._client.age_of,
        )
        self.observation_space = self._translator.observation.space
        self.action_space = spec.action_space
        self.metadata = self._translator.metadata
        self._spec = spec
        self._subscribed = self._translator.subscribed
        self._episode = 0
        self._steps = 0
        self._tick = 0
        self._is_running = False
        self._ended_by = ""  # why no further step is worth sending
        self._recovery = Recovery(
            self._client,
            self._subscribed,
            max_ages=check_max_age(self._max_age, spec, self._subscribed),
            on_stale=self._on_stale,
            requests=requests,
            reconnect_timeout=self._reconnect_timeout,
        )
        self._sent: list[NDArray[Any]] = []  # the action, between send_step and receive_step
        if self._wants_timing is None:
            self._wants_timing = spec.mode is not Mode.LOCKSTEP

    @property
    def spec_of_robot(self) -> RobotSpec:
        """What the robot is: streams as they were asked for, cameras, rates, limits."""
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
        self._check_received("reset")
        super().reset(seed=seed)
        self._is_running, self._ended_by = False, ""
        done = self._recovery.reset(
            seed=seed,
            options=options,
            take=self._take,
            max_steps=self._max_steps,
            timeout=self._reset_timeout,
        )
        self._note_reset(done)
        return self._translator.begin(done, timing=self._timing())

    def _note_reset(self, done: ResetDone) -> None:
        self._episode, self._steps, self._tick = done.episode, 0, done.tick
        self._is_running = True

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
        if not self._is_running or self.is_stepping:
            self._refuse_step("step")
        arrays, dtypes = self._translator.flatten(action)
        self._sent = arrays
        try:
            done = self._client.step(
                arrays,
                episode=self._episode,
                step=self._steps + 1,
                tick=self._tick,
                dtypes=dtypes,
                timeout=self._step_timeout,
            )
        except (ActionRefusedError, ConnectionLostError) as error:
            return self._fail(error)
        return self._take_in(done)

    def send_step(self, action: Any) -> None:
        """Send an action and do not wait for what comes of it: ``receive_step`` returns that.

        So one learner can let several robots move at once. Between the two only ``close`` may
        be called; the lease is kept, however long that takes. A connection that is lost is found
        by ``receive_step``.

        Args:
            action: As in ``step``.

        Raises:
            ActionRefusedError: If shape or dtype are wrong; nothing was sent.
            LocalProtocolError: If there was no ``reset``, or the step before was not received.
            EpisodeOverError: If the episode has ended.
        """
        if not self._is_running or self.is_stepping:
            self._refuse_step("send_step")
        self._send(*self._translator.flatten(action))

    def _send(self, arrays: list[NDArray[Any]], dtypes: tuple[str, ...]) -> None:
        # A copy: the learner may write the next action there before this one is received.
        self._sent = [array.copy() for array in arrays]
        self._client.begin_step(
            self._sent,
            episode=self._episode,
            step=self._steps + 1,
            tick=self._tick,
            dtypes=dtypes,
            timeout=self._step_timeout,
        )

    def _refuse_step(self, what: str) -> NoReturn:
        """Say why there can be no step now."""
        self._check_received(what)
        if self._ended_by and not self._is_closed:
            raise EpisodeOverError(
                f"the episode ended after {self._steps} steps ({self._ended_by}); call env.reset() "
                "to begin the next one"
            )
        if self._is_closed:
            raise LocalProtocolError("step after close; make a new environment")
        when = "after the episode was cut short" if self._episode else "before reset"
        raise LocalProtocolError(f"step {when}; call env.reset() first")

    def receive_step(
        self, timeout: float | None = None
    ) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Return what came of the action that ``send_step`` sent, as ``step`` does.

        Args:
            timeout: In place of ``step_timeout``, in seconds; counted from ``send_step``, as
                that is. Who comes later than that has up to a second to fetch what is there.

        Raises:
            LocalProtocolError: If nothing was sent.
            RemoteEnvError: As ``step``.
        """
        if timeout is not None:
            check_timeout("timeout", timeout)
        if not self.is_stepping:
            when = "after close; make a new environment"
            if not self._is_closed:
                when = "without an action that was sent; call env.send_step(action) first"
            raise LocalProtocolError(f"receive_step {when}")
        try:
            done = self._client.finish_step(timeout=timeout)
        except (ActionRefusedError, ConnectionLostError) as error:
            return self._fail(error)
        return self._take_in(done)

    def _fail(
        self, error: ActionRefusedError | ConnectionLostError
    ) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """End the episode if an error means that the robot was lost.

        Raises:
            RemoteEnvError: The error, if it means something else.
        """
        if isinstance(error, ConnectionLostError):
            if self._is_closed:  # by another thread, in the middle of this
                raise error
            return self._lose(error)
        if error.code != "robot.action.expired":
            raise error
        # It was under way while the link was down, too long to be executed any more.
        return self._lose(ConnectionLostError(str(error)))

    def _take_in(self, done: StepDone) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._note_step(done)
        return self._translator.step(done, self._sent, steps=self._steps, timing=self._timing())

    def _note_step(self, done: StepDone) -> None:
        if done.remote.get("invalid_transition"):
            self._end(done.end_reason or EndReason.ROBOT)
        else:
            self._steps = done.step
        self._tick = done.tick

    @property
    def is_stepping(self) -> bool:
        """Whether an action was sent by ``send_step`` and not received by ``receive_step``."""
        return self._client.is_stepping

    def cancel_reset(self) -> None:
        """End a reset that another thread waits for; it gets a ``ResetCancelledError``."""
        self._client.cancel_reset()

    def _check_received(self, what: str) -> None:
        """Refuse a call between ``send_step`` and ``receive_step``.

        Raises:
            LocalProtocolError: If it is one.
        """
        if self.is_stepping:
            raise LocalProtocolError(
                f"{what} before the answer to the step that was sent; call env.receive_step() first"
            )

    def _timing(self) -> dict[str, float] | None:
        return self._client.timing if self._wants_timing else None

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
        return self._translator.lose(reason, str(error))

    def _end(self, reason: EndReason) -> None:
        """Note that no further step of this episode is worth sending."""
        self._is_running = False
        self._ended_by = reason.value

    def statistics(self) -> ClientStatistics:
        """Return where the time of all steps went, with jitter; see ``ClientStatistics``."""
        return self._client.statistics()

    def render(self) -> NDArray[np.uint8] | None:
        """Return the newest pictures side by side, ``(height, width, 3)`` uint8 RGB.

        Raises:
            LocalProtocolError: If there was no ``reset``.
        """
        return self._translator.render()

    def close(self) -> None:
        """Return the lease and disconnect. Idempotent; takes at most about two seconds."""
        self._is_running = False
        self._is_closed = True
        recovery = getattr(self, "_recovery", None)
        if recovery is not None:
            recovery.give_up()
        client = getattr(self, "_client", None)
        if client is not None:
            client.close()
        if (choice := getattr(self, "_choice", None)) is not None:
            choice.give_back()
        if self._server is not None:
            self._server.stop()
            self._server = None
