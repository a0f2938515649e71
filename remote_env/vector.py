"""Several robots as one ``gymnasium.vector.VectorEnv``, from one process and one thread."""

from __future__ import annotations

import functools
import operator
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from gymnasium.vector import AutoresetMode
from gymnasium.vector.utils import batch_space, iterate
from numpy.typing import NDArray

from remote_env.arguments import check_timeout
from remote_env.batches import Batch, Batches
from remote_env.choosing import choose_urls
from remote_env.errors import ConfigurationError, LocalProtocolError
from remote_env.fleet import Fleet, Row, Slot
from remote_env.joint import check_spaces
from remote_env.merging import merge_infos
from remote_env.protocol import OnStale
from remote_env.quorum import Quorum, check_min_envs
from remote_env.spaces import SpaceCodec
from remote_env.stream_requests import StreamRequest
from remote_env.vector_arguments import (
    Actions,
    Flags,
    check_seeds,
    count_robots,
    least_steps,
    list_urls,
    split_options,
)
from remote_env.vector_base import Robots

__all__ = ["Ready", "RemoteRobotVectorEnv"]


class Ready(NamedTuple):
    """What ``recv`` returns: rows of those robots that were ready.

    Attributes:
        env_ids: ``(m,)`` int64, the numbers of the robots, ascending.
        observations: ``(m, ...)``, in the structure of the observation space.
        rewards: ``(m,)`` float64.
        terminations: ``(m,)`` bool.
        truncations: ``(m,)`` bool.
        infos: Merged as ``step`` does, with m rows.
    """

    env_ids: NDArray[np.int64]
    observations: Any
    rewards: NDArray[np.float64]
    terminations: Flags
    truncations: Flags
    infos: dict[str, Any]


class RemoteRobotVectorEnv(Robots):
    """N robots behind N urls, as a vector environment.

    As ``gymnasium.vector.SyncVectorEnv`` of N ``RemoteRobotEnv`` with the same seeds and actions,
    bit by bit, in each autoreset mode; but all robots move at once, and the first that has an
    answer is read first. ``step`` waits for the slowest, ``send`` and ``recv`` do not. What
    ``RemoteRobotEnv`` tells stands in ``infos["remote"]``, merged like all else.

    A robot that fails is down. In the step in which that is found out its observation is the one
    before, its reward 0, and it is ``truncated``: once. Where resets are in the same step, that
    observation is also its ``final_obs``. Until it is back it has the same observation, reward 0
    and no flag, and no action reaches it. Meanwhile it is connected again in the background; in the
    autoreset modes the next ``step`` resets it then, without waiting for it, and otherwise the next
    ``reset`` with its mask. In all these rows, that with which it returns included,
    ``infos["remote"]["valid"]``, ``(num_envs,)`` bool, is False: no transition.

    Not safe from several threads, but for ``close``.
    """

    def __init__(
        self,
        urls: Sequence[str] | None = None,
        *,
        num_envs: int = 1,
        url: str | None = None,
        robot: str | None = None,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        min_envs: int = 1,
        copy: bool = True,
        streams: Sequence[str] | Mapping[str, StreamRequest | None] | None = None,
        image_size: tuple[int, int] | None = None,
        grayscale: bool = False,
        codec: str | Sequence[str] = "raw",
        quality: int | None = None,
        flatten: bool = False,
        render_mode: str | None = None,
        token: str | None = None,
        owner: str | None = None,
        take: bool = False,
        max_steps: int | None = None,
        max_episode_steps: int | None = None,
        connect_timeout: float = 5.0,
        step_timeout: float = 10.0,
        reset_timeout: float = 120.0,
        reconnect_timeout: float = 30.0,
        max_age: float | Mapping[str, float] | None = None,
        on_stale: OnStale | str = OnStale.TRUNCATE,
        timing: bool | None = None,
    ) -> None:
        """Connect to all robots at once; none moves before ``reset``.

        Args:
            urls: ``ws://host:port``, one for each robot. None takes ``num_envs`` of the
                environment variable ``REMOTE_ENV_URLS`` that no other environment has, and
                simulates as many here if there is none.
            num_envs: How many robots; with ``urls`` their number, or 1, which is what Gymnasium
                passes when nothing is said.
            url: In place of ``urls``, if it is one.
            robot: Which to simulate without urls; see ``RemoteRobotEnv``.
            autoreset_mode: What happens to a robot whose episode ended, as in Gymnasium.
            min_envs: With fewer robots than this, ``step``, ``reset`` and ``recv`` wait for those
                that are down, ``reconnect_timeout`` at most, and then raise.
            copy: Whether observations are the caller's own; if not, each overwrites the one before.
            streams: Of every robot, and so on: see ``RemoteRobotEnv``.
            image_size: See ``RemoteRobotEnv``.
            grayscale: See ``RemoteRobotEnv``.
            codec: See ``RemoteRobotEnv``.
            quality: See ``RemoteRobotEnv``.
            flatten: See ``RemoteRobotEnv``.
            render_mode: See ``RemoteRobotEnv``.
            token: See ``RemoteRobotEnv``.
            owner: See ``RemoteRobotEnv``.
            take: See ``RemoteRobotEnv``.
            max_steps: See ``RemoteRobotEnv``.
            max_episode_steps: The same in the words of ``gym.make_vec``; the smaller one counts.
            connect_timeout: See ``RemoteRobotEnv``.
            step_timeout: After which a robot that does not answer is down, in seconds.
            reset_timeout: See ``RemoteRobotEnv``.
            reconnect_timeout: How long ``reset`` waits for a robot that is down, in seconds.
            max_age: See ``RemoteRobotEnv``.
            on_stale: ``"truncate"`` or ``"flag"``; see ``RemoteRobotEnv``.
            timing: See ``RemoteRobotEnv``.

        Raises:
            ConfigurationError: If an argument makes no sense, or two robots have other spaces:
                names them, and what differs.
            RemoteEnvError: As ``RemoteRobotEnv``, naming the url.
        """
        self.closed = True  # until there is something to close
        urls = list_urls(url, urls, robot=robot, num_envs=num_envs)
        self.num_envs = count_robots(urls, num_envs)
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError:
            raise ConfigurationError(
                f"autoreset_mode must be one of {', '.join(m.value for m in AutoresetMode)}, not "
                f"{autoreset_mode!r:.40}"
            ) from None
        check_min_envs(min_envs, self.num_envs)
        if urls is None and robot is None:
            self._choice = choose_urls(self, None, self.num_envs)
        if self._choice is not None:
            urls, token = self._choice.urls, token or self._choice.token
        options = {
            "robot": robot,
            "streams": streams,
            "image_size": image_size,
            "grayscale": grayscale,
            "codec": codec,
            "quality": quality,
            "flatten": flatten,
            "render_mode": render_mode,
            "token": token,
            "owner": owner,
            "take": take,
            "max_steps": least_steps(max_steps, max_episode_steps),
            "connect_timeout": connect_timeout,
            "step_timeout": step_timeout,
            "reset_timeout": reset_timeout,
            "reconnect_timeout": reconnect_timeout,
            "on_link_loss": "raise",
            "max_age": max_age,
            "on_stale": on_stale,
            "timing": timing,
            "copy": False,  # batches are copies anyway
        }
        try:
            self._fleet = Fleet(
                [None] * self.num_envs if urls is None else urls,
                options,
                mode=self.autoreset_mode,
            )
            self._quorum = Quorum(
                self._fleet, min_envs=min_envs, reconnect_timeout=reconnect_timeout
            )
            self.closed = False
            self._adopt_spaces(copy)
        except BaseException:
            self._give_back()
            self.close()
            raise

    def _adopt_spaces(self, copy: bool) -> None:
        check_spaces([env.url for env in self.envs], self.envs, hint="")
        first = self.envs[0]
        self.metadata = {**first.metadata, "autoreset_mode": self.autoreset_mode}
        self.render_mode = first.render_mode
        self.single_observation_space = first.observation_space
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.single_action_space = first.action_space
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._actions = Actions(
            self.single_action_space, functools.partial(iterate, self.action_space)
        )
        self._codec = SpaceCodec(self.single_observation_space, root="observation")
        self._batches = Batches(self._codec, copy=copy)

    # Episodes

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: Any = None,
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode with all robots at once, or with some.

        Waits for a robot that is down ``reconnect_timeout`` at most; then its observation is the
        last that there was, or zeros, and it is not ``valid``. What was sent and not received is
        dropped; of a robot that is not reset and whose episode ended in that, the row of its
        autoreset is not ``valid``.

        Args:
            seed: For the first robot, one more for the second, and so on; or one for each.
            options: A dict for every robot, or a list of one for each. With
                ``options["reset_mask"]``, ``(num_envs,)`` bool, only those robots are reset whose
                value is True; the others keep their observations.

        Returns:
            The observations, and the merged ``info`` of those that were reset.

        Raises:
            ConfigurationError: If seeds or options are none; then nothing was sent.
            UnknownOptionError: If a robot does not know an option.
            TooFewRobotsError: If fewer than ``min_envs`` robots are up then.
        """
        self._check_open("reset")
        seeds = check_seeds(seed, self.num_envs)
        mask, given = split_options(options, self.num_envs)
        chosen = [slot for slot in self._fleet.slots if mask[slot.index]]
        self._quorum.reset(chosen, seeds, given)
        batch = self._batches.take(self.num_envs)
        infos: list[dict[str, Any] | None] = [None] * self.num_envs
        valid = np.ones(self.num_envs, np.bool_)
        for slot in self._fleet.slots:
            batch.keep(slot.index, slot.last)
            valid[slot.index] = not slot.is_down and slot.last is not None
            if mask[slot.index]:
                infos[slot.index] = self._fleet.pop(slot).info
        merged = merge_infos(infos)
        _add_valid(merged, valid, mask.copy())
        return batch.observation, merged

    def step(self, actions: Any) -> tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Send every robot its action, and wait until all have answered.

        A robot whose episode ended is dealt with as the autoreset mode says.

        Args:
            actions: ``(num_envs, ...)``, of ``action_space``.

        Returns:
            Observations, rewards ``(num_envs,)`` float64, whether the task ended an episode and
            whether something else did, ``(num_envs,)`` bool each, and the merged ``info``.

        Raises:
            ActionRefusedError: If an action has the wrong shape or dtype, or is not finite;
                then nothing was sent.
            LocalProtocolError: If there was no ``reset``, or if what was sent was not received.
            EpisodeOverError: If autoreset is disabled, and a robot needs a reset.
            TooFewRobotsError: If fewer than ``min_envs`` robots are up.
        """
        self._send(actions, self._fleet.slots, to_all=True)
        return self._receive_all()

    def _receive_all(self) -> tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        batch = self._batches.take(self.num_envs)
        self._quorum.await_steps(batch)
        return self._collect(self._fleet.slots, batch)

    def _collect(
        self, slots: Sequence[Slot], batch: Batch
    ) -> tuple[Any, NDArray[np.float64], Flags, Flags, dict[str, Any]]:
        """Return what ``step`` does, of robots that have a row, and whose observation is kept."""
        rows = [self._fleet.pop(slot) for slot in slots]
        merged = merge_infos([self._info_of(row) for row in rows])
        terminations, truncations, valid, told = np.array(
            [
                [row.terminated for row in rows],
                [row.truncated for row in rows],
                [row.is_valid for row in rows],
                [True] * len(rows),
            ],
            np.bool_,
        )
        _add_valid(merged, valid, told)
        rewards = np.array([row.reward for row in rows], np.float64)
        return batch.observation, rewards, terminations, truncations, merged

    def _info_of(self, row: Row) -> dict[str, Any]:
        if row.final is None:
            return row.info
        arrays, info = row.final
        # Its own: what came is read-only where a camera is slower than the steps.
        observation = self._codec.unflatten([array.copy() for array in arrays])
        return {"final_obs": observation, "final_info": info, **row.info}

    # Robots of different speed

    def send(self, actions: Any, env_ids: Sequence[int] | NDArray[np.integer[Any]]) -> None:
        """Send some robots an action each, and wait for none; ``recv`` returns what comes of it.

        Args:
            actions: ``(m, ...)``, as a batch of the action space.
            env_ids: ``(m,)`` numbers of robots, each once, to which nothing was sent since its
                last row was received.

        Raises:
            EpisodeOverError: If autoreset is disabled, and a robot needs a reset, also because it
                is down.
            RemoteEnvError: As ``step``.
        """
        try:
            ids = [operator.index(i) for i in env_ids]
        except TypeError:
            ids = [-1]
        if len(set(ids)) < len(ids) or not all(0 <= i < self.num_envs for i in ids):
            raise LocalProtocolError(
                f"env_ids must be a list of different numbers from 0 to {self.num_envs - 1}, not "
                f"{env_ids!r:.80}"
            )
        self._send(actions, [self._fleet.slots[i] for i in ids], to_all=False)

    def recv(self, min_envs: int = 1, *, timeout: float | None = None) -> Ready:
        """Return rows of those robots that are ready, as soon as there are so many.

        A robot that is down is ready once, with ``truncated``, and then not before it is back.
        While it is away nobody waits for it: there may be fewer rows then. Where all are away to
        which something was sent, one of them is waited for, ``reconnect_timeout`` at most.

        Args:
            min_envs: How many to wait for; at most as many as something was sent to.
            timeout: How long, in seconds; then there may be fewer, or none. 0 takes what is
                there, None waits for as long as robots may take.

        Raises:
            LocalProtocolError: If nothing was sent.
            TooFewRobotsError: If fewer than ``min_envs`` robots, as of the constructor, are up,
                or none of those to which something was sent; may be called again.
        """
        self._check_open("recv")
        asked = [slot for slot in self._fleet.slots if slot.is_asked]
        if not asked:
            raise LocalProtocolError("recv without an action that was sent; call send first")
        if timeout is not None and timeout != 0:
            check_timeout("timeout", timeout)
        wanted = min(max(operator.index(min_envs), 1), len(asked))
        until = None if timeout is None else time.monotonic() + timeout
        self._quorum.await_ready(asked, wanted, until)
        ready = [slot for slot in asked if slot.row is not None]
        batch = self._batches.take(len(ready))
        for index, slot in enumerate(ready):
            assert slot.row is not None
            batch.keep(index, slot.row.observation)  # who fell may be back, with another one
        ids = np.array([slot.index for slot in ready], np.int64)
        return Ready(ids, *self._collect(ready, batch))

    # What both are made of

    def _send(self, actions: Any, slots: Sequence[Slot], *, to_all: bool) -> None:
        self._check_open("step")
        for slot in slots:
            if slot.is_asked:
                raise LocalProtocolError(
                    f"robot {slot.index} was sent an action already; call recv first, or reset"
                )
            if slot.last is None and not slot.is_down:
                raise LocalProtocolError("step before reset; call env.reset() first")
            self._fleet.check_may_step(slot, to_all=to_all)
        prepared = self._actions.prepare(actions, [slot.member for slot in slots])
        self._fleet.step(slots, prepared)


def _add_valid(merged: dict[str, Any], valid: Flags, told: Flags) -> None:
    remote = merged.setdefault("remote", {})
    remote["valid"], remote["_valid"] = valid, told
