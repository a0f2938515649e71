"""Wrappers for learning: action history, depth as pictures, frame stacks.

Here are those for one environment, in ``remote_env.wrappers.vector`` the same for a Gymnasium
vector environment, and in ``remote_env.wrappers.sb3`` for one of Stable-Baselines3. They work
on any environment; of a remote robot they know what to do by themselves.
"""

from remote_env.wrappers.depth import depth_from_image
from remote_env.wrappers.recipes import Recipe
from remote_env.wrappers.single import (
    ActionHistory,
    DepthAsImage,
    FrameStack,
    PreparedObservations,
)

__all__ = [
    "ActionHistory",
    "DepthAsImage",
    "FrameStack",
    "PreparedObservations",
    "Recipe",
    "depth_from_image",
]
