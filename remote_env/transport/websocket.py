"""The client's end over WebSocket, with the library's own blocking connection.

The library's receiver thread answers pings, also while no call is in progress.
"""

from __future__ import annotations

import contextlib
import math
import socket
import struct
import sys
import time
from typing import Final

from websockets import exceptions as ws
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websocket_connect
from websockets.typing import Subprotocol
from websockets.uri import parse_uri

from remote_env.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
    RemoteProtocolError,
)
from remote_env.transport.addresses import UnresolvedError, open_socket
from remote_env.transport.base import Frame

__all__ = ["BRIEF_VISIT", "SCHEMES", "SUBPROTOCOL", "WebSocketLink", "connect"]

SCHEMES: Final = ("ws", "wss")
SUBPROTOCOL: Final = Subprotocol("remote-robot-env")
# The header of a connection for which a server that is full keeps some room.
BRIEF_VISIT: Final = ("Robot-Visit", "brief")

# Dead hosts: what was sent and not acknowledged for so long ends the connection.
_USER_TIMEOUT_MS: Final = 5000
# Where struct tcp_info (linux/tcp.h) has tcpi_last_data_recv, in ms.
_LAST_DATA_RECEIVED: Final = 52
_CLEARS_UP_WITHIN: Final = 0.05  # seconds


class WebSocketLink:
    """One connection. Copies every frame once on each way."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._connection = connection
        self._url = url

    def send(self, frame: Frame) -> None:
        """See ``Link.send``."""
        try:
            self._connection.send(b"".join(frame))
        except ws.ConnectionClosed as error:
            raise self._lost(error) from error

    def receive(self, timeout: float) -> bytearray:
        """See ``Link.receive``."""
        try:
            frame = self._connection.recv(timeout=max(timeout, 0.0))
        except TimeoutError:
            raise DeadlineExceededError(
                f"no reply from {self._url} within {timeout * 1e3:.0f} ms", waited=timeout
            ) from None
        except ws.ConnectionClosed as error:
            raise self._lost(error) from error
        if isinstance(frame, str):
            raise RemoteProtocolError(f"{self._url} sent text; frames are binary")
        return bytearray(frame)

    def idle_for(self) -> float:
        """See ``Link.idle_for``."""
        if sys.platform != "linux":
            return math.inf
        try:
            info = self._connection.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 64)
        except OSError:  # closed, or a Unix socket
            return math.inf
        (last_received,) = struct.unpack_from("I", info, _LAST_DATA_RECEIVED)
        return float(last_received) / 1e3

    def close(self) -> None:
        """See ``Link.close``."""
        self._connection.close()

    def abort(self) -> None:
        """See ``Link.abort``."""
        with contextlib.suppress(OSError):  # closed already
            # Nothing is sent after this, not even what the system still holds.
            reset = struct.pack("ii", 1, 0)
            self._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
            self._connection.socket.shutdown(socket.SHUT_RDWR)
        # The library's thread finds the end and clears up; unless it waits for us to read.
        self._connection.recv_events_thread.join(timeout=_CLEARS_UP_WITHIN)
        if self._connection.recv_events_thread.is_alive():
            self._connection.close_socket()

    def _lost(self, error: ws.ConnectionClosed) -> ConnectionLostError:
        received = error.rcvd
        why = (
            f"{received.reason or 'no reason given'} ({received.code})"
            if received
            else ("the peer vanished")
        )
        return ConnectionLostError(f"the connection to {self._url} is closed: {why}")


def connect(
    url: str, *, timeout: float, max_frame_size: int, is_brief: bool = False
) -> WebSocketLink:
    """Connect to a robot server.

    Args:
        url: ``ws://host:port`` or ``wss://host:port``.
        timeout: For the TCP, TLS and WebSocket handshakes together, in seconds.
        max_frame_size: The largest frame to accept, in bytes.
        is_brief: Whether it is for a few seconds only: then a server that is full lets it in.

    Raises:
        ConfigurationError: If the url is malformed.
        ConnectFailedError: If no robot server answers there; says what does, if anything.
        AccessDeniedError: If the server refuses this client.
    """
    started = time.monotonic()
    try:
        where = parse_uri(url)
        sock = open_socket(where.host, where.port, timeout)
        connection = websocket_connect(
            url,
            legacy=True,
            sock=sock,
            subprotocols=[SUBPROTOCOL],
            additional_headers={BRIEF_VISIT[0]: BRIEF_VISIT[1]} if is_brief else None,
            compression=None,
            proxy=None,
            open_timeout=max(timeout - (time.monotonic() - started), 0.001),
            ping_interval=None,  # calls have deadlines; the time between them is the user's
            close_timeout=0.5,
            max_size=max_frame_size,
            max_queue=4,
        )
    except ws.InvalidURI as error:
        raise ConfigurationError(f"{url!r} is no WebSocket address: {error.msg}") from error
    except ws.InvalidStatus as error:
        raise _refused(url, error) from error
    except ws.NegotiationError as error:
        raise _other_protocol(url) from error
    except (ws.InvalidHandshake, ws.InvalidMessage, EOFError) as error:
        raise ConnectFailedError(
            f"something answers at {url}, but it is no WebSocket server ({error}); check the port"
        ) from error
    except ws.ConnectionClosed as error:
        raise ConnectFailedError(
            f"{url} takes the connection and drops it; is something between that lets nobody "
            "through, or does the robot server just stop?"
        ) from error
    except UnresolvedError as error:
        raise ConnectFailedError(
            f"cannot connect to {url}: {error}; check this machine's network and its name server, "
            "or say the robot's address in numbers"
        ) from error
    except TimeoutError as error:
        raise ConnectFailedError(
            f"no answer from {url} within {timeout:.1f} s; check the address, the firewall, and "
            "whether the robot server runs"
        ) from error
    except socket.gaierror as error:
        raise ConnectFailedError(f"the host of {url} is not known: {error.strerror}") from error
    except ConnectionRefusedError as error:
        raise ConnectFailedError(
            f"nothing listens at {url}; start a robot there with 'remote-env serve NAME', or "
            "check the port"
        ) from error
    except OSError as error:
        raise ConnectFailedError(f"cannot connect to {url}: {error}") from error
    except (ValueError, OverflowError) as error:  # a port or a name that cannot be
        raise ConfigurationError(f"{url!r} is no WebSocket address: {error}") from error
    if connection.subprotocol != SUBPROTOCOL:
        connection.close()
        raise _other_protocol(url)
    try:
        _tune(connection.socket, timeout)
    except OSError as error:  # it is lost already, and its receiver has closed the socket
        raise ConnectFailedError(f"{url} closed the connection at once: {error}") from error
    return WebSocketLink(connection, url)


def _refused(url: str, error: ws.InvalidStatus) -> Exception:
    status = error.response.status_code
    body = (error.response.body or b"").decode("utf-8", "replace").strip()[:300]
    if status in (401, 403, 421):
        return AccessDeniedError(f"{url} refuses this client ({status}): {body}")
    if status == 503:
        return ConnectFailedError(f"{url} is busy: {body}")
    return ConnectFailedError(
        f"{url} answers with HTTP status {status} and not as a robot server; check the port"
    )


def _other_protocol(url: str) -> ConnectFailedError:
    return ConnectFailedError(
        f"a WebSocket server answers at {url}, but it does not speak remote-robot-env; check the "
        "port"
    )


def _tune(sock: socket.socket, timeout: float) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    # A peer that does not read must not block us for ever; the library waits without limit.
    seconds, fraction = divmod(timeout, 1.0)
    interval = struct.pack("ll", int(seconds), int(fraction * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # a Unix socket has none
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
