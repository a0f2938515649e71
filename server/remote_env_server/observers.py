"""Sends every observer the newest observation, at its own rate, from a thread of its own.

What an observer has not read yet is never added to: while its connection has a backlog nothing
is encoded for it, and what is newer by then takes the place of what was due. So one that stalls
costs one frame of memory, whatever it watches and for how long; what it missed is counted.

Neither the control thread nor a network thread waits for any of this. Observations are taken by
reference: out of the buffers, which any thread may read, and for what only the control thread
can make (``StreamKind.OBSERVATION``) out of what it shows (``showcase.py``). In lockstep that has
everything, so that episode, step and arrays belong together.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import AccessDeniedError, ConfigurationError, RobotFaultError
from remote_env.protocol import Observation, Observe, Observing, Value
from remote_env.spec import Mode
from remote_env_server.buffers import Field
from remote_env_server.control import ControlLoop
from remote_env_server.robot import Robot
from remote_env_server.ticks import TickClock

if TYPE_CHECKING:
    from remote_env_server.peer import Peer

__all__ = ["MAX_HZ", "ObserverHub"]

logger = logging.getLogger(__name__)

MAX_HZ: Final = 1000.0
_LOOK_AGAIN: Final = 0.02


@dataclass(slots=True)
class _Observer:
    """One observer; only the hub's thread changes it, once it was added.

    Attributes:
        ticks: When something is due.
        due: Next.
        sent: What tells the observation that was sent last from others, or None.
        waiting: The same of one that was due and not sent, or None.
        dropped: Observations that were due and never sent.
        episode: Which one was looked at last.
    """

    peer: Peer
    ticks: TickClock
    due: float
    sent: object = None
    waiting: object = None
    dropped: int = 0
    episode: int = -1

    def drop_for(self, newer: object) -> None:
        """Count what was waiting, if it is not that very observation."""
        if self.waiting is not None and self.waiting != newer:
            self.dropped += 1
        self.waiting = None


@dataclass(frozen=True, slots=True)
class _Look:
    """The newest observation, by reference."""

    episode: int
    step: int
    time: float
    fields: Mapping[str, Field]
    remote: dict[str, Value]

    def identity(self, chosen: Sequence[Field]) -> object:
        """Return what changes if and only if there is something new in these streams."""
        return self.episode, self.step, tuple(f.sequence for f in chosen), self.remote


class ObserverHub:
    """All observers of one robot. Safe to use from any thread; nothing here blocks for long."""

    def __init__(
        self, control: ControlLoop, describe: Callable[[], dict[str, Value]] = dict
    ) -> None:
        """Prepare; the thread starts with the first observer.

        Args:
            control: Started.
            describe: Returns what goes under ``remote``, in plain values: who commands, whether
                the robot is stopped. Safe from any thread.
        """
        self._control = control
        self._describe = describe
        self._spec = control.spec
        self._is_lockstep = control.spec.mode is Mode.LOCKSTEP
        # Guards everything below; told when there is something to do.
        self._changed = threading.Condition(threading.Lock())
        self._observers: dict[Peer, _Observer] = {}
        self._thread: threading.Thread | None = None
        self._is_stopped = False
        self._sent = 0
        self._dropped_before = 0

    def _subscribed(self) -> frozenset[str]:
        return frozenset(name for peer in self._observers for name in peer.view.streams)

    def statistics(self) -> dict[str, Value]:
        """Return how many observers there are, and what was sent and dropped so far."""
        with self._changed:
            dropped = self._dropped_before + sum(o.dropped for o in self._observers.values())
            return {"observers": len(self._observers), "sent": self._sent, "dropped": dropped}

    # From the network's threads

    def add(self, peer: Peer, message: Observe) -> None:
        """Begin to send observations to a client, and tell it so.

        Raises:
            AccessDeniedError: If the client is one that may command.
            ConfigurationError: If the rate is not positive.
        """
        if peer.may_control:
            raise AccessDeniedError(
                "this connection may command the robot, and its lease would stay with somebody "
                "who cannot; connect with role='observe' to observe",
                code="robot.access.role",
            )
        hz = float(message.hz)
        if not 0 < hz < math.inf:
            raise ConfigurationError(f"hz must be positive and finite, not {hz}")
        now = time.monotonic()
        ticks = TickClock(1.0 / min(hz, MAX_HZ), anchor=now)
        peer.send(Observing(id=message.id))
        with self._changed:
            if self._is_stopped:
                return
            self._observers[peer] = _Observer(peer, ticks, due=now)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="remote-env observers", daemon=True
                )
                self._thread.start()
            self._control.set_observed(self._subscribed())
            self._changed.notify()

    def remove(self, peer: Peer) -> None:
        """Send nothing more to a client. Idempotent; does not wait for what is being sent."""
        with self._changed:
            observer = self._observers.pop(peer, None)
            if observer is not None:
                self._dropped_before += observer.dropped
                self._control.set_observed(self._subscribed())

    def stop(self) -> None:
        """Send nothing more to anybody, and end the thread. Idempotent."""
        with self._changed:
            self._is_stopped = True
            self._observers.clear()
            thread = self._thread
            self._changed.notify()
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout=2.0)

    # The hub's own thread

    def _run(self) -> None:
        while (due := self._wait_until_due()) is not None:
            for observer in due:
                try:
                    self._serve(observer)
                except Exception as error:  # a bug of ours, or of a robot's declarations
                    logger.exception("%s cannot be sent observations", observer.peer.owner)
                    self.remove(observer.peer)
                    observer.peer.give_up(RobotFaultError(f"the robot's server failed: {error!r}"))
            del due  # while we wait, nothing keeps those who leave

    def _wait_until_due(self) -> list[_Observer] | None:
        """Wait for the next observer whose tick has come; None at the end."""
        with self._changed:
            while not self._is_stopped:
                now = time.monotonic()
                due = [o for o in self._observers.values() if o.due <= now]
                if due:
                    return due
                next_due = min((o.due for o in self._observers.values()), default=None)
                self._changed.wait(None if next_due is None else next_due - now)
        return None

    def _serve(self, observer: _Observer) -> None:
        """Send an observer the newest observation, if it is new and there is room for it."""
        now = time.monotonic()
        _, observer.due = observer.ticks.next_after(now)
        peer = observer.peer
        view = peer.view
        look = self._look(view.streams)
        chosen = [] if look is None else self._choose(observer, look)
        if look is None or not any(f.sequence > 0 for f in chosen):
            if observer.sent is None:  # the first one does not wait for a tick
                observer.due = min(observer.due, now + _LOOK_AGAIN)
            return
        identity = look.identity(chosen)
        if identity == observer.sent:
            return
        observer.drop_for(identity)
        if peer.backlog() > 0:
            observer.waiting = identity
            return
        observer.sent = identity
        peer.show(self._message(look, chosen, view.arrays_of(chosen), observer.dropped))
        self._sent += 1

    def _choose(self, observer: _Observer, look: _Look) -> list[Field]:
        view = observer.peer.view
        if observer.episode != look.episode:
            observer.episode = look.episode
            view.forget()
        return view.choose({n: look.fields.get(n) or self._blank(n) for n in view.streams})

    def _look(self, streams: tuple[str, ...]) -> _Look | None:
        """Return the newest observation; None if the control thread has to show it first."""
        control = self._control
        shown = control.shown
        if shown is not None and not shown.watched.issuperset(streams):
            return None
        if self._is_lockstep and shown is not None:
            return _Look(shown.episode, shown.step, shown.time, shown.fields, self._describe())
        if self._is_lockstep and control.latest is not None:
            return None
        made_there = shown.fields if shown is not None else {}
        now = 0.0 if self._is_lockstep else float(control.robot.now())
        # Not the author's own make_obs: that is for the control thread.
        buffers = Robot.make_obs(control.robot).fields
        return _Look(*control.position, now, {**made_there, **buffers}, self._describe())

    def _message(
        self, look: _Look, chosen: Sequence[Field], arrays: tuple[NDArray[Any], ...], dropped: int
    ) -> Observation:
        return Observation(
            episode=look.episode,
            step=look.step,
            time=look.time,
            sent=time.monotonic(),
            dropped=dropped,
            sequences=tuple(f.sequence for f in chosen),
            stamps=tuple(float(f.stamp) for f in chosen),
            remote=look.remote,
            observation=arrays,
        )

    def _blank(self, name: str) -> Field:
        """Return what stands for a stream that has not delivered: sequence 0."""
        spec = self._spec.stream(name).array
        return Field(np.zeros(spec.shape, spec.dtype))
