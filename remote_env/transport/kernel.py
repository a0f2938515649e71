"""What we ask of the system's sockets beyond what Python's socket module names."""

from __future__ import annotations

import contextlib
import fcntl
import ipaddress
import math
import socket
import struct
import sys
from typing import Final

__all__ = [
    "cut_off",
    "is_on_this_machine",
    "name",
    "set_timeout",
    "time_since_data",
    "tune",
    "tune_client",
    "unsent",
]

# Dead hosts: what was sent and not acknowledged for so long ends the connection.
_USER_TIMEOUT_MS: Final = 5000
# Where struct tcp_info (linux/tcp.h) has tcpi_last_data_recv, in ms.
_LAST_DATA_RECEIVED: Final = 52
# linux/sockios.h: how much of what the kernel was given it has not sent for the first time. On a
# stalled connection that is megabytes, which the peer would see when they are old. A Unix socket
# knows only how much the peer has not read, with the kernel's own; an answer that it is about to
# read is not meant.
_SIOCOUTQNSD: Final = 0x894B
_SIOCOUTQ: Final = 0x5411
_ON_ITS_WAY: Final = 64 << 10
# Of a Unix socket; with its 208 KiB a frame of 4.9 MB takes twice as long.
_UNIX_BUFFER: Final = 4 << 20


def set_timeout(sock: socket.socket, option: int, timeout: float) -> None:
    """Set for how long a blocking call may block.

    One system call less for each receive than ``socket.settimeout``, which polls first.

    Args:
        sock: Without a timeout of Python's.
        option: ``SO_RCVTIMEO`` or ``SO_SNDTIMEO``.
        timeout: In seconds; positive.
    """
    seconds, fraction = divmod(timeout, 1.0)
    value = struct.pack("ll", int(seconds), max(int(fraction * 1e6), int(seconds == 0)))
    sock.setsockopt(socket.SOL_SOCKET, option, value)


def tune(sock: socket.socket) -> None:
    """Send at once, and to this machine as fast as it goes.

    BBR, some systems' default, paces even on loopback: a reply of 4.9 MB takes 2 to 4 times as
    long as with reno, which every process may choose. A Unix socket gets room for a large frame.

    Args:
        sock: Connected.
    """
    if sock.family == socket.AF_UNIX:
        # Beyond the system's limit it gives less, and says nothing.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _UNIX_BUFFER)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _UNIX_BUFFER)
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sys.platform == "linux" and _is_loopback(sock):
        with contextlib.suppress(OSError):  # a kernel without it
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno")


def _is_loopback(sock: socket.socket) -> bool:
    return ipaddress.ip_address(sock.getpeername()[0]).is_loopback


def is_on_this_machine(sock: socket.socket) -> bool:
    """Whether the peer, or somebody who passes on what it says, is on this machine.

    Raises:
        OSError: If the connection is lost already.
    """
    if sock.family == socket.AF_UNIX:
        return True
    return _is_loopback(sock) or sock.getpeername()[0] == sock.getsockname()[0]


def tune_client(sock: socket.socket, timeout: float) -> None:
    """Send at once, find dead hosts, and block in sending for no longer than ``timeout``.

    Raises:
        OSError: If the connection is lost already.
    """
    tune(sock)
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if sys.platform == "linux":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
    # A peer that does not read must not block us for ever.
    set_timeout(sock, socket.SO_SNDTIMEO, timeout)


def name(sock: socket.socket) -> str:
    """Return what a socket is, for people."""
    return "Unix socket" if sock.family == socket.AF_UNIX else "TCP"


def time_since_data(sock: socket.socket) -> float:
    """Return for how long not a byte has come in, in seconds; infinity where nobody knows."""
    if sys.platform != "linux":
        return math.inf
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
    except OSError:  # closed, or a Unix socket
        return math.inf
    (last_received,) = struct.unpack_from("I", info, _LAST_DATA_RECEIVED)
    return float(last_received) / 1e3


def unsent(sock: socket.socket) -> int:
    """Return how many bytes wait in the kernel for the peer to make room; 0 where unknown."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError):  # closed meanwhile
            is_unix = sock.family == socket.AF_UNIX
            raw = fcntl.ioctl(sock.fileno(), _SIOCOUTQ if is_unix else _SIOCOUTQNSD, bytes(4))
            size = int(struct.unpack("i", raw)[0])
            return 0 if is_unix and size <= _ON_ITS_WAY else size
    return 0


def cut_off(sock: socket.socket) -> None:
    """End a connection: nothing is sent after this, not even what the system still holds."""
    with contextlib.suppress(OSError):  # closed already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.shutdown(socket.SHUT_RDWR)
