"""What single parts cost, without a network: snapshots, locks, encoding and decoding."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final
from unittest import mock

import numpy as np

import remote_env
from benchmarks.payloads import PAYLOADS, Rig, Sizes
from remote_env.protocol import StepDone, codec, connection
from remote_env_server import RobotServer

__all__ = ["coding", "snapshots", "waits"]

_BURST: Final = 100
_WRITER_HZ: Final = 500.0


def snapshots(seconds: float) -> list[float]:
    """Return how long it takes to take all that the rig P2 shows, in seconds; means of bursts."""
    robot = Rig(PAYLOADS["P2"])
    robot.reset()
    return _bursts(robot.make_obs, seconds)


def waits(seconds: float) -> list[float]:
    """Return how long a sensor of the rig P2 waits for locks, in seconds.

    It publishes 500 times a second, while another thread takes snapshots without a pause. The
    interpreter switches threads as often as it does in a server.
    """
    with RobotServer(Rig(()), port=0, mode="lockstep"):  # which sets that
        return _waits(seconds)


class _TimedLock:
    """A lock that notes how long one thread waits for it."""

    def __init__(self, lock: threading.Lock, waited: list[float]) -> None:
        self._lock = lock
        self._waited = waited
        self._thread = threading.get_ident()

    def __enter__(self) -> None:
        began = time.perf_counter()
        self._lock.acquire()
        if threading.get_ident() == self._thread:
            self._waited.append(time.perf_counter() - began)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        self._lock.release()


def _waits(seconds: float) -> list[float]:
    robot = Rig(PAYLOADS["P2"])
    robot.reset()
    waited: list[float] = []
    for buffer in robot._cameras.values():
        buffer._lock = _TimedLock(buffer._lock, waited)  # type: ignore[assignment]
    image = robot.images["cam0"].copy()
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            robot.make_obs()

    reader = threading.Thread(target=read)
    reader.start()
    due = time.perf_counter()
    until = due + seconds
    while due < until:
        due += 1.0 / _WRITER_HZ
        time.sleep(max(0.0, due - time.perf_counter()))
        robot.update_image("cam0", image)
    is_over.set()
    reader.join()
    return waited


def coding(sizes: Sizes, seconds: float) -> list[float]:
    """Return what it takes to encode the answer to a step and to decode it, in seconds.

    Message, layout and limits are those of a real session; means of bursts.
    """
    message, layouts, limits = _answer(sizes)

    def both() -> None:
        parts = codec.encode(message, layouts)
        codec.decode(frame, layouts, limits=limits)
        del parts

    frame = memoryview(bytearray().join(codec.encode(message, layouts)))
    return _bursts(both, seconds)


def _answer(sizes: Sizes) -> tuple[Any, Any, Any]:
    """Return the last ``StepDone`` of a real session, and what it was decoded with."""
    seen: list[tuple[Any, Any, Any]] = []

    def spy(frame: Any, layouts: Any, *, limits: Any) -> Any:
        message = codec.decode(frame, layouts, limits=limits)
        if isinstance(message, StepDone):
            seen.append((message, layouts, limits))
        return message

    with (
        mock.patch.object(connection, "decode", spy),
        RobotServer(Rig(sizes), port=0, mode="lockstep") as server,
        contextlib.closing(remote_env.RemoteRobotEnv(server.url)) as env,
    ):
        env.reset()
        for _ in range(3):
            env.step(np.zeros(7, np.float32))
    return seen[-1]


def _bursts(call: Callable[[], object], seconds: float) -> list[float]:
    return list(_burst_means(call, time.perf_counter() + seconds))


def _burst_means(call: Callable[[], object], until: float) -> Iterator[float]:
    while True:
        began = time.perf_counter()
        for _ in range(_BURST):
            call()
        now = time.perf_counter()
        yield (now - began) / _BURST
        if now > until:
            return
