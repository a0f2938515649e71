"""Both ends of a connection, joined by function calls: no transport, no thread, no clock."""

from __future__ import annotations

from dataclasses import replace

from remote_env.protocol.codec import Buffer
from remote_env.protocol.connection import Connection, Repeated
from remote_env.protocol.messages import Hello, Message, Role, Welcome
from remote_env.testing.clock import HandClock

__all__ = ["ConnectionPair"]


class ConnectionPair:
    """A client and a server; what one says, the other hears at once.

    Attributes:
        client: The client's end.
        server: The server's end.
        clock: What both ends take for the time.
    """

    def __init__(self, *, clock: HandClock | None = None) -> None:
        """Begin before the hello."""
        self.clock = clock or HandClock()
        self.client = Connection(Role.CLIENT, now=self.clock())
        self.server = Connection(Role.SERVER, now=self.clock())

    @classmethod
    def greeted(cls, welcome: Welcome) -> ConnectionPair:
        """Return a pair whose server has said this; its id must be 1."""
        pair = cls()
        pair.to_server(_hello(1))
        pair.to_client(welcome)
        return pair

    def lose_transport(self, welcome: Welcome) -> None:
        """Go on with new ends where these ended, or begin anew, as ``welcome.resumed`` says.

        What was on its way is lost. What ``unanswered`` says is for the caller to send again.

        Args:
            welcome: What the server answers; its id does not matter.
        """
        lost = self.client, self.server
        self.client = Connection(Role.CLIENT, now=self.clock())
        self.server = Connection(Role.SERVER, now=self.clock())
        asking = lost[0].unanswered
        self.client.adopt(lost[0], asking=asking)
        hello = _hello(self.client.next_id(), resume=welcome.session, asking=asking)
        self.to_server(hello)
        self.server.adopt(lost[1], asking=asking)
        self.to_client(replace(welcome, id=hello.id))

    def to_server(self, message: Message) -> Message | Repeated | None:
        """Let the client say something; returns what the server hears."""
        return self.deliver(self.client.send(message), self.server)

    def to_client(self, message: Message) -> Message | Repeated | None:
        """Let the server say something; returns what the client hears."""
        return self.deliver(self.server.send(message), self.client)

    def deliver(self, frame: list[Buffer], receiver: Connection) -> Message | Repeated | None:
        """Hand a frame to an end, in memory of its own, as a transport does."""
        return receiver.receive(bytearray(b"".join(frame)), self.clock())


def _hello(message_id: int, *, resume: str | None = None, asking: int = 0) -> Hello:
    return Hello(
        id=message_id,
        role="control",
        token=None,
        owner="test",
        process="test",
        client="test",
        resume=resume,
        asking=asking,
    )
