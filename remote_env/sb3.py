"""Several robots as one vector environment of Stable-Baselines3, from one process and one thread.

A step sends all actions and then gathers, so that the robots move at once. This module alone
imports ``stable_baselines3``; ``import remote_env`` does not.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import gymnasium
import numpy as np
from numpy.typing import NDArray

from remote_env.batches import Batches
from remote_env.errors import ConfigurationError, LocalProtocolError, RemoteEnvError
from remote_env.gathering import Gatherer, Outcome
from remote_env.joint import all_at_once, check_spaces, check_urls, naming
from remote_env.member import Arrival, Member, Task
from remote_env.spaces import SpaceCodec

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

logger = logging.getLogger(__name__)

# How long closing waits for all robots at once, in seconds: each of them takes about two at most.
_CLOSING: Final = 5.0


class RemoteRobotVecEnv(VecEnv):
    """N robots behind N urls, as an SB3 ``VecEnv``.

    As ``DummyVecEnv`` over the same environments: a robot whose episode ended is reset at once,
    ``info["terminal_observation"]`` has the last observation, ``info["TimeLimit.truncated"]``
    says whether it was truncated and not terminated, and ``reset_infos`` has what the reset told.
    Robots that end in the same step are reset at the same time. Arrays are fresh in every step.

    The first robot that fails raises, and its url is in the message; robots that moved in the
    same step have moved. ``reset`` begins anew with all of them.

    Attributes:
        urls: Of the robots, in the order of all that is returned.
        envs: The environments, in the same order.
    """

    def __init__(self, urls: Sequence[str], *, env_kwargs: Mapping[str, Any] | None = None) -> None:
        """Connect to all robots; none moves before ``reset``.

        Args:
            urls: ``ws://host:port``, one for each robot.
            env_kwargs: More arguments of every ``RemoteRobotEnv``.

        Raises:
            ConfigurationError: If there is no url, if one comes twice, if two robots have
                different spaces, or if SB3 has no batches of such spaces.
            RemoteEnvError: As ``RemoteRobotEnv``, naming the url.
        """
        self.urls = tuple(urls)
        self.envs: list[Member] = []
        check_urls(urls)
        self._gatherer = Gatherer()
        self._turn: _Turn | None = None  # of the actions that were sent
        try:
            for url in self.urls:
                with naming(url):
                    self.envs.append(Member(url, env_kwargs or {}, wake=self._gatherer.wake))
            check_spaces(self.urls, self.envs, hint=" with env_kwargs")
            first = self.envs[0]
            self._codec = SpaceCodec(first.observation_space, root="observation")
            self._batches = Batches(self._codec, copy=True)
            try:
                obs_space_info(first.observation_space)
            except (AssertionError, NotImplementedError) as error:
                raise ConfigurationError(
                    f"SB3 has no batches of {first.observation_space}: {error}. Pass "
                    "env_kwargs={'flatten': True} for a flat Dict"
                ) from error
            super().__init__(len(self.envs), first.observation_space, first.action_space)
            self.metadata = first.metadata
        except BaseException:
            self.close()
            raise

    # Episodes

    def reset(self) -> VecEnvObs:
        """Begin an episode with every robot, all at once; uses seeds and options once.

        Raises:
            RemoteEnvError: As ``RemoteRobotEnv.reset``, naming the url.
        """
        self._receive_rest()
        given = zip(self.envs, self._seeds, self._options, strict=True)
        turn = _Turn(self)
        for env, seed, options in given:
            turn.call(env, functools.partial(env.send_reset, seed=seed, options=options or None))
        turn.gather()
        self._reset_seeds()
        self._reset_options()
        observation: VecEnvObs = turn.batch.observation
        return observation

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send every robot its action, and wait for none.

        Args:
            actions: ``(num_envs, ...)``, of ``action_space``.

        Raises:
            LocalProtocolError: If the step before was not waited for.
            ActionRefusedError: If an action has the wrong shape or dtype, naming the url; nothing
                was sent.
        """
        if any(env.task is not Task.NONE for env in self.envs):
            raise LocalProtocolError("step_async twice; call step_wait() first, or reset()")
        if len(actions) != self.num_envs:
            raise LocalProtocolError(f"{len(actions)} actions for {self.num_envs} robots")
        prepared = []
        for env, action in zip(self.envs, actions, strict=True):
            with naming(env.url):
                prepared.append(env.prepare(action))
        self._turn = _Turn(self)
        for env, ready in zip(self.envs, prepared, strict=True):
            self._turn.call(env, functools.partial(env.send_prepared, ready))

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of the actions, and begin the next episode where one ended.

        Returns:
            Observations ``(num_envs, ...)`` of ``observation_space``, rewards ``(num_envs,)``
            float32, whether the episode ended ``(num_envs,)`` bool, and one ``info`` for each.

        Raises:
            LocalProtocolError: If nothing was sent.
            RemoteEnvError: As ``RemoteRobotEnv.receive_step`` and ``reset``, naming the url.
        """
        turn, self._turn = self._turn, None
        if turn is None:
            raise LocalProtocolError("step_wait without actions; call step_async(actions) first")
        turn.gather()
        return turn.batch.observation, turn.rewards, turn.dones, turn.infos

    def _receive_rest(self) -> None:
        """Receive what nobody wants any more: another robot failed, or somebody pressed Ctrl-C."""
        self._turn = None
        try:
            _Turn(self).gather()
        except RemoteEnvError as error:
            logger.warning("%s", error)

    def close(self) -> None:
        """Return all leases and disconnect. Idempotent; takes a few seconds at most."""
        if not self.envs:
            return
        try:
            all_at_once([env.close for env in self.envs], timeout=_CLOSING)
        except TimeoutError:
            logger.error("not all of %s could be closed", ", ".join(self.urls))
        self._gatherer.close()

    # What else a VecEnv can

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Return the newest picture of each robot, ``(height, width, 3)`` uint8 RGB."""
        return [env.render() for env in self.envs]

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


class _Turn:
    """One step, or one reset, of all robots.

    Attributes:
        batch: The observations.
        rewards: ``(n,)`` float32.
        dones: ``(n,)`` bool.
        infos: One for each robot.
    """

    def __init__(self, owner: RemoteRobotVecEnv) -> None:
        self._owner = owner
        count = len(owner.envs)
        self.batch = owner._batches.take(count)
        self.rewards = np.zeros(count, np.float32)
        self.dones = np.zeros(count, np.bool_)
        self.infos: list[dict[str, Any]] = [{} for _ in range(count)]
        self._index = {env: index for index, env in enumerate(owner.envs)}
        self._errors: dict[int, RemoteEnvError] = {}

    def call(self, env: Member, send: Callable[[], None]) -> None:
        """Ask a robot for something; what goes wrong is raised when all have answered."""
        try:
            send()
        except RemoteEnvError as error:
            self._errors[self._index[env]] = error

    def gather(self) -> None:
        """Wait until all robots have done what they were asked for.

        Raises:
            RemoteEnvError: Of the first robot that failed, naming its url.
        """
        envs = self._owner.envs
        try:
            self._owner._gatherer.gather(
                envs,
                self._take,
                is_enough=lambda: all(env.task is Task.NONE for env in envs),
                on_tick=lambda now: None,
                until=None,
            )
        except BaseException:
            for env in envs:
                env.abandon()  # the robot must not go on with what nobody waits for
            raise
        for index, error in sorted(self._errors.items()):
            with naming(envs[index].url):
                raise error

    def _take(self, env: Member, outcome: Outcome) -> None:
        index = self._index[env]
        try:
            if isinstance(outcome, RemoteEnvError):
                outcome = env.lose(outcome)
            assert outcome is not None
            self._take_in(index, env, outcome)
        except RemoteEnvError as error:
            self._errors[index] = error

    def _take_in(self, index: int, env: Member, came: Arrival) -> None:
        self.batch.keep(index, came.arrays)
        if came.task is Task.RESET:
            self._owner.reset_infos[index] = came.info
            return
        info = self.infos[index] = came.info
        self.rewards[index] = came.reward
        self.dones[index] = came.terminated or came.truncated
        info["TimeLimit.truncated"] = came.truncated and not came.terminated
        if self.dones[index]:
            info["terminal_observation"] = self._owner._codec.unflatten(came.arrays)
            env.send_reset()
