"""A robot as an environment without a network: the same loop and guard, called in turn."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import gymnasium
import msgpack
import numpy as np
from numpy.typing import NDArray

from remote_env.agreeing import capabilities
from remote_env.arguments import check_seed, check_steps
from remote_env.codec_choice import check_codecs
from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LocalProtocolError,
    RemoteEnvError,
    error_from_wire,
)
from remote_env.protocol import Layout, Step, Value, drop_unsupported
from remote_env.protocol.keeping import KeptArrays
from remote_env.protocol.values import UnsupportedValueError, pack_value, unpack_value
from remote_env.requesting import Wishes, requested, resolve
from remote_env.spec import Mode, RobotSpec
from remote_env.stream_requests import AUTO, StreamRequest
from remote_env.translation import Translator, check_render_mode
from remote_env_server.answers import EpisodeAnswers
from remote_env_server.describe import modes_of
from remote_env_server.driver import text_of
from remote_env_server.loop import Loop
from remote_env_server.requests import (
    Request,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
    Watch,
)
from remote_env_server.resetting import check_options
from remote_env_server.robot import Robot
from remote_env_server.safety import ActionGuard

__all__ = ["LocalRobotEnv"]

logger = logging.getLogger(__name__)


class LocalRobotEnv(gymnasium.Env[Any, Any]):
    """A ``Robot`` in lockstep, in this process and on the calling thread.

    To try a robot class, to test that serving it changes nothing, and to measure what serving
    it costs. Observations, rewards, flags and ``info`` are bit by bit those of a
    ``RemoteRobotEnv`` that is given the same seeds and actions; errors have the same class, code
    and message. There is no lease, no emergency stop, no timeout and no
    ``info["remote"]["timing"]``, and nothing limits the size of ``info``. What of ``info`` the
    wire cannot carry is left out here too. Not safe from several threads.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"]}  # noqa: RUF012 (as in gymnasium.Env)

    def __init__(
        self,
        robot: Robot,
        *,
        streams: Sequence[str] | Mapping[str, StreamRequest | None] | None = None,
        image_size: tuple[int, int] | None = None,
        grayscale: bool = False,
        codec: str | Sequence[str] = "raw",
        quality: int | None = None,
        flatten: bool = False,
        render_mode: str | None = None,
        max_steps: int | None = None,
    ) -> None:
        """Open the robot; it does not move before ``reset``.

        Args:
            robot: Constructed, not opened; ``close`` closes it.
            streams: See ``RemoteRobotEnv``.
            image_size: See ``RemoteRobotEnv``.
            grayscale: See ``RemoteRobotEnv``.
            codec: See ``RemoteRobotEnv``; ``"auto"`` is raw here. What a codec loses is lost.
            quality: See ``RemoteRobotEnv``.
            flatten: See ``RemoteRobotEnv``.
            render_mode: See ``RemoteRobotEnv``.
            max_steps: See ``RemoteRobotEnv``.

        Raises:
            ConfigurationError: If the robot cannot be run in lockstep or is served already, or
                an argument makes no sense for it.
            Exception: Whatever the robot's ``open`` raised.
        """
        check_render_mode(render_mode)
        wishes = Wishes(streams, image_size, grayscale, codec, quality)
        self.render_mode = render_mode
        self._max_steps = check_steps(max_steps)
        self._loop: Loop | None = None
        modes = modes_of(robot)
        if Mode.LOCKSTEP not in modes:
            raise ConfigurationError(
                f"{type(robot).__name__} has no lockstep, only {', '.join(modes)}, and real time "
                "needs a thread of its own; serve it with RobotServer(robot) and connect a "
                "RemoteRobotEnv"
            )
        if robot._is_served:
            raise ConfigurationError(f"this {type(robot).__name__} is served already")
        robot.mode = Mode.LOCKSTEP
        robot._is_served = True
        self._robot = robot
        loop = Loop(robot, Mode.LOCKSTEP, sensor_timeout=0.0, is_stopping=lambda: False)
        self._loop = loop
        try:
            loop.open()
            self._set_up(loop.driver.spec, wishes, flatten)
        except BaseException:
            self.close()
            raise

    def _set_up(self, spec: RobotSpec, wishes: Wishes, flatten: bool) -> None:
        asked = {
            name: replace(request, codec="raw") if request.codec == AUTO else request
            for name, request in resolve(spec, wishes).items()
        }
        check_codecs(asked, capabilities())
        spec = requested(spec, asked)
        self._translator = Translator(
            spec, streams=wishes.names, flatten=flatten, render_mode=self.render_mode
        )
        chosen = [spec.stream(name).array for name in self._translator.subscribed]
        self._decode = KeptArrays(layout=Layout(chosen)).fill
        self.observation_space = self._translator.observation.space
        self.action_space = spec.action_space
        self.metadata = self._translator.metadata
        self._guard = ActionGuard(spec.action_space, spec.out_of_bounds)
        self._answers = EpisodeAnswers(spec)
        self._watch = Watch.of(self._translator.subscribed, spec)
        self._episode = 0
        self._steps = 0
        self._named_dropped: set[str] = set()

    @property
    def spec_of_robot(self) -> RobotSpec:
        """What the robot is: streams, cameras, rates, limits."""
        return self._translator.spec

    def reset(
        self, *, seed: int | None = None, options: dict[str, Value] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; as ``RemoteRobotEnv.reset``.

        Raises:
            RobotError: As there.
            LocalProtocolError: After ``close``.
        """
        super().reset(seed=seed)
        number = check_seed(seed)
        plain = None if options is None else _carried(dict(options))
        check_options(self.spec_of_robot, plain)
        came = time.monotonic()
        result = self._ask(
            "reset",
            lambda finish: ResetRequest(
                seed=number,
                options=plain,
                max_steps=self._max_steps,
                watch=self._watch,
                received_at=came,
                is_wanted=lambda: True,
                tell=self._log_progress,
                finish=finish,
            ),
        )
        assert isinstance(result, ResetResult)
        done = self._answers.reset_done(1, result, self._watch, came=came)
        self._episode, self._steps = result.episode, 0
        return self._translator.begin(self._as_carried(done), timing=None)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Execute an action and return what came of it; as ``RemoteRobotEnv.step``.

        Raises:
            RobotError: As there.
            LocalProtocolError: Before ``reset``, or after ``close``.
        """
        if self._loop is not None and not self._episode:
            raise LocalProtocolError("step before reset; call env.reset() first")
        arrays, _ = self._translator.flatten(action)
        came = time.monotonic()
        try:
            guarded = self._guard.check([_own(array) for array in arrays])
            result = self._ask(
                "step",
                lambda finish: StepRequest(
                    episode=self._episode,
                    step=self._steps + 1,
                    action=guarded.value,
                    received_at=came,
                    finish=finish,
                ),
            )
        except ActionRefusedError as error:
            self._answers.count_refused(error)
            raise
        assert isinstance(result, StepResult)
        message = Step(1, episode=self._episode, step=self._steps + 1, tick=0, dtypes=(), action=())
        executed = guarded.value if guarded.was_clipped else None
        done = self._answers.step_done(message, result, self._watch, executed=executed, came=came)
        self._steps = done.step
        return self._translator.step(self._as_carried(done), arrays, steps=self._steps, timing=None)

    def _ask(self, what: str, make: Any) -> ResetResult | StepResult:
        """Let the loop work on a request; return what came of it.

        Raises:
            RemoteEnvError: If that is an error.
            KeyboardInterrupt: If Ctrl-C came while the robot's code ran.
        """
        if self._loop is None:
            raise LocalProtocolError(f"{what} after close; make a new environment")
        results: list[ResetResult | StepResult | RemoteEnvError] = []
        request: Request = make(results.append)
        self._loop.serve(request)
        result = results[-1]
        if not isinstance(result, RemoteEnvError):
            return result
        if isinstance(result.__cause__, KeyboardInterrupt):  # the driver takes it for a fault
            raise result.__cause__
        raise error_from_wire(result.code, text_of(result), retryable=result.retryable) from result

    def _as_carried(self, done: Any) -> Any:
        """Return an answer as it would come out of the wire, with arrays of its own."""
        own = tuple(array.copy() for array in done.observation)
        carried = replace(
            done,
            info=self._carry_info(done.info),
            remote=_carried(done.remote),
            observation=own,
        )
        return self._decode(carried)

    def _carry_info(self, info: Mapping[str, Value]) -> Any:
        try:
            return _carried(info)
        except UnsupportedValueError:
            kept, dropped = drop_unsupported(info)
        for key, reason in dropped.items():
            if key not in self._named_dropped:
                self._named_dropped.add(key)
                logger.warning("info[%r] is left out: %s", key, reason)
        return _carried(kept)

    def _log_progress(self, fraction: float, text: str) -> None:
        logger.info("reset of %s: %.0f%% %s", self.spec_of_robot.name, 100 * fraction, text)

    def render(self) -> NDArray[np.uint8] | None:
        """Return the newest pictures side by side, ``(height, width, 3)`` uint8 RGB.

        Raises:
            LocalProtocolError: If there was no ``reset``.
        """
        return self._translator.render()

    def close(self) -> None:
        """Close the robot. Idempotent."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close()
            self._robot._is_served = False


def _own(array: NDArray[Any]) -> NDArray[Any]:
    """Return a copy that, as what comes off the wire, cannot be written to."""
    own = np.array(array, order="C")
    own.flags.writeable = False
    return own


def _carried(value: Any) -> Any:
    """Return a value as it comes out of the wire: the same, of the same types, and its own."""
    arrays: list[NDArray[Any]] = []
    packed = pack_value(value, arrays)
    raw = msgpack.unpackb(msgpack.packb(packed)) if packed else packed
    return unpack_value(raw, [array.copy() for array in arrays])
