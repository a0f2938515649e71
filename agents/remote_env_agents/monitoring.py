"""Returns and lengths of the episodes of training: of those that were some."""

from __future__ import annotations

from stable_baselines3.common.vec_env import VecMonitor
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from remote_env_agents.buffers import is_transition

__all__ = ["EpisodeMonitor"]


class EpisodeMonitor(VecMonitor):
    """As ``VecMonitor``, without episodes that a failure cut short or that never were.

    A robot that is down stands still in rows of reward 0. They are no part of an episode, and its
    next one begins after them.
    """

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of the actions; ``info["episode"]`` of whole episodes only."""
        observations, rewards, dones, infos = super().step_wait()
        for info in infos:
            if not is_transition(info) and info.pop("episode", None) is not None:
                self.episode_count -= 1
        return observations, rewards, dones, infos
