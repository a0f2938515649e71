"""One connection to a robot: what its client may ask, and what it is answered.

``on_*`` are called by a transport's network thread, which only parses, checks and hands over;
``finish_*`` by the control thread, with what came of a request. One lock guards the protocol
connection and is held for decoding or encoding one frame.
"""

from __future__ import annotations

import logging
import math
import threading
import time
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from remote_env.errors import (
    AccessDeniedError,
    ConfigurationError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    RobotFaultError,
    UnknownOptionError,
)
from remote_env.protocol import (
    Buffer,
    Bye,
    Connection,
    Error,
    Heartbeat,
    Hello,
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
    Value,
    drop_unsupported,
)
from remote_env.spec import StreamKind
from remote_env.transport import FrameSink, join
from remote_env_server.lease import STALE_AFTER, Holder
from remote_env_server.requests import (
    Captured,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
)

if TYPE_CHECKING:
    from remote_env_server.session import RobotSession

__all__ = ["Peer"]

logger = logging.getLogger(__name__)


class Peer:
    """The server's end of one connection: a ``FrameHandler`` for its transport.

    Attributes:
        number: Unique to the connection.
        holder: Who it is, for the lease.
    """

    def __init__(self, session: RobotSession, sink: FrameSink, *, number: int) -> None:
        self.number = number
        self.holder = Holder(number, "", sink.peer_name)
        self._connection = Connection(Role.SERVER, now=time.monotonic(), limits=session.limits)
        self._session = session
        self._sink = sink
        self._lock = threading.Lock()
        self._streams: tuple[str, ...] = ()
        self._has_stamps = False
        self._may_control = False
        self._was_refused = False
        self._answered_at = -math.inf

    def is_stale(self, now: float) -> bool:
        """Whether there was no sign of life for so long that the lease may be taken.

        Who waits for our answer is not silent, and has its time from the answer on.
        """
        return (
            not self._connection.is_busy
            and self._connection.is_silent(now, longer_than=STALE_AFTER)
            and now - self._answered_at > STALE_AFTER
        )

    # From the transport

    def on_frame(self, frame: Buffer) -> None:
        """Take the next frame."""
        try:
            with self._lock:
                if self._connection.state is State.CLOSED:
                    return  # both ends said goodbye at once, or what came after an error
                message = self._connection.receive(frame, time.monotonic())
        except RemoteProtocolError as error:
            logger.warning("%s broke the protocol: %s", self._sink.peer_name, error)
            self._send(Error(id=0, code=error.code, message=str(error), retryable=False))
            self._sink.close(1002, str(error))
            return
        if isinstance(message, Repeated):
            self._sink.send(message.frame)
        elif message is not None:
            self._dispatch(message)

    def on_close(self, reason: str) -> None:
        """Forget the connection."""
        logger.info("%s left: %s", self.holder.owner, reason)
        with self._lock:
            self._connection.close()
        self._session.forget(self)

    def say_goodbye(self, reason: str) -> None:
        """Tell the peer that we close on purpose."""
        self._send(Bye(reason=reason))

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
        except Exception as error:  # a bug of ours, or of a robot's declarations
            logger.exception("a %s could not be answered", type(message).__name__)
            self._send_error(message.id, RobotFaultError(f"the robot's server failed: {error!r}"))

    # What a client may ask

    def _on_hello(self, message: Hello) -> None:
        self._session.check_token(message.token)
        owner = message.owner or self._sink.peer_name
        self.holder = Holder(self.number, message.process, owner)
        self._may_control = message.role == "control"
        logger.info("%s connected from %s with %s", owner, self._sink.peer_name, message.client)
        welcome = self._session.welcome
        self._send(replace(welcome, id=message.id, session=uuid.uuid4().hex))
        self._choose(welcome.subscribed)

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
        self._streams = streams
        # The leaves of a served environment's observation have no clock of their own.
        self._has_stamps = any(
            spec.stream(name).kind is not StreamKind.OBSERVATION for name in streams
        )

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
            streams=self._streams,
            is_wanted=lambda: self._session.has_lease(self),
            finish=lambda result: self.finish_reset(message.id, result),
        )
        self._session.begin(self, request, take=message.take)

    def _on_step(self, message: Step) -> None:
        self._check_may_control()
        self._session.check_lease(self)
        guarded = self._session.guard.check(message.action)
        executed = guarded.value if guarded.was_clipped else None
        self._session.control.submit(
            StepRequest(
                episode=message.episode,
                step=message.step,
                action=guarded.value,
                finish=lambda result: self.finish_step(message, result, executed=executed),
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
        done = ResetDone(
            id=message_id,
            episode=result.episode,
            tick=captured.tick,
            time=captured.time,
            sequences=sequences,
            stamps=stamps,
            info=result.info,
            remote=captured.remote,
            observation=tuple(captured.fields[name].array for name in self._streams),
        )
        self._send_outcome(done, result.latency)

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
        done = StepDone(
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
            observation=tuple(captured.fields[name].array for name in self._streams),
        )
        self._send_outcome(done, result.latency)

    def _times_of(self, captured: Captured) -> tuple[tuple[int, ...], tuple[float, ...]]:
        if not self._has_stamps:
            return (), ()
        fields = [captured.fields[name] for name in self._streams]
        return tuple(f.sequence for f in fields), tuple(float(f.stamp) for f in fields)

    def _send_outcome(self, message: ResetDone | StepDone, latency: float) -> None:
        """Send an answer, without what the wire cannot carry.

        Raises:
            LocalProtocolError: If there is something in it that cannot be left out.
        """
        try:
            self._send(message, latency=latency)
            return
        except LocalProtocolError as error:
            info, dropped = drop_unsupported(message.info)
            if not dropped:
                info, dropped = {}, {"": f"all of it; {error}"}
        self._session.name_dropped_once(dropped)
        self._send(replace(message, info=info), latency=latency)

    def _send_error(self, message_id: int, error: RemoteEnvError) -> None:
        if isinstance(error, LeaseError) and not self._was_refused:
            self._was_refused = True  # it tries again for seconds: one line is enough
            logger.info("%s was refused: %s", self.holder.owner, error)
        self._send(
            Error(
                id=message_id,
                code=error.code,
                # An exception may quote a path that is no Unicode.
                message=str(error)[:2000].encode("utf-8", "replace").decode(),
                retryable=error.retryable,
            )
        )

    def _send(self, message: Message, *, latency: float = 0.0) -> None:
        """Encode and hand over; silent if the connection is gone.

        Args:
            message: What to say.
            latency: Seconds by which a timer holds the frame back: simulated latency.
        """
        with self._lock:
            if self._connection.state is State.CLOSED:
                return
            self._answered_at = time.monotonic()
            frame = self._connection.send(message)
            if latency <= 0:
                self._sink.send(frame)
                return
        # A copy: the robot may write to its arrays before the timer fires.
        timer = threading.Timer(latency, self._sink.send, ([join(frame)],))
        timer.name = "remote-env simulated latency"
        timer.daemon = True
        timer.start()
