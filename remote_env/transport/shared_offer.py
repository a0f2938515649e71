"""How two ends agree to share memory: a WebSocket extension (RFC 6455, section 9).

The client's end offers it to a peer on this machine, and names the machine and the connection by
a digest; the server's end answers with where its segment is, if the digest is its own: so there
is nobody in between who would be passed by (an SSH tunnel, a proxy, a simulated network), and no
other machine, and no other container. Then the client's end opens the segment and proves it
there, before it says anything; the server's end looks when the first frame comes, and without the
proof never uses it. Whatever fails, the connection goes on without shared memory.

A reference to a frame is a binary message of 32 bytes with the bit RSV1, which nothing else has.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from websockets.exceptions import NegotiationError
from websockets.extensions import ClientExtensionFactory, Extension, ServerExtensionFactory
from websockets.frames import Frame
from websockets.typing import ExtensionName, ExtensionParameter

from remote_env.transport.kernel import is_on_this_machine
from remote_env.transport.shared_memory import LEAST, Borrower, Lender

__all__ = ["NAME", "ClientOffer", "ServerOffer", "may_share"]

NAME: Final = ExtensionName("x-remote-env-shared-memory")


def may_share(sock: socket.socket) -> bool:
    """Whether shared memory may be offered or granted: on Linux, to this very machine.

    Not with ``REMOTE_ENV_SHARED_MEMORY=0``.
    """
    if sys.platform != "linux" or os.environ.get("REMOTE_ENV_SHARED_MEMORY", "1") == "0":
        return False
    try:
        return is_on_this_machine(sock)
    except OSError:  # the peer has gone already
        return False


class _Agreed(Extension):
    """Changes no frame: references never come to the library, and it refuses RSV1."""

    name = NAME

    def decode(self, frame: Frame, *, max_size: int | None = None) -> Frame:
        return frame

    def encode(self, frame: Frame) -> Frame:
        return frame


class ClientOffer(ClientExtensionFactory):
    """What the client's end offers."""

    name = NAME

    def __init__(self, sock: socket.socket, most: int) -> None:
        """Offer it to the peer of a socket; frames have at most so many bytes."""
        self._borrower: Borrower | None = None
        self._most = most
        is_unix = sock.family == socket.AF_UNIX
        self._where = _digest(f"process {os.getpid()}" if is_unix else _text(sock.getsockname()))

    def take(self) -> Borrower | None:
        """Return what came of it, once; None if the connection does without."""
        borrower, self._borrower = self._borrower, None
        return borrower

    def get_request_params(self) -> Sequence[ExtensionParameter]:
        """See ``ClientExtensionFactory``."""
        return [("where", self._where)]

    def process_response_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> Extension:
        """See ``ClientExtensionFactory``."""
        given = dict(params)
        # What cannot be opened is not used; the server's end finds no proof.
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, OverflowError):
            pid, file, size = (int(given[key] or "") for key in ("pid", "file", "size"))
            token = bytes.fromhex(given["token"] or "")
            self._borrower = Borrower.open(pid, file, size, token, self._most)
        return _Agreed()


class ServerOffer(ServerExtensionFactory):
    """What the server's end grants."""

    name = NAME

    def __init__(self, sock: socket.socket, frame_size: int) -> None:
        """Grant it to the peer of a socket, for frames with so many bytes of arrays."""
        self._lender: Lender | None = None
        self._sock = sock
        self._frame_size = frame_size

    def take(self) -> Lender | None:
        """Return what came of it, once, when the other end has said something; None if nothing."""
        lender, self._lender = self._lender, None
        return lender if lender is not None and lender.settle() else None

    def process_request_params(
        self, params: Sequence[ExtensionParameter], accepted_extensions: Sequence[Extension]
    ) -> tuple[list[ExtensionParameter], Extension]:
        """See ``ServerExtensionFactory``."""
        if self._lender is not None or self._frame_size < LEAST:
            raise NegotiationError("nothing to share")
        try:
            if list(params) != [("where", _digest(_name_of_peer(self._sock)))]:
                raise NegotiationError("not from here")
            self._lender = lender = Lender(self._frame_size)
        except OSError as error:  # the system has no memory, no file or no memfd left
            raise NegotiationError(str(error)) from error
        return [
            ("pid", str(os.getpid())),
            ("file", str(lender.file)),
            ("size", str(lender.size)),
            ("token", lender.token.hex()),
        ], _Agreed()


def _name_of_peer(sock: socket.socket) -> str:
    if sock.family != socket.AF_UNIX:
        return _text(sock.getpeername())
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return f"process {pid}"


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]} {address[1]}"


def _digest(connection: str) -> str:
    """Return the same only on one machine, in one PID namespace, and at one connection."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text()
    here = f"{boot} {os.readlink('/proc/self/ns/pid')} {connection}"
    return hashlib.sha256(here.encode()).hexdigest()[:32]
