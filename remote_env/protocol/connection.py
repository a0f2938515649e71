"""One end of one connection, without a socket: messages in, frames out, and back.

Both ends drive the same class. It keeps the state, the request ids, what was agreed
(``layouts``) and the last answers; it never waits, and it is told the time. When its
transport is lost, a new one ``adopt``s what it knew, so that a request that had no answer can
be asked again by its id, and is executed once.

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
from remote_env.protocol.keeping import KeptArrays
from remote_env.protocol.messages import (
    REPLIES,
    Bye,
    Cancel,
    Error,
    Heartbeat,
    Hello,
    Message,
    Observation,
    Observe,
    Progress,
    Reset,
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
_UNASKED: Final = (Heartbeat, Bye, Cancel, Observation)
_UNWELCOMED: Final = (State.OPENING, State.GREETED)


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

    def __init__(
        self, role: Role, *, now: float, limits: Limits | None = None, copies: bool = True
    ) -> None:
        """Begin in ``State.OPENING``.

        Args:
            role: Which end this is.
            now: The caller's monotonic clock, in seconds.
            limits: What this end accepts; the default for its role if None.
            copies: On a client, whether arrays of streams that it keeps are its own; they are
                read-only otherwise.
        """
        self.role = role
        self.peer_role = Role.SERVER if role is Role.CLIENT else Role.CLIENT
        self.state = State.OPENING
        self.layouts = Layouts()
        self.last_heard = now
        self._limits = limits or limits_for(role)
        self._peer_limits = limits_for(self.peer_role)
        self._streams = Layout()
        self._copies = copies
        self._kept = KeptArrays()
        self._last_id = 0
        # Requests without an answer yet, by id; the episode channel has at most one.
        self._waiting: dict[int, Message] = {}
        self._forgotten: set[int] = set()
        self._channel_id = 0
        # The last answer in each lane: to the hello, on the episode channel, out of band.
        self._last_answers: dict[str, Repeated] = {}
        # Where the episode channel stood before it was closed: a lost connection goes on there.
        self._stood_at = self.state
        # The lost connection that this one may go on with, until the Welcome has decided.
        self._past: Connection | None = None
        # On a server, the request that will be asked again and that never came; 0 is none.
        self._asked_in_vain = 0

    def next_id(self) -> int:
        """Return an id for the next request of this client."""
        return self._last_id + 1

    def is_waiting_for(self, request_id: int) -> bool:
        """Whether somebody waits for the answer to this request, and it has not come yet."""
        return request_id in self._waiting and request_id not in self._forgotten

    @property
    def unanswered(self) -> int:
        """The id of the request that is to be asked again if the connection is lost; 0 is none.

        It is on the episode channel and has no answer yet. An ``Observe`` is not asked again:
        observing ends with the connection.
        """
        if self._past is not None:
            return self._past.unanswered
        request = self._waiting.get(self._channel_id)
        return 0 if request is None or isinstance(request, (Hello, Observe)) else request.id

    def adopt(self, past: Connection, *, asking: int) -> None:
        """Be ready to go on where a lost connection ended, if the ``Welcome`` says so.

        To be called on a client before its ``Hello``, on a server before its ``Welcome``. State,
        subscription, requests being worked on and the last answer on the episode channel are
        then those of the lost connection. A client no longer waits for what it asked out of
        band, and who observed is in ``State.READY`` and observes anew.

        Args:
            past: This end of the connection that was lost last, also if that was before its
                own ``Welcome``; not to be used any more.
            asking: What ``Hello.asking`` says: on a client ``past.unanswered``, whose frame is
                sent again once the ``Welcome`` has come, byte for byte.

        Raises:
            LocalProtocolError: On a client, if that is not what ``past.unanswered`` says.
        """
        if self.role is Role.SERVER:
            self._asked_in_vain = asking
        elif asking != past.unanswered:
            raise LocalProtocolError(
                f"the lost connection waits for the answer to {past.unanswered}, not to {asking}; "
                "both ends would stand elsewhere"
            )
        else:
            # Ids grow from connection to connection: a stop that is pressed before the Welcome
            # must not look like a request of long ago.
            self._last_id = past._last_id
        lost = past if past._past is None else past._past
        self._past = None if lost._stood_at in _UNWELCOMED else lost

    def send(self, message: Message) -> list[Buffer]:
        """Turn our own message into a frame, and take the step that it means.

        Raises:
            LocalProtocolError: If it may not be said now, or cannot be written; then
                nothing has changed.
        """
        following = self._judge(message, self.role, LocalProtocolError)
        frame = encode(message, self.layouts, limits=self._peer_limits)
        if self.role is Role.SERVER and message.id and type(message) is not Progress:
            lane = self._lane_of(self._waiting[message.id])
            self._last_answers[lane] = Repeated(message.id, frame)
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
        if self.role is Role.SERVER:
            if type(message) in REPLIES and self._was_used(message.id):
                return self._answer_again(message)
        elif self._was_answered_before(message):
            return None
        following = self._judge(message, self.peer_role, RemoteProtocolError)
        if not self._kept.is_idle and isinstance(message, (StepDone, ResetDone, Observation)):
            message = self._kept.fill(message)
        self._advance(message, following)
        if self._forgotten and message.id in self._forgotten:
            if message.id not in self._waiting:
                self._forgotten.discard(message.id)
            return None
        return message

    @staticmethod
    def _lane_of(request: Message) -> str:
        """Return which of the last answers makes room for the answer to this request."""
        if isinstance(request, Hello):
            return "hello"
        return "out of band" if type(request) in OUT_OF_BAND else "channel"

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
            if self._was_used(message.id):
                raise blame(f"request id {message.id} was used before")
            if isinstance(message, Subscribe):
                _check_choice(message.kept, message.streams, blame)
        elif kind in _UNASKED:
            if message.id != 0:
                raise blame(f"{kind.__name__} has the id 0, not {message.id}")
            if isinstance(message, Observation):
                self._check_times(message, blame)
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
        if kind is Progress:
            if not isinstance(request, Reset):
                raise blame(f"a {type(request).__name__} makes no progress")
        elif kind is not Error and REPLIES[type(request)] is not kind:
            raise blame(f"{type(request).__name__} was answered by {kind.__name__}")
        match message:
            case StepDone() | ResetDone():
                self._check_times(message, blame)
            case Welcome():
                if message.resumed and self._past is None:
                    raise blame("a connection was resumed that was not asked to")
                names = [spec.name for spec in message.streams]
                _check_choice(message.subscribed, names, blame)
                _check_choice(names, names, blame)
            case Subscribed():
                _check_choice(message.streams, self._streams.names, blame)
                if not isinstance(request, Subscribe) or request.streams != message.streams:
                    raise blame("the streams that were subscribed are not those asked for")
                self._check_derived(message, blame)

    def _check_derived(self, message: Subscribed, blame: type[ProtocolError]) -> None:
        """Refuse streams that are more than the robot has: nobody allocates more than that."""
        names = tuple(spec.name for spec in message.derived)
        _check_choice(names, message.streams, blame)
        for spec, offered in zip(message.derived, self._streams.subset(names), strict=True):
            if spec.nbytes > offered.nbytes:
                raise blame(
                    f"{spec.name!r} was asked for as {spec.shape} {spec.dtype}, which is more than "
                    f"the robot has: {offered.shape} {offered.dtype}"
                )

    def _check_times(
        self, message: ResetDone | StepDone | Observation, blame: type[ProtocolError]
    ) -> None:
        unchanged = () if isinstance(message, ResetDone) else message.unchanged
        if unchanged and not set(unchanged) <= set(self._kept.indices):
            raise blame(f"arrays {unchanged!r:.200} are left out, which nobody keeps")
        allowed = (0, len(self.layouts.observation.places))
        if len(message.sequences) not in allowed or len(message.stamps) not in allowed:
            raise blame(f"there must be {allowed[1]} sequences and stamps, or none")

    def _advance(self, message: Message, following: State) -> None:
        self._stand(following)
        kind = type(message)
        if kind in REPLIES:
            self._last_id = max(self._last_id, message.id)
            self._waiting[message.id] = message
            if message.id == self._asked_in_vain:
                self._asked_in_vain = 0
            if kind not in OUT_OF_BAND:
                self._channel_id = message.id
            return
        request = None if kind is Progress else self._waiting.pop(message.id, None)
        if isinstance(message, Welcome):
            self._adopt_welcome(message)
        elif isinstance(message, Subscribed):
            observation = self._streams.subset(message.streams).replaced(message.derived)
            self.layouts = replace(self.layouts, observation=observation)
            assert isinstance(request, Subscribe)
            indices = tuple(map(message.streams.index, request.kept))
            self._kept = KeptArrays(indices, copies=self._copies, layout=observation)

    def _adopt_welcome(self, message: Welcome) -> None:
        self._streams = Layout(message.streams)
        self.layouts = Layouts(
            action=Layout(message.action),
            observation=self._streams.subset(message.subscribed),
        )
        if self.role is Role.CLIENT:
            self._peer_limits = replace(self._peer_limits, frame_size=message.max_frame_size)
        past, self._past = self._past, None
        if past is None or not message.resumed:
            self._asked_in_vain = 0
        else:
            self._take_over(past)

    def _take_over(self, past: Connection) -> None:
        observed = past._stood_at in (State.ATTACHING, State.OBSERVING)
        self._stand(State.READY if observed else past._stood_at)
        self.layouts = past.layouts
        self._kept = past._kept
        self._last_id = max(self._last_id, past._last_id)
        self._channel_id = past._channel_id
        # A server may still answer what came out of band; who asked drops that.
        kept = {
            request.id: request
            for request in past._waiting.values()
            if not isinstance(request, Observe)
            and (self.role is Role.SERVER or type(request) not in OUT_OF_BAND)
        }
        self._waiting = {**kept, **self._waiting}
        self._forgotten |= past._forgotten & kept.keys()
        # Not the answer to the hello: this one's own may be asked for again.
        channel = past._last_answers.get("channel")
        if channel is not None and not observed:
            self._last_answers["channel"] = channel
        has_come = self._asked_in_vain <= past._last_id
        if has_come and self._asked_in_vain != past._asked_in_vain:
            self._asked_in_vain = 0  # it is answered already, or being worked on

    def _stand(self, state: State) -> None:
        self.state = state
        if state is not State.CLOSED:
            self._stood_at = state

    def _was_used(self, request_id: int) -> bool:
        is_awaited = request_id == self._asked_in_vain != 0
        return request_id <= self._last_id and not is_awaited

    def _answer_again(self, message: Message) -> Repeated | None:
        answer = self._last_answers.get(self._lane_of(message))
        if answer is not None and answer.id == message.id:
            return answer
        if message.id in self._waiting:
            return None
        raise RemoteProtocolError(f"request id {message.id} was used before")

    def _was_answered_before(self, message: Message) -> bool:
        """Whether this answers a request of ours, a client, that already has its answer."""
        is_answer = type(message) in _ANSWERS or type(message) is Error
        return is_answer and 0 < message.id <= self._last_id and message.id not in self._waiting

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
