"""One end of one connection, without a socket: messages in, frames out, and back.

Both ends drive the same class. It keeps the state, the request ids, what was agreed
(``layouts``) and the last answer; it never waits, and it is told the time.

Not safe to call from several threads at once: the owner holds one lock around it. On the
server that is the connection's write lock, taken by the network thread for what comes in
and by the control thread for its replies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from remote_env.errors import (
    LocalProtocolError,
    ProtocolError,
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
    ResetDone,
    Role,
    StepDone,
    Subscribe,
    Subscribed,
    Welcome,
)
from remote_env.protocol.state import OUT_OF_BAND, TRANSITIONS, State

__all__ = ["Connection", "Repeated", "error_of"]

_ANSWERS: Final = frozenset(REPLIES.values())
_UNASKED: Final = (Heartbeat, Bye)


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
        self._waiting: dict[int, Message] = {}
        self._forgotten: set[int] = set()
        self._channel_id = 0
        # The last answer on the episode channel (True) and out of band (False).
        self._last_answers: dict[bool, Repeated] = {}

    def next_id(self) -> int:
        """Return an id for the next request of this client."""
        return self._last_id + 1

    def is_waiting_for(self, request_id: int) -> bool:
        """Whether somebody waits for the answer to this request, and it has not come yet."""
        return request_id in self._waiting and request_id not in self._forgotten

    @property
    def is_busy(self) -> bool:
        """Whether any request has no answer yet."""
        return bool(self._waiting)

    def is_silent(self, now: float, *, longer_than: float) -> bool:
        """Whether nothing was heard from the peer for longer than so many seconds."""
        return now - self.last_heard > longer_than

    def send(self, message: Message) -> list[Buffer]:
        """Turn our own message into a frame, and take the step that it means.

        Raises:
            LocalProtocolError: If it may not be said now, or cannot be written; then
                nothing has changed.
        """
        following = self._judge(message, self.role, LocalProtocolError)
        frame = encode(message, self.layouts, limits=self._peer_limits)
        if self.role is Role.SERVER and message.id:
            is_channel = message.id == self._channel_id
            self._last_answers[is_channel] = Repeated(message.id, frame)
        self._advance(message, following)
        return frame

    def receive(self, frame: Buffer, now: float) -> Message | Repeated | None:
        """Take the peer's frame, and the step that it means.

        Returns:
            The message; ``Repeated`` if the request was answered before; None if there
            is nothing to do: a request that is being worked on came again, nobody waits
            for this answer any more, or the connection is closed and the peer did not
            know that yet.

        Raises:
            RemoteProtocolError: If the peer may not say this now, or it is damaged. Then
                nothing has changed, and the connection should be closed.
        """
        message = self._take(frame)
        self.last_heard = now
        return message

    def _take(self, frame: Buffer) -> Message | Repeated | None:
        if self.state is State.CLOSED:
            return None
        message = decode(frame, self.layouts, limits=self._limits)
        if self._was_asked_before(message):
            return self._answer_again(message)
        if self._was_answered_before(message):
            return None
        self._advance(message, self._judge(message, self.peer_role, RemoteProtocolError))
        if message.id in self._forgotten:
            self._forgotten.discard(message.id)
            return None
        return message

    def _judge(self, message: Message, sender: Role, blame: type[ProtocolError]) -> State:
        """Return the state after a message; changes nothing.

        Raises:
            ProtocolError: Of the class ``blame``, if the sender may not say this now.
        """
        kind = type(message)
        following = self._following_state(message, sender)
        if following is None:
            raise blame(
                f"{kind.__name__} may not be sent by the {sender.value} in the state "
                f"{self.state.value!r}"
            )
        if kind in REPLIES:
            if message.id <= self._last_id:
                raise blame(f"request id {message.id} was used before")
        elif kind in _UNASKED:
            if message.id != 0:
                raise blame(f"{kind.__name__} has the id 0, not {message.id}")
        elif message.id != 0 or kind is not Error:
            self._check_answer(message, blame)
        return following

    def _following_state(self, message: Message, sender: Role) -> State | None:
        kind = type(message)
        row = TRANSITIONS[self.state].get(kind)
        # An Error without the pending request's id says nothing about the episode channel.
        if row is not None and (kind is not Error or message.id == self._channel_id):
            return row[1] if row[0] is sender else None
        is_closed = self.state is State.CLOSED
        if is_closed or kind not in OUT_OF_BAND or OUT_OF_BAND[kind] not in (None, sender):
            return None
        if kind is Bye or (kind is Error and message.id == 0):
            return State.CLOSED  # one may give up at any time, also before the hello
        return None if self.state is State.OPENING else self.state

    def _check_answer(self, message: Message, blame: type[ProtocolError]) -> None:
        kind = type(message)
        request = self._waiting.get(message.id)
        if request is None:
            raise blame(f"{kind.__name__} answers request {message.id}, which nobody asked")
        if kind is not Error and REPLIES[type(request)] is not kind:
            raise blame(f"{type(request).__name__} was answered by {kind.__name__}")
        match message:
            case Welcome():
                names = [spec.name for spec in message.streams]
                _check_choice(message.subscribed, names, blame)
                _check_choice(names, names, blame)
            case Subscribed():
                _check_choice(message.streams, self._streams.names, blame)
                if not isinstance(request, Subscribe) or request.streams != message.streams:
                    raise blame("the streams that were subscribed are not those asked for")
            case ResetDone() | StepDone():
                allowed = (0, len(self.layouts.observation))
                if len(message.sequences) not in allowed or len(message.stamps) not in allowed:
                    raise blame(f"there must be {allowed[1]} sequences and stamps, or none")

    def _advance(self, message: Message, following: State) -> None:
        if type(message) in REPLIES:
            self._last_id = message.id
            self._waiting[message.id] = message
            if type(message) not in OUT_OF_BAND:
                self._channel_id = message.id
        else:
            self._waiting.pop(message.id, None)
        if isinstance(message, Welcome):
            self._adopt_welcome(message)
        elif isinstance(message, Subscribed):
            observation = self._streams.subset(message.streams)
            self.layouts = replace(self.layouts, observation=observation)
        self.state = following

    def _adopt_welcome(self, message: Welcome) -> None:
        self._streams = Layout(message.streams)
        self.layouts = Layouts(
            action=Layout(message.action),
            observation=self._streams.subset(message.subscribed),
        )
        if self.role is Role.CLIENT:
            self._peer_limits = replace(self._peer_limits, frame_size=message.max_frame_size)

    def _was_asked_before(self, message: Message) -> bool:
        is_request = self.role is Role.SERVER and type(message) in REPLIES
        return is_request and message.id <= self._last_id

    def _answer_again(self, message: Message) -> Repeated | None:
        for answer in self._last_answers.values():
            if answer.id == message.id:
                return answer
        if message.id in self._waiting:
            return None
        raise RemoteProtocolError(f"request id {message.id} was used before")

    def _was_answered_before(self, message: Message) -> bool:
        """Whether this answers a request of ours that already has its answer."""
        is_answer = type(message) is Error or type(message) in _ANSWERS
        return (
            self.role is Role.CLIENT
            and is_answer
            and 0 < message.id <= self._last_id
            and message.id not in self._waiting
        )

    def close(self) -> None:
        """Note that the transport is gone: nothing may be said any more."""
        self.state = State.CLOSED

    def forget(self, request_id: int) -> None:
        """Stop waiting for an answer; if it still comes, what it means is noted, no more."""
        if request_id in self._waiting:
            self._forgotten.add(request_id)


def _check_choice(
    chosen: Sequence[str], offered: Sequence[str], blame: type[ProtocolError]
) -> None:
    unknown = [name for name in chosen if name not in offered]
    if unknown or len(set(chosen)) != len(chosen):
        raise blame(f"streams that do not exist or come twice: {chosen!r:.200}")


def error_of(message: Error) -> RemoteEnvError:
    """Return the exception that an ``Error`` message reports."""
    return error_from_wire(message.code, message.message, retryable=message.retryable)
