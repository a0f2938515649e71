"""One end of one connection, without a socket: messages in, frames out, and back.

Both ends drive the same class. It keeps the state, the request ids, what was agreed
(``layouts``) and the last answer; it never waits, and it is told the time.

Not safe to call from several threads at once: the owner holds one lock around it. On the
server that is the connection's write lock, taken by the network thread for what comes in
and by the control thread for its replies.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from remote_env.errors import (
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    error_from_wire,
)
from remote_env.protocol.arrays import Layout
from remote_env.protocol.codec import Buffer, Layouts, Limits, decode, encode, limits_for
from remote_env.protocol.messages import (
    REPLIES,
    Bye,
    Error,
    Heartbeat,
    Message,
    Role,
    Subscribed,
    Welcome,
)
from remote_env.protocol.state import OUT_OF_BAND, TRANSITIONS, State

__all__ = ["Connection", "Repeated"]


@dataclass(frozen=True, slots=True)
class Repeated:
    """A request that was already answered came again: send these bytes, do nothing else."""

    id: int
    frame: list[Buffer]


class Connection:
    """One end of the protocol.

    Attributes:
        role: Which end this is.
        state: Where the episode channel stands; see ``TRANSITIONS``.
        layouts: What was agreed so far.
        last_heard: The ``now`` of the last frame that was received.
    """

    def __init__(self, role: Role, *, now: float, limits: Limits | None = None) -> None:
        """Begin in ``State.OPENING``.

        Args:
            role: Which end this is.
            now: The caller's monotonic clock, in seconds.
            limits: What this end accepts; the default for its role if None.
        """
        self.role = role
        self.peer_role = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        self.state = State.OPENING
        self.layouts = Layouts()
        self.last_heard = now
        self._limits = limits or limits_for(role)
        self._peer_limits = limits_for(self.peer_role)
        self._streams = Layout()
        self._last_id = 0
        # Requests without an answer yet, by id; the episode channel has at most one.
        self._waiting: dict[int, type[Message]] = {}
        self._channel_id = 0
        self._last_answer: Repeated | None = None

    def next_id(self) -> int:
        """Return an id for the next request of this client."""
        return self._last_id + 1

    def is_waiting_for(self, request_id: int) -> bool:
        """Whether the request with this id has no answer yet."""
        return request_id in self._waiting

    def is_silent(self, now: float, *, longer_than: float) -> bool:
        """Whether nothing was heard from the peer for longer than so many seconds."""
        return now - self.last_heard > longer_than

    def send(self, message: Message) -> list[Buffer]:
        """Turn our own message into a frame, and take the step that it means.

        Raises:
            LocalProtocolError: If it may not be said now, or cannot be written; the
                state is then unchanged.
        """
        following = self._following_state(message, self.role)
        if following is None:
            raise LocalProtocolError(
                f"{type(message).__name__} may not be sent by the {self.role.value} in the "
                f"state {self.state.value!r}"
            )
        if self.role is Role.CLIENT and type(message) in REPLIES and message.id <= self._last_id:
            raise LocalProtocolError(f"request id {message.id} was used before")
        frame = encode(message, self.layouts, limits=self._peer_limits)
        self._advance(message, following)
        if self._answers_channel(message):
            self._last_answer = Repeated(message.id, frame)
        self._settle(message)
        return frame

    def receive(self, frame: Buffer, now: float) -> Message | Repeated | None:
        """Take the peer's frame, and the step that it means.

        Returns:
            The message; ``Repeated`` if the request was answered before; None if there
            is nothing to do: a request that is being worked on came again, or the answer
            to a request that nobody waits for any more.

        Raises:
            RemoteProtocolError: If the peer may not say this now, or it is damaged. The
                state is then unchanged, and the connection should be closed.
        """
        message = decode(frame, self.layouts, limits=self._limits)
        self.last_heard = now
        if type(message) in REPLIES and message.id <= self._last_id:
            return self._seen_before(message)
        if self._is_late_answer(message):
            return None
        following = self._following_state(message, self.peer_role)
        if following is None:
            raise RemoteProtocolError(
                f"{type(message).__name__} may not be sent by the {self.peer_role.value} in "
                f"the state {self.state.value!r}"
            )
        self._agree(message)
        self._advance(message, following)
        self._settle(message)
        return message

    def _following_state(self, message: Message, sender: Role) -> State | None:
        kind = type(message)
        row = TRANSITIONS[self.state].get(kind)
        # An Error without the pending request's id says nothing about the episode channel.
        if row is not None and (kind is not Error or message.id == self._channel_id):
            return row[1] if row[0] is sender else None
        if kind in OUT_OF_BAND and self.state not in (State.OPENING, State.CLOSED):
            allowed = OUT_OF_BAND[kind]
            if allowed is None or allowed is sender:
                return State.CLOSED if kind is Bye else self.state
        # Before the hello a server may only say why it will not talk.
        if self.state is State.OPENING and kind is Error and sender is Role.SERVER:
            return State.CLOSED
        return None

    def _advance(self, message: Message, following: State) -> None:
        kind = type(message)
        if kind in REPLIES:
            self._last_id = message.id
            self._waiting[message.id] = kind
            if kind not in OUT_OF_BAND:
                self._channel_id = message.id
        self.state = following

    def _settle(self, message: Message) -> None:
        if type(message) not in REPLIES:
            self._waiting.pop(message.id, None)
            if isinstance(message, Welcome):
                self._adopt_welcome(message)
            elif isinstance(message, Subscribed):
                self.layouts = replace(
                    self.layouts, observation=self._streams.subset(message.streams)
                )

    def _adopt_welcome(self, message: Welcome) -> None:
        self._streams = Layout(message.streams)
        self.layouts = Layouts(
            action=Layout(message.action),
            observation=self._streams.subset(message.subscribed),
        )
        if self.role is Role.CLIENT:
            self._peer_limits = replace(self._peer_limits, frame_size=message.max_frame_size)

    def _agree(self, message: Message) -> None:
        """Refuse an agreement that cannot be kept, before any state changes."""
        if isinstance(message, Welcome):
            names = [spec.name for spec in message.streams]
            offered, asked = set(names), message.subscribed
            if len(offered) != len(names):
                raise RemoteProtocolError("two streams have the same name")
        elif isinstance(message, Subscribed):
            offered, asked = set(self._streams.names), message.streams
        else:
            return
        unknown = [name for name in asked if name not in offered]
        if unknown or len(set(asked)) != len(asked):
            raise RemoteProtocolError(f"streams that do not exist or come twice: {asked!r:.200}")

    def _answers_channel(self, message: Message) -> bool:
        return self.role is Role.SERVER and message.id != 0 and message.id == self._channel_id

    def _is_late_answer(self, message: Message) -> bool:
        kind = type(message)
        if self.role is not Role.CLIENT or kind in (Bye, Heartbeat) or message.id == 0:
            return False
        request = self._waiting.get(message.id)
        if request is None:
            if message.id > self._last_id:
                raise RemoteProtocolError(f"an answer to request {message.id}, never asked")
            return True
        if kind is not Error and REPLIES[request] is not kind:
            raise RemoteProtocolError(f"{request.__name__} was answered by {kind.__name__}")
        return False

    def _seen_before(self, message: Message) -> Repeated | None:
        if self._last_answer is not None and message.id == self._last_answer.id:
            return self._last_answer
        if message.id in self._waiting:
            return None
        raise RemoteProtocolError(f"request id {message.id} was used before")

    def close(self) -> None:
        """Note that the transport is gone: nothing may be said any more."""
        self.state = State.CLOSED

    def forget(self, request_id: int) -> None:
        """Stop waiting for an answer; if it still comes, it is dropped by its id."""
        self._waiting.pop(request_id, None)


def error_of(message: Error) -> RemoteEnvError:
    """Return the exception that an ``Error`` message reports."""
    return error_from_wire(message.code, message.message, retryable=message.retryable)
