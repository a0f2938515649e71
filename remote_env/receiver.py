"""The thread of an observer: it connects, receives, and does it again when the line is lost."""

from __future__ import annotations

import contextlib
import logging
import random
import threading
import time
from typing import Final, TypeVar

from remote_env.agreeing import begin_requests, check_derived
from remote_env.codec_choice import choose_codecs, measure_bandwidth
from remote_env.errors import (
    ConnectionLostError,
    DeadlineExceededError,
    RemoteEnvError,
    RemoteProtocolError,
    TransportError,
    VersionMismatchError,
)
from remote_env.identity import default_owner, make_hello
from remote_env.inbox import Inbox, Observed, StoppedError
from remote_env.protocol import (
    Bye,
    Connection,
    Error,
    Message,
    Observation,
    Observe,
    Observing,
    OnStale,
    Ping,
    Probe,
    Probed,
    Repeated,
    Role,
    Subscribe,
    Subscribed,
    Welcome,
    error_of,
)
from remote_env.protocol.codec import CLIENT_LIMITS
from remote_env.requesting import Wishes, resolve
from remote_env.spec import RobotSpec
from remote_env.stream_requests import StreamRequest
from remote_env.transport import Link, connect

__all__ = ["Receiver"]

logger = logging.getLogger(__name__)

T = TypeVar("T", bound=Message)

# How long the thread waits for a frame before it looks whether it should end.
_POLL: Final = 0.1
_PING_AFTER: Final = 0.5
# A peer is dead when it does not answer a ping for so long, and not a byte comes in either: the
# answer may have to wait behind a large observation on a slow line.
_PATIENCE: Final = 1.5
_FIRST_PAUSE: Final = 0.05
_LONGEST_PAUSE: Final = 1.0


class Receiver:
    """What the thread does.

    Attributes:
        spec: What the robot is; None before it was reached.
    """

    def __init__(
        self,
        url: str,
        inbox: Inbox,
        *,
        hz: float,
        wishes: Wishes,
        token: str | None,
        connect_timeout: float,
        reconnect: bool,
    ) -> None:
        """Prepare; see ``remote_env.observe``, which has checked the arguments."""
        self.spec: RobotSpec | None = None
        self._url = url
        self._inbox = inbox
        self._hz = hz
        self._wishes = wishes
        self._requests: dict[str, StreamRequest] | None = None  # decided when it is first reached
        self._token = token
        self._connect_timeout = connect_timeout
        self._reconnect = reconnect
        self._dropped = 0  # on the connections before this one
        self._names: tuple[str, ...] = ()  # of the arrays of every observation

    def run(self) -> None:
        """Receive until stopped."""
        has_stood = False
        lost_at: float | None = None
        attempt = 0
        while not self._inbox.stopped.is_set():
            try:
                with contextlib.closing(
                    _Line(self._url, self._connect_timeout, self._inbox.stopped)
                ) as line:
                    self._attach(line)
                    if lost_at is not None:
                        logger.info(
                            "observing %s again after %.1f s", self._url, time.monotonic() - lost_at
                        )
                    has_stood, lost_at, attempt = True, None, 0
                    self._receive(line)
                    return
            except StoppedError:
                return
            except RemoteEnvError as error:
                if not (has_stood and self._reconnect and _is_passing(error)):
                    self._inbox.fail(error)
                    return
                if lost_at is None:
                    lost_at = time.monotonic()
                    logger.warning("lost %s, which is observed; trying again: %s", self._url, error)
            except Exception as error:  # a bug of ours: whoever waits must not wait for ever
                logger.exception("the observer of %s failed", self._url)
                self._inbox.fail(RemoteEnvError(f"the observer failed: {error!r}"))
                return
            pause = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE)
            attempt = min(attempt + 1, 10)
            self._inbox.stopped.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311

    def _attach(self, line: _Line) -> None:
        """Say hello, choose the streams, and ask for observations."""
        owner = f"observer {default_owner()}"[:200]
        hello = make_hello("observe", self._token, owner, id=line.next_id(), resume=None, asking=0)
        welcome = line.ask(hello, Welcome)
        spec = RobotSpec.from_welcome(welcome)
        if self._requests is None:
            self._requests = choose_codecs(
                spec,
                resolve(spec, self._wishes),
                hz=self._hz,
                url=self._url,
                capabilities=welcome.capabilities,
                bandwidth=lambda: measure_bandwidth(line.probe),
            )
        self.spec, asked = begin_requests(spec, self._requests, welcome.capabilities)
        names = self._wishes.names
        self._names = welcome.subscribed if names is None else names
        kept = self.spec.worth_keeping(self._names, self._hz)
        if names is not None or asked or kept:
            wish = Subscribe(
                id=line.next_id(),
                streams=self._names,
                max_ages={},
                on_stale=OnStale.FLAG,
                kept=kept,
                requests=asked,
            )
            check_derived(self.spec, line.ask(wish, Subscribed))
        line.ask(Observe(id=line.next_id(), hz=self._hz), Observing)

    def _receive(self, line: _Line) -> None:
        """Receive until stopped; sends a ping when nothing comes.

        Raises:
            TransportError: If the connection is lost, or the peer gives no sign of life.
        """
        dropped = 0
        pinged_at: float | None = None
        heard_at = time.monotonic()
        try:
            while not self._inbox.stopped.is_set():
                message = line.receive(_POLL)
                now = time.monotonic()
                if message is not None:
                    heard_at, pinged_at = now, None
                elif pinged_at is None and now - heard_at > _PING_AFTER:
                    line.send(Ping(id=line.next_id()))
                    pinged_at = now
                elif (
                    pinged_at is not None
                    and now - pinged_at > _PATIENCE
                    and line.idle_for() > _PATIENCE
                ):
                    line.abort()
                    raise ConnectionLostError(
                        f"{self._url} gave no sign of life for {now - heard_at:.1f} s"
                    )
                if isinstance(message, Observation):
                    dropped = message.dropped
                    self._inbox.put(self._observed(message))
        finally:
            self._dropped += dropped
        line.say_goodbye()

    def _observed(self, message: Observation) -> Observed:
        names = self._names
        if not len(message.sequences) == len(message.stamps) == len(names):
            raise RemoteProtocolError(
                f"an observation of {len(names)} streams has {len(message.sequences)} sequences "
                f"and {len(message.stamps)} stamps"
            )
        return Observed(
            arrays=dict(zip(names, message.observation, strict=True)),
            episode=message.episode,
            step=message.step,
            time=message.time,
            ages={
                name: max(message.time - stamp, 0.0)  # a stamp of what never came is -inf
                for name, stamp in zip(names, message.stamps, strict=True)
            },
            sequences=dict(zip(names, message.sequences, strict=True)),
            dropped=self._dropped + message.dropped,
            remote=message.remote,
        )


class _Line:
    """One connection; belongs to the receiver's thread."""

    def __init__(self, url: str, timeout: float, stopped: threading.Event) -> None:
        self._url = url
        self._stopped = stopped
        self._deadline = time.monotonic() + timeout
        self._timeout = timeout
        self._link: Link = connect(url, timeout=timeout, max_frame_size=CLIENT_LIMITS.frame_size)
        self._connection = Connection(Role.CLIENT, now=time.monotonic())

    def next_id(self) -> int:
        return self._connection.next_id()

    def send(self, message: Message) -> None:
        self._link.send(self._connection.send(message))

    def receive(self, timeout: float) -> Message | None:
        """Return the next message; None if nothing came that says anything.

        Raises:
            RemoteEnvError: If the connection is lost, or the server ended it.
        """
        try:
            frame = self._link.receive(timeout)
        except DeadlineExceededError:
            return None
        message = self._connection.receive(frame, time.monotonic())
        if isinstance(message, Bye):
            raise ConnectionLostError(f"{self._url} said goodbye: {message.reason}")
        if isinstance(message, Error):
            raise error_of(message)
        return None if isinstance(message, Repeated) else message

    def ask(self, request: Message, answer: type[T]) -> T:
        """Send a request, and return its answer; all of them have one deadline.

        Raises:
            StoppedError: If nobody wants it any more.
            RemoteEnvError: What the server answered instead, or that it did not in time.
        """
        self.send(request)
        while (left := self._deadline - time.monotonic()) > 0:
            message = self.receive(min(left, _POLL))
            if isinstance(message, answer):
                return message
            if self._stopped.is_set():
                raise StoppedError
        raise DeadlineExceededError(
            f"{self._url} did not answer a {type(request).__name__} within {self._timeout:.3g} s; "
            "is the robot's computer overloaded, or the network down?",
            waited=self._timeout,
        )

    def probe(self, size: int) -> float:
        """Let the server send so many bytes; return the seconds that took."""
        began_at = time.monotonic()
        self.ask(Probe(self.next_id(), size=size), Probed)
        return time.monotonic() - began_at

    def say_goodbye(self) -> None:
        with contextlib.suppress(RemoteEnvError):
            self.send(Bye(reason="the observer stopped"))

    def idle_for(self) -> float:
        return self._link.idle_for()

    def abort(self) -> None:
        self._link.abort()

    def close(self) -> None:
        self._link.close()


def _is_passing(error: RemoteEnvError) -> bool:
    """Whether another connection may do what this one could not."""
    if isinstance(error, RemoteProtocolError):
        return not isinstance(error, VersionMismatchError)  # noise
    return isinstance(error, TransportError)
