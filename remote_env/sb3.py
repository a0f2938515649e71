"""Several robots as one vector environment of Stable-Baselines3, from one process and one thread.

A step sends all actions and then gathers, so that the robots move at once. This module and
``remote_env.wrappers.sb3`` import ``stable_baselines3``; ``import remote_env`` does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from remote_env.arguments import check_options
from remote_env.batches import Batches
from remote_env.errors import ConfigurationError, LocalProtocolError
from remote_env.fleet import Fleet, Row, Slot
from remote_env.joint import check_spaces, check_urls
from remote_env.member import Member
from remote_env.quorum import Quorum, check_min_envs
from remote_env.spaces import SpaceCodec
from remote_env.translation import Arrays
from remote_env.vector_arguments import Actions, check_seeds

try:
    from stable_baselines3.common.vec_env.base_vec_env import (
        VecEnv,
        VecEnvIndices,
        VecEnvObs,
        VecEnvStepReturn,
    )
    from stable_baselines3.common.vec_env.util import obs_space_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "remote_env.sb3 needs Stable-Baselines3; install it with "
        "pip install 'remote-robot-env[agents]'"
    ) from error

__all__ = ["RemoteRobotVecEnv"]


class RemoteRobotVecEnv(VecEnv):
    """N robots behind N urls, as an SB3 ``VecEnv``.

    As ``DummyVecEnv`` over the same environments: a robot whose episode ended is reset at once,
    ``info["terminal_observation"]`` has the last observation, ``info["TimeLimit.truncated"]``
    says whether it was truncated and not terminated, and ``reset_infos`` has what the reset told.
    Robots that end in the same step are reset at the same time. Arrays are fresh in every step.

    A robot that fails is down. In the step in which that is found out its row has its last
    observation, reward 0, and its episode is over, truncated. Until it is back its rows have the
    same observation, reward 0 and no end; no action reaches it, and nobody waits for it. Meanwhile
    it is connected again in the background, and reset. The row with which it is back has the first
    observation of its new episode, and the end of what was before, truncated: as always here, what
    comes after a row with an end is a new episode.

    All these rows have ``info["remote"]["invalid_transition"]``: nothing is to be learned from
    them. So have rows that end or begin with an observation that was stale.

    Attributes:
        urls: Of the robots, in the order of all that is returned.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        env_kwargs: Mapping[str, Any] | None = None,
        min_envs: int = 1,
    ) -> None:
        """Connect to all robots at once; none moves before ``reset``.

        Args:
            urls: ``ws://host:port``, one for each robot.
            env_kwargs: More arguments of every ``RemoteRobotEnv``. After ``step_timeout`` a robot
                that does not answer is down.
            min_envs: With fewer robots than this, a step or ``reset`` waits for those that are
                down, ``reconnect_timeout`` of ``env_kwargs`` at most, and then raises.

        Raises:
            ConfigurationError: If there is no url, if one comes twice, if two robots have
                different spaces, if SB3 has no batches of such spaces, or if ``min_envs`` makes
                no sense.
            RemoteEnvError: As ``RemoteRobotEnv``, naming the url.
        """
        self._is_open = False  # until there is something to close
        check_urls(urls)
        check_min_envs(min_envs, len(urls))
        given = dict(env_kwargs or {})
        if given.get("on_link_loss", "truncate") != "truncate":
            raise ConfigurationError(
                "a robot that is lost is down, and on_link_loss changes nothing about that here; "
                f"to be told by an exception, give min_envs={len(urls)}"
            )
        # Batches are copies anyway, and the fleet keeps the last observation.
        options = {**given, "on_link_loss": "raise", "copy": False}
        self.urls = tuple(urls)
        self._fleet = Fleet(urls, options, mode=AutoresetMode.SAME_STEP)
        self._is_open = True
        self._quorum = Quorum(
            self._fleet,
            min_envs=min_envs,
            reconnect_timeout=float(given.get("reconnect_timeout", 30.0)),
        )
        try:
            self._adopt_spaces()
        except BaseException:
            self.close()
            raise

    def _adopt_spaces(self) -> None:
        check_spaces(self.urls, self.envs, hint=" with env_kwargs")
        first = self.envs[0]
        self._actions = Actions(first.action_space, iter)
        self._codec = SpaceCodec(first.observation_space, root="observation")
        self._batches = Batches(self._codec, copy=True)
        try:
            obs_space_info(first.observation_space)
        except (AssertionError, NotImplementedError) as error:
            raise ConfigurationError(
                f"SB3 has no batches of {first.observation_space}: {error}. Pass "
                "env_kwargs={'flatten': True} for a flat Dict"
            ) from error
        super().__init__(len(self.urls), first.observation_space, first.action_space)
        self.metadata = first.metadata
        # The observations that the last rows left, and whether they were stale.
        self._shown: list[Arrays | None] = [None] * self.num_envs
        self._was_stale = [False] * self.num_envs

    @property
    def envs(self) -> list[Member]:
        """The environments, in the order of the urls; to look at, not to step."""
        return [slot.member for slot in self._fleet.slots]

    # Episodes

    def reset(self) -> VecEnvObs:
        """Begin an episode with every robot, all at once; uses seeds and options once.

        Waits for a robot that is down ``reconnect_timeout`` at most; then its observation is the
        last that there was, or zeros, and it comes back in a later step.

        Raises:
            ConfigurationError: If a seed is none; then nothing was sent, and all are forgotten.
            UnknownOptionError: If a robot does not know an option.
            TooFewRobotsError: If fewer than ``min_envs`` robots are up then.
            LocalProtocolError: After ``close``.
        """
        self._check_open("reset")
        slots = self._fleet.slots
        try:
            seeds = check_seeds(self._seeds, self.num_envs)
        except ConfigurationError:
            self._reset_seeds()
            raise
        self._quorum.reset(slots, seeds, [options or None for options in self._options])
        batch = self._batches.take(self.num_envs)
        for slot in slots:
            batch.keep(slot.index, slot.last)
            self._shown[slot.index] = slot.last
            info = self.reset_infos[slot.index] = self._fleet.pop(slot).info
            self._was_stale[slot.index] = bool(info["remote"].get("stale"))
        self._reset_seeds()
        self._reset_options()
        observation: VecEnvObs = batch.observation
        return observation

    def set_options(self, options: Any = None) -> None:
        """Take options for the next ``reset``: a dict for every robot, or a list of one for each.

        Raises:
            ConfigurationError: If they are none; those of before are forgotten then, too.
        """
        super().set_options(options)
        try:
            for one in self._options:
                check_options(one)
            if len(self._options) != self.num_envs:
                raise ConfigurationError(
                    f"{len(self._options)} options for {self.num_envs} robots; one for each"
                )
        except ConfigurationError:
            self._reset_options()
            raise

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send every robot its action, and wait for none.

        Args:
            actions: ``(num_envs, ...)``, of ``action_space``.

        Raises:
            LocalProtocolError: If the step before was not waited for, or there was no ``reset``.
            ActionRefusedError: If an action has the wrong shape or dtype, naming the url, or is
                not finite; nothing was sent.
        """
        self._check_open("step")
        slots = self._fleet.slots
        if any(slot.is_asked for slot in slots):
            raise LocalProtocolError("step_async twice; call step_wait() first, or reset()")
        if any(slot.last is None and not slot.is_down for slot in slots):
            raise LocalProtocolError("step before reset; call env.reset() first")
        if len(actions) != self.num_envs:
            raise LocalProtocolError(f"{len(actions)} actions for {self.num_envs} robots")
        prepared = self._actions.prepare(actions, self.envs)
        self._fleet.step(slots, prepared)

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of the actions, and begin the next episode where one ended.

        Returns:
            Observations ``(num_envs, ...)`` of ``observation_space``, rewards ``(num_envs,)``
            float32, whether the episode ended ``(num_envs,)`` bool, and one ``info`` for each.

        Raises:
            LocalProtocolError: If nothing was sent.
            TooFewRobotsError: If fewer than ``min_envs`` robots are up.
        """
        slots = self._fleet.slots
        if not all(slot.is_asked for slot in slots):
            raise LocalProtocolError("step_wait without actions; call step_async(actions) first")
        batch = self._batches.take(self.num_envs)
        self._quorum.await_steps(batch)
        rewards = np.zeros(self.num_envs, np.float32)
        dones = np.zeros(self.num_envs, np.bool_)
        infos = []
        for slot in slots:
            row = self._fleet.pop(slot)
            rewards[slot.index] = row.reward
            dones[slot.index], info = self._tell(slot, row)
            infos.append(info)
        return batch.observation, rewards, dones, infos

    def _tell(self, slot: Slot, row: Row) -> tuple[bool, dict[str, Any]]:
        """Return whether an episode ended in a row, and its ``info`` as SB3 wants it."""
        is_over = row.terminated or row.truncated
        last, info = self._shown[slot.index], row.info
        if row.final is not None:
            last, info = row.final
            self.reset_infos[slot.index] = row.info
        elif not (row.is_valid or is_over or slot.is_down):  # it is back
            self.reset_infos[slot.index] = row.info
            is_over, info = True, {"remote": {"invalid_transition": True}}
        info["TimeLimit.truncated"] = is_over and not row.terminated
        if is_over:
            info["terminal_observation"] = self._observation(last)
        # Of an observation at either end of the row that is not of when it seems to be.
        if info["remote"].get("stale") or self._was_stale[slot.index]:
            info["remote"]["invalid_transition"] = True
        # The next row begins with the observation of this one, after an end with that of a reset.
        self._shown[slot.index] = row.observation
        self._was_stale[slot.index] = bool(row.info["remote"].get("stale"))
        return is_over, info

    def _observation(self, arrays: Arrays | None) -> Any:
        """Return an observation of its own; zeros if there is none."""
        if arrays is None:
            arrays = [np.zeros(leaf.shape, leaf.dtype) for leaf in self._codec.layout]
        # What came is read-only where a camera is slower than the steps.
        return self._codec.unflatten([array.copy() for array in arrays])

    def _check_open(self, what: str) -> None:
        if not self._is_open:
            raise LocalProtocolError(f"{what} after close; make a new environment")

    def close(self) -> None:
        """Return all leases and disconnect. Idempotent; takes a few seconds at most."""
        if self._is_open:
            self._is_open = False
            self._fleet.close()

    # What else a VecEnv can

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return the newest picture of each robot, ``(height, width, 3)`` uint8 RGB.

        Of a robot that is down from the beginning it is black.

        Raises:
            LocalProtocolError: If no robot was ever reset.
        """
        return self._fleet.render()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """Return an attribute of each environment."""
        return [env.get_wrapper_attr(attr_name) for env in self._chosen(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment."""
        for env in self._chosen(indices):
            setattr(env, attr_name, value)

    def env_method(
        self,
        method_name: str,
        *method_args: Any,
        indices: VecEnvIndices = None,
        **method_kwargs: Any,
    ) -> list[Any]:
        """Call a method of each environment, one after the other."""
        return [
            env.get_wrapper_attr(method_name)(*method_args, **method_kwargs)
            for env in self._chosen(indices)
        ]

    def env_is_wrapped(
        self,
        wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]],
        indices: VecEnvIndices = None,
    ) -> list[bool]:
        """Return False for each environment: they have no wrappers."""
        return [False for _ in self._chosen(indices)]

    def _chosen(self, indices: VecEnvIndices) -> list[Member]:
        return [self.envs[index] for index in self._get_indices(indices)]
