"""One connection, until it is known whose it is.

``on_*`` are called by a transport's network thread.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from remote_env.errors import (
    RemoteEnvError,
    RemoteProtocolError,
)
from remote_env.protocol import (
    Buffer,
    Bye,
    Connection,
    Error,
    Hello,
    Layouts,
    Role,
    encode,
)
from remote_env.transport import FrameSink

if TYPE_CHECKING:
    from remote_env_server.peer import Peer
    from remote_env_server.session import RobotSession

__all__ = ["Visit", "refuse_noise"]

logger = logging.getLogger(__name__)


class Visit:
    """The server's end of one connection: a ``FrameHandler`` for its transport."""

    def __init__(self, session: RobotSession, sink: FrameSink) -> None:
        self.sink = sink
        self._session = session
        self._connection = Connection(Role.SERVER, now=time.monotonic(), limits=session.limits)
        self._peer: Peer | None = None

    def on_frame(self, frame: Buffer) -> None:
        """Take the next frame; the first one says who it is."""
        if self._peer is not None:
            self._peer.on_frame(frame, self.sink)
            return
        try:
            message = self._connection.receive(frame, time.monotonic())
        except RemoteProtocolError as error:
            refuse_noise(self.sink, error)
            return
        if isinstance(message, Bye):
            self.sink.close(1000, "bye")
        elif isinstance(message, Hello):
            self._greet(message)

    def _greet(self, hello: Hello) -> None:
        try:
            self._peer = self._session.greet(hello, self._connection, self.sink)
        except RemoteEnvError as error:
            refusal = Error(
                id=hello.id, code=error.code, message=str(error), retryable=error.retryable
            )
            self.sink.send(self._connection.send(refusal))
            self.sink.close(1008, str(error))

    def on_close(self, reason: str) -> None:
        """Note that the connection is gone."""
        if self._peer is not None:
            self._peer.on_close(self.sink, reason)
        self._session.forget_visit(self)

    def say_goodbye(self, reason: str) -> None:
        """Tell the client that we close on purpose."""
        if self._peer is not None:
            self._peer.say_goodbye(reason)


def refuse_noise(sink: FrameSink, error: RemoteProtocolError) -> None:
    """Tell a client that it broke the protocol, or that its frame was damaged, and close.

    Past the protocol connection, which is left as it was: the client may resume it.
    """
    logger.warning("%s broke the protocol: %s", sink.peer_name, error)
    told = Error(id=0, code=error.code, message=str(error)[:2000], retryable=False)
    sink.send(encode(told, Layouts()))
    sink.close(1002, str(error))
