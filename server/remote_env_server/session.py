"""What connections share (lease, subscriptions), and what each of them may do.

Everything here is called by a transport's network thread, except ``_Peer.finish_*``, which
the control thread calls with what came of a request. Nothing here blocks. Two locks: each
peer's guards its protocol connection and is held for encoding and handing over a frame; the
session's guards the lease and the list of peers. The session's lock is never taken while a
peer's is held.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import math
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from remote_env.errors import (
    AccessDeniedError,
    ConfigurationError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    UnknownOptionError,
)
from remote_env.protocol import (
    Buffer,
    Bye,
    Connection,
    Error,
    Heartbeat,
    Hello,
    Limits,
    Message,
    Ping,
    Pong,
    Release,
    Released,
    Repeated,
    Reset,
    ResetDone,
    Role,
    State,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    UnsupportedValueError,
    Value,
    drop_unsupported,
)
from remote_env.spec import RobotSpec, StreamKind
from remote_env.transport import FrameSink
from remote_env_server.control import ControlLoop
from remote_env_server.lease import STALE_AFTER, Holder, Lease
from remote_env_server.requests import (
    Captured,
    HoldRequest,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
)
from remote_env_server.safety import ActionGuard

__all__ = ["RobotSession"]

logger = logging.getLogger(__name__)

_CONNECTION_NUMBERS = itertools.count(1)


class RobotSession:
    """Everything about one robot that outlives a connection."""

    def __init__(
        self, control: ControlLoop, *, limits: Limits, token: str | None, version: str
    ) -> None:
        """Prepare to accept connections.

        Args:
            control: Started.
            limits: Of frames that come in.
            token: What a client must show, or None.
            version: Of this program, for logs.
        """
        self.control = control
        self.spec: RobotSpec = control.spec
        self.limits = limits
        self.version = version
        self.guard = ActionGuard(self.spec.action_space, self.spec.out_of_bounds)
        self._token = token
        self._lease = Lease()
        self._peers: dict[int, _Peer] = {}
        self._lock = threading.Lock()
        self._named_dropped: set[str] = set()

    def accept(self, sink: FrameSink) -> _Peer:
        """Take a new connection."""
        peer = _Peer(self, sink, number=next(_CONNECTION_NUMBERS))
        with self._lock:
            self._peers[peer.number] = peer
        return peer

    def check_token(self, token: str | None) -> None:
        """Refuse whoever does not know the token; takes the same time for every wrong one.

        Raises:
            AccessDeniedError: Saying where a token is given.
        """
        if self._token is None:
            return
        if token is None or not hmac.compare_digest(token.encode(), self._token.encode()):
            problem = "needs a token" if token is None else "does not accept this token"
            raise AccessDeniedError(
                f"this robot {problem}; pass token=... to gym.make, or --token-file on the "
                "command line",
                code="robot.access.token",
            )

    def begin(self, peer: _Peer, request: ResetRequest, *, take: bool) -> None:
        """Give the lease to a peer, and its reset to the control thread.

        Both under one lock, as in ``release_lease``: the mailbox then has requests in the
        order in which the lease changed hands, and no late one ends a newer episode.

        Raises:
            LeaseError: If somebody else holds it.
        """
        with self._lock:
            present = self._lease.holder
            other = self._peers.get(present.connection) if present else None
            is_stale = other is None or other.is_stale(time.monotonic())
            lost = self._lease.acquire(peer.holder, take=take, is_stale=is_stale)
            self.control.submit(request)
        if lost is not None:
            logger.info("%s took the robot over from %s", peer.holder.owner, lost.owner)

    def release_lease(self, peer: _Peer) -> None:
        """Take the lease back from a peer, if it has it; the robot then holds."""
        with self._lock:
            if self._lease.release(peer.number):
                self.control.submit(HoldRequest())

    def check_lease(self, peer: _Peer) -> None:
        """Refuse whoever does not hold the lease.

        Raises:
            LeaseError: Saying who does.
        """
        with self._lock:
            self._lease.check(peer.number)

    def forget(self, peer: _Peer) -> None:
        """A connection is gone."""
        self.release_lease(peer)
        with self._lock:
            self._peers.pop(peer.number, None)
        self.refresh_subscriptions()

    def refresh_subscriptions(self) -> None:
        """Tell the robot which streams somebody wants."""
        with self._lock:
            wanted = frozenset(name for peer in self._peers.values() for name in peer.streams)
        self.control.set_subscribed(wanted)

    def say_goodbye(self, reason: str) -> None:
        """Tell all peers that the server stops."""
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            peer.say_goodbye(reason)

    def name_dropped_once(self, dropped: Mapping[str, str]) -> None:
        """Warn about ``info`` entries that the wire cannot carry, each once."""
        for key, reason in dropped.items():
            if key not in self._named_dropped:
                self._named_dropped.add(key)
                logger.warning("info[%r] is left out: %s", key, reason)


class _Peer:
    """One connection: a ``FrameHandler`` for its transport."""

    def __init__(self, session: RobotSession, sink: FrameSink, *, number: int) -> None:
        self.number = number
        self.connection = Connection(Role.SERVER, now=time.monotonic(), limits=session.limits)
        self.streams: tuple[str, ...] = ()
        self.holder = Holder(number, "", sink.peer_name)
        self._session = session
        self._sink = sink
        self._may_control = False
        self._has_stamps = False
        self._answered_at = -math.inf
        self._lock = threading.Lock()

    def is_stale(self, now: float) -> bool:
        """Whether there was no sign of life for so long that the lease may be taken.

        Who waits for our answer is not silent, and has its time from the answer on.
        """
        return (
            not self.connection.is_busy
            and self.connection.is_silent(now, longer_than=STALE_AFTER)
            and now - self._answered_at > STALE_AFTER
        )

    # From the transport

    def on_frame(self, frame: Buffer) -> None:
        """Take the next frame."""
        try:
            with self._lock:
                if self.connection.state is State.CLOSED:
                    return  # both ends said goodbye at once, or what came after an error
                message = self.connection.receive(frame, time.monotonic())
        except RemoteProtocolError as error:
            self._end(error)
            return
        if isinstance(message, Repeated):
            self._sink.send(message.frame)
        elif message is not None:
            self._dispatch(message)

    def on_close(self, reason: str) -> None:
        """Forget the connection."""
        logger.info("%s disconnected: %s", self.holder.owner, reason)
        with self._lock:
            self.connection.close()
        self._session.forget(self)

    def say_goodbye(self, reason: str) -> None:
        """Tell the peer that we close on purpose."""
        self._send(Bye(reason=reason))

    def _end(self, error: RemoteProtocolError) -> None:
        logger.warning("%s broke the protocol: %s", self._sink.peer_name, error)
        self._send(Error(id=0, code=error.code, message=str(error), retryable=False))
        self._sink.close(1002, str(error))

    def _dispatch(self, message: Message) -> None:
        try:
            match message:
                case Hello():
                    self._on_hello(message)
                case Subscribe():
                    self._on_subscribe(message)
                case Reset():
                    self._on_reset(message)
                case Step():
                    self._on_step(message)
                case Release():
                    self._session.release_lease(self)
                    self._send(Released(id=message.id))
                case Ping():
                    self._send(Pong(id=message.id, time=time.monotonic()))
                case Bye():
                    self._sink.close(1000, "bye")
                case Heartbeat():
                    pass  # that it came is all that it says; the connection noted when
        except RemoteEnvError as error:
            self._send_error(message.id, error)
            if isinstance(message, Hello):
                self._sink.close(1008, str(error))

    # What a client may ask

    def _on_hello(self, message: Hello) -> None:
        self._session.check_token(message.token)
        self.holder = Holder(self.number, message.process, message.owner or self._sink.peer_name)
        self._may_control = message.role == "control"
        spec = self._session.spec
        logger.info(
            "%s (%s) connected from %s", message.owner, message.client, self._sink.peer_name
        )
        self._send(
            spec.to_welcome(
                message_id=message.id,
                session=uuid.uuid4().hex,
                server=self._session.version,
                frame_size=self._session.limits.frame_size,
            )
        )
        self._choose(spec.observed)

    def _on_subscribe(self, message: Subscribe) -> None:
        offered = {stream.name for stream in self._session.spec.streams}
        unknown = [name for name in message.streams if name not in offered]
        if unknown or len(set(message.streams)) != len(message.streams):
            raise ConfigurationError(
                f"streams that do not exist or come twice: {unknown or list(message.streams)}; "
                f"this robot offers {sorted(offered)}"
            )
        self._send(Subscribed(id=message.id, streams=message.streams))
        self._choose(message.streams)

    def _choose(self, streams: tuple[str, ...]) -> None:
        spec = self._session.spec
        self.streams = streams
        # The leaves of a served environment's observation have no clock of their own.
        self._has_stamps = any(
            spec.stream(name).kind is not StreamKind.OBSERVATION for name in streams
        )
        self._session.refresh_subscriptions()

    def _on_reset(self, message: Reset) -> None:
        self._check_may_control()
        known = self._session.spec.reset_options
        unknown = sorted((message.options or {}).keys() - known.keys()) if known is not None else []
        if unknown:
            raise UnknownOptionError(
                f"reset option {unknown[0]!r} is not known; this robot knows "
                f"{', '.join(map(repr, known or {})) or 'none'}"
            )
        request = ResetRequest(
            seed=message.seed,
            options=message.options,
            streams=self.streams,
            finish=lambda result: self.finish_reset(message.id, result),
        )
        self._session.begin(self, request, take=message.take)

    def _on_step(self, message: Step) -> None:
        self._check_may_control()
        self._session.check_lease(self)
        guarded = self._session.guard.check(message.action)
        self._session.control.submit(
            StepRequest(
                episode=message.episode,
                step=message.step,
                action=guarded.value,
                streams=self.streams,
                finish=lambda result: self.finish_step(
                    message, result, executed=guarded.value if guarded.was_clipped else None
                ),
            )
        )

    def _check_may_control(self) -> None:
        if not self._may_control:
            raise AccessDeniedError(
                "this connection only observes; connect with role='control' to command the robot",
                code="robot.access.role",
            )

    # From the control thread

    def finish_reset(self, message_id: int, result: ResetResult | RemoteEnvError) -> None:
        """Send what came of a reset."""
        if isinstance(result, RemoteEnvError):
            self._send_error(message_id, result)
            return
        captured = result.captured
        sequences, stamps = self._times_of(captured)
        self._send_outcome(
            ResetDone(
                id=message_id,
                episode=result.episode,
                tick=captured.tick,
                time=captured.time,
                sequences=sequences,
                stamps=stamps,
                info=result.info,
                remote=captured.remote,
                observation=tuple(captured.fields[name].array for name in self.streams),
            )
        )

    def finish_step(
        self, message: Step, result: StepResult | RemoteEnvError, *, executed: Any
    ) -> None:
        """Send what came of a step.

        Args:
            message: Which asked for it.
            result: What came of it.
            executed: The action, if the guard changed it; else None.
        """
        if isinstance(result, RemoteEnvError):
            self._send_error(message.id, result)
            return
        captured = result.captured
        sequences, stamps = self._times_of(captured)
        remote: dict[str, Value] = captured.remote
        if executed is not None:
            remote["action_executed"] = executed
        self._send_outcome(
            StepDone(
                id=message.id,
                episode=message.episode,
                step=message.step,
                tick=captured.tick,
                time=captured.time,
                reward=result.outcome.reward,
                terminated=result.terminated,
                truncated=result.truncated,
                end_reason=result.end_reason,
                sequences=sequences,
                stamps=stamps,
                info=dict(result.outcome.info),
                remote=remote,
                observation=tuple(captured.fields[name].array for name in self.streams),
            )
        )

    def _times_of(self, captured: Captured) -> tuple[tuple[int, ...], tuple[float, ...]]:
        if not self._has_stamps:
            return (), ()
        fields = [captured.fields[name] for name in self.streams]
        return tuple(f.sequence for f in fields), tuple(f.stamp for f in fields)

    def _send_outcome(self, message: ResetDone | StepDone) -> None:
        try:
            self._send(message)
        except UnsupportedValueError:
            info, dropped = drop_unsupported(message.info)
            self._session.name_dropped_once(dropped)
            self._send_or_say_why(replace(message, info=info))
        except LocalProtocolError as error:
            self._send_error(message.id, error)

    def _send_or_say_why(self, message: ResetDone | StepDone) -> None:
        try:
            self._send(message)
        except LocalProtocolError as error:
            self._send_error(message.id, error)

    def _send_error(self, message_id: int, error: RemoteEnvError) -> None:
        if isinstance(error, LeaseError):
            logger.info("%s was refused: %s", self.holder.owner, error)
        self._send(
            Error(
                id=message_id,
                code=error.code,
                message=str(error)[:2000],
                retryable=error.retryable,
            )
        )

    def _send(self, message: Message) -> None:
        """Encode and hand over; silent if the connection is gone."""
        with self._lock:
            if self.connection.state is State.CLOSED:
                return
            self._answered_at = time.monotonic()
            self._sink.send(self.connection.send(message))
