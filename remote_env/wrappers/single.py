"""The wrappers for one environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import gymnasium
from gymnasium.utils import RecordConstructorArgs

from remote_env.spec import RobotSpec
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env.wrappers.transforms import advance

__all__ = ["ActionHistory", "DepthAsImage", "FrameStack", "PreparedObservations"]


class PreparedObservations(gymnasium.Wrapper[Any, Any, Any, Any], RecordConstructorArgs):
    """Observations as a recipe makes them.

    Attributes:
        recipe: What is done, in full: the same without asking the robot.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], recipe: Recipe) -> None:
        """Wrap.

        Args:
            env: With a flat Dict, or what has no parts, as observation; a ``RemoteRobotEnv`` or
                any other.
            recipe: Names of wrappers of this module and their options, the first first.

        Raises:
            ConfigurationError: If this cannot be made of its observations.
        """
        RecordConstructorArgs.__init__(self, recipe=recipe)
        gymnasium.Wrapper.__init__(self, env)
        known = env.has_wrapper_attr("spec_of_robot")
        spec: RobotSpec | None = env.get_wrapper_attr("spec_of_robot") if known else None
        self._chain = Chain(env.observation_space, env.action_space, spec, recipe=recipe)
        self.recipe = self._chain.recipe
        self.observation_space = self._chain.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode; the memory starts anew."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._chain.reset(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Execute an action; the memory takes it in, unless the transition is invalid."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        prepared = advance(self._chain, observation, action, _remote(info))
        return prepared, reward, terminated, truncated, info


def _remote(info: Mapping[str, Any]) -> Mapping[str, Any]:
    remote = info.get("remote")
    return remote if isinstance(remote, Mapping) else {}


class ActionHistory(PreparedObservations):
    """The last executed actions, as ``observation["action_history"]``.

    ``(steps * n,)`` float32, the n numbers of the oldest action first, in the robot's own units;
    what is discrete is one-hot. Where actions take effect late, an observation without those
    under way is no Markov state. At reset it holds what the robot does: what it measures, where
    it declares that (``ActionLimit.measured``), else 0. An observation that is no Dict becomes
    one, with the old one as ``"observation"``.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], steps: int | Literal["auto"] = "auto") -> None:
        """Wrap.

        Args:
            env: See ``PreparedObservations``.
            steps: How many; ``"auto"`` for as many as are under way: 0 in ``lockstep``, 1 in
                ``realtime`` and ``delayed``, and one for each control period of the seconds that
                the robot's ``get_metadata()["action_delay"]`` says. With 0 nothing is added.

        Raises:
            ConfigurationError: See ``PreparedObservations``.
        """
        RecordConstructorArgs.__init__(self, steps=steps)
        super().__init__(env, [("ActionHistory", {"steps": steps})])


class DepthAsImage(PreparedObservations):
    """Depth images as pictures ``(height, width, 1)`` uint8: 1 at near, 255 at far, 0 unknown.

    ``depth_from_image`` is the way back, and says how exact it is.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        *,
        near: float = 0.1,
        far: float | None = None,
        inverse: bool = False,
        streams: Sequence[str] | None = None,
    ) -> None:
        """Wrap.

        Args:
            env: See ``PreparedObservations``. Floats are metres, unsigned integers millimetres.
            near: In metres; what is nearer is 1 too.
            far: In metres; what is farther is 255 too. None for the ``max_depth`` of the robot.
            inverse: Whether equal steps are steps of 1 / depth: finer where things are near.
            streams: By name; None for all that the robot declares as depth.

        Raises:
            ConfigurationError: See ``PreparedObservations``.
        """
        options: dict[str, Any] = {
            "near": near,
            "far": far,
            "inverse": inverse,
            "streams": streams,
        }
        RecordConstructorArgs.__init__(self, **options)
        super().__init__(env, [("DepthAsImage", options)])


class FrameStack(PreparedObservations):
    """The last pictures as one, along the channels, the newest last; at reset all the first.

    Other than ``gymnasium.wrappers.FrameStackObservation``, only pictures are stacked, or what
    is named, and along the channels, which is what CNNs take.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        count: int = 4,
        *,
        streams: Sequence[str] | None = None,
    ) -> None:
        """Wrap.

        Args:
            env: See ``PreparedObservations``.
            count: How many.
            streams: By name, ``(n,)`` or ``(height, width, channels)``; None for all pictures.

        Raises:
            ConfigurationError: See ``PreparedObservations``.
        """
        RecordConstructorArgs.__init__(self, count=count, streams=streams)
        super().__init__(env, [("FrameStack", {"count": count, "streams": streams})])
