"""One connection to one robot, for whoever wants more than an environment.

Every call has a deadline. A call that ends in any other way than by its answer (a deadline,
a lost connection, Ctrl-C) closes the connection, because what the robot did is then not
known; the next ``connect`` begins anew.
"""

from __future__ import annotations

import functools
import getpass
import logging
import math
import os
import socket
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from remote_env.errors import (
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
)
from remote_env.keeper import keep_alive, stop_keeping
from remote_env.protocol import (
    Bye,
    Connection,
    Error,
    Heartbeat,
    Hello,
    Message,
    Ping,
    Pong,
    Release,
    Reset,
    ResetDone,
    Role,
    Step,
    StepDone,
    Subscribe,
    Value,
    Welcome,
    error_of,
)
from remote_env.protocol.codec import CLIENT_LIMITS
from remote_env.spec import RobotSpec
from remote_env.transport import Link, connect
from remote_env.version import __version__

__all__ = ["RobotClient", "check_timeout", "close_soon", "default_owner"]

logger = logging.getLogger(__name__)

# A lease of a learner that crashed goes stale after 2 s; wait a little longer for it.
_LEASE_PATIENCE: Final = 3.0
_LEASE_RETRY: Final = 0.2
_RELEASE_TIMEOUT: Final = 1.0


def default_owner() -> str:
    """Return ``user@host (process id)``: whom others should ask for the robot."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = "somebody"
    return f"{user}@{socket.gethostname()} (process {os.getpid()})"


@functools.cache
def _unique_to(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}/{uuid.uuid4().hex}"


def check_timeout(name: str, seconds: object) -> None:
    """Refuse what is no time to wait for.

    Raises:
        ConfigurationError: Naming the argument.
    """
    if not isinstance(seconds, (int, float)) or not 0 < seconds < math.inf:
        raise ConfigurationError(f"{name} must be a positive number of seconds, not {seconds!r}")


def close_soon(pid: int, close: Callable[[], object]) -> None:
    """Close what nobody refers to any more, for a finalizer.

    On a thread of its own, because the collector runs on any thread, also on one that
    holds the very lock that closing needs. Not in a fork, where it is the parent's.
    """
    if os.getpid() != pid:
        return
    try:
        threading.Thread(target=close, name="remote-env closing", daemon=True).start()
    except RuntimeError:  # the interpreter ends, and nobody else runs
        close()


class RobotClient:
    """A connection to a robot server. Safe to use from several threads: calls queue up.

    Attributes:
        url: Of the robot.
        spec: What the robot is; known once connected.
    """

    spec: RobotSpec

    def __init__(
        self,
        url: str,
        *,
        role: str = "control",
        token: str | None = None,
        owner: str | None = None,
        connect_timeout: float = 5.0,
    ) -> None:
        """Prepare; ``connect`` connects.

        Args:
            url: ``ws://host:port``, ``wss://host:port`` or ``inproc://name``.
            role: ``"control"``, or ``"observe"`` for those who never command.
            token: What the server asks for, if it does.
            owner: The name that others are shown while this one commands.
            connect_timeout: For everything until the robot is described, in seconds.
        """
        if role not in ("control", "observe"):
            raise ConfigurationError(f"role must be 'control' or 'observe', not {role!r:.40}")
        check_timeout("connect_timeout", connect_timeout)
        self.url = url
        self._role = role
        self._token = token
        self._owner = (owner or default_owner())[:200]
        self._connect_timeout = connect_timeout
        self._link: Link | None = None
        self._connection: Connection | None = None
        self._lock = threading.RLock()
        self._may_hold_lease = False
        self._pid = os.getpid()
        self._finalizer: weakref.finalize[..., RobotClient] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection, as far as we know."""
        return self._link is not None

    def connect(self) -> RobotSpec:
        """Connect, and learn what the robot is. Does nothing if connected.

        Raises:
            ConfigurationError: If the url is malformed.
            ConnectFailedError: If no robot server answers there.
            AccessDeniedError: If the server refuses this client.
            VersionMismatchError: If the server speaks another wire version.
            DeadlineExceededError: If it does not answer in time.
        """
        with self._lock:
            if self._link is None:
                started = time.monotonic()
                self._link = connect(
                    self.url,
                    timeout=self._connect_timeout,
                    max_frame_size=CLIENT_LIMITS.frame_size,
                )
                self._pid = os.getpid()
                # Who forgets to close returns the lease all the same, at the latest at exit.
                self._finalizer = weakref.finalize(self, close_soon, self._pid, self._link.close)
                self._connection = Connection(Role.CLIENT, now=time.monotonic())
                left = self._connect_timeout - (time.monotonic() - started)
                try:
                    welcome = self._request(self._hello(), timeout=max(left, 0.1))
                    assert isinstance(welcome, Welcome)
                    self.spec = RobotSpec.from_welcome(welcome)
                except BaseException:
                    self._drop()
                    raise
                self._spec_hash = welcome.spec_hash
                logger.info("connected to %s at %s", self.spec.name, self.url)
            return self.spec

    def _hello(self) -> Hello:
        return Hello(
            id=self._next_id(),
            role=self._role,
            token=self._token,
            owner=self._owner,
            process=_unique_to(os.getpid()),
            client=f"remote-env {__version__}",
        )

    @property
    def spec_hash(self) -> str:
        """Changes if and only if a policy could no longer be used."""
        return self._spec_hash

    def subscribe(self, streams: Sequence[str]) -> None:
        """Choose the arrays of every later observation, and their order.

        Raises:
            ConfigurationError: If there is no such stream.
            TransportError: If the robot cannot be reached.
        """
        with self._lock:
            self._request(
                Subscribe(id=self._next_id(), streams=tuple(streams)),
                timeout=self._connect_timeout,
            )

    def reset(
        self,
        *,
        seed: int | None = None,
        options: Mapping[str, Value] | None = None,
        take: bool = False,
        timeout: float = 120.0,
    ) -> ResetDone:
        """Begin an episode; takes the lease, and waits up to 3 s for one that may be dead.

        Args:
            seed: As in ``gymnasium.Env.reset``.
            options: As in ``gymnasium.Env.reset``.
            take: Whether to take the robot from another owner.
            timeout: For all of it, in seconds.

        Raises:
            LeaseError: If somebody else commands the robot; names the owner.
            SensorError: If a subscribed stream does not deliver; names it.
            UnknownOptionError: If the robot does not know an option.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        if seed is not None and not 0 <= int(seed) < 1 << 64:
            raise ConfigurationError(f"seed must be from 0 to 2**64 - 1, not {seed}")
        deadline = time.monotonic() + timeout
        patience = min(time.monotonic() + _LEASE_PATIENCE, deadline)
        while True:
            try:
                return self._reset(seed, options, take, deadline - time.monotonic())
            except LeaseError as error:
                if not error.retryable or time.monotonic() + _LEASE_RETRY > patience:
                    raise
                logger.info("%s; trying again", error)
            time.sleep(_LEASE_RETRY)

    def _reset(
        self, seed: int | None, options: Mapping[str, Value] | None, take: bool, timeout: float
    ) -> ResetDone:
        with self._lock:
            plain = dict(options) if options is not None else None
            number = None if seed is None else int(seed)
            message = Reset(id=self._next_id(), seed=number, options=plain, take=take)
            # Before the answer: also a reset that fails half-way leaves us with the lease.
            self._may_hold_lease = True
            keep_alive(self)
            done = self._request(message, timeout=timeout)
            assert isinstance(done, ResetDone)
            return done

    def step(
        self,
        action: Sequence[NDArray[Any]],
        *,
        episode: int,
        step: int,
        tick: int,
        dtypes: Sequence[str] = (),
        timeout: float,
    ) -> StepDone:
        """Execute one action.

        Args:
            action: One array per leaf of the action space.
            episode: From the ``ResetDone``.
            step: 1 for the first step of the episode.
            tick: Of the observation that this action answers.
            dtypes: Of the arrays, if they are not the agreed ones.
            timeout: In seconds.

        Raises:
            ActionRefusedError: If the robot refuses the action; nothing moved.
            EpisodeOverError: If the episode has ended.
            LeaseError: If somebody else took the robot over.
            RobotFaultError: If the robot's own code failed.
            TransportError: If the robot cannot be reached, or not in time.
        """
        with self._lock:
            message = Step(
                id=self._next_id(),
                episode=episode,
                step=step,
                tick=tick,
                dtypes=tuple(dtypes),
                action=tuple(action),
            )
            done = self._request(message, timeout=timeout)
            assert isinstance(done, StepDone)
            return done

    def ping(self, *, timeout: float = 5.0) -> tuple[float, float]:
        """Measure a round trip to the server's network thread.

        Returns:
            The round trip, in seconds, and the robot's monotonic clock.
        """
        with self._lock:
            started = time.perf_counter()
            pong = self._request(Ping(id=self._next_id()), timeout=timeout)
            assert isinstance(pong, Pong)
            return time.perf_counter() - started, pong.time

    def heartbeat(self) -> None:
        """Show a sign of life, unless a call is in progress, which is one itself."""
        if os.getpid() != self._pid or not self._lock.acquire(blocking=False):
            return
        try:
            if self._link is not None and self._connection is not None and self._may_hold_lease:
                self._link.send(self._connection.send(Heartbeat()))
        except RemoteEnvError as error:
            # The next call will find out, and has somebody to tell.
            logger.debug("no heartbeat to %s: %s", self.url, error)
            stop_keeping(self)
        finally:
            self._lock.release()

    def close(self) -> None:
        """Return the lease and disconnect. Idempotent; takes at most about two seconds."""
        with self._lock:
            stop_keeping(self)
            if self._link is None or self._connection is None:
                return
            if os.getpid() != self._pid:
                # A fork: the connection is our parent's, who goes on with it.
                self._link = self._connection = None
                return
            try:
                if self._may_hold_lease:
                    self._request(Release(id=self._next_id()), timeout=_RELEASE_TIMEOUT)
                self._link.send(self._connection.send(Bye(reason="closed by the learner")))
            except RemoteEnvError as error:
                logger.debug("no proper goodbye to %s: %s", self.url, error)
            self._drop()

    def _next_id(self) -> int:
        if self._connection is None:
            raise ConnectionLostError(f"not connected to {self.url}; call env.reset()")
        if os.getpid() != self._pid:
            raise LocalProtocolError(
                f"this connection to {self.url} belongs to process {self._pid}, from which this "
                "one was forked; make the environment in the process that uses it"
            )
        return self._connection.next_id()

    def _request(self, message: Message, *, timeout: float) -> Message:
        """Send a request and return its answer; holds the lock.

        Raises:
            RemoteEnvError: What the server reported, with the connection as it was.
            TransportError: With the connection closed.
            RemoteProtocolError: With the connection closed.
        """
        link, connection = self._link, self._connection
        assert link is not None
        assert connection is not None
        frame = connection.send(message)
        try:
            link.send(frame)
            answer = self._wait_for(link, connection, message.id, timeout)
        except BaseException:
            self._drop()
            raise
        if isinstance(answer, Error):
            error = error_of(answer)
            if connection.state.value == "closed":
                self._drop()
            raise error
        return answer

    def _wait_for(
        self, link: Link, connection: Connection, request_id: int, timeout: float
    ) -> Message:
        deadline = time.monotonic() + timeout
        while True:
            left = deadline - time.monotonic()
            try:
                frame = link.receive(left)
            except DeadlineExceededError:
                raise DeadlineExceededError(
                    f"no reply from {self.url} within {timeout:.3g} s; is the robot busy, or the "
                    "network down? The connection is closed, env.reset() begins anew",
                    waited=timeout,
                ) from None
            answer = connection.receive(frame, time.monotonic())
            match answer:
                case Bye():
                    raise ConnectionLostError(f"{self.url} said goodbye: {answer.reason}")
                case Error(id=0):
                    raise error_of(answer)
                case None:
                    continue
                case _ if isinstance(answer, Message) and answer.id == request_id:
                    return answer

    def _drop(self) -> None:
        """Forget the connection, without waiting for the peer."""
        link, self._link = self._link, None
        self._connection = None
        if self._finalizer is not None:
            self._finalizer.detach()
        self._may_hold_lease = False
        stop_keeping(self)
        if link is not None:
            link.close()
