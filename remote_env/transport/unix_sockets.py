"""WebSockets at a path of this machine: who may connect is up to the file system.

``ws+unix:///run/robot.sock`` is how Node's ``ws`` writes it too. All behind ``ws+unix://`` is the
path, as it is.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import socket
import stat
from typing import Final

from remote_env.errors import ConfigurationError
from remote_env.transport.kernel import set_timeout

__all__ = ["SCHEME", "UnixAddress", "connect_unix", "path_in"]

SCHEME: Final = "ws+unix"
_BACKLOG: Final = 100


def path_in(url: str) -> str | None:
    """Return the path of a Unix socket that a url names; None if it names none.

    Raises:
        ConfigurationError: If the path is not absolute.
    """
    scheme, separator, path = url.partition("://")
    if not separator or scheme.lower() != SCHEME:
        return None
    if not path.startswith("/"):
        raise ConfigurationError(
            f"{url!r} has no absolute path; write three slashes: {SCHEME}:///run/robot.sock"
        )
    return path


def connect_unix(path: str, timeout: float) -> socket.socket:
    """Connect to a Unix socket; the socket that is returned blocks.

    Raises:
        OSError: If that fails; a ``TimeoutError`` if it takes longer than ``timeout`` seconds.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        set_timeout(sock, socket.SO_SNDTIMEO, timeout)  # for a server that accepts nobody
        sock.connect(path)
    except BlockingIOError as error:
        sock.close()
        raise TimeoutError("timed out") from error
    except BaseException:
        sock.close()
        raise
    return sock


class UnixAddress:
    """A path to listen at, for this user alone."""

    def __init__(self, path: str) -> None:
        """Note the path; ``listen`` makes the socket there."""
        self.path = os.path.abspath(path)
        self._identity = (0, 0)

    def listen(self) -> socket.socket:
        """Listen there, without blocking. A socket that nobody listens at is replaced.

        Raises:
            OSError: If somebody listens there already, or something else lies there.
        """
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.setblocking(False)
            self._bind(sock)
            # Nobody can connect before listen().
            os.chmod(self.path, stat.S_IRUSR | stat.S_IWUSR)
            sock.listen(_BACKLOG)
            self._identity = _identity(self.path)
        except BaseException:
            sock.close()
            raise
        return sock

    def _bind(self, sock: socket.socket) -> None:
        try:
            sock.bind(self.path)
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            self._clear_away()
            sock.bind(self.path)

    def _clear_away(self) -> None:
        """Remove what a server left that was killed.

        Raises:
            OSError: If it is something else.
        """
        found = os.lstat(self.path)
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(errno.EEXIST, "a file lies there that is no socket")
        if _is_alive(self.path):
            raise OSError(errno.EADDRINUSE, "another server listens there")
        # Aside first: another server may have replaced it just now, and gets it back.
        aside = f"{self.path}.{secrets.token_hex(4)}"
        os.rename(self.path, aside)
        is_alive = _is_alive(aside)
        if is_alive:
            with contextlib.suppress(OSError):
                os.link(aside, self.path)
        os.unlink(aside)
        if is_alive:
            raise OSError(errno.EADDRINUSE, "another server began to listen there")

    def remove(self) -> None:
        """Remove the socket, if it is still ours. Idempotent."""
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._identity:
                os.unlink(self.path)


def _is_alive(path: str) -> bool:
    """Whether anybody listens at a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return False
        except BlockingIOError:  # so many want to connect
            return True
    return True


def _identity(path: str) -> tuple[int, int]:
    found = os.lstat(path)
    return found.st_dev, found.st_ino
