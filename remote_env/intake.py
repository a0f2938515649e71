"""From the robot's answers to what Gymnasium returns: observations, flags and ``info``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from remote_env.protocol import EndReason, ResetDone, StepDone
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec, StreamKind

__all__ = ["Intake", "Stepped"]

Stepped = tuple[Any, float, bool, bool, dict[str, Any]]  # as gymnasium.Env.step returns it


class Intake:
    """Reads the answers of one robot. Every array that it hands out is the caller's own.

    Attributes:
        pictures: The newest of the streams that are shown, ``(height, width, 3)`` uint8 RGB.
        tells_stamps: Whether ``info["remote"]["stamps"]`` is to say, in real time, when each
            stream was measured, on the robot's clock; ages on ours are estimates.
    """

    def __init__(
        self,
        spec: RobotSpec,
        observation: SpaceCodec,
        action: SpaceCodec,
        *,
        subscribed: Sequence[str],
        shown: Sequence[str],
        keeps_last: bool,
        age_of: Callable[[float], tuple[float, float]],
    ) -> None:
        """Prepare.

        Args:
            spec: What the robot is.
            observation: Of the observation; its leaves are what is subscribed to first.
            action: Of the action.
            subscribed: What the answers hold, by name.
            shown: Which of that are pictures to keep for ``render``.
            keeps_last: Whether ``lose`` may be called, which needs a copy of each observation.
            age_of: Returns how long ago a moment of the server's clock was and by how much that
                may be wrong, both in seconds.
        """
        self.pictures: list[NDArray[Any]] = []
        self.tells_stamps = False
        self._observation = observation
        self._action = action
        self._is_lockstep = spec.mode is Mode.LOCKSTEP
        self._subscribed = tuple(subscribed)
        self._keeps_last = keeps_last
        self._age_of = age_of
        index = {name: i for i, name in enumerate(subscribed)}
        self._shown = [index[name] for name in shown]
        self._calibration = [
            (spec.stream(name).camera, spec.stream(name).kind.value, index[name])
            for name in subscribed
            if spec.stream(name).kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
        ]
        self._last_arrays: tuple[NDArray[Any], ...] = ()
        self._last_remote: dict[str, Any] = {}

    def begin(
        self, done: ResetDone, *, timing: Mapping[str, float] | None
    ) -> tuple[Any, dict[str, Any]]:
        """Return what ``reset`` returns.

        Args:
            done: The answer.
            timing: For ``info["remote"]["timing"]``; None leaves that out.
        """
        return self._take_in(done, 0, timing)

    def step(
        self,
        done: StepDone,
        action: Sequence[NDArray[Any]],
        *,
        steps: int,
        timing: Mapping[str, float] | None,
    ) -> Stepped:
        """Return what ``step`` returns.

        Args:
            done: The answer.
            action: What was sent, one array per leaf.
            steps: How many steps of the episode were executed.
            timing: For ``info["remote"]["timing"]``; None leaves that out.
        """
        observation, info = self._take_in(done, steps, timing)
        remote = info["remote"]
        if "invalid_transition" not in remote and "action_executed" not in remote:
            remote["action_executed"] = self._action.unflatten([a.copy() for a in action])
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
        return self._observation.unflatten(observed), 0.0, False, True, {"remote": remote}

    def _take_in(
        self, done: ResetDone | StepDone, steps: int, timing: Mapping[str, float] | None
    ) -> tuple[Any, dict[str, Any]]:
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
        if not self._is_lockstep and done.stamps:
            self._add_ages(done, remote)
        if timing is not None:
            remote["timing"] = timing
        if self._shown:
            # A copy: what is handed out may be written to.
            self.pictures = [arrays[index].copy() for index in self._shown]
        observed = arrays[: len(self._observation.layout)]
        if self._keeps_last:
            # Also a copy, for the step that finds the robot lost.
            self._last_arrays = tuple(array.copy() for array in observed)
            self._last_remote = {"step": steps, "time": done.time}
        return self._observation.unflatten(observed), {**done.info, "remote": remote}

    def _add_ages(self, done: ResetDone | StepDone, remote: dict[str, Any]) -> None:
        """Say how old each stream is now, on our side of the network."""
        since_sent, error = self._age_of(done.sent)
        since_sent = max(0.0, since_sent) if math.isfinite(error) else 0.0
        since_taken = since_sent + (*done.durations, 0.0, 0.0, 0.0, 0.0)[3]
        stamps = {
            name: stamp
            for name, stamp in zip(self._subscribed, done.stamps, strict=True)
            if math.isfinite(stamp)
        }
        remote["ages"] = {name: done.time - stamp + since_taken for name, stamp in stamps.items()}
        if self.tells_stamps:
            remote["stamps"] = stamps
        remote["age_error"] = error
