"""Replay buffers of Stable-Baselines3 that store what happened, and nothing else.

They store the action that the robot executed, not the one that was asked for, and no transition
that is none: a lost robot, or a stale sensor (``info["remote"]``, see ``RemoteRobotEnv``).
Stable-Baselines3 stores a row for all robots at once. Here each robot has a ring of its own in the
same arrays, so that a row that is left out leaves no hole. With nothing left out, what is stored
and what is sampled is bit by bit what Stable-Baselines3's own buffers do.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.type_aliases import DictReplayBufferSamples, ReplayBufferSamples

from remote_env.errors import ConfigurationError, LocalProtocolError

__all__ = [
    "RobotDictReplayBuffer",
    "RobotHerReplayBuffer",
    "RobotReplayBuffer",
    "is_transition",
    "replay_buffer_class",
]

_Indices = NDArray[np.int64]


def is_transition(info: Mapping[str, Any]) -> bool:
    """Whether an action led from one observation of a step to the other, as far as is known."""
    remote = info.get("remote", {})
    return not (remote.get("invalid_transition") or remote.get("stale"))


def replay_buffer_class(space: spaces.Space[Any], *, her: bool = False) -> type[ReplayBuffer]:
    """Return which of these buffers is for such observations."""
    if her:
        return RobotHerReplayBuffer
    return RobotDictReplayBuffer if isinstance(space, spaces.Dict) else RobotReplayBuffer


class RobotReplayBuffer(ReplayBuffer):
    """For observations that are one array.

    ``size()`` counts as Stable-Baselines3 does, in rows of all robots: what is stored, divided by
    the number of robots, rounded up. Sampling is uniform over all stored transitions.

    Attributes:
        positions: ``(n_envs,)`` int64, where the next transition of each robot goes.
        counts: ``(n_envs,)`` int64, how many of each robot are stored.
        full: Whether every robot's ring is.
        pos: The largest of ``positions``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Make it, with the arguments of ``stable_baselines3.common.buffers.ReplayBuffer``.

        Raises:
            ConfigurationError: If ``optimize_memory_usage`` is asked for: there each transition
                ends where the next one begins, and here something may be missing between them.
        """
        if kwargs.get("optimize_memory_usage"):
            raise ConfigurationError(
                "optimize_memory_usage needs every transition, and those that failed are left "
                "out here; leave it False"
            )
        super().__init__(*args, **kwargs)
        self.positions = np.zeros(self.n_envs, np.int64)
        self.counts = np.zeros(self.n_envs, np.int64)

    def size(self) -> int:
        """Return how many rows of all robots what is stored makes up."""
        return -(-int(self.counts.sum()) // self.n_envs)

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.positions[:] = 0
        self.counts[:] = 0

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """Store what a step of all robots came to, of those of which it came to something.

        Args:
            obs: ``(n_envs, ...)``, for each key if the space is a Dict; so is ``next_obs``.
            next_obs: To which the actions led.
            action: ``(n_envs, ...)``, in [-1, 1] if the action space is a Box. Where
                ``info["remote"]["action_executed"]`` says otherwise, that is stored.
            reward: ``(n_envs,)``.
            done: ``(n_envs,)`` bool, whether the episode ended.
            infos: One for each robot.
        """
        rows = np.array([i for i, info in enumerate(infos) if is_transition(info)], np.int64)
        at = self.positions[rows]
        self._put("observations", at, rows, obs)
        self._put("next_observations", at, rows, next_obs)
        executed = self._executed(action.reshape((self.n_envs, self.action_dim)), infos)
        self.actions[at, rows] = executed[rows]
        self.rewards[at, rows] = np.asarray(reward)[rows]
        self.dones[at, rows] = np.asarray(done)[rows]
        if self.handle_timeout_termination:
            self.timeouts[at, rows] = [infos[i].get("TimeLimit.truncated", False) for i in rows]
        self.positions[rows] = (at + 1) % self.buffer_size
        self.counts[rows] = np.minimum(self.counts[rows] + 1, self.buffer_size)
        self.pos = int(self.positions.max())
        self.full = bool((self.counts == self.buffer_size).all())

    def _put(self, name: str, at: _Indices, rows: _Indices, value: Any) -> None:
        """Store observations, of some robots."""
        stored = getattr(self, name)
        if not isinstance(stored, dict):
            stored[at, rows] = np.asarray(value).reshape((self.n_envs, *stored.shape[2:]))[rows]
            return
        for key, array in stored.items():
            array[at, rows] = np.asarray(value[key]).reshape((self.n_envs, *array.shape[2:]))[rows]

    def _executed(
        self, asked: NDArray[Any], infos: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.floating[Any] | np.integer[Any]]:
        """Return what was executed, as it is to be stored: in [-1, 1] of a Box.

        Where that is what was asked for it is returned as it came, bit by bit.
        """
        executed = asked.copy()
        for index, info in enumerate(infos):
            said = info.get("remote", {}).get("action_executed")
            if said is not None:
                executed[index] = self._as_stored(np.asarray(said), asked[index])
        return executed

    def _as_stored(self, said: NDArray[Any], asked: NDArray[Any]) -> NDArray[Any]:
        space = self.action_space
        said = said.reshape(self.action_dim)
        if not isinstance(space, spaces.Box):
            return said
        # As stable_baselines3.common.policies scales and unscales, to the bit.
        low, high = space.low.reshape(-1), space.high.reshape(-1)
        sent = (low + (0.5 * (asked + 1.0) * (high - low))).astype(said.dtype)
        with np.errstate(invalid="ignore", divide="ignore"):
            scaled = 2.0 * ((said - low) / (high - low)) - 1.0
        return np.where((said == sent) | (high == low), asked, scaled)

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Return transitions, each as likely as any other that is stored.

        Args:
            batch_size: How many.
            env: The ``VecNormalize``, if there is one.

        Raises:
            LocalProtocolError: If nothing is stored.
        """
        return self._samples_at(*self._draw(batch_size), env)

    def _draw(self, batch_size: int) -> tuple[_Indices, _Indices]:
        """Return places in the arrays: where in the ring, and of which robot."""
        total = int(self.counts.sum())
        if not total:
            raise LocalProtocolError(
                "nothing to learn from: no robot has made a transition yet; learn later"
            )
        if (self.counts == self.counts[0]).all():  # drawn as Stable-Baselines3 does, bit by bit
            places = np.random.randint(0, self.counts[0], size=batch_size)
            return places, np.random.randint(0, self.n_envs, size=batch_size)
        chosen = np.random.randint(0, total, size=batch_size)
        ends = np.cumsum(self.counts)
        robots = np.searchsorted(ends, chosen, side="right")
        return chosen - (ends - self.counts)[robots], robots

    def _samples_at(self, places: _Indices, robots: _Indices, env: Any) -> Any:
        data: tuple[Any, ...] = (
            self._normalize_obs(self.observations[places, robots], env),
            self.actions[places, robots],
            self._normalize_obs(self.next_observations[places, robots], env),
            self._ends_at(places, robots),
            self._normalize_reward(self.rewards[places, robots].reshape(-1, 1), env),
        )
        return ReplayBufferSamples(*(self.to_torch(part) for part in data))

    def _ends_at(self, places: _Indices, robots: _Indices) -> NDArray[np.float32]:
        """Return 1 where the task ended, and 0 also where something else ended the episode."""
        ends: NDArray[np.float32] = self.dones[places, robots] * (1 - self.timeouts[places, robots])
        return ends.reshape(-1, 1)


class RobotDictReplayBuffer(RobotReplayBuffer, DictReplayBuffer):
    """For observations that are a Dict; see ``RobotReplayBuffer``."""

    def _samples_at(self, places: _Indices, robots: _Indices, env: Any) -> Any:
        def taken(arrays: Mapping[str, NDArray[Any]]) -> Any:
            seen: Any = {key: array[places, robots] for key, array in arrays.items()}
            seen = self._normalize_obs(seen, env)
            return {key: self.to_torch(array) for key, array in seen.items()}

        rewards = self._normalize_reward(self.rewards[places, robots].reshape(-1, 1), env)
        return DictReplayBufferSamples(
            observations=taken(self.observations),
            actions=self.to_torch(self.actions[places, robots]),
            next_observations=taken(self.next_observations),
            dones=self.to_torch(self._ends_at(places, robots)),
            rewards=self.to_torch(rewards),
        )


class RobotHerReplayBuffer(RobotDictReplayBuffer, HerReplayBuffer):
    """For hindsight; see ``RobotReplayBuffer``.

    A transition that is left out ends the episode for hindsight: no goal is taken from beyond it.
    """

    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.ep_length[:] = 0
        self._current_ep_start[:] = 0

    def add(
        self,
        obs: Any,
        next_obs: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """As ``RobotReplayBuffer.add``."""
        places = self.positions.copy()
        stored = [is_transition(info) for info in infos]
        for robot in np.flatnonzero(stored).tolist():
            self._forget_episode_at(int(places[robot]), robot)
            self.ep_start[places[robot], robot] = self._current_ep_start[robot]
            if self.copy_info_dict:
                self.infos[places[robot], robot] = infos[robot]
        super().add(obs, next_obs, action, reward, done, infos)
        for robot in range(self.n_envs):
            if done[robot] or not stored[robot]:
                self._end_episode(robot)

    def _forget_episode_at(self, place: int, robot: int) -> None:
        """Let no transition of an episode be sampled of which one is overwritten now."""
        length = self.ep_length[place, robot]
        if length:
            end = self.ep_start[place, robot] + length
            self.ep_length[np.arange(place, end) % self.buffer_size, robot] = 0

    def _end_episode(self, robot: int) -> bool:
        """Let the episode that a robot was in be sampled; return whether there was one."""
        start, end = self._current_ep_start[robot], self.positions[robot]
        if start == end:
            return False
        length = (end - start) % self.buffer_size
        self.ep_length[np.arange(start, start + length) % self.buffer_size, robot] = length
        self._current_ep_start[robot] = end
        return True

    def sample(self, batch_size: int, env: Any = None) -> Any:
        """Return transitions, some of them with goals that were reached later."""
        return HerReplayBuffer.sample(self, batch_size, env)

    def truncate_last_trajectory(self) -> None:
        """End the episodes under way: what is added next belongs to others."""
        last = (self.positions - 1) % self.buffer_size
        ended = [robot for robot in range(self.n_envs) if self._end_episode(robot)]
        if ended:
            warnings.warn("the episodes under way are truncated in the replay buffer", stacklevel=2)
        self.dones[last[ended], ended] = True
        if self.handle_timeout_termination:
            self.timeouts[last[ended], ended] = True  # so that what comes after it has a value
