"""One request: how to wait for its answer, what is known of it meanwhile, and what came back."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from remote_env.errors import ConnectionLostError, RemoteProtocolError
from remote_env.protocol import Buffer, Connection, Message
from remote_env.protocol.records import record
from remote_env.resuming import SESSION_LASTS
from remote_env.transport import join

__all__ = ["Answer", "Asked", "Vigil", "Waiting"]

# Who comes for the answer after the deadline, or just before it, has so long to fetch it, in
# seconds: it may be there, or kept for us behind a link that broke meanwhile.
_LATE: Final = 1.0


@record(frozen=True, slots=True)
class Answer:
    """What came back, and where the time went.

    Attributes:
        message: The answer.
        asked_at: When the request was made, on ``time.monotonic``, in seconds.
        sent_at: When it was handed over.
        arrived_at: When the answer was there.
        read_at: When it was decoded.
        resumptions: How often the connection was lost and resumed meanwhile.
    """

    message: Message
    asked_at: float
    sent_at: float
    arrived_at: float
    read_at: float
    resumptions: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """How to wait for the answer of a reset.

    Attributes:
        on_progress: Told how far it is: a fraction, or NaN, and a text.
        cancel: Set by another thread to ask for its end.
        reconnect_timeout: How long to look for a server that is lost, in seconds.
    """

    on_progress: Callable[[float, str], None] | None = None
    cancel: threading.Event | None = None
    reconnect_timeout: float = SESSION_LASTS

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody wants it any more."""
        return self.cancel is not None and self.cancel.is_set()


@dataclass(slots=True)
class Vigil:
    """Who waits for an answer on one link, and what that link was asked for signs of life.

    Attributes:
        deadline: Until when, on ``time.monotonic``, in seconds.
        came_at: Since when. From then on we ping; before, who asked may have done something else.
        pinged_at: When a ping was sent last.
        every: How often one is, in seconds.
        pings: When each was sent, by its id.
        can_cancel: Whether the request can be given up on this link, and was not.
    """

    deadline: float
    came_at: float
    pinged_at: float
    every: float
    pings: dict[int, float]
    can_cancel: bool


@dataclass(slots=True)
class Asked:
    """A request whose answer was not read yet.

    Attributes:
        make: Makes it, given its id.
        asked_at: When it was made, on ``time.monotonic``, in seconds.
        deadline: For its answer.
        message: The request; None if there was no session to ask.
        frame: The same as bytes.
        sent_at: When it was handed over last.
        left_at: When its sender went on to something else.
        failure: Why it did not leave, or will have no answer on this link; or None.
        resumptions: How often it was sent again.
        damaged: How often what came back was no answer.
    """

    make: Callable[[int], Message]
    asked_at: float
    deadline: float
    message: Message | None = None
    frame: list[Buffer] = field(default_factory=list)
    sent_at: float = 0.0
    left_at: float = 0.0
    failure: ConnectionLostError | RemoteProtocolError | None = None
    resumptions: int = 0
    damaged: int = 0

    def write(self, connection: Connection) -> Message:
        """Make the request, with the next id."""
        message = self.message = self.make(connection.next_id())
        parts = connection.send(message)
        # Large arrays of it are the caller's, who may write to them before it is sent again.
        self.frame = parts if len(parts) == 1 else [join(parts)]
        return message

    def deadline_at(self, now: float) -> float:
        """Return until when to wait, for who comes for the answer now."""
        away = now - self.left_at
        return max(self.deadline, min(self.deadline + away, now + _LATE))
