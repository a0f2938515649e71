"""The client's end over WebSocket with the library's own blocking connection: the plain path.

For TLS, and with ``REMOTE_ENV_FAST=0``; ``fast_client.py`` is for everything else. The library's
receiver thread answers pings, also while no call is in progress.
"""

from __future__ import annotations

from typing import Final

from websockets import exceptions as ws
from websockets.sync.client import ClientConnection

from remote_env.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    RemoteProtocolError,
)
from remote_env.transport.base import Frame, LinkWithoutFile
from remote_env.transport.kernel import cut_off, name, time_since_data

__all__ = ["WebSocketLink"]

_CLEARS_UP_WITHIN: Final = 0.05  # seconds


class WebSocketLink(LinkWithoutFile):
    """One connection. Copies every frame once on each way."""

    def __init__(self, connection: ClientConnection, url: str) -> None:
        self._connection = connection
        self._url = url

    @property
    def carrier(self) -> str:
        """See ``Link.carrier``."""
        return "TLS" if self._connection.protocol.uri.secure else name(self._connection.socket)

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

    def serve_control_frames(self) -> None:
        """See ``Link.serve_control_frames``; the library's thread does that."""

    def idle_for(self) -> float:
        """See ``Link.idle_for``."""
        return time_since_data(self._connection.socket)

    def close(self) -> None:
        """See ``Link.close``."""
        self._connection.close()

    def abort(self) -> None:
        """See ``Link.abort``."""
        cut_off(self._connection.socket)
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
