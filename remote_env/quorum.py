"""How many robots must be up, and how long is waited for those that are not.

Both vector environments, Gymnasium's and that of Stable-Baselines3, wait for their robots so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from remote_env.batches import Batch
from remote_env.errors import ConfigurationError, RemoteEnvError, TooFewRobotsError
from remote_env.fleet import Fleet, Keep, Slot

__all__ = ["Quorum", "check_min_envs"]


def check_min_envs(min_envs: int, count: int) -> None:
    """Refuse what cannot be of so many robots.

    Raises:
        ConfigurationError: Saying what can.
    """
    if not isinstance(min_envs, (int, np.integer)) or not 0 <= min_envs <= count:
        raise ConfigurationError(f"min_envs must be from 0 to {count}, not {min_envs!r:.40}")


class Quorum:
    """Waits for the robots of a fleet, and for enough of them."""

    def __init__(self, fleet: Fleet, *, min_envs: int, reconnect_timeout: float) -> None:
        """Take note.

        Args:
            fleet: The robots.
            min_envs: With fewer robots than this nothing goes on.
            reconnect_timeout: How long is waited for those that are down then, in seconds.
        """
        self._fleet = fleet
        self._min_envs = min_envs
        self._reconnect_timeout = reconnect_timeout

    def reset(
        self,
        chosen: Sequence[Slot],
        seeds: Sequence[int | None],
        options: Sequence[dict[str, Any] | None],
    ) -> None:
        """Begin an episode with each; wait until all did, or refuse, or are down with patience.

        What was sent before and not received is dropped.

        Args:
            chosen: The robots.
            seeds: Of all robots, not of these alone.
            options: The same.

        Raises:
            RobotError: If one refuses what it was given.
            TooFewRobotsError: If fewer than ``min_envs`` robots are up then.
        """
        try:
            self._drain()
            for slot in chosen:
                self._fleet.reset(slot, seed=seeds[slot.index], options=options[slot.index])
            self._await_resets(chosen)
        except RemoteEnvError:
            raise
        except BaseException:  # Ctrl-C, between any two lines, or what nobody thought of
            self._fleet.settle()
            raise

    def _await_resets(self, chosen: Sequence[Slot]) -> None:
        patience = time.monotonic() + self._reconnect_timeout
        self._fleet.gather(lambda: all(s.row is not None or s.is_down for s in chosen))
        self._fleet.gather(
            lambda: all(s.row is not None or s.refusal is not None for s in chosen), until=patience
        )
        # One that has other spaces now is not connected any more: it fails alone.
        impossible = [
            slot
            for slot in chosen
            if isinstance(slot.refusal, ValueError) and slot.member.is_connected
        ]
        for slot in chosen:
            if slot.row is None:
                self._fleet.stand_in(slot)
        try:
            if impossible:
                assert impossible[0].refusal is not None
                raise impossible[0].refusal
            self.check()
        except RemoteEnvError:
            for slot in chosen:
                self._fleet.pop(slot)
            for slot in impossible:
                self._fleet.forgive(slot)
            raise

    def await_steps(self, batch: Batch) -> None:
        """Wait until all robots have a row, and their observations are in a batch.

        Raises:
            TooFewRobotsError: If fewer than ``min_envs`` robots are up, and nobody was told yet.
        """
        slots = self._fleet.slots
        for slot in slots:
            if slot.row is not None:  # it failed at once, or it is back since
                batch.keep(slot.index, slot.last)
        left = list(slots)

        def is_enough() -> bool:
            # Asked after each answer: to go through all of them each time is N squared.
            while left and (left[-1].row is not None or left[-1].is_down):
                left.pop()
            return not left

        self.gather(is_enough, batch.keep)
        for slot in slots:
            if slot.row is None:
                batch.keep(slot.index, slot.last)
                self._fleet.stand_in(slot)

    def await_ready(self, asked: Sequence[Slot], wanted: int, until: float | None) -> None:
        """Wait until so many robots have a row, or all of them that are up.

        Args:
            asked: The robots.
            wanted: How many.
            until: On ``time.monotonic``, in seconds; None for as long as they may take.

        Raises:
            TooFewRobotsError: If too few robots are up, or none of these.
        """

        def is_enough() -> bool:
            ready = sum([slot.row is not None for slot in asked])
            return ready >= wanted or all([slot.row is not None or slot.is_down for slot in asked])

        self.gather(is_enough, None, until)
        if any(slot.row is not None or not slot.is_down for slot in asked):
            return
        patience = time.monotonic() + self._reconnect_timeout
        patience = patience if until is None else min(until, patience)
        self._fleet.gather(lambda: any(slot.row is not None for slot in asked), until=patience)
        if all(slot.row is None for slot in asked) and (until is None or patience < until):
            why = _why_down(asked)
            raise TooFewRobotsError(f"no robot that was sent an action is up: {why}")

    def gather(
        self,
        is_enough: Callable[[], bool],
        keep: Keep | None,
        until: float | None = None,
    ) -> None:
        """As ``Fleet.gather``; then wait for those that are down, if the others are too few.

        Raises:
            TooFewRobotsError: If that was in vain.
        """
        self._fleet.gather(is_enough, until=until, keep=keep)
        down = [slot for slot in self._fleet.slots if slot.is_down]
        # Whoever fell just now is told so first.
        has_fallen = any(slot.row is not None for slot in down)
        if len(self._fleet.slots) - len(down) < self._min_envs and not has_fallen:
            patience = time.monotonic() + self._reconnect_timeout
            patience = patience if until is None else min(until, patience)
            self._fleet.gather(
                lambda: self._fleet.count_up >= self._min_envs, until=patience, keep=keep
            )
            if until is None or patience < until:
                self.check()

    def check(self) -> None:
        """Refuse to go on with too few robots.

        Raises:
            TooFewRobotsError: Saying why each of the others is down.
        """
        up = self._fleet.count_up
        if up < self._min_envs:
            raise TooFewRobotsError(
                f"{up} of {len(self._fleet.slots)} robots are up, and min_envs is "
                f"{self._min_envs}: {_why_down(self._fleet.slots)}"
            )

    def _drain(self) -> None:
        """Receive what was sent and is wanted by nobody any more."""
        asked = [slot for slot in self._fleet.slots if slot.is_asked]
        if asked:
            for slot in asked:
                slot.is_patient = False  # an interrupted reset may look for a robot
            self._fleet.gather(lambda: all(s.row is not None or s.is_down for s in asked))
            for slot in asked:
                self._fleet.drop(slot)


def _why_down(slots: Sequence[Slot]) -> str:
    return "; ".join(f"{slot.member.url}: {slot.error}" for slot in slots if slot.is_down)
