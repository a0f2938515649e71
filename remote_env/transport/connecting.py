"""Opens a WebSocket to a robot server, in the fast lane or the plain way, and says why not."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Final

from websockets import exceptions as ws
from websockets.client import ClientProtocol
from websockets.sync.client import connect as websocket_connect
from websockets.typing import Subprotocol
from websockets.uri import WebSocketURI, parse_uri

from remote_env.errors import AccessDeniedError, ConfigurationError, ConnectFailedError
from remote_env.transport import fast_frames, unix_sockets
from remote_env.transport.addresses import UnresolvedError, open_socket
from remote_env.transport.base import Link
from remote_env.transport.fast_client import FastLink
from remote_env.transport.fast_cutter import Cutter
from remote_env.transport.handshake import shake_hands
from remote_env.transport.kernel import tune_client
from remote_env.transport.shared_offer import ClientOffer, may_share
from remote_env.transport.websocket import WebSocketLink

__all__ = ["BRIEF_VISIT", "SCHEMES", "SUBPROTOCOL", "connect"]

SCHEMES: Final = ("ws", "wss", unix_sockets.SCHEME)
SUBPROTOCOL: Final = Subprotocol("remote-robot-env")
# The header of a connection for which a server that is full keeps some room.
BRIEF_VISIT: Final = ("Robot-Visit", "brief")
# What the handshake calls a server at a path.
_AT_PATH: Final = "ws://localhost/"


def connect(url: str, *, timeout: float, max_frame_size: int, is_brief: bool = False) -> Link:
    """Connect to a robot server.

    Args:
        url: ``ws://host:port``, ``wss://host:port`` or ``ws+unix:///path``.
        timeout: For the TCP, TLS and WebSocket handshakes together, in seconds.
        max_frame_size: The largest frame to accept, in bytes.
        is_brief: Whether it is for a few seconds only: then a server that is full lets it in.

    Raises:
        ConfigurationError: If the url is malformed.
        ConnectFailedError: If no robot server answers there; says what does, if anything.
        AccessDeniedError: If the server refuses this client.
    """
    deadline = time.monotonic() + timeout
    headers = dict([BRIEF_VISIT]) if is_brief else {}
    with _explained(url, timeout):
        path = unix_sockets.path_in(url)
        where = parse_uri(url if path is None else _AT_PATH)
        sock = (
            open_socket(where.host, where.port, timeout)
            if path is None
            else unix_sockets.connect_unix(path, timeout)
        )
        try:
            if where.secure or not fast_frames.is_available():
                link = _open_plain(url, sock, headers, deadline, max_frame_size)
            else:
                link = _open_fast(url, where, sock, headers, deadline, max_frame_size)
        except BaseException:
            sock.close()
            raise
        return link


def _open_fast(
    url: str,
    where: WebSocketURI,
    sock: socket.socket,
    headers: dict[str, str],
    deadline: float,
    max_frame_size: int,
) -> Link:
    offer = ClientOffer(sock, max_frame_size) if may_share(sock) else None
    protocol = ClientProtocol(
        where,
        subprotocols=[SUBPROTOCOL],
        extensions=[offer] if offer else None,
        max_size=max_frame_size,
    )
    request = protocol.connect()
    request.headers.update(headers)
    protocol.send_request(request)
    timeout = max(deadline - time.monotonic(), 0.001)
    ahead = shake_hands(sock, protocol, deadline)
    _check_subprotocol(protocol.subprotocol)
    tune_client(sock, timeout)
    return FastLink(
        sock, Cutter(fast_frames.Library(protocol), ahead, offer.take() if offer else None), url
    )


def _open_plain(
    url: str, sock: socket.socket, headers: dict[str, str], deadline: float, max_frame_size: int
) -> Link:
    timeout = max(deadline - time.monotonic(), 0.001)
    is_unix = sock.family == socket.AF_UNIX
    connection = websocket_connect(
        _AT_PATH if is_unix else url,
        legacy=True,
        sock=sock,
        subprotocols=[SUBPROTOCOL],
        additional_headers=headers,
        compression=None,
        proxy=None,
        open_timeout=timeout,
        ping_interval=None,  # calls have deadlines; the time between them is the user's
        close_timeout=0.5,
        max_size=max_frame_size,
        max_queue=4,
    )
    try:
        _check_subprotocol(connection.subprotocol)
        tune_client(connection.socket, timeout)
    except (ws.NegotiationError, OSError):
        connection.close()
        raise
    return WebSocketLink(connection, url)


def _check_subprotocol(agreed: Subprotocol | None) -> None:
    if agreed != SUBPROTOCOL:
        raise ws.NegotiationError("no subprotocol of ours")


@contextlib.contextmanager
def _explained(url: str, timeout: float) -> Iterator[None]:
    """Say of everything that may go wrong what it means.

    Raises:
        RemoteEnvError: As ``connect``.
    """
    try:
        yield
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
    except (ws.ConnectionClosed, ConnectionResetError, BrokenPipeError) as error:
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
    except (ConnectionRefusedError, FileNotFoundError) as error:
        path = unix_sockets.path_in(url)
        option, what = ("", "port") if path is None else (f" --unix {path}", "path")
        raise ConnectFailedError(
            f"nothing listens at {url}; start a robot there with 'remote-env serve NAME{option}', "
            f"or check the {what}"
        ) from error
    except OSError as error:
        if isinstance(error, PermissionError) and unix_sockets.path_in(url) is not None:
            raise AccessDeniedError(
                f"{url} is another user's, who alone may connect there; use the robot's ws:// "
                "address"
            ) from error
        raise ConnectFailedError(f"cannot connect to {url}: {error}") from error
    except (ValueError, OverflowError) as error:  # a port or a name that cannot be
        raise ConfigurationError(f"{url!r} is no WebSocket address: {error}") from error


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
