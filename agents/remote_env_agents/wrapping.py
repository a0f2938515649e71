"""The wrappers that a policy is trained with, in its file, and around robots that it acts on.

A file says in full what was done to observations, so the robots of an evaluation are wrapped in
the same way without anybody saying it twice. Imports nothing heavy.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import gymnasium

from remote_env.errors import ConfigurationError
from remote_env.wrappers import PreparedObservations, Recipe

__all__ = [
    "Noted",
    "Wrapping",
    "note_wrappers",
    "noted_wrappers",
    "prepare",
    "wrap_as",
    "wrap_for",
]

# Attribute of a model: SB3 saves attributes with it, and plain data as JSON.
_ATTRIBUTE: Final = "remote_env_wrappers"


@dataclass(frozen=True)
class Wrapping:
    """What is made of observations before they are learned from; it is stored with the policy.

    Attributes:
        action_history: Also observe so many of the last executed actions; auto for as many as
            are under way, which the robot's mode and its action_delay say.
        depth_as_image: Make pictures of depth, so that it goes through a CNN.
        depth_near: The depth that becomes 1; what is nearer does too. In metres.
        depth_far: The depth that becomes 255; what is farther does too. In metres; what the
            robot declares if not given.
        depth_inverse: Equal steps of a byte are steps of 1 / depth: finer where things are near.
        frame_stack: Observe so many of the last pictures at once; 1 for the newest one.
    """

    action_history: int | Literal["auto"] | None = None
    depth_as_image: bool = False
    depth_near: float = 0.1
    depth_far: float | None = None
    depth_inverse: bool = False
    frame_stack: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without a robot.

        Raises:
            ConfigurationError: Naming the option that makes no sense.
        """
        count = self.action_history
        if count is not None and count != "auto" and count < 1:
            raise ConfigurationError(f"action_history must be 1 or more, or auto, not {count}")
        if self.frame_stack < 1:
            raise ConfigurationError(f"frame_stack must be 1 or more, not {self.frame_stack}")
        is_ranged = (self.depth_near, self.depth_far, self.depth_inverse) != (0.1, None, False)
        if is_ranged and not self.depth_as_image:
            raise ConfigurationError(
                "depth_near, depth_far and depth_inverse do nothing without depth_as_image"
            )

    def recipe(self) -> Recipe:
        """Return what is done, as ``remote_env.wrappers`` takes it; empty for nothing."""
        recipe: list[tuple[str, dict[str, Any]]] = []
        if self.action_history is not None:
            recipe.append(("ActionHistory", {"steps": self.action_history}))
        if self.depth_as_image:
            options = {"near": self.depth_near, "far": self.depth_far}
            recipe.append(("DepthAsImage", {**options, "inverse": self.depth_inverse}))
        if self.frame_stack > 1:
            recipe.append(("FrameStack", {"count": self.frame_stack}))
        return recipe


@dataclass(frozen=True, slots=True)
class Noted:
    """What a policy file says.

    Attributes:
        streams: That were observed; None for the robot's own observation space.
        recipe: What was made of them, in full.
    """

    streams: tuple[str, ...] | None
    recipe: Recipe


def prepare(vec_env: Any, recipe: Recipe) -> Any:
    """Return a ``VecEnv`` whose observations are made so; itself if there is nothing to do."""
    if not recipe:
        return vec_env
    from remote_env.wrappers.sb3 import PreparedObservations

    return PreparedObservations(vec_env, recipe)


def note_wrappers(model: Any, recipe: Recipe, *, streams: Sequence[str] | None = None) -> None:
    """Note in a model what it is trained with: ``save`` writes it, and evaluations read it.

    Args:
        model: Of Stable-Baselines3.
        recipe: In full, as the attribute ``recipe`` of what it is trained on.
        streams: That the robots are asked for; None for their own observation space.

    Raises:
        ConfigurationError: If it was trained with others before.
    """
    plain = json.loads(json.dumps(list(recipe)))
    before = noted_wrappers(model)
    if before is not None and list(before.recipe) != plain:
        raise ConfigurationError(
            f"the policy was trained with the wrappers {list(before.recipe)}, and goes on with "
            f"the same, not with {plain}"
        )
    if plain:
        noted = {"streams": None if streams is None else list(streams), "recipe": plain}
        setattr(model, _ATTRIBUTE, noted)


def noted_wrappers(model: Any) -> Noted | None:
    """Return what ``note_wrappers`` noted, also before the model was saved; None if nothing."""
    noted = getattr(model, _ATTRIBUTE, None)
    if noted is None:
        return None
    streams = noted["streams"]
    return Noted(None if streams is None else tuple(streams), noted["recipe"])


def wrap_for(policy: Any, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return a robot as a policy wants to see it: as its method ``wrap(env)`` says, if any."""
    wrap = getattr(policy, "wrap", None)
    if wrap is None:
        return env
    wrapped: gymnasium.Env[Any, Any] = wrap(env)
    return wrapped


def wrap_as(recipe: Recipe, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
    """Return a robot whose observations are made so; itself if there is nothing to do."""
    return PreparedObservations(env, recipe) if recipe else env
