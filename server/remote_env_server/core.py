"""What the clients of one robot share, as rules without I/O: ``handle(now, event) -> effects``.

Who holds the lease, whether the emergency stop is latched, whose connection was lost and may
be resumed, which reset may be cancelled, and which step comes too late. No thread, no lock, no
clock: ``session.py`` carries the effects out, one event at a time, and the tests drive a
hundred thousand random events by hand.

The rules:

* One holder of the lease at a time. A request of anybody else is refused with the holder's name.
* A connection that is lost without a goodbye leaves its client detached. The robot holds, and
  for ``RESUME_WITHIN`` the client may resume: with its lease, its episode and its request ids.
  Meanwhile its lease goes stale like that of everybody who is silent.
* In realtime an action that was under way while the connection was silent or lost is executed
  only within its lifetime. A learner that merely thought for long, with heartbeats, is not late.
* An emergency stop latches, whoever asks and whatever else is under way. Only an explicit
  release ends it, and nothing moves by that.
"""

from __future__ import annotations

import hmac
import math
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from remote_env.errors import (
    ActionRefusedError,
    EmergencyStopError,
    LeaseError,
    RemoteEnvError,
)
from remote_env.protocol import EmergencyStopped, EndReason, Message, Released, StopReleased
from remote_env.protocol.records import record
from remote_env_server.lease import STALE_AFTER, Holder, Lease
from remote_env_server.requests import ResetRequest, StepRequest

__all__ = [
    "RESUME_WITHIN",
    "SILENCE",
    "Answered",
    "CancelAsked",
    "CancelReset",
    "Drop",
    "Effect",
    "Event",
    "Heard",
    "Hold",
    "Joined",
    "Left",
    "PressedStop",
    "Refuse",
    "ReleaseAsked",
    "ReleaseRobot",
    "ResetAsked",
    "Resumed",
    "Send",
    "SessionCore",
    "StepAsked",
    "StopAsked",
    "StopReleaseAsked",
    "StopRobot",
    "Submit",
    "stopped_by",
]

# How long a lost connection may be resumed. Nothing moves meanwhile; what it costs is memory.
RESUME_WITHIN: Final = 30.0
# Two missed heartbeats: what arrives after such a gap may have been under way all the time.
SILENCE: Final = 1.0


# Events


@dataclass(frozen=True, slots=True)
class Joined:
    """A client has said hello."""

    peer: int
    token: str
    process: str
    owner: str


@dataclass(frozen=True, slots=True)
class Resumed:
    """A client is back on a new connection."""

    peer: int


@record(frozen=True, slots=True)
class Heard:
    """A client gave a sign of life."""

    peer: int


@dataclass(frozen=True, slots=True)
class Left:
    """A connection ended; ``for_good`` if its client said so."""

    peer: int
    for_good: bool


@dataclass(frozen=True, slots=True)
class ResetAsked:
    """A client asks for a reset."""

    peer: int
    id: int
    request: ResetRequest
    take: bool


@record(frozen=True, slots=True)
class StepAsked:
    """A client asks for a step.

    Attributes:
        seen_at: When the observation was taken that this action answers; None if it was not
            the last one that this client got.
        is_again: Whether it is asked again after a lost connection.
    """

    peer: int
    id: int
    request: StepRequest
    seen_at: float | None
    is_again: bool


@record(frozen=True, slots=True)
class Answered:
    """The control thread is done with a request."""

    peer: int
    id: int


@dataclass(frozen=True, slots=True)
class ReleaseAsked:
    """A client returns the lease."""

    peer: int
    id: int


@dataclass(frozen=True, slots=True)
class CancelAsked:
    """A client gives up its reset."""

    peer: int
    id: int


@dataclass(frozen=True, slots=True)
class StopAsked:
    """Somebody presses the emergency stop."""

    peer: int
    id: int
    reason: str


@dataclass(frozen=True, slots=True)
class StopReleaseAsked:
    """Somebody releases the emergency stop."""

    peer: int
    id: int


Event: TypeAlias = (
    Joined | Resumed | Heard | Left | ResetAsked | StepAsked | Answered
    | ReleaseAsked | CancelAsked | StopAsked | StopReleaseAsked
)  # fmt: skip


# Effects, to be carried out in their order


@record(frozen=True, slots=True)
class Submit:
    """Hand a request to the control thread."""

    request: ResetRequest | StepRequest


@dataclass(frozen=True, slots=True)
class Send:
    """Answer a client."""

    peer: int
    message: Message


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer a client's request with an error."""

    peer: int
    id: int
    error: RemoteEnvError


@dataclass(frozen=True, slots=True)
class Hold:
    """Let the robot hold; the episode ends if there is a reason."""

    reason: EndReason | None


@dataclass(frozen=True, slots=True)
class CancelReset:
    """Let the robot's code know that nobody wants this reset any more."""

    request: ResetRequest


@dataclass(frozen=True, slots=True)
class StopRobot:
    """Stop the robot ahead of everything else, and remember it across restarts."""

    pressed: PressedStop


@dataclass(frozen=True, slots=True)
class ReleaseRobot:
    """The emergency stop is over."""


@dataclass(frozen=True, slots=True)
class Drop:
    """Forget a client: it cannot resume any more."""

    peer: int


Effect: TypeAlias = (
    Submit | Send | Refuse | Hold | CancelReset | StopRobot | ReleaseRobot | Drop
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class PressedStop:
    """Who pressed the emergency stop, and why."""

    by: str
    reason: str

    def __str__(self) -> str:
        return f"{self.by}: {self.reason}" if self.reason else self.by


@dataclass(slots=True)
class _Client:
    """What is known of one client."""

    holder: Holder
    token: str
    heard_at: float
    # When frames came again after a silence; what comes right after it may be old.
    silence_ended_at: float = -math.inf
    answered_at: float = -math.inf
    detached_at: float | None = None
    resets: dict[int, ResetRequest] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)


class SessionCore:
    """The rules; see the module.

    Attributes:
        lease: Who commands.
        pressed: Who pressed the emergency stop, or None.
    """

    def __init__(
        self, *, is_realtime: bool, action_lifetime: float, pressed: PressedStop | None = None
    ) -> None:
        """Begin without clients.

        Args:
            is_realtime: Whether actions expire.
            action_lifetime: For how long an action counts, in seconds.
            pressed: An emergency stop that outlived the server before this one.
        """
        self.lease = Lease()
        self.pressed = pressed
        self._is_realtime = is_realtime
        self._action_lifetime = action_lifetime
        self._clients: dict[int, _Client] = {}
        self._are_detached = False  # some of them, perhaps

    def find(self, now: float, token: str, process: str) -> int | None:
        """Return the client that may resume with this token."""
        for peer, client in self._clients.items():
            is_its_own = (
                hmac.compare_digest(client.token.encode(), token.encode())
                and client.holder.process == process
            )
            if is_its_own and not _is_gone(client, now):
                return peer
        return None

    def has_lease(self, peer: int) -> bool:
        """Whether a client holds the lease."""
        return self.lease.holder is not None and self.lease.holder.peer == peer

    def handle(self, now: float, event: Event) -> list[Effect]:
        """Take one event; return what is to be done about it, in order.

        Args:
            now: A monotonic clock, in seconds; never less than before.
            event: From a client that has joined and was not dropped, or ``Joined``. Events of
                others have no effect.
        """
        effects = self.expire(now) if self._are_detached else []
        if isinstance(event, Joined):
            holder = Holder(event.peer, event.process, event.owner)
            self._clients[event.peer] = _Client(holder, event.token, now)
            return effects
        client = self._clients.get(event.peer)
        if client is None:
            return effects
        if isinstance(event, Answered):
            client.answered_at = now
            client.resets.pop(event.id, None)
            client.steps.discard(event.id)
            return effects
        if not isinstance(event, Left):
            self._note_heard(client, now)
        match event:
            case StepAsked():  # first, for it comes most often
                effects += self._step(now, client, event)
            case Resumed():
                client.detached_at = None
            case Left():
                effects += self._leave(now, client, for_good=event.for_good)
            case ResetAsked():
                effects += self._reset(now, client, event)
            case ReleaseAsked():
                effects += self._return_lease(client, EndReason.OPERATOR)
                effects += [CancelReset(reset) for reset in client.resets.values()]
                effects.append(Send(event.peer, Released(event.id)))
            case CancelAsked():
                if event.id in client.resets:
                    effects.append(CancelReset(client.resets[event.id]))
            case StopAsked():
                effects += self._stop(client, event)
            case StopReleaseAsked():
                effects += self._release_stop(event)
            # Heard is no more than a sign of life.
        return effects

    def is_stale(self, peer: int, now: float) -> bool:
        """Whether a client gave no sign of life for so long that its lease may be taken.

        Who waits for our answer is not silent, and has its time from the answer on; who lost
        its connection waits for nothing.
        """
        client = self._clients.get(peer)
        return client is None or now - _alive_at(client, now) > STALE_AFTER

    def _note_heard(self, client: _Client, now: float) -> None:
        if now - _alive_at(client, now) > SILENCE:
            client.silence_ended_at = now
        client.heard_at = now

    def expire(self, now: float) -> list[Effect]:
        """Forget who did not resume in time; return what is to be done about it, in order."""
        gone = [client for client in self._clients.values() if _is_gone(client, now)]
        self._are_detached = any(c.detached_at is not None for c in self._clients.values())
        effects: list[Effect] = []
        for client in gone:
            effects += self._forget(client)
        return effects

    def _leave(self, now: float, client: _Client, *, for_good: bool) -> list[Effect]:
        if for_good or not self.has_lease(client.holder.peer):
            return self._forget(client)
        # Who waited for the robot, a minute perhaps, was not silent until now.
        client.heard_at = _alive_at(client, now)
        client.detached_at = now
        self._are_detached = True
        return [Hold(None)] if self._is_realtime else []

    def _forget(self, client: _Client) -> list[Effect]:
        effects = self._return_lease(client, EndReason.LINK_LOST)
        effects += [CancelReset(reset) for reset in client.resets.values()]
        del self._clients[client.holder.peer]
        return [*effects, Drop(client.holder.peer)]

    def _return_lease(self, client: _Client, reason: EndReason) -> list[Effect]:
        return [Hold(reason)] if self.lease.release(client.holder.peer) else []

    def _reset(self, now: float, client: _Client, event: ResetAsked) -> list[Effect]:
        if self.pressed is not None:
            return [Refuse(event.peer, event.id, stopped_by(self.pressed))]
        present = self.lease.holder
        is_stale = present is not None and self.is_stale(present.peer, now)
        try:
            lost = self.lease.acquire(client.holder, take=event.take, is_stale=is_stale)
        except LeaseError as error:
            return [Refuse(event.peer, event.id, error)]
        effects: list[Effect] = []
        loser = self._clients.get(lost.peer) if lost is not None else None
        if loser is not None:
            effects += [CancelReset(reset) for reset in loser.resets.values()]
            if loser.detached_at is not None:
                effects += self._forget(loser)
        client.resets[event.id] = event.request
        return [*effects, Submit(event.request)]

    def _step(self, now: float, client: _Client, event: StepAsked) -> list[Effect]:
        try:
            if self.has_lease(event.peer):
                self._check_in_time(now, client, event)
            self.lease.use(client.holder)
        except (LeaseError, ActionRefusedError) as error:
            return [Refuse(event.peer, event.id, error)]
        client.steps.add(event.id)
        return [Submit(event.request)]

    def _check_in_time(self, now: float, client: _Client, event: StepAsked) -> None:
        """Refuse an action that may have been under way for longer than it lives."""
        if not self._is_realtime:
            return
        age = math.inf if event.seen_at is None else now - event.seen_at
        was_silent = now - client.silence_ended_at <= self._action_lifetime
        if age > self._action_lifetime and (event.is_again or was_silent):
            # One request at a time: the next one is sent after this answer, hence not old.
            client.silence_ended_at = -math.inf
            raise ActionRefusedError(
                f"the action answers an observation that is {age:.3g} s old, and the connection "
                f"was silent or lost meanwhile; actions live for {self._action_lifetime:.3g} s. "
                "The robot did not move",
                code="robot.action.expired",
                retryable=True,
            )

    def _stop(self, client: _Client, event: StopAsked) -> list[Effect]:
        if self.pressed is None:
            self.pressed = PressedStop(client.holder.owner, event.reason)
        # Each time: who presses again sees that it still moves.
        effects: list[Effect] = [StopRobot(self.pressed)]
        for other in self._clients.values():
            effects += [CancelReset(reset) for reset in other.resets.values()]
        return [*effects, Send(event.peer, EmergencyStopped(event.id))]

    def _release_stop(self, event: StopReleaseAsked) -> list[Effect]:
        was_pressed, self.pressed = self.pressed is not None, None
        effects: list[Effect] = [ReleaseRobot()] if was_pressed else []
        return [*effects, Send(event.peer, StopReleased(event.id, was_pressed=was_pressed))]


def _alive_at(client: _Client, now: float) -> float:
    if client.detached_at is not None:
        return client.heard_at
    if client.resets or client.steps:
        return now
    return max(client.heard_at, client.answered_at)


def _is_gone(client: _Client, now: float) -> bool:
    return client.detached_at is not None and now - client.detached_at > RESUME_WITHIN


def stopped_by(pressed: object) -> EmergencyStopError:
    """Return what somebody is told who commands while the emergency stop is pressed."""
    return EmergencyStopError(
        f"the emergency stop is pressed ({pressed}). Look at the robot; then release it with "
        "'remote-env release URL' and call env.reset()",
        retryable=True,
    )
