"""Any Gymnasium environment, served as a robot, with its own spaces, rewards and ``info``.

The remote trajectory is bit-identical to the local one: the action goes to ``env.step`` as
the learner made it, out of bounds and in float64 if it was, and what comes back is carried
with its exact types.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.protocol.values import Value
from remote_env.spec import Mode, OutOfBounds, StreamSpec
from remote_env_server.buffers import CameraBuffer
from remote_env_server.configs import CameraConfig
from remote_env_server.robot import Outcome, Robot
from remote_env_server.robots import headless
from remote_env_server.robots.goal_proof import prove_goal_reward
from remote_env_server.streams import describe_streams, space_streams

__all__ = ["GymnasiumConfig", "GymnasiumRobot"]

_CAMERA = "render"


@dataclass(frozen=True)
class GymnasiumConfig:
    """Options of a served Gymnasium environment.

    Attributes:
        env_id: As for ``gymnasium.make``, ``module:Id-v0`` included.
        camera: Whether to offer ``env.render()`` as the stream ``render/image``, sent and
            rendered only if somebody asks for it.
        kwargs: Handed to ``gymnasium.make``, as a JSON object.
    """

    env_id: str
    camera: bool = True
    kwargs: str = "{}"


class GymnasiumRobot(Robot):
    """A Gymnasium environment behind a robot's interface. Lockstep only."""

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP,)
    out_of_bounds = OutOfBounds.PASS
    seedable = True
    reset_options = None

    def __init__(self, config: GymnasiumConfig) -> None:
        """Check that there is such an environment; ``open`` makes it.

        Raises:
            ConfigurationError: If there is not; says what to install or import.
        """
        self.config = config
        self._kwargs = _read_kwargs(config.kwargs)
        self.name = config.env_id
        self.control_hz = 0.0
        self._image: tuple[int, ...] | None = None
        self._no_camera = ""
        self._env: gymnasium.Env[Any, Any] | None = None
        self._steps = 0
        self._observation: Any = None
        self._outcome = Outcome()
        super().__init__()
        _find(config.env_id)

    def open(self) -> None:
        """Make the environment, and copies to learn the size of its pictures and its reward."""
        self._image = self._probe_picture() if self.config.camera else None
        render_mode = "rgb_array" if self._image is not None else None
        self._env = self._make(render_mode)
        self.action_space = self._env.action_space
        self.max_episode_steps = self._env.spec.max_episode_steps if self._env.spec else None
        self.control_hz = float(self._env.metadata.get("render_fps") or 0.0)
        self.goal_reward = prove_goal_reward(self._env, self._make_copy)
        if self._image is not None:
            self._cameras[_CAMERA] = CameraBuffer(self._camera_config())

    def _make(self, render_mode: str | None) -> gymnasium.Env[Any, Any]:
        kwargs = dict(self._kwargs)
        if render_mode is not None:
            kwargs.setdefault("render_mode", render_mode)
        return gymnasium.make(self.config.env_id, **kwargs)

    def _make_copy(self) -> gymnasium.Env[Any, Any]:
        kwargs = {name: value for name, value in self._kwargs.items() if name != "render_mode"}
        return gymnasium.make(self.config.env_id, **kwargs)

    def _probe_picture(self) -> tuple[int, ...] | None:
        """Render one picture of a throw-away copy: the served one's state stays untouched."""
        if "render_mode" in self._kwargs:
            return None
        if not _may_render():
            self._no_camera = "mujoco was imported without a screen; set MUJOCO_GL=egl before"
            return None
        try:
            with contextlib.closing(self._make("rgb_array")) as probe:
                probe.reset(seed=0)
                picture: Any = probe.render()
        except Exception as error:
            self._no_camera = str(error)
            return None
        is_picture = isinstance(picture, np.ndarray) and picture.ndim == 3
        return picture.shape if is_picture and picture.dtype == np.uint8 else None

    def _camera_config(self) -> CameraConfig:
        assert self._image is not None
        height, width, channels = self._image
        return CameraConfig(_CAMERA, height, width, channels, on_request=True, may_repeat=True)

    def get_metadata(self) -> dict[str, Value]:
        """Return why there is no camera, if there is none."""
        return {"no_camera": self._no_camera} if self._no_camera else {}

    @property
    def observation_space(self) -> spaces.Space[Any]:
        """The environment's own."""
        return self._opened.observation_space

    def streams(self) -> tuple[StreamSpec, ...]:
        """The leaves of the observation space, and the picture."""
        cameras = [self._camera_config()] if self._image is not None else []
        pictures = [s for s in describe_streams(cameras, []) if s.name == f"{_CAMERA}/image"]
        return (*space_streams(self.observation_space), *pictures)

    @property
    def _opened(self) -> gymnasium.Env[Any, Any]:
        assert self._env is not None, "not open"
        return self._env

    def now(self) -> float:
        """Return simulated time, in seconds; 0 throughout if the environment has no rate."""
        return self._steps / self.control_hz if self.control_hz else 0.0

    def reset(
        self, *, seed: int | None = None, options: Mapping[str, Value] | None = None
    ) -> dict[str, Any]:
        """Reset the environment."""
        self._steps = 0
        given = dict(options) if options is not None else None
        self._observation, info = self._opened.reset(seed=seed, options=given)
        return info

    def apply_action(self, action: Any) -> None:
        """Step the environment."""
        self._observation, reward, terminated, truncated, info = self._opened.step(action)
        self._steps += 1
        self._outcome = Outcome(reward, bool(terminated), bool(truncated), info)

    def get_obs(self) -> Any:
        """Return what the last reset or step returned, and render if somebody asked."""
        if f"{_CAMERA}/image" in self.subscribed:
            picture: NDArray[np.uint8] = self._opened.render()  # type: ignore[assignment]
            self.update_image(_CAMERA, picture)
        return self._observation

    def outcome(self, observation: Any) -> Outcome:
        """Return what the last step returned."""
        return self._outcome

    def close(self) -> None:
        """Close the environment."""
        if self._env is not None:
            self._env.close()


def _read_kwargs(text: str) -> dict[str, Any]:
    try:
        kwargs = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigurationError(f"kwargs {text!r:.100} is no JSON: {error}") from error
    if not isinstance(kwargs, dict):
        raise ConfigurationError(f"kwargs {text!r:.100} is no JSON object")
    return kwargs


def _find(env_id: str) -> EnvSpec:
    """Return what is registered under an id; imports the module that registers it."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        return gymnasium.spec(name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"{error}; install the package that has {env_id!r}") from error
    except gymnasium.error.Error as error:
        raise ConfigurationError(
            f"{str(error).rstrip('.')}. Environments of other packages are served as "
            "gymnasium:MODULE:ID, such as gymnasium:gymnasium_robotics:FetchReach-v4"
        ) from error


def _may_render() -> bool:
    """Whether rendering can be tried at all; prepares MuJoCo for a machine without a screen.

    MuJoCo's default there is GLFW, which does not fail but takes the process down with it.
    """
    has_screen = "DISPLAY" in os.environ or "WAYLAND_DISPLAY" in os.environ
    if sys.platform != "linux" or has_screen:
        return True
    mujoco = sys.modules.get("mujoco")
    if mujoco is None:
        headless.prepare()
        return True
    context = getattr(mujoco, "GLContext", None)
    return context is None or "glfw" not in context.__module__
