"""A client as the robot's side sees it: what it may ask, and what it is answered.

A ``Visit`` (``visit.py``) is one connection; it becomes a ``Peer`` by its hello. A peer outlives
its connection: when that is lost, another one may resume it, with its subscription, its request
ids and the answer that was lost. ``on_*`` are called by a transport's network thread, which
only parses, checks and hands over; ``finish_*`` by the control thread, with what came of a
request. One lock guards the protocol connection and is held for decoding or encoding one frame.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from remote_env.agreeing import read_requests
from remote_env.errors import (
    AccessDeniedError,
    ActionRefusedError,
    ConfigurationError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    RemoteProtocolError,
    RobotFaultError,
)
from remote_env.protocol import (
    Buffer,
    Bye,
    Cancel,
    Connection,
    EmergencyStop,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Message,
    Observation,
    Observe,
    Ping,
    Pong,
    Probe,
    Probed,
    Progress,
    Release,
    ReleaseStop,
    Repeated,
    Reset,
    ResetDone,
    State,
    Statistics,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    drop_unsupported,
)
from remote_env.requesting import derived_arrays
from remote_env.transport import FrameSink, join
from remote_env_server.answers import EpisodeAnswers
from remote_env_server.core import (
    Answered,
    CancelAsked,
    Heard,
    ReleaseAsked,
    ResetAsked,
    StepAsked,
    StopAsked,
    StopReleaseAsked,
)
from remote_env_server.leaving_out import LeftOut
from remote_env_server.requests import (
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
    Watch,
)
from remote_env_server.resetting import check_options
from remote_env_server.views import View
from remote_env_server.visit import refuse_noise

if TYPE_CHECKING:
    from remote_env_server.session import RobotSession

__all__ = ["Peer"]

logger = logging.getLogger(__name__)

# More than a person can read; a robot may tell its progress in each turn of a servo loop.
_PROGRESS_PERIOD: Final = 0.1
# Enough to measure a bandwidth, and not enough to keep the network thread busy.
_LARGEST_PROBE: Final = 262144


class Peer:
    """One client, on its present connection if it has one.

    Attributes:
        number: Unique to the client.
        owner: For people.
    """

    def __init__(
        self, session: RobotSession, hello: Hello, connection: Connection, sink: FrameSink, *,
        number: int,
    ) -> None:  # fmt: skip
        self.number = number
        self.owner = hello.owner or sink.peer_name
        self._connection = connection
        self._session = session
        self._sink: FrameSink | None = sink
        self._lock = threading.Lock()
        self._watch = Watch.of(session.welcome.subscribed)
        self._may_control = hello.role == "control"
        self._was_refused = False
        self._said_goodbye = False
        self._asked_again = 0
        # The tick of the observation that this client got last, and when it was written.
        self._seen = (-1, -math.inf)
        self._answers = EpisodeAnswers(session.spec)
        self._shown = LeftOut()  # to an observer
        self._progress_at = -math.inf

    @property
    def may_control(self) -> bool:
        """Whether it may command the robot."""
        return self._may_control

    @property
    def view(self) -> View:
        """What it is subscribed to, and how."""
        return self._watch.view

    def welcome(self, hello: Hello, token: str) -> None:
        """Answer the hello."""
        self._send(replace(self._session.welcome, id=hello.id, session=token))

    def resume(self, hello: Hello, token: str, connection: Connection, sink: FrameSink) -> None:
        """Go on with another connection; the one before, if it still stands, is closed."""
        with self._lock:
            connection.adopt(self._connection, asking=hello.asking)
            welcome = replace(self._session.welcome, id=hello.id, session=token, resumed=True)
            sink.send(connection.send(welcome))
            self._connection = connection
            before, self._sink = self._sink, sink
            self._asked_again = hello.asking
        if before is not None:
            before.close(1000, "resumed by another connection")

    # From the transport

    def on_frame(self, frame: Buffer, sink: FrameSink) -> None:
        """Take the next frame of a connection."""
        now = time.monotonic()
        try:
            with self._lock:
                if sink is not self._sink or self._connection.state is State.CLOSED:
                    return  # resumed elsewhere; or both said goodbye; or what follows an error
                message = self._connection.receive(frame, now)
        except RemoteProtocolError as error:
            refuse_noise(sink, error)
            self._let_go(sink)
            return
        if not isinstance(message, Step):
            # Also what is refused below, and what comes twice, is a sign of life.
            self._session.handle(Heard(self.number))
        if isinstance(message, Repeated):
            sink.send(message.frame)
        elif message is not None:
            self._dispatch(message, now)

    def on_close(self, sink: FrameSink, reason: str) -> None:
        """A connection is gone; the client may resume, unless it said goodbye."""
        logger.info("%s left: %s", self.owner, reason)
        self._let_go(sink)

    def _let_go(self, sink: FrameSink) -> None:
        self._session.leave(self, sink)

    def detach(self, sink: FrameSink) -> bool:
        """Note that a connection is gone; return whether it was the present one."""
        with self._lock:
            if sink is not self._sink:
                return False
            self._sink = None
            return True

    @property
    def said_goodbye(self) -> bool:
        """Whether the client left for good."""
        return self._said_goodbye

    def close(self) -> None:
        """Forget everything; the client cannot resume any more."""
        self._session.observers.remove(self)
        with self._lock:
            self._connection.close()
            sink, self._sink = self._sink, None
        if sink is not None:
            sink.close(1000, "forgotten")

    def say_goodbye(self, reason: str) -> None:
        """Tell the client that we close on purpose."""
        self._send(Bye(reason=reason))

    def _dispatch(self, message: Message, now: float) -> None:
        try:
            match message:
                case Step():  # first, for it comes most often
                    self._on_step(message, now)
                case Reset():
                    self._on_reset(message, now)
                case Subscribe():
                    self._on_subscribe(message)
                case Observe():
                    self._shown.forget()
                    self._session.observers.add(self, message)
                case Release():
                    self._session.handle(ReleaseAsked(self.number, message.id))
                case Cancel():
                    self._session.handle(CancelAsked(self.number, message.request))
                case EmergencyStop():
                    self._session.handle(StopAsked(self.number, message.id, message.reason))
                case ReleaseStop():
                    self._check_may_control()
                    self._session.handle(StopReleaseAsked(self.number, message.id))
                case GetStatistics():
                    self._send(Statistics(message.id, values=self._session.statistics()))
                case Probe():
                    self._on_probe(message)
                case Ping():
                    self._send(Pong(id=message.id, time=time.monotonic()))
                case Heartbeat():
                    pass
                case Bye():
                    self._said_goodbye = True
                    if self._sink is not None:
                        self._sink.close(1000, "bye")
        except RemoteEnvError as error:
            if isinstance(message, Step):  # it did not get as far as the rules
                self._session.handle(Heard(self.number))
            self.refuse(message.id, error)
        except Exception as error:  # a bug of ours, or of a robot's declarations
            logger.exception("a %s could not be answered", type(message).__name__)
            self.refuse(message.id, RobotFaultError(f"the robot's server failed: {error!r}"))

    # What a client may ask

    def _on_probe(self, message: Probe) -> None:
        if message.size > _LARGEST_PROBE:
            raise ConfigurationError(f"a probe has at most {_LARGEST_PROBE} bytes")
        self._send(Probed(message.id, padding=bytes(message.size)))

    def _on_subscribe(self, message: Subscribe) -> None:
        offered = {stream.name for stream in self._session.spec.streams}
        unknown = [name for name in message.streams if name not in offered]
        if unknown or len(set(message.streams)) != len(message.streams):
            raise ConfigurationError(
                f"streams that do not exist or come twice: {unknown or list(message.streams)}; "
                f"this robot offers {sorted(offered)}"
            )
        spec = read_requests(self._session.spec, message)
        watch = Watch.of(
            message.streams, spec, max_ages=_checked_ages(message), on_stale=message.on_stale
        )
        derived = derived_arrays(spec, message.streams)
        self._send(Subscribed(id=message.id, streams=message.streams, derived=derived))
        self._watch = watch
        self._answers.subscribe(message.streams, message.kept)
        self._shown = LeftOut(message.streams, message.kept)

    def _on_reset(self, message: Reset, now: float) -> None:
        self._check_may_control()
        check_options(self._session.spec, message.options)
        request = ResetRequest(
            seed=message.seed,
            options=message.options,
            max_steps=message.max_steps,
            watch=self._watch,
            received_at=now,
            is_wanted=lambda: self._session.has_lease(self),
            tell=lambda fraction, text: self._tell(message.id, fraction, text),
            finish=lambda result: self.finish_reset(message.id, result, now),
        )
        self._session.handle(ResetAsked(self.number, message.id, request, message.take))

    def _on_step(self, message: Step, now: float) -> None:
        self._check_may_control()
        try:
            guarded = self._session.guard.check(message.action)
        except ActionRefusedError as error:
            self._answers.count_refused(error)
            raise
        executed = guarded.value if guarded.was_clipped else None
        request = StepRequest(
            episode=message.episode,
            step=message.step,
            action=guarded.value,
            received_at=now,
            finish=lambda result: self.finish_step(message, result, executed=executed, came=now),
        )
        tick, seen_at = self._seen
        is_again, self._asked_again = message.id == self._asked_again, 0
        asked = StepAsked(
            self.number,
            message.id,
            request,
            seen_at=seen_at if message.tick == tick else None,
            is_again=is_again,
        )
        self._session.handle(asked)
        if (sink := self._sink) is not None:
            self._session.control.follow(sink)

    def _check_may_control(self) -> None:
        if not self._may_control:
            raise AccessDeniedError(
                "this connection only observes; connect with role='control' to command the robot",
                code="robot.access.role",
            )

    # From the control thread

    def _tell(self, message_id: int, fraction: float, text: str) -> None:
        """Send how far a reset is, at most ten times a second."""
        now = time.monotonic()
        if now - self._progress_at < _PROGRESS_PERIOD:
            return
        self._progress_at = now
        with contextlib.suppress(LocalProtocolError):  # a text that is too long
            self._send(Progress(message_id, fraction=float(fraction), text=text[:1000]))

    def finish_reset(
        self, message_id: int, result: ResetResult | RemoteEnvError, came: float
    ) -> None:
        """Send what came of a reset that came at a moment."""
        self._session.handle(Answered(self.number, message_id))
        if isinstance(result, RemoteEnvError):
            self.refuse(message_id, result)
            return
        done = self._answers.reset_done(message_id, result, self._watch, came=came)
        self._seen = (done.tick, done.sent)
        self._send_outcome(done, result.latency)

    def finish_step(
        self, message: Step, result: StepResult | RemoteEnvError, *, executed: Any, came: float
    ) -> None:
        """Send what came of a step.

        Args:
            message: Which asked for it.
            result: What came of it.
            executed: The action, if the guard changed it; else None.
            came: When it came, on the monotonic clock, in seconds.
        """
        self._session.handle(Answered(self.number, message.id))
        if isinstance(result, RemoteEnvError):
            if isinstance(result, ActionRefusedError):
                self._answers.count_refused(result)
            self.refuse(message.id, result)
            return
        done = self._answers.step_done(message, result, self._watch, executed=executed, came=came)
        self._seen = (done.tick, done.sent)
        self._send_outcome(done, result.latency)

    def _send_outcome(self, message: ResetDone | StepDone, latency: float) -> None:
        """Send an answer, without what the wire cannot carry.

        Raises:
            LocalProtocolError: If there is something in it that cannot be left out.
        """
        try:
            self._send(message, latency=latency)
            self._answers.note_sent(message)
            return
        except LocalProtocolError as error:
            info, dropped = drop_unsupported(message.info)
            if not dropped:
                info, dropped = {}, {"": f"all of it; {error}"}
        self._session.name_dropped_once(dropped)
        self._send(replace(message, info=info), latency=latency)
        self._answers.note_sent(message)

    # To the client

    def refuse(self, message_id: int, error: RemoteEnvError) -> None:
        """Answer a request with an error."""
        if isinstance(error, LeaseError) and not self._was_refused:
            self._was_refused = True  # it tries again for seconds: one line is enough
            logger.info("%s was refused: %s", self.owner, error)
        self._send(
            Error(
                id=message_id,
                code=error.code,
                # An exception may quote a path that is no Unicode.
                message=str(error)[:2000].encode("utf-8", "replace").decode(),
                retryable=error.retryable,
            )
        )

    def send(self, message: Message) -> None:
        """Send a message; silent if the connection is gone."""
        self._send(message)

    def show(self, message: Observation) -> None:
        """Send an observation to an observer; silent if the connection is gone.

        Raises:
            LocalProtocolError: If it cannot be written.
        """
        with self._lock:
            sink = self._sink
            if sink is None or self._connection.state is not State.OBSERVING:
                return
            unchanged = self._shown.of(message.observation)
            frame = self._connection.send(replace(message, unchanged=unchanged))
            self._shown.note_sent(message.observation)
        sink.send(frame)

    def backlog(self) -> int:
        """Return about how many bytes were sent to this client and have not left yet."""
        sink = self._sink
        return 0 if sink is None else sink.backlog()

    def give_up(self, error: RemoteEnvError) -> None:
        """Tell the client why nothing more is said on this connection, and close it."""
        self.refuse(0, error)
        sink = self._sink
        if sink is not None:
            sink.close(1011, str(error))

    def _send(self, message: Message, *, latency: float = 0.0) -> None:
        """Encode and hand over; without a connection the answer is kept for who resumes.

        Args:
            message: What to say.
            latency: Seconds by which a timer holds the frame back: simulated latency.
        """
        with self._lock:
            if self._connection.state is State.CLOSED:
                return
            frame = self._connection.send(message)
            if self._sink is None:
                return
            if latency <= 0:
                self._sink.send(frame)
                return
            send = self._sink.send
        # A copy: the robot may write to its arrays before the timer fires.
        timer = threading.Timer(latency, send, ([join(frame)],))
        timer.name = "remote-env simulated latency"
        timer.daemon = True
        timer.start()


def _checked_ages(message: Subscribe) -> dict[str, float]:
    """Return the ages that a client set.

    Raises:
        ConfigurationError: If one is no positive number, or of a stream not subscribed to.
    """
    ages: dict[str, float] = {}
    for name, age in message.max_ages.items():
        if name not in message.streams or not isinstance(age, (int, float)) or not age > 0:
            raise ConfigurationError(
                f"max_age {age!r:.40} of {name!r:.200}: give a positive number of seconds "
                "(infinity: never stale) for a stream that is subscribed to"
            )
        ages[name] = float(age)
    return ages
