"""Several robots as one vector environment of Stable-Baselines3, from one process and one thread.

A step sends all actions and then gathers, so that the robots move at once. This module alone
imports ``stable_baselines3``; ``import remote_env`` does not.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.env import RemoteRobotEnv
from remote_env.errors import ConfigurationError, LocalProtocolError, RemoteEnvError

try:
    from stable_baselines3.common.vec_env.base_vec_env import (
        VecEnv,
        VecEnvIndices,
        VecEnvObs,
        VecEnvStepReturn,
    )
    from stable_baselines3.common.vec_env.util import dict_to_obs, obs_space_info
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "remote_env.sb3 needs Stable-Baselines3; install it with "
        "pip install 'remote-robot-env[agents]'"
    ) from error

__all__ = ["RemoteRobotVecEnv"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

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
        self.envs: list[RemoteRobotEnv] = []
        _check_urls(urls)
        try:
            for url in self.urls:
                with _Naming(url):
                    self.envs.append(RemoteRobotEnv(url, **(env_kwargs or {})))
            self._check_spaces()
            first = self.envs[0]
            try:
                self._keys, self._shapes, self._dtypes = obs_space_info(first.observation_space)
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

    def _check_spaces(self) -> None:
        first = self.envs[0]
        for url, env in zip(self.urls, self.envs, strict=True):
            for name in ("observation_space", "action_space"):
                here, there = getattr(first, name), getattr(env, name)
                if here != there:
                    raise ConfigurationError(
                        f"the robots at {self.urls[0]} and {url} have different spaces: "
                        f"{name}{_difference(here, there)}. Choose the same streams=[...] of both "
                        "with env_kwargs, or use one vector environment for each kind of robot"
                    )

    # Episodes

    def reset(self) -> VecEnvObs:
        """Begin an episode with every robot, all at once; uses seeds and options once.

        Raises:
            RemoteEnvError: As ``RemoteRobotEnv.reset``, naming the url.
        """
        self._receive_rest()
        began = self._begin(
            range(self.num_envs),
            [
                {"seed": seed, **({"options": options} if options else {})}
                for seed, options in zip(self._seeds, self._options, strict=True)
            ],
        )
        self._reset_seeds()
        self._reset_options()
        return self._batch(began)

    def _begin(self, indices: Iterable[int], arguments: Iterable[dict[str, Any]]) -> list[Any]:
        """Reset some robots at once; return their observations."""
        indices = list(indices)
        calls = [
            functools.partial(_reset, self.urls[index], self.envs[index], given)
            for index, given in zip(indices, arguments, strict=True)
        ]
        began = _all_at_once(calls, or_else=self._cancel_resets)
        for index, (_, info) in zip(indices, began, strict=True):
            self.reset_infos[index] = info
        return [observation for observation, _ in began]

    def _cancel_resets(self) -> None:
        for env in self.envs:
            env.cancel_reset()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Send every robot its action, and wait for none.

        Args:
            actions: ``(num_envs, ...)``, of ``action_space``.

        Raises:
            LocalProtocolError: If the step before was not waited for.
            RemoteEnvError: As ``RemoteRobotEnv.send_step``, naming the url.
        """
        if any(env.is_stepping for env in self.envs):
            raise LocalProtocolError("step_async twice; call step_wait() first, or reset()")
        if len(actions) != self.num_envs:
            raise LocalProtocolError(f"{len(actions)} actions for {self.num_envs} robots")
        try:
            for url, env, action in zip(self.urls, self.envs, actions, strict=True):
                with _Naming(url):
                    env.send_step(action)
        except Exception:
            self._receive_rest()
            raise

    def step_wait(self) -> VecEnvStepReturn:
        """Return what came of the actions, and begin the next episode where one ended.

        Returns:
            Observations ``(num_envs, ...)`` of ``observation_space``, rewards ``(num_envs,)``
            float32, whether the episode ended ``(num_envs,)`` bool, and one ``info`` for each.

        Raises:
            LocalProtocolError: If nothing was sent.
            RemoteEnvError: As ``RemoteRobotEnv.receive_step`` and ``reset``, naming the url.
        """
        observations: list[Any] = []
        infos: list[dict[str, Any]] = []
        rewards = np.empty(self.num_envs, np.float32)
        dones = np.empty(self.num_envs, np.bool_)
        try:
            for index, (url, env) in enumerate(zip(self.urls, self.envs, strict=True)):
                with _Naming(url):
                    observation, reward, terminated, truncated, info = env.receive_step()
                rewards[index] = reward
                dones[index] = terminated or truncated
                info["TimeLimit.truncated"] = truncated and not terminated
                observations.append(observation)
                infos.append(info)
        except Exception:
            self._receive_rest()
            raise
        if dones.any():
            ended = np.flatnonzero(dones).tolist()
            for index, began in zip(ended, self._begin(ended, [{} for _ in ended]), strict=True):
                infos[index]["terminal_observation"] = observations[index]
                observations[index] = began
        return self._batch(observations), rewards, dones, infos

    def _receive_rest(self) -> None:
        """Receive what nobody wants any more: another robot failed, or somebody pressed Ctrl-C."""
        for url, env in zip(self.urls, self.envs, strict=True):
            if env.is_stepping:
                try:
                    env.receive_step()
                except RemoteEnvError as error:
                    logger.warning("%s failed too: %s", url, error)

    def _batch(self, observations: Sequence[Any]) -> VecEnvObs:
        """Copy observations into fresh arrays, one row for each robot."""
        batch = {}
        for key in self._keys:
            rows = np.empty((self.num_envs, *self._shapes[key]), self._dtypes[key])
            for index, observation in enumerate(observations):
                rows[index] = observation if key is None else observation[key]
            batch[key] = rows
        return dict_to_obs(self.observation_space, batch)

    def close(self) -> None:
        """Return all leases and disconnect. Idempotent; takes a few seconds at most."""
        if not self.envs:
            return
        try:
            _all_at_once([env.close for env in self.envs], timeout=_CLOSING)
        except TimeoutError:
            logger.error("not all of %s could be closed", ", ".join(self.urls))

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

    def _chosen(self, indices: VecEnvIndices) -> list[RemoteRobotEnv]:
        return [self.envs[index] for index in self._get_indices(indices)]


def _check_urls(urls: Sequence[str]) -> None:
    if isinstance(urls, str) or not urls:
        raise ConfigurationError(f"urls must be a list of at least one url, not {urls!r:.80}")
    for url in urls:
        if list(urls).count(url) > 1:
            raise ConfigurationError(f"{url} comes twice; each robot can be commanded once")


def _reset(url: str, env: RemoteRobotEnv, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    with _Naming(url):
        return env.reset(**given)


class _Naming:
    """Puts the url of a robot into the message of an error that does not name it."""

    __slots__ = ("_url",)

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, RemoteEnvError) and self._url not in str(error):
            error.args = (f"{self._url}: {error}",)


def _all_at_once(
    calls: Sequence[Callable[[], T]],
    *,
    or_else: Callable[[], None] = lambda: None,
    timeout: float | None = None,
) -> list[T]:
    """Make calls on threads of their own, and return what they returned.

    Args:
        calls: Each of which ends by itself.
        or_else: Makes them end soon; called if waiting for them is interrupted.
        timeout: For all of them, in seconds.

    Raises:
        TimeoutError: If that was too little.
        BaseException: What the first of them raised that failed; all have ended then.
    """
    if len(calls) == 1 and timeout is None:
        return [calls[0]()]
    futures: list[Future[T]] = [Future() for _ in calls]
    for call, future in zip(calls, futures, strict=True):
        threading.Thread(
            target=_call, args=(call, future), name="remote-env vector", daemon=True
        ).start()
    try:
        if wait(futures, timeout).not_done:
            raise TimeoutError
    except BaseException:
        or_else()
        raise
    return [future.result() for future in futures]


def _call(call: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(call())
    except BaseException as error:
        future.set_exception(error)


def _difference(here: spaces.Space[Any], there: spaces.Space[Any]) -> str:
    """Say in what two spaces differ: in the first key, if both are a Dict."""
    if isinstance(here, spaces.Dict) and isinstance(there, spaces.Dict):
        for key in dict.fromkeys([*here.spaces, *there.spaces]):
            if here.spaces.get(key) != there.spaces.get(key):
                mine, other = here.spaces.get(key, "missing"), there.spaces.get(key, "missing")
                return f"[{key!r}] is {mine} and {other}"
    return f" is {here} and {there}"
