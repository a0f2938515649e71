"""The wrappers for a ``VecEnv`` of Stable-Baselines3: with the names of those for one robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from remote_env.spec import RobotSpec
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env.wrappers.transforms import advance, rows_of, stack

try:
    from stable_baselines3.common.vec_env.base_vec_env import (
        VecEnv,
        VecEnvObs,
        VecEnvStepReturn,
        VecEnvWrapper,
    )
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "remote_env.wrappers.sb3 needs Stable-Baselines3; install it with "
        "pip install 'remote-robot-env[agents]'"
    ) from error

__all__ = ["ActionHistory", "DepthAsImage", "FrameStack", "PreparedObservations"]


class PreparedObservations(VecEnvWrapper):
    """Observations as a recipe makes them, with a memory for each robot.

    ``info["terminal_observation"]`` is made with the memory of the episode that ended, what is
    returned beside it with a new one. A step of which ``info["remote"]`` says
    ``invalid_transition`` changes no memory, but that with which an episode ends.

    Attributes:
        recipe: What is done, in full: the same without asking a robot.
    """

    def __init__(self, venv: VecEnv, recipe: Recipe) -> None:
        """Wrap.

        Args:
            venv: A ``RemoteRobotVecEnv`` or any other.
            recipe: Names of wrappers of this module and their options, the first first.

        Raises:
            ConfigurationError: If this cannot be made of its observations.
        """
        known = venv.has_attr("spec_of_robot")
        spec: RobotSpec | None = venv.get_attr("spec_of_robot", 0)[0] if known else None
        self._inner = venv.observation_space
        self._chains = [
            Chain(self._inner, venv.action_space, spec, recipe=recipe) for _ in range(venv.num_envs)
        ]
        self.recipe = self._chains[0].recipe
        super().__init__(venv, observation_space=self._chains[0].space)
        self._given: NDArray[Any] = np.empty(0)

    def reset(self) -> VecEnvObs:
        """Begin an episode with every robot; all memories start anew."""
        observations = self.venv.reset()
        seen = rows_of(self._inner, observations, self.num_envs)
        return self._stack([self._chains[index].reset(row) for index, row in enumerate(seen)])

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send every robot its action."""
        self._given = np.array(actions)
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of the actions."""
        observations, rewards, dones, infos = self.venv.step_wait()
        seen = rows_of(self._inner, observations, self.num_envs)
        rows = [
            self._take(index, row, bool(dones[index]), infos[index])
            for index, row in enumerate(seen)
        ]
        return self._stack(rows), rewards, dones, infos

    def _take(self, index: int, row: Any, has_ended: bool, info: dict[str, Any]) -> Any:
        chain, action, remote = self._chains[index], self._given[index], _remote(info)
        if not has_ended:
            return advance(chain, row, action, remote)
        if "terminal_observation" in info:
            terminal = info["terminal_observation"]
            info["terminal_observation"] = advance(chain, terminal, action, remote)
        return chain.reset(row)

    def _stack(self, rows: Sequence[Any]) -> VecEnvObs:
        batch: VecEnvObs = stack(self.observation_space, rows, self.num_envs)
        return batch


def _remote(info: Mapping[str, Any]) -> Mapping[str, Any]:
    remote = info.get("remote")
    return remote if isinstance(remote, Mapping) else {}


class ActionHistory(PreparedObservations):
    """The last executed actions of each robot; see ``remote_env.wrappers.ActionHistory``."""

    def __init__(self, venv: VecEnv, steps: int | Literal["auto"] = "auto") -> None:
        """Wrap; the arguments are those for one robot."""
        super().__init__(venv, [("ActionHistory", {"steps": steps})])


class DepthAsImage(PreparedObservations):
    """Depth images as pictures; see ``remote_env.wrappers.DepthAsImage``."""

    def __init__(
        self,
        venv: VecEnv,
        *,
        near: float = 0.1,
        far: float | None = None,
        inverse: bool = False,
        streams: Sequence[str] | None = None,
    ) -> None:
        """Wrap; the arguments are those for one robot."""
        options = {"near": near, "far": far, "inverse": inverse, "streams": streams}
        super().__init__(venv, [("DepthAsImage", options)])


class FrameStack(PreparedObservations):
    """The last pictures of each robot as one; see ``remote_env.wrappers.FrameStack``."""

    def __init__(
        self, venv: VecEnv, count: int = 4, *, streams: Sequence[str] | None = None
    ) -> None:
        """Wrap; the arguments are those for one robot."""
        super().__init__(venv, [("FrameStack", {"count": count, "streams": streams})])
