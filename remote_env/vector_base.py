"""What a vector environment can do with its robots, beside their episodes."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from remote_env.choosing import Choice
from remote_env.errors import LocalProtocolError
from remote_env.fleet import Fleet
from remote_env.member import Member
from remote_env.timing import ClientStatistics

__all__ = ["Robots"]


class Robots(VectorEnv[Any, Any, NDArray[Any]]):
    """The part of ``RemoteRobotVectorEnv`` that looks at robots, and closes them."""

    _fleet: Fleet
    _choice: Choice | None = None  # if the urls were chosen of several

    @property
    def envs(self) -> list[Member]:
        """The environment of each robot; to look at, not to step."""
        return [slot.member for slot in self._fleet.slots]

    @property
    def urls(self) -> tuple[str, ...]:
        """Where the robots are."""
        return tuple(env.url for env in self.envs)

    @property
    def np_random_seed(self) -> tuple[int, ...]:  # type: ignore[override]
        """The seed of each robot's environment."""
        return self.get_attr("np_random_seed")

    @property  # type: ignore[misc]
    def np_random(self) -> tuple[np.random.Generator, ...]:  # type: ignore[override]
        """The generator of each robot's environment."""
        return self.get_attr("np_random")

    def render(self) -> tuple[Any, ...] | None:
        """Return the newest pictures of each robot, ``(height, width, 3)`` uint8 RGB.

        Of a robot that is down from the beginning it is black.

        Raises:
            LocalProtocolError: If no robot was ever reset.
        """
        return tuple(self._fleet.render())

    def call(self, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
        """Call a method of each robot's environment, or read an attribute."""
        results = []
        for env in self.envs:
            found = env.get_wrapper_attr(name)
            results.append(found(*args, **kwargs) if callable(found) else found)
        return tuple(results)

    def get_attr(self, name: str) -> tuple[Any, ...]:
        """Return an attribute of each robot's environment."""
        return self.call(name)

    def set_attr(self, name: str, values: Any) -> None:
        """Set an attribute of each robot's environment.

        Args:
            name: Of the attribute.
            values: A list or tuple with one value for each, or one value for all.

        Raises:
            ValueError: If there are not as many values as robots.
        """
        each = values if isinstance(values, (list, tuple)) else [values] * self.num_envs
        if len(each) != self.num_envs:
            raise ValueError(f"{len(each)} values for {self.num_envs} robots; give one for each")
        for env, value in zip(self.envs, each, strict=True):
            env.set_wrapper_attr(name, value)

    def statistics(self) -> tuple[ClientStatistics, ...]:
        """Return where the time of the steps went, for each robot."""
        return tuple(env.statistics() for env in self.envs)

    def _check_open(self, what: str) -> None:
        if self.closed:
            raise LocalProtocolError(f"{what} after close; make a new environment")

    def close_extras(self, **kwargs: Any) -> None:
        """Return all leases and disconnect; called by ``close``, about two seconds at most."""
        self._fleet.close()
        self._give_back()

    def _give_back(self) -> None:
        if self._choice is not None:
            self._choice.give_back()

    def __enter__(self) -> Self:
        """Return it."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close it."""
        self.close()
