"""Answers of many robots, in the order in which they come.

One thread waits for all of them, with one system call, and takes from each what is there. So a
robot that has nothing to say costs the others nothing.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from remote_env.errors import RemoteEnvError
from remote_env.member import Arrival, Member, Task

__all__ = ["Gatherer", "Outcome"]

# How often those of which nothing is heard are looked at, in seconds: for pings and deadlines.
_TICK: Final = 0.02
# How long ``close`` waits for whoever gathers, in seconds.
_CLOSES_WITHIN: Final = 1.0

Outcome: TypeAlias = Arrival | RemoteEnvError | None  # the last of what has no answer


class Gatherer:
    """Waits for robots. Not safe from several threads, but for ``wake``."""

    def __init__(self) -> None:
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._looked_at = 0.0  # at all; counts on from one call to the next
        # Whoever has it uses the bell. Again by its owner: a signal may close what it waits for.
        self._gathering = threading.RLock()
        self._is_closed = False

    def wake(self) -> None:
        """Let ``gather`` look at those on threads. Safe to call from any thread."""
        with contextlib.suppress(OSError):  # full, so it will look; or closed, so nobody does
            self._rope.send(b"!")

    def close(self) -> None:
        """Free what it holds, as soon as nobody waits. Idempotent; safe from any thread."""
        self._is_closed = True
        self.wake()
        if self._gathering.acquire(timeout=_CLOSES_WITHIN):  # else when it is forgotten
            self._bell.close()
            self._rope.close()
            self._gathering.release()

    def gather(
        self,
        members: Iterable[Member],
        take: Callable[[Member, Outcome], None],
        *,
        is_enough: Callable[[], bool],
        on_tick: Callable[[float], None],
        until: float | None,
    ) -> None:
        """Take what comes, until it is enough or it is too late.

        Args:
            members: Of whom something may come.
            take: Told what came, or what became of it; may ask the robot for more.
            is_enough: Whether to stop.
            on_tick: Called now and then with the time; may ask robots for more.
            until: When to stop, on ``time.monotonic``, in seconds; None for never. What is there
                is taken also then. After ``close`` it stops at once.
        """
        with self._gathering:
            if self._is_closed:
                return
            round_ = _Round(list(members), take)
            bell = self._bell.fileno()
            round_.poll.register(bell, select.POLLIN)
            try:
                round_.begin()
                while not is_enough():
                    now = time.monotonic()
                    if now - self._looked_at >= _TICK:
                        self._looked_at = now
                        on_tick(now)
                        round_.look_at_all(now)
                        if is_enough():
                            return
                    left = _TICK if until is None else max(min(_TICK, until - now), 0.0)
                    for fd, _ in round_.poll.poll(round_.wait(left) * 1e3):
                        if fd == bell:
                            self._silence()
                            round_.look_at_threads()
                        else:
                            round_.look(fd)
                    if until is not None and now >= until:
                        return
            finally:
                round_.end()

    def _silence(self) -> None:
        with contextlib.suppress(OSError):
            while self._bell.recv(64):
                pass


class _Round:
    """One call of ``gather``."""

    def __init__(self, members: list[Member], take: Callable[[Member, Outcome], None]) -> None:
        self.poll = select.poll()
        self._members = members
        self._take = take
        self._by_fd: dict[int, Member] = {}
        self._fds: dict[Member, int] = {}  # of those that were come to; -1 without one

    def begin(self) -> None:
        for member in self._members:
            self._come(member)
        for member in self._members:
            if member.task is not Task.NONE and member.has_unread:
                self._look_at(member)

    def end(self) -> None:
        for member in list(self._fds):
            self._fds.pop(member)
            member.leave()

    def _come(self, member: Member) -> None:
        """Begin to wait for a robot, if it has something to do that needs no thread."""
        if member.is_on_thread or member.task is Task.NONE:
            return
        member.come()
        if member.is_on_thread:
            return
        fd = self._fds[member] = member.fileno()
        if fd >= 0:
            self._by_fd[fd] = member
            self.poll.register(fd, select.POLLIN)

    def _go(self, member: Member) -> None:
        fd = self._fds.pop(member, -1)
        if fd >= 0:
            del self._by_fd[fd]
            self.poll.unregister(fd)

    def look(self, fd: int) -> None:
        member = self._by_fd.get(fd)
        if member is not None:
            self._look_at(member)

    def look_at_threads(self) -> None:
        for member in self._members:
            if member.is_on_thread:
                self._look_at(member)

    def look_at_all(self, now: float) -> None:
        """Also for pings, for deadlines, and for robots that were asked on a tick."""
        for member in self._members:
            if member not in self._fds:
                self._come(member)
            if member in self._fds or member.is_on_thread:
                self._look_at(member)

    def wait(self, timeout: float) -> float:
        """Wait for those without a file, in order; return how long to wait for the others."""
        for member, fd in list(self._fds.items()):
            if fd < 0:
                self._look_at(member, timeout)
                return 0.0
        return timeout

    def _look_at(self, member: Member, timeout: float = 0.0) -> None:
        had_task = member.task
        outcome: Outcome
        try:
            outcome = member.poll(timeout)
        except RemoteEnvError as error:
            outcome = error
        if outcome is None and member.task is had_task:
            if member.is_on_thread:
                self._go(member)
            return
        self._go(member)
        self._take(member, outcome)
        self._come(member)
