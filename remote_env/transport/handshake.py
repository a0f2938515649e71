"""The opening handshake of the client's fast lane, which the library does over our socket."""

from __future__ import annotations

import socket
import time

from websockets.client import ClientProtocol
from websockets.protocol import State

from remote_env.transport.fast_frames import end_of_head

__all__ = ["shake_hands"]


def shake_hands(sock: socket.socket, protocol: ClientProtocol, deadline: float) -> bytes:
    """Open a WebSocket on a socket that is connected.

    Args:
        sock: Connected; has a timeout afterwards.
        protocol: With its request already sent to it.
        deadline: On ``time.monotonic``, in seconds.

    Returns:
        What the server sent after its answer: frames, which are not the library's to cut.

    Raises:
        websockets.InvalidHandshake: If the server wants something else.
        EOFError: If it says nothing.
        OSError: If the connection breaks; a ``TimeoutError`` if it takes too long.
    """
    sock.sendall(b"".join(protocol.data_to_send()))
    head = b""
    while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
        sock.settimeout(max(deadline - time.monotonic(), 0.001))
        data = sock.recv(4096)
        if not data:
            protocol.receive_eof()
            break
        before, head = len(head), head + data
        end = end_of_head(head)
        if end >= 0 and head.startswith(b"HTTP/1.1 101"):
            protocol.receive_data(head[before:end])
            head = head[end:]
        else:  # the body of a refusal belongs to it
            protocol.receive_data(data)
    if protocol.state is not State.OPEN:
        raise protocol.handshake_exc or EOFError("no answer")
    return head
