"""A network between a client and a server that breaks when it is told to.

    with FaultProxy(server.url) as proxy, RemoteRobotEnv(proxy.url) as env:
        env.reset()
        proxy.blackhole()
        ...

It needs no root and runs on a thread of its own. The bytes are the real ones, the two
connections are real TCP over loopback; what it cannot break is TCP itself: a lost packet, a
SYN without an answer, a slow handshake of the kernel.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from remote_env.errors import ConfigurationError
from remote_env.testing.fault_connection import FaultyConnection
from remote_env.testing.fault_lane import Cut, Direction, Ending, Lane
from remote_env.testing.fault_loop import FaultLoop

__all__ = ["Direction", "Ending", "FaultProxy", "FaultProxyStatistics"]

logger = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class FaultProxyStatistics:
    """What has passed so far, since the proxy was made.

    Attributes:
        accepted: Connections accepted; those that were refused are not.
        open: Connections that are open now, dead ones too.
        forwarded_to_server: Bytes handed to the server's side, duplicates too.
        forwarded_to_client: Bytes handed to the client's side, duplicates too.
        dropped_to_server: Bytes read from clients and thrown away.
        dropped_to_client: Bytes read from the server and thrown away.
    """

    accepted: int
    open: int
    forwarded_to_server: int
    forwarded_to_client: int
    dropped_to_server: int
    dropped_to_client: int


class FaultProxy:
    """A TCP proxy on loopback between any client and any TCP server.

    Safe to use from any thread. When a method returns, what it asked for is in force, on
    the connections there are and on new ones; it waits for the proxy's thread for that, a
    fraction of a millisecond, so on an event loop call it with ``asyncio.to_thread``.
    Latency, rate and the end of an outage may be late by about a millisecond.
    Faults may be combined. Those that take a direction apply to it only.

    Attributes:
        port: Where it listens, on 127.0.0.1; known once started, and kept if started again.
    """

    def __init__(self, target: str | tuple[str, int], *, seed: int = 0) -> None:
        """Prepare; ``start``, or a ``with`` block, listens.

        Args:
            target: The server, ``"ws://host:port"`` or ``(host, port)``.
            seed: Decides the jitter and what is corrupted.

        Raises:
            ConfigurationError: If the target is neither.
        """
        self._scheme = "ws"
        if isinstance(target, str):
            self._scheme, target = _parse(target)
        self._target = target
        self._to_server = Lane((seed, 0))
        self._to_client = Lane((seed, 1))
        self._lock = threading.Lock()  # guards _loop; start and stop come one after the other
        self._loop: FaultLoop | None = None
        self._accepted_before = 0
        self.port = 0

    @property
    def url(self) -> str:
        """Where clients connect; known once started."""
        if not self.port:
            raise ConfigurationError("the proxy has no address before it is started")
        return f"{self._scheme}://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Listen. Does nothing if it runs already.

        Raises:
            OSError: If the target's name is not known, or the port was taken meanwhile.
        """
        with self._lock:
            if self._loop is None:
                loop = FaultLoop(
                    self._target, self.port, to_server=self._to_server, to_client=self._to_client
                )
                loop.start()
                self.port = loop.port
                self._loop = loop

    def stop(self) -> None:
        """Close all connections, end all faults and the thread. Idempotent."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.stop()
                self._accepted_before += loop.accepted
                for lane in (self._to_server, self._to_client):
                    lane.heal()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def statistics(self) -> FaultProxyStatistics:
        """Return what has passed so far."""
        loop = self._loop
        if loop is None:
            return self._count(None)
        return loop.do(lambda: self._count(loop))

    def _count(self, loop: FaultLoop | None) -> FaultProxyStatistics:
        return FaultProxyStatistics(
            accepted=self._accepted_before + (loop.accepted if loop else 0),
            open=loop.open if loop else 0,
            forwarded_to_server=self._to_server.forwarded,
            forwarded_to_client=self._to_client.forwarded,
            dropped_to_server=self._to_server.dropped,
            dropped_to_client=self._to_client.dropped,
        )

    # Faults of the line

    def set_latency(
        self, seconds: float, direction: Direction = Direction.BOTH, *, jitter: float = 0.0
    ) -> None:
        """Delay all bytes, each way that is named; 0 ends it.

        A change applies to bytes that are under way too.

        Args:
            seconds: Added to every byte.
            direction: Which way.
            jitter: Up to so many seconds more, uniform, drawn for each read of the proxy;
                bytes keep their order all the same.
        """
        _check("seconds", seconds, least=0.0)
        _check("jitter", jitter, least=0.0)

        def change(lane: Lane) -> None:
            lane.latency, lane.jitter = seconds, jitter

        self._change(direction, change)

    def set_rate(
        self, bytes_per_second: float | None, direction: Direction = Direction.BOTH
    ) -> None:
        """Let each connection have at most so many bytes per second; None ends it.

        Slow means drops: 20 bytes per second are one byte every 50 ms. What does not fit
        waits, at last in the sender. Up to 20 ms of the rate may come at once.
        """
        if bytes_per_second is not None:
            _check("bytes_per_second", bytes_per_second, least=1e-3)

        def change(lane: Lane) -> None:
            lane.rate = bytes_per_second

        self._change(direction, change)

    def stall(self, direction: Direction = Direction.BOTH, *, is_on: bool = True) -> None:
        """Stop reading and forwarding. Nothing is lost: it goes on where it stopped.

        Backpressure builds up to the sender. Ends of connections are not passed on either.
        """

        def change(lane: Lane) -> None:
            lane.is_stalled = is_on

        self._change(direction, change)

    def freeze(self) -> None:
        """Stall both directions."""
        self.stall(Direction.BOTH)

    def blackhole(self, direction: Direction = Direction.BOTH, *, is_on: bool = True) -> None:
        """Read and throw away, without a word: a pulled cable, a dead host.

        FIN and RST are thrown away too. New connections are accepted here (a dead host
        would not answer the SYN), never answered, and never reach the server; they stay so.

        When it ends, a connection that lost anything is dead: it stays silent both ways,
        for a torn stream is worse than none. It is not closed until its ends close it.
        A connection that was idle meanwhile goes on, as on a real network. A real TCP
        would send again what was lost; to delay without losing, use ``stall``.
        """
        lanes = self._lanes(direction)
        if is_on:
            self._do(lambda loop: loop.begin_blackhole(lanes, until=math.inf))
        else:
            self._do(lambda loop: loop.end_blackhole(lanes))

    def outage(self, seconds: float) -> None:
        """Blackhole both directions for so long; returns at once, and ends by itself."""
        _check("seconds", seconds, least=0.0)

        until = time.monotonic() + seconds
        self._do(lambda loop: loop.begin_blackhole(self._lanes(Direction.BOTH), until=until))

    def refuse(self, *, is_on: bool = True) -> None:
        """Reset new connections as soon as they are accepted."""

        def change(loop: FaultLoop) -> None:
            loop.is_refusing = is_on

        self._do(change)

    # Faults of the bytes

    def duplicate(self, direction: Direction = Direction.BOTH, *, is_on: bool = True) -> None:
        """Send every WebSocket message twice, text and binary, fragmented or not.

        The copy follows the message, byte for byte, with the mask that it had; control
        frames are not copied. What is not WebSocket, or is encrypted, passes as it is.
        """

        def change(lane: Lane) -> None:
            lane.is_duplicating = is_on

        self._change(direction, change)

    def corrupt(
        self,
        offset: int | None = None,
        direction: Direction = Direction.BOTH,
        *,
        bit: int = 0,
        probability: float | None = None,
    ) -> None:
        """Flip a bit of one byte, or of bytes at random.

        Args:
            offset: Of the byte, counted in bytes forwarded that way from now; once.
            direction: Which way; each counts for itself.
            bit: Which bit of that byte, 0 the lowest.
            probability: Of every byte from now on, for one random bit of it; 0 ends it.
        """
        if offset is None and probability is None:
            raise ConfigurationError("corrupt() needs an offset or a probability")
        _check("offset", offset or 0, least=0)
        _check("bit", bit, least=0, most=7)
        _check("probability", probability or 0.0, least=0.0, most=1.0)

        def change(lane: Lane) -> None:
            if offset is not None:
                lane.flip_at(offset, bit)
            if probability is not None:
                lane.flip_randomly(probability)

        self._change(direction, change)

    # Ends

    def cut_after(
        self, count: int, direction: Direction, *, how: Ending | str = Ending.RST
    ) -> None:
        """Cut a connection when exactly so many more bytes have got through; once.

        The bytes of all connections are counted together, and the one that carries the
        last of them is cut, at once; with 0, the one that would carry the next, before it.
        It is cut both ways: what the other direction has not handed over is lost.

        Args:
            count: In bytes forwarded that way from now. Those are in the peer's kernel
                (on Linux) before the connection is cut.
            direction: One of the two.
            how: ``"rst"`` or ``"fin"`` to both ends, or ``"blackhole"``: silent for good.
        """
        _check("count", count, least=0)
        lanes = self._lanes(direction)
        if len(lanes) != 1:
            raise ConfigurationError("cut_after() counts in one direction; choose one")
        ending = Ending(how)

        def arm(lane: Lane) -> None:
            lane.cut = Cut(lane.forwarded + count, ending)

        self._change(direction, arm)

    def reset_connections(self) -> None:
        """Send RST to both ends of all connections, now."""
        self._do(lambda loop: loop.each(FaultyConnection.abort))

    def close_connections(self) -> None:
        """Send FIN to both ends of all connections, now; as of a process that ends."""
        self._do(lambda loop: loop.each(FaultyConnection.finish))

    def heal(self) -> None:
        """End all faults, and disarm what is armed. Does nothing if the proxy is stopped."""

        def end_all(loop: FaultLoop) -> None:
            loop.is_refusing = False
            loop.end_blackhole(self._lanes(Direction.BOTH))
            for lane in self._lanes(Direction.BOTH):
                lane.heal()

        if self._loop is not None:
            self._do(end_all)

    def _lanes(self, direction: Direction) -> tuple[Lane, ...]:
        both = {Direction.TO_SERVER: self._to_server, Direction.TO_CLIENT: self._to_client}
        return tuple(lane for way, lane in both.items() if way in direction)

    def _change(self, direction: Direction, change: Callable[[Lane], None]) -> None:
        def change_all(loop: FaultLoop) -> None:
            for lane in self._lanes(direction):
                change(lane)

        self._do(change_all)

    def _do(self, command: Callable[[FaultLoop], T]) -> T:
        loop = self._loop
        if loop is None:
            raise ConfigurationError("the proxy does not run; call start() first")
        return loop.do(lambda: command(loop))


def _check(name: str, value: float, *, least: float, most: float = math.inf) -> None:
    if not least <= value <= most or value == math.inf:
        bounds = f"from {least:g} to {most:g}" if most < math.inf else f"at least {least:g}"
        raise ConfigurationError(f"{name} must be {bounds}, not {value!r}")


def _parse(url: str) -> tuple[str, tuple[str, int]]:
    parts = urlsplit(url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname or not parts.port:
        raise ConfigurationError(f"the target must be ws://host:port, not {url!r}")
    return parts.scheme, (parts.hostname, parts.port)
