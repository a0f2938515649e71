"""A sign of life for every connection of this process, while no call is in progress.

A learner that is silent between calls is healthy: a policy update takes seconds. One daemon
thread answers the pings of each connection, and sends a heartbeat on each that may hold a
lease; a call in progress is itself a sign of life, and then the thread passes by.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from remote_env.shared_session import SharedSession

__all__ = ["HEARTBEAT_PERIOD", "keep_alive", "stop_keeping"]

# A lease goes stale after 2 s: four heartbeats.
HEARTBEAT_PERIOD: Final = 0.5


class _Keeper:
    def __init__(self) -> None:
        self._clients: weakref.WeakSet[SharedSession] = weakref.WeakSet()
        self._lock = threading.Lock()  # guards _clients and _thread
        self._thread: threading.Thread | None = None

    def add(self, client: SharedSession) -> None:
        with self._lock:
            self._clients.add(client)
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="remote-env keeper", daemon=True
                )
                self._thread.start()

    def discard(self, client: SharedSession) -> None:
        with self._lock:
            self._clients.discard(client)

    def _run(self) -> None:
        while True:
            time.sleep(HEARTBEAT_PERIOD)
            with self._lock:
                clients = list(self._clients)
                if not clients:
                    self._thread = None
                    return
            for client in clients:
                client.heartbeat()
            # While we sleep only their users keep them; what nobody uses goes, and its lease.
            del clients, client


_keeper = _Keeper()


def _after_fork() -> None:
    # Threads do not survive a fork, and the lock may have been held by one.
    global _keeper
    _keeper = _Keeper()


os.register_at_fork(after_in_child=_after_fork)


def keep_alive(client: SharedSession) -> None:
    """Send heartbeats for a client until it is gone or ``stop_keeping`` is called."""
    _keeper.add(client)


def stop_keeping(client: SharedSession) -> None:
    """Send no more heartbeats for a client. Idempotent."""
    _keeper.discard(client)
