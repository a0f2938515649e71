"""What the connections to one robot share: the rules of ``core.py`` carried out, and the welcome.

Called by transports' network threads and by the control thread. Nothing here waits for a
client, the robot, a disk or, while a ``RobotServer`` runs (``logs.py``), for a log. One lock
guards the rules and the list of clients, so that the mailbox of the control thread has requests
in the order in which the rules decided. A peer's lock may be taken while it is held, and never
the other way round.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import replace

from remote_env.agreeing import capabilities
from remote_env.errors import AccessDeniedError, ConfigurationError, LocalProtocolError
from remote_env.protocol import Connection, Hello, Layouts, Limits, Value, Welcome, encode
from remote_env.spec import Mode, RobotSpec
from remote_env.transport import FrameSink
from remote_env_server.control import ControlLoop
from remote_env_server.core import (
    CancelReset,
    Drop,
    Effect,
    Event,
    Hold,
    Joined,
    Left,
    Refuse,
    ReleaseRobot,
    Resumed,
    Send,
    SessionCore,
    StopRobot,
    Submit,
)
from remote_env_server.latch import Latch
from remote_env_server.observers import ObserverHub
from remote_env_server.peer import Peer
from remote_env_server.requests import HoldRequest
from remote_env_server.safety import ActionGuard
from remote_env_server.visit import Visit

__all__ = ["RobotSession"]

logger = logging.getLogger(__name__)

_MOST_NAMED = 1000


class RobotSession:
    """Everything about one robot that outlives a connection.

    Attributes:
        control: The control thread.
        spec: What the robot is.
        limits: Of frames that come in.
        guard: Through which every action passes.
        welcome: For every client; id and session are filled in for each.
        observers: Those who only watch.
    """

    def __init__(
        self, control: ControlLoop, *, limits: Limits, token: str | None, version: str, latch: Latch
    ) -> None:
        """Prepare to accept connections.

        Args:
            control: Started.
            limits: Of frames that come in.
            token: What a client must show, or None.
            version: Of this program, for logs.
            latch: Remembers the emergency stop.

        Raises:
            ConfigurationError: If the robot's description is too large for the wire.
        """
        self.control = control
        self.spec: RobotSpec = control.spec
        self.limits = limits
        self.guard = ActionGuard(self.spec.action_space, self.spec.out_of_bounds)
        self.welcome = self._make_welcome(version)
        self._token = token
        self._latch = latch
        self._core = SessionCore(
            is_realtime=self.spec.mode is not Mode.LOCKSTEP,
            action_lifetime=self.spec.action_lifetime,
            pressed=latch.pressed,
        )
        if latch.pressed is not None:
            control.emergency_stop(str(latch.pressed))
        self.observers = ObserverHub(control, describe=self._describe)
        self._numbers = itertools.count(1)
        self._peers: dict[int, Peer] = {}
        self._visits: set[Visit] = set()
        # Reentrant: a transport in this process tells at once that what we close is closed.
        self._lock = threading.RLock()
        self._named_dropped: set[str] = set()

    def _make_welcome(self, version: str) -> Welcome:
        welcome = self.spec.to_welcome(
            message_id=1, session="", server=version, frame_size=self.limits.frame_size
        )
        welcome = replace(welcome, capabilities=capabilities())
        try:
            encode(welcome, Layouts())
        except LocalProtocolError as error:
            raise ConfigurationError(
                f"the description of {self.spec.name} does not fit on the wire: {error}"
            ) from error
        return welcome

    # Connections

    def accept(self, sink: FrameSink) -> Visit:
        """Take a new connection."""
        visit = Visit(self, sink)
        with self._lock:
            self._visits.add(visit)
        return visit

    def forget_visit(self, visit: Visit) -> None:
        """A connection is gone."""
        with self._lock:
            self._visits.discard(visit)

    def greet(self, hello: Hello, connection: Connection, sink: FrameSink) -> Peer:
        """Answer the first message of a connection.

        Raises:
            AccessDeniedError: If the token is missing or wrong.
        """
        self._check_token(hello.token)
        token = hello.resume or ""
        with self._lock:
            now = time.monotonic()
            known = self._core.find(now, token, hello.process) if token else None
            peer = self._peers.get(known) if known is not None else None
            if peer is not None:
                self._carry_out(self._core.handle(now, Resumed(peer.number)))
                peer.resume(hello, token, connection, sink)
                logger.info("%s resumed from %s", peer.owner, sink.peer_name)
                return peer
            token = secrets.token_urlsafe(16)
            peer = Peer(self, hello, connection, sink, number=next(self._numbers))
            self._peers[peer.number] = peer
            joined = Joined(peer.number, token, hello.process, peer.owner)
            self._carry_out(self._core.handle(now, joined))
        logger.info("%s connected from %s with %s", peer.owner, sink.peer_name, hello.client)
        peer.welcome(hello, token)
        return peer

    def leave(self, peer: Peer, sink: FrameSink) -> None:
        """A connection of a client is gone."""
        with self._lock:  # nobody resumes in between
            if peer.detach(sink):
                left = Left(peer.number, for_good=peer.said_goodbye)
                self._carry_out(self._core.handle(time.monotonic(), left))

    def _check_token(self, token: str | None) -> None:
        """Refuse whoever does not know the token; takes the same time for every wrong one."""
        if self._token is None:
            return
        if token is None:
            raise AccessDeniedError(
                "this robot needs a token; pass token=... to gym.make, or --token-file on the "
                "command line",
                code="robot.access.token",
            )
        if not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            raise AccessDeniedError("the token is wrong", code="robot.access.token")

    def say_goodbye(self, reason: str) -> None:
        """Tell all clients that the server stops."""
        with self._lock:
            visits = list(self._visits)
        for visit in visits:
            visit.say_goodbye(reason)

    def stop(self) -> None:
        """End what serves nobody any more. Idempotent."""
        self.observers.stop()

    def _describe(self) -> dict[str, Value]:
        """Return who commands and who stopped the robot, for observers; waits for no lock."""
        holder, pressed = self._core.lease.holder, self._core.pressed
        return {
            "owner": None if holder is None else holder.owner,
            "emergency_stop": None if pressed is None else str(pressed),
        }

    # The rules

    def handle(self, event: Event) -> None:
        """Let the rules decide on an event, and do what they say."""
        with self._lock:
            self._carry_out(self._core.handle(time.monotonic(), event))

    def _carry_out(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case Submit():
                    self.control.submit(effect.request)
                case Send():
                    self._peers[effect.peer].send(effect.message)
                case Refuse():
                    self._peers[effect.peer].refuse(effect.id, effect.error)
                case Hold():
                    self.control.submit(HoldRequest(effect.reason))
                case CancelReset():
                    effect.request.cancelled.set()
                case StopRobot():
                    self.control.emergency_stop(str(effect.pressed))
                    self._latch.press(effect.pressed)
                    logger.critical("EMERGENCY STOP by %s", effect.pressed)
                case ReleaseRobot():
                    logger.warning("the emergency stop is released")
                    self.control.release_stop()
                    self._latch.release()
                case Drop():
                    self._peers.pop(effect.peer).close()

    def has_lease(self, peer: Peer) -> bool:
        """Whether a client holds the lease."""
        with self._lock:
            self._carry_out(self._core.expire(time.monotonic()))
            return self._core.has_lease(peer.number)

    def statistics(self) -> dict[str, Value]:
        """Return how the robot is doing; see ``docs/protocol.md``."""
        with self._lock:
            lease, pressed = self._core.lease, self._core.pressed
            values: dict[str, Value] = {
                "connections": len(self._visits),
                "lease": {
                    "owner": lease.holder.owner if lease.holder else None,
                    "epoch": lease.epoch,
                    "sequence": lease.sequence,
                },
                "emergency_stop": None
                if pressed is None
                else {
                    "by": pressed.by,
                    "reason": pressed.reason,
                    "obeyed": self.control.has_obeyed,
                },
            }
        values["observers"] = self.observers.statistics()
        values["guard"] = self.guard.statistics().to_info()
        return {**values, **self.control.statistics()}

    def name_dropped_once(self, dropped: Mapping[str, str]) -> None:
        """Warn about ``info`` entries that the wire cannot carry, each once."""
        for key, reason in dropped.items():
            if key not in self._named_dropped and len(self._named_dropped) < _MOST_NAMED:
                self._named_dropped.add(key)
                logger.warning("info[%r] is left out: %s", key, reason)
