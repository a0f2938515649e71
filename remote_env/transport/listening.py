"""What both WebSocket listeners share: the network thread, the address, and who may connect.

Safe by default: web pages are refused (an Origin header), and names that an attacker could have
pointed here (the Host header), and too many connections.
"""

from __future__ import annotations

import abc
import http
import ipaddress
import socket
import threading
from collections.abc import Iterable
from typing import ClassVar, Final

from websockets.http11 import Request

from remote_env.errors import ConfigurationError
from remote_env.transport.base import Accept
from remote_env.transport.connecting import BRIEF_VISIT
from remote_env.transport.unix_sockets import SCHEME as UNIX_SCHEME
from remote_env.transport.unix_sockets import UnixAddress

__all__ = [
    "CLOSE_TIMEOUT",
    "OPEN_TIMEOUT",
    "PING_EVERY",
    "PONG_WITHIN",
    "WebSocketListener",
    "is_brief",
    "is_loopback",
]

# In seconds. Pings find dead hosts only; whether the robot may move is decided elsewhere, and a
# learner that holds the GIL for seconds is healthy.
OPEN_TIMEOUT: Final = 5.0
PING_EVERY: Final = 5.0
PONG_WITHIN: Final = 20.0
CLOSE_TIMEOUT: Final = 0.5

# A peer that does not read: what waits for it is bounded, or it would eat our memory.
_WRITE_BUFFER_SLACK: Final = 4 << 20


class WebSocketListener(abc.ABC):
    """Accepts WebSocket connections on a network thread of its own.

    Attributes:
        host: To bind.
        port: To bind; the real one once started, if it was 0.
        reserve: Connections that say that they are brief, beyond the limit.
        brief: How long those may last, in seconds.
    """

    reserve: ClassVar[int] = 8
    brief: ClassVar[float] = 10.0

    def __init__(
        self,
        host: str,
        port: int,
        *,
        unix_path: str | None = None,
        max_frame_size: int,
        max_reply_size: int,
        max_connections: int = 64,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        hello_timeout: float = 5.0,
    ) -> None:
        """Prepare; ``start`` binds.

        Args:
            host: To bind.
            port: To bind; 0 lets the system choose.
            unix_path: Of a Unix socket to listen at in place of host and port; absolute.
            max_frame_size: The largest frame to accept, in bytes.
            max_reply_size: The largest frame that is sent; a peer that leaves more than two
                of these and 4 MiB unread is cut off.
            max_connections: Further ones are refused with 503, but for eight that say that
                they are brief, for an emergency stop: those are closed after 10 s.
            allowed_hosts: Names for this machine, beside addresses and its own name.
            allowed_origins: Web pages that may connect; none by default.
            hello_timeout: Seconds within which the first frame must come.
        """
        self.host = host
        self.port = port
        self._unix = UnixAddress(unix_path) if unix_path is not None else None
        self._max_frame_size = max_frame_size
        self._max_reply_size = max_reply_size
        self._max_unread = 2 * max_reply_size + _WRITE_BUFFER_SLACK
        self._max_connections = max_connections
        names = {"localhost", socket.gethostname(), socket.getfqdn(), host, *allowed_hosts}
        self._allowed_hosts = {name.lower() for name in names}
        self._allowed_origins = set(allowed_origins)
        self._hello_timeout = hello_timeout
        self._thread: threading.Thread | None = None
        self._started = threading.Event()
        self._failure: Exception | None = None

    @property
    def url(self) -> str:
        """See ``Listener.url``."""
        if self._unix is not None:
            return f"{UNIX_SCHEME}://{self._unix.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        if self.host in ("0.0.0.0", "::"):  # noqa: S104 (no address for anybody to call)
            host = socket.gethostname()
        return f"ws://{host}:{self.port}"

    def start(self, accept: Accept) -> None:
        """See ``Listener.start``."""
        self._thread = threading.Thread(
            target=self._run, args=(accept,), name="remote-env network", daemon=True
        )
        self._thread.start()
        self._started.wait()
        if self._failure is not None:
            self._thread.join()
            self._thread = None
            if self._unix is not None:
                raise ConfigurationError(
                    f"cannot listen at {self._unix.path}: {_reason(self._failure)}; choose another "
                    "path, in a folder that is yours"
                ) from self._failure
            raise ConfigurationError(
                f"cannot listen at {self.host}:{self.port}: {_reason(self._failure)}; choose "
                "another address or port; 0 is any free port"
            ) from self._failure

    def stop(self) -> None:
        """See ``Listener.stop``."""
        if self._thread is None:
            return
        if self._unix is not None:
            self._unix.remove()
        self._ask_to_stop()
        if self._thread is not threading.current_thread():
            self._thread.join(timeout=2.0)
        self._thread = None

    @abc.abstractmethod
    def _run(self, accept: Accept) -> None:
        """Listen until told to stop; sets ``_started``, and before it ``port`` or ``_failure``."""

    @abc.abstractmethod
    def _ask_to_stop(self) -> None:
        """Let ``_run`` return soon. Safe to call from any thread."""

    def _refusal(
        self, request: Request, open_connections: int
    ) -> tuple[http.HTTPStatus, str] | None:
        """Return why a peer may not connect; None if it may."""
        origins = request.headers.get_all("Origin")
        if any(origin not in self._allowed_origins for origin in origins):
            return (
                http.HTTPStatus.FORBIDDEN,
                "Web pages may not drive this robot (the request has an Origin header). If this "
                "is no web page, tell your WebSocket library to send no Origin.\n",
            )
        hosts = request.headers.get_all("Host")
        if len(hosts) != 1 or not self._is_allowed_host(hosts[0]):
            return (
                http.HTTPStatus.MISDIRECTED_REQUEST,
                "This server does not go by that name; connect by its address, or start it with "
                "that name among its allowed hosts.\n",
            )
        most = self._max_connections + (self.reserve if is_brief(request) else 0)
        if open_connections >= most:
            return (
                http.HTTPStatus.SERVICE_UNAVAILABLE,
                f"{self._max_connections} connections are open, which is the limit.\n",
            )
        return None

    def _is_allowed_host(self, header: str) -> bool:
        name = header.rpartition(":")[0] if header.rpartition(":")[2].isdigit() else header
        name = name.strip("[]").lower()
        if name in self._allowed_hosts and name != "0.0.0.0":  # noqa: S104
            return True
        try:
            # An address cannot be rebound by whoever owns a name; 0.0.0.0 is a trick.
            return not ipaddress.ip_address(name).is_unspecified
        except ValueError:
            return False


def is_brief(request: Request | None) -> bool:
    """Whether a peer says that it stays for a few seconds only."""
    name, value = BRIEF_VISIT
    return request is not None and request.headers.get_all(name) == [value]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
