"""A Gymnasium environment whose observation is a picture."""

import gymnasium
from gymnasium.wrappers import AddRenderObservation


def make(render_mode="rgb_array"):
    return AddRenderObservation(gymnasium.make("CartPole-v1", render_mode=render_mode))


gymnasium.register("PixelCartPole-v0", entry_point=make, max_episode_steps=30)
