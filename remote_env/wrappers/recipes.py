"""Several transforms, one after the other, as plain data that a file can hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

from gymnasium import spaces

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec
from remote_env.wrappers.action_history import History
from remote_env.wrappers.depth import Depth
from remote_env.wrappers.frames import Frames
from remote_env.wrappers.transforms import Transform

__all__ = ["Chain", "Recipe"]

# Names of wrappers and their options, in the order in which they are applied.
Recipe: TypeAlias = Sequence[tuple[str, Mapping[str, Any]]]

_KINDS: Final[dict[str, type[Transform]]] = {
    "ActionHistory": History,
    "DepthAsImage": Depth,
    "FrameStack": Frames,
}


class Chain:
    """Transforms of one robot, one after the other; is one itself.

    Attributes:
        space: What comes out of the last.
        recipe: With which the same can be made without asking a robot: plain data.
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        spec: RobotSpec | None = None,
        *,
        recipe: Recipe,
    ) -> None:
        """Prepare.

        Raises:
            ConfigurationError: If a name is unknown, or something cannot be made of what comes.
        """
        self.space = observation_space
        self._links: list[Transform] = []
        self.recipe: list[tuple[str, dict[str, Any]]] = []
        for name, options in recipe:
            if name not in _KINDS:
                raise ConfigurationError(
                    f"there is no wrapper {name!r:.40}; there are {', '.join(_KINDS)}"
                )
            try:
                link = _KINDS[name](self.space, action_space, spec, **options)
            except TypeError as error:
                raise ConfigurationError(f"{name} with {dict(options)}: {error}") from error
            self._links.append(link)
            self.recipe.append((name, link.options))
            self.space = link.space
        self.options: dict[str, Any] = {"recipe": self.recipe}

    def reset(self, observation: Any) -> Any:
        """Begin an episode."""
        for link in self._links:
            observation = link.reset(observation)
        return observation

    def step(self, observation: Any, action: Any, remote: Mapping[str, Any]) -> Any:
        """Take a step in."""
        for link in self._links:
            observation = link.step(observation, action, remote)
        return observation

    def again(self, observation: Any) -> Any:
        """Return what comes out of an observation that is nothing new."""
        for link in self._links:
            observation = link.again(observation)
        return observation
