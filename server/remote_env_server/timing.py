"""What makes a Python thread keep time on Linux. Best effort; elsewhere it does no harm.

A thread that asks to sleep until a moment is woken late, for four reasons:

* the kernel may add 50 us, to join wake-ups of different threads: ``sharpen_timers``;
* a core that has slept for milliseconds takes some 100 us to wake: ``wait_until`` comes
  nearer in shorter and shorter waits, and does not sleep through the last 50 us;
* other processes keep the cores busy: ``try_realtime_priority``;
* other threads of this process hold the interpreter: ``sys.setswitchinterval`` in the server.

``benchmarks/lateness.py`` measures each.
"""

from __future__ import annotations

import ctypes
import math
import os
import queue
import sys
import threading
import time
from typing import Final, Protocol, TypeVar

__all__ = ["sharpen_timers", "try_realtime_priority", "wait_until"]

T_co = TypeVar("T_co", covariant=True)

_PR_SET_TIMERSLACK: Final = 29  # linux/prctl.h

# How long before the deadline each wait ends, in seconds; what remains is spent awake. On a
# virtual machine with two cores, 10 ms periods, median (p90) lateness in us: one wait to the
# deadline 151 (223); waits to 500 and 50 us before it, then awake, 40 (76); these three 2 (4).
_APPROACH: Final = (400e-6, 120e-6, 50e-6)


def sharpen_timers() -> bool:
    """Let the calling thread's timers be 1 ns late instead of 50 us.

    Threads that it starts from now on inherit this. Idempotent. Real-time priority implies it.

    Returns:
        Whether it worked. Never on other systems than Linux, whose timers are left as they are.
    """
    if sys.platform != "linux":
        return False
    try:
        prctl = ctypes.CDLL(None).prctl
    except (OSError, AttributeError):  # a libc without it
        return False
    nothing = ctypes.c_ulong(0)
    return bool(prctl(_PR_SET_TIMERSLACK, ctypes.c_ulong(1), nothing, nothing, nothing) == 0)


def try_realtime_priority(priority: int) -> str | None:
    """Let the calling thread run before every ordinary one (``SCHED_FIFO``), if we may.

    This thread only: threads and processes that it starts are ordinary again. It must wait
    for something in every round, or nothing else runs on its core (Linux leaves 5 %).

    Args:
        priority: 1 to 99. Interrupt threads of the kernel have 50; stay below.

    Returns:
        None if it worked, else why not and what to do about it.

    Raises:
        ValueError: If ``priority`` is none.
    """
    if not 1 <= priority <= 99:
        raise ValueError(f"a real-time priority is 1 to 99, not {priority}")
    if sys.platform != "linux":
        return f"real-time priority is for Linux, this is {sys.platform}; nothing was changed"
    try:
        os.sched_setscheduler(
            threading.get_native_id(),
            os.SCHED_FIFO | os.SCHED_RESET_ON_FORK,
            os.sched_param(priority),
        )
    except OSError as error:
        return (
            f"real-time priority {priority} was refused ({error.strerror}); allow it with "
            f"'ulimit -r {priority}' (LimitRTPRIO={priority} in a systemd unit, 'rtprio' in "
            "/etc/security/limits.conf), or with the capability CAP_SYS_NICE"
        )
    return None


class Inbox(Protocol[T_co]):
    """Where messages come in, such as a ``TimedQueue``."""

    def get(self, *, timeout: float | None = None) -> T_co:
        """Wait for a message; raises ``queue.Empty`` if none came in time."""

    def get_nowait(self) -> T_co:
        """Return a message; raises ``queue.Empty`` if there is none."""

    def empty(self) -> bool:
        """Whether nothing waits."""


def wait_until(deadline: float, mailbox: Inbox[T_co]) -> T_co | None:
    """Wait for a message, at most until a deadline, and be late by microseconds only.

    A message that is there, or comes, is returned at once; only one that comes in the last
    50 us before the deadline waits until then, because the interpreter is kept. That costs a
    core 0.5 % at 100 Hz; the waits before it let others run.

    Blocks up to the deadline. One thread should wait on a mailbox; any thread may put.

    Args:
        deadline: On ``time.monotonic``, in seconds. One that has passed does not wait;
            infinity waits for a message alone.
        mailbox: Where messages come in.

    Returns:
        The message, or None when the deadline came first.
    """
    if deadline == math.inf:
        return mailbox.get()
    for stop in _APPROACH:
        timeout = deadline - stop - time.monotonic()
        if timeout > 0:
            try:
                return mailbox.get(timeout=timeout)
            except queue.Empty:
                continue
    while time.monotonic() < deadline and mailbox.empty():
        pass
    try:
        return mailbox.get_nowait()
    except queue.Empty:
        return None
