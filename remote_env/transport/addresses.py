"""Connects to a host, and listens at one: names and addresses.

Connecting takes no longer than it may, also when the network is down and no name resolves.

The system's resolver takes no timeout: without a network it may block for half a minute, which
no call of ours may. So it is asked on a thread; and who was found before is looked for at the
same address when there is no answer.
"""

from __future__ import annotations

import contextlib
import encodings.idna  # noqa: F401 (else the first connection loads it, which may be a stop: 4 ms)
import errno
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

__all__ = ["UnresolvedError", "listen", "open_socket"]

# What getaddrinfo returns: family, type, protocol, canonical name, address.
_Found: TypeAlias = list[tuple[Any, Any, int, str, Any]]

# How long a name may take that was found before, in seconds: it rarely moves.
_PATIENCE: Final = 0.1


_BACKLOG: Final = 100
# Of the addresses of a name, some may not be ours; and where the system chooses the port, it may
# be free at the first address only.
_NO_ADDRESS: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class UnresolvedError(TimeoutError):
    """Nobody said in time which address a name has."""


@dataclass(slots=True)
class _Name:
    """What is known of a name; guarded by ``_lock``."""

    found: _Found = field(default_factory=list)
    error: OSError | None = None
    # Set when the look-up that is going on is done; None if none is.
    looking: threading.Event | None = None


_names: dict[tuple[str, int], _Name] = {}
_lock = threading.Lock()


def open_socket(host: str, port: int, timeout: float) -> socket.socket:
    """Connect over TCP; the socket that is returned blocks.

    Args:
        host: A name or an address.
        port: Of the server.
        timeout: For the look-up and all addresses together, in seconds.

    Raises:
        OSError: If that fails; a ``TimeoutError`` if it takes too long, and of these an
            ``UnresolvedError`` if it was the look-up.
    """
    deadline = time.monotonic() + timeout
    found = _look_up(host, port, timeout)
    last: OSError = TimeoutError("timed out")
    for number, (family, kind, protocol, _, address) in enumerate(found):
        left = (deadline - time.monotonic()) / (len(found) - number)
        if left <= 0:
            break
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(left)
            sock.connect(address)
            sock.settimeout(None)
            return sock
        except OSError as error:
            sock.close()
            last = error
        except BaseException:
            sock.close()
            raise
    raise last


def listen(host: str, port: int) -> list[socket.socket]:
    """Listen at every address of a host that is ours, without blocking, at one port.

    Args:
        host: A name or an address.
        port: 0 lets the system choose.

    Raises:
        OSError: If there is none, or one is taken.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    sockets: list[socket.socket] = []
    failure = OSError("no address to listen at")
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            chosen = sockets[0].getsockname()[1] if sockets else port
            try:
                sockets.append(_listen(family, kind, protocol, (address[0], chosen, *address[2:])))
            except OSError as error:
                is_taken_by_chance = error.errno == errno.EADDRINUSE and sockets and port == 0
                if error.errno not in _NO_ADDRESS and not is_taken_by_chance:
                    raise
                failure = error
        if not sockets:
            raise failure
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _listen(family: int, kind: int, protocol: int, address: tuple[Any, ...]) -> socket.socket:
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def _look_up(host: str, port: int, timeout: float) -> _Found:
    with contextlib.suppress(socket.gaierror):  # an address needs nobody
        return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    with _lock:
        name = _names.setdefault((host, port), _Name())
        is_known = bool(name.found)
        done = name.looking
        if done is None:  # one thread for each name, however often it is asked for
            done = name.looking = threading.Event()
            threading.Thread(
                target=_ask_system, args=(host, port, name), name="remote-env names", daemon=True
            ).start()
    done.wait(min(timeout, _PATIENCE) if is_known else timeout)
    with _lock:
        if name.found:
            return name.found
        if name.error is not None:
            raise name.error
    raise UnresolvedError(f"nobody says within {timeout:.3g} s which address {host!r} has")


def _ask_system(host: str, port: int, name: _Name) -> None:
    error: OSError | None = None
    found: _Found = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as failure:
        error = failure
    except UnicodeError as failure:  # no name at all
        error = socket.gaierror(socket.EAI_NONAME, str(failure))
    with _lock:
        name.found, name.error = found or name.found, error
        done, name.looking = name.looking, None
    if done is not None:
        done.set()


def _after_fork() -> None:
    # The threads that look, and whoever held the lock, are not in the child.
    global _lock
    _lock = threading.Lock()
    for name in _names.values():
        name.looking = None


os.register_at_fork(after_in_child=_after_fork)
