"""Between what Gymnasium says and what messages carry: actions, observations, flags, ``info``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ActionRefusedError, ConfigurationError, LocalProtocolError
from remote_env.pictures import pictures_of, tile
from remote_env.protocol import EndReason, ResetDone, StepDone
from remote_env.protocol.arrays import ArraySpec
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind

__all__ = ["Arrays", "Stepped", "SteppedFlat", "Translator", "check_render_mode"]

_LARGE: Final = 16 << 10  # bytes

Stepped = tuple[Any, float, bool, bool, dict[str, Any]]  # as gymnasium.Env.step returns it
Arrays = Sequence[NDArray[Any]]
SteppedFlat = tuple[Arrays, float, bool, bool, dict[str, Any]]


def check_render_mode(render_mode: object) -> None:
    """Refuse what is no render mode of ours.

    Raises:
        ConfigurationError: Saying which there are.
    """
    if render_mode not in (None, "rgb_array"):
        raise ConfigurationError(f"render_mode must be 'rgb_array' or None, not {render_mode!r}")


class Translator:
    """Translates for one learner of one robot. Arrays that it hands out are the learner's own.

    Attributes:
        spec: What the robot is.
        observation: Of the observation space.
        action: Of the action space.
        subscribed: The streams that answers must hold, by name.
        tells_stamps: Whether ``info["remote"]["stamps"]`` is to say, in real time, when each
            stream was measured, on the robot's clock; ages on ours are estimates.
    """

    def __init__(
        self,
        spec: RobotSpec,
        *,
        streams: Sequence[str] | None = None,
        flatten: bool = False,
        render_mode: str | None = None,
        keeps_last: bool = False,
        age_of: Callable[[float], tuple[float, float]] | None = None,
    ) -> None:
        """Decide what is subscribed to, and what of it is the observation.

        Args:
            spec: What the robot is.
            streams: See ``RemoteRobotEnv``.
            flatten: See ``RemoteRobotEnv``.
            render_mode: See ``RemoteRobotEnv``.
            keeps_last: Whether ``lose`` may be called, which returns the last observation; where
                the learner wrote into arrays of 16 KiB and more, that stands there too.
            age_of: Returns how long ago a moment of the server's clock was and by how much that
                may be wrong, both in seconds; not needed in lockstep.

        Raises:
            ConfigurationError: If an argument makes no sense for this robot.
        """
        self.spec = spec
        self.observation = SpaceCodec(spec.space_of(streams, flatten=flatten), root="observation")
        self.action = SpaceCodec(spec.action_space, root="action")
        self.tells_stamps = False
        observed = list(self.observation.layout.names)
        shown = pictures_of(spec, observed) if render_mode else []
        extra = [name for name in shown if name not in observed]
        self.subscribed = (*observed, *spec.calibration_of(observed), *extra)
        index = {name: i for i, name in enumerate(self.subscribed)}
        self._shown = [index[name] for name in shown]
        self._calibration = [
            (spec.stream(name).camera, spec.stream(name).kind.value, index[name])
            for name in self.subscribed
            if spec.stream(name).kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
        ]
        self._render_mode = render_mode
        self._pictures: list[NDArray[Any]] = []
        self._keeps_dtype = spec.out_of_bounds is OutOfBounds.PASS
        self._is_lockstep = spec.mode is Mode.LOCKSTEP
        self._keeps_last = keeps_last
        self._age_of = age_of
        self._last_arrays: tuple[NDArray[Any], ...] = ()
        self._last_remote: dict[str, Any] = {}

    @property
    def metadata(self) -> dict[str, Any]:
        """What ``gymnasium.Env.metadata`` says."""
        has_camera = any(stream.kind is StreamKind.IMAGE for stream in self.spec.streams)
        return {
            "render_modes": ["rgb_array"] if has_camera else [],
            "render_fps": max(1, round(self.spec.control_hz)),
        }

    def flatten(self, action: Any) -> tuple[list[NDArray[Any]], tuple[str, ...]]:
        """Take an action apart: one array for each leaf of the action space, C-contiguous.

        Returns:
            The arrays, and their dtypes if they are not those of the action space, else nothing.

        Raises:
            ActionRefusedError: If shape or dtype are wrong.
        """
        try:
            arrays = [
                np.asarray(array, order="C")
                for array in self.action.flatten(action, keep_dtype=self._keeps_dtype)
            ]
        except (ValueError, TypeError, RuntimeError) as error:  # the last is torch's
            raise ActionRefusedError(
                f"the action does not fit the action space: {error}", code="robot.action.shape"
            ) from None
        if not self._keeps_dtype or all(map(self._is_agreed, arrays, self.action.layout)):
            return arrays, ()
        return arrays, tuple(array.dtype.str for array in arrays)

    @staticmethod
    def _is_agreed(array: NDArray[Any], leaf: ArraySpec) -> bool:
        return array.dtype == leaf.dtype

    def begin(
        self, done: ResetDone, *, timing: Mapping[str, float] | None
    ) -> tuple[Any, dict[str, Any]]:
        """Return what ``reset`` returns.

        Args:
            done: The answer.
            timing: For ``info["remote"]["timing"]``; None leaves that out.
        """
        arrays, info = self.begin_flat(done, timing=timing)
        return self.observation.unflatten(arrays), info

    def begin_flat(
        self, done: ResetDone, *, timing: Mapping[str, float] | None
    ) -> tuple[Arrays, dict[str, Any]]:
        """As ``begin``, with one array for each leaf of the observation."""
        return self._take_in(done, 0, timing)

    def step(
        self,
        done: StepDone,
        action: Sequence[NDArray[Any]],
        *,
        steps: int,
        timing: Mapping[str, float] | None,
    ) -> Stepped:
        """As ``step_flat``, with the observation put together."""
        arrays, *rest = self.step_flat(done, action, steps=steps, timing=timing)
        return self.observation.unflatten(arrays), *rest

    def step_flat(
        self,
        done: StepDone,
        action: Sequence[NDArray[Any]],
        *,
        steps: int,
        timing: Mapping[str, float] | None,
    ) -> SteppedFlat:
        """Return what ``step`` returns, with one array for each leaf of the observation.

        Args:
            done: The answer.
            action: What was sent, one array per leaf.
            steps: How many steps of the episode were executed.
            timing: For ``info["remote"]["timing"]``; None leaves that out.
        """
        observation, info = self._take_in(done, steps, timing)
        remote = info["remote"]
        if "invalid_transition" not in remote and "action_executed" not in remote:
            remote["action_executed"] = self.action.unflatten([a.copy() for a in action])
        remote.setdefault("guard", {"clipped": 0, "refused": {}})
        if done.end_reason is not None:
            remote["end_reason"] = done.end_reason.value
        return observation, done.reward, done.terminated, done.truncated, info

    def lose(self, reason: EndReason, cause: str) -> Stepped:
        """Return the end of an episode whose robot was lost: the last observation, truncated."""
        remote = {
            **self._last_remote,
            "end_reason": reason.value,
            "end_cause": cause,
            "invalid_transition": True,
        }
        observed = [array.copy() for array in self._last_arrays]
        return self.observation.unflatten(observed), 0.0, False, True, {"remote": remote}

    def render(self) -> NDArray[np.uint8] | None:
        """Return the newest pictures side by side, ``(height, width, 3)`` uint8 RGB.

        Raises:
            LocalProtocolError: If there was no ``reset``.
        """
        if self._render_mode is None:
            gymnasium.logger.warn(
                "render() was called without a render_mode; make the environment with "
                'render_mode="rgb_array"'
            )
            return None
        if not self._pictures:
            raise LocalProtocolError("render before reset; call env.reset() first")
        return tile(self._pictures)

    def _take_in(
        self, done: ResetDone | StepDone, steps: int, timing: Mapping[str, float] | None
    ) -> tuple[Arrays, dict[str, Any]]:
        arrays = done.observation
        remote: dict[str, Any] = dict(done.remote)
        remote["step"] = steps
        remote["time"] = done.time
        if self._calibration:
            cameras: dict[str, dict[str, Any]] = {}
            for camera, kind, index in self._calibration:
                if done.sequences[index] == 0:
                    continue  # neither declared nor measured
                cameras.setdefault(camera, {})[kind] = arrays[index].copy()
            remote["cameras"] = cameras
        if self._age_of is not None and not self._is_lockstep and done.stamps:
            self._add_ages(done, remote, *self._age_of(done.sent))
        if timing is not None:
            remote["timing"] = timing
        if self._shown:
            # A copy: what is handed out may be written to.
            self._pictures = [arrays[index].copy() for index in self._shown]
        observed = arrays[: len(self.observation.layout)]
        if self._keeps_last:
            # For the step that finds the robot lost. Pictures are not copied for that: 0.5 ms
            # for a step of 4.9 MB.
            self._last_arrays = tuple(
                array.copy() if array.nbytes < _LARGE else array for array in observed
            )
            self._last_remote = {"step": steps, "time": done.time}
        return observed, {**done.info, "remote": remote}

    def _add_ages(
        self, done: ResetDone | StepDone, remote: dict[str, Any], since_sent: float, error: float
    ) -> None:
        """Say how old each stream is now, on our side of the network."""
        since_sent = max(0.0, since_sent) if math.isfinite(error) else 0.0
        since_taken = since_sent + (*done.durations, 0.0, 0.0, 0.0, 0.0)[3]
        stamps = {
            name: stamp
            for name, stamp in zip(self.subscribed, done.stamps, strict=True)
            if math.isfinite(stamp)
        }
        remote["ages"] = {name: done.time - stamp + since_taken for name, stamp in stamps.items()}
        if self.tells_stamps:
            remote["stamps"] = stamps
        remote["age_error"] = error
