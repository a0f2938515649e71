"""Watch a robot: the newest observation, as often as you like, without disturbing anybody.

    with remote_env.observe("ws://robot:8765", hz=10, streams=["wrist_cam/image"]) as observer:
        for seen in observer:
            show(seen.arrays["wrist_cam/image"])

A thread of its own receives and keeps the newest observation only: who is slow gets fewer of
them and never an old one, and what was missed is counted. The thread knows nothing of the
``Observer`` that its user holds, so one that nobody refers to any more is stopped.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import threading
import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import Self

from remote_env.arguments import check_timeout
from remote_env.errors import ConfigurationError, LocalProtocolError
from remote_env.inbox import Inbox, Observed, StoppedError
from remote_env.receiver import Receiver
from remote_env.requesting import Wishes
from remote_env.spec import RobotSpec
from remote_env.stream_requests import StreamRequest

__all__ = ["Observed", "Observer", "observe"]


def observe(
    url: str,
    *,
    hz: float = 10.0,
    streams: Sequence[str] | Mapping[str, StreamRequest | None] | None = None,
    image_size: tuple[int, int] | None = None,
    grayscale: bool = False,
    codec: str | Sequence[str] = "raw",
    quality: int | None = None,
    token: str | None = None,
    connect_timeout: float = 5.0,
    reconnect: bool = True,
) -> Observer:
    """Watch a robot, without a lease and without an influence on it.

    Connects when it is first iterated or entered, so this does not block.

    Args:
        url: ``ws://host:port``, ``wss://host:port``, ``ws+unix:///path`` or ``inproc://name``.
        hz: At most so many observations a second; the server has a limit of its own, 1000.
        streams: Names of the streams, or what is wanted of each; those of the robot's observation
            space if None. This and the next four are as in ``RemoteRobotEnv``.
        image_size: Of all cameras.
        grayscale: Of all pictures.
        codec: Of all cameras.
        quality: Of JPEG.
        token: What the server asks for, if it does.
        connect_timeout: For everything until the robot sends observations, in seconds.
        reconnect: Whether to connect again, for ever, when a connection is lost that stood.

    Raises:
        ConfigurationError: If an argument makes no sense.
    """
    return Observer(
        url,
        hz=hz,
        wishes=Wishes(streams, image_size, grayscale, codec, quality),
        token=token,
        connect_timeout=connect_timeout,
        reconnect=reconnect,
    )


class Observer:
    """The observations of one robot: an iterator and an async iterator of ``Observed``.

    Each is newer than the one before; iterating waits for it. Also a context manager, in both
    kinds. Safe to use from several threads; each observation goes to one of them. One that
    nobody refers to any more is stopped.

    Iterating raises what is wrong with the url, the token or the names of the streams, and also
    if the first connection fails. A connection that is lost later is made again, unless
    ``reconnect=False``: then it is a ``ConnectionLostError``.
    """

    def __init__(
        self,
        url: str,
        *,
        hz: float = 10.0,
        wishes: Wishes | None = None,
        token: str | None = None,
        connect_timeout: float = 5.0,
        reconnect: bool = True,
    ) -> None:
        """See ``observe``."""
        check_timeout("connect_timeout", connect_timeout)
        if not isinstance(hz, (int, float)) or not 0 < hz < math.inf:
            raise ConfigurationError(f"hz must be a positive number, not {hz!r:.40}")
        self.url = url
        self._inbox = Inbox()
        self._receiver = Receiver(
            url,
            self._inbox,
            hz=float(hz),
            wishes=wishes or Wishes(),
            token=token,
            connect_timeout=connect_timeout,
            reconnect=reconnect,
        )
        self._pid = os.getpid()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        weakref.finalize(self, _stop_in, self._pid, self._inbox)

    @property
    def spec(self) -> RobotSpec | None:
        """What the robot is; None before it was reached."""
        return self._receiver.spec

    def stop(self) -> None:
        """End every iteration, now and normally. Idempotent; does not wait. For any thread."""
        self._inbox.stop()

    def close(self) -> None:
        """Stop, and wait for the connection to end, at most about two seconds. Idempotent."""
        self.stop()
        with self._starting:  # another thread may be about to
            thread = self._thread
        if thread is not None and os.getpid() == self._pid:
            thread.join(timeout=2.0)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Observed:
        self._start()
        try:
            return self._inbox.take()
        except StoppedError:
            raise StopIteration from None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Observed:
        self._start()
        loop = asyncio.get_running_loop()
        while True:
            woken = asyncio.Event()
            wake = partial(_set_soon, loop, woken)
            try:
                seen = self._inbox.take_nowait(wake=wake)
            except StoppedError:
                raise StopAsyncIteration from None
            if seen is not None:
                return seen
            try:
                await woken.wait()
            finally:
                self._inbox.forget(wake)

    def __enter__(self) -> Self:
        self._start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        self._start()
        return self

    async def __aexit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await asyncio.to_thread(self.close)

    def _start(self) -> None:
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                f"this observer of {self.url} belongs to process {self._pid}, from which this one "
                "was forked; make it in the process that uses it"
            )
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._receiver.run, name="remote-env observer", daemon=True
                )
                self._thread.start()


def _set_soon(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits on it
        loop.call_soon_threadsafe(event.set)


def _stop_in(pid: int, inbox: Inbox) -> None:
    if os.getpid() == pid:  # in a fork it is the parent's, with its locks as they were then
        inbox.stop()
