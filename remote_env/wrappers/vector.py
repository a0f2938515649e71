"""The wrappers for a ``gymnasium.vector.VectorEnv``: with the names of those for one robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space, iterate

from remote_env.spec import RobotSpec
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env.wrappers.transforms import advance, rows_of, stack

__all__ = ["ActionHistory", "DepthAsImage", "FrameStack", "PreparedObservations"]

# What transforms look at.
_KEYS: Final = ("step", "action_executed", "invalid_transition", "stale")


class PreparedObservations(VectorWrapper[Any, Any, Any, Any, Any]):
    """Observations as a recipe makes them, with a memory for each robot.

    In each autoreset mode a row is what the wrapper for one environment returns: the memory of a
    robot starts anew where its episode does, ``final_obs`` has the memory of the episode that
    ended, and rows of a robot that is down change nothing. Of what ``send`` and ``recv`` do, it
    knows nothing: they are the wrapped environment's.

    Attributes:
        recipe: What is done, in full: the same without asking a robot.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], recipe: Recipe) -> None:
        """Wrap.

        Args:
            env: A ``RemoteRobotVectorEnv`` or any other, such as ``SyncVectorEnv``. What its
                robots are is known if they are in this process (not of ``AsyncVectorEnv``).
            recipe: Names of wrappers of this module and their options, the first first.

        Raises:
            ConfigurationError: If this cannot be made of its observations.
        """
        super().__init__(env)
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._mode = AutoresetMode(mode)
        spec = _spec_of(env)
        self._inner = env.single_observation_space
        self._chains = [
            Chain(self._inner, env.single_action_space, spec, recipe=recipe)
            for _ in range(env.num_envs)
        ]
        self.recipe = self._chains[0].recipe
        self.single_observation_space = self._chains[0].space
        self.observation_space = batch_space(self.single_observation_space, env.num_envs)
        self._is_over = np.zeros(env.num_envs, np.bool_)

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin episodes, with all robots or those of ``options["reset_mask"]``."""
        mask = None if options is None else options.get("reset_mask")
        mask = None if mask is None else np.array(mask, np.bool_)  # some take it out
        observations, infos = self.env.reset(seed=seed, options=options)
        rows = []
        for index, row in enumerate(rows_of(self._inner, observations, self.num_envs)):
            chain = self._chains[index]
            if mask is None or mask[index]:
                rows.append(chain.reset(row))
                self._is_over[index] = False
            else:
                rows.append(chain.again(row))
        return stack(self.single_observation_space, rows, self.num_envs), infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Execute actions, and take in what came of them."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        ended = np.asarray(terminated) | np.asarray(truncated)
        finals = _Finals(infos)
        rows = []
        given = iterate(self.env.action_space, actions)
        seen = rows_of(self._inner, observations, self.num_envs)
        for index, (row, action) in enumerate(zip(seen, given, strict=True)):
            rows.append(self._take(index, row, action, infos, finals, bool(ended[index])))
        return (
            stack(self.single_observation_space, rows, self.num_envs),
            rewards,
            terminated,
            truncated,
            finals.put_into(infos),
        )

    def _take(
        self,
        index: int,
        row: Any,
        action: Any,
        infos: dict[str, Any],
        finals: _Finals,
        has_ended: bool,
    ) -> Any:
        chain, remote = self._chains[index], _remote(infos, index)
        final = finals.of(index)
        if final is not None:
            observation, told = final
            finals.note(index, advance(chain, observation, action, told))
        is_reset = final is not None or (
            self._mode is AutoresetMode.NEXT_STEP and bool(self._is_over[index])
        )
        prepared = advance(chain, row, action, remote, is_reset=is_reset)
        if remote.get("invalid_transition"):  # one that is down is over until it was reset
            self._is_over[index] |= has_ended
        else:
            has_begun = is_reset or remote.get("step") == 0
            self._is_over[index] = has_ended and not has_begun
        return prepared


class _Finals:
    """What ended and was reset in one step."""

    def __init__(self, infos: Mapping[str, Any]) -> None:
        self._infos = infos
        self._is_final = infos.get("_final_obs")
        self._prepared: dict[int, Any] = {}

    def of(self, index: int) -> tuple[Any, Mapping[str, Any]] | None:
        """Return the last observation of an episode that ended, and what was told of it."""
        if self._is_final is None or not self._is_final[index]:
            return None
        return self._infos["final_obs"][index], _remote(self._infos.get("final_info", {}), index)

    def note(self, index: int, prepared: Any) -> None:
        self._prepared[index] = prepared

    def put_into(self, infos: dict[str, Any]) -> dict[str, Any]:
        """Return ``infos`` with what was noted."""
        if not self._prepared:
            return infos
        finals = np.array([None] * len(infos["final_obs"]), object)
        for index, prepared in self._prepared.items():
            finals[index] = prepared
        return {**infos, "final_obs": finals}


def _remote(infos: Mapping[str, Any], index: int) -> dict[str, Any]:
    """Return what ``info["remote"]`` of one robot said of what matters here."""
    remote = infos.get("remote")
    if not isinstance(remote, Mapping) or not _has(infos, "remote", index):
        return {}
    return {key: _row(remote[key], index) for key in _KEYS if _has(remote, key, index)}


def _has(merged: Mapping[str, Any], key: str, index: int) -> bool:
    told = merged.get(f"_{key}")
    return key in merged and (told is None or bool(told[index]))


def _row(merged: Any, index: int) -> Any:
    """Return what one robot told, of what ``VectorEnv._add_info`` merged."""
    if isinstance(merged, Mapping):
        keys = [key for key in merged if f"_{key}" in merged and _has(merged, key, index)]
        return {key: _row(merged[key], index) for key in keys}
    return merged[index]


def _spec_of(env: VectorEnv[Any, Any, Any]) -> RobotSpec | None:
    robots = getattr(env.unwrapped, "envs", None)
    if not robots or not robots[0].has_wrapper_attr("spec_of_robot"):
        return None
    spec: RobotSpec = robots[0].get_wrapper_attr("spec_of_robot")
    return spec


class ActionHistory(PreparedObservations):
    """The last executed actions of each robot; see ``remote_env.wrappers.ActionHistory``."""

    def __init__(
        self, env: VectorEnv[Any, Any, Any], steps: int | Literal["auto"] = "auto"
    ) -> None:
        """Wrap; the arguments are those for one robot."""
        super().__init__(env, [("ActionHistory", {"steps": steps})])


class DepthAsImage(PreparedObservations):
    """Depth images as pictures; see ``remote_env.wrappers.DepthAsImage``."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        *,
        near: float = 0.1,
        far: float | None = None,
        inverse: bool = False,
        streams: Sequence[str] | None = None,
    ) -> None:
        """Wrap; the arguments are those for one robot."""
        options = {"near": near, "far": far, "inverse": inverse, "streams": streams}
        super().__init__(env, [("DepthAsImage", options)])


class FrameStack(PreparedObservations):
    """The last pictures of each robot as one; see ``remote_env.wrappers.FrameStack``."""

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        count: int = 4,
        *,
        streams: Sequence[str] | None = None,
    ) -> None:
        """Wrap; the arguments are those for one robot."""
        super().__init__(env, [("FrameStack", {"count": count, "streams": streams})])
