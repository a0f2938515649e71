"""What the connections to one robot share: the lease, the token, the welcome.

Called by transports' network threads; nothing here blocks. One lock guards the lease and the
list of peers; it is never taken while a peer's is held.
"""

from __future__ import annotations

import hmac
import itertools
import logging
import threading
import time
from collections.abc import Mapping

from remote_env.errors import AccessDeniedError, ConfigurationError, LocalProtocolError
from remote_env.protocol import Layouts, Limits, Welcome, encode
from remote_env.spec import RobotSpec
from remote_env.transport import FrameSink
from remote_env_server.control import ControlLoop
from remote_env_server.lease import Lease
from remote_env_server.peer import Peer
from remote_env_server.requests import HoldRequest, ResetRequest
from remote_env_server.safety import ActionGuard

__all__ = ["RobotSession"]

logger = logging.getLogger(__name__)

_CONNECTION_NUMBERS = itertools.count(1)
_MOST_NAMED = 1000


class RobotSession:
    """Everything about one robot that outlives a connection.

    Attributes:
        control: The control thread.
        spec: What the robot is.
        limits: Of frames that come in.
        guard: Through which every action passes.
        welcome: For every client; id and session are filled in for each.
    """

    def __init__(
        self, control: ControlLoop, *, limits: Limits, token: str | None, version: str
    ) -> None:
        """Prepare to accept connections.

        Args:
            control: Started.
            limits: Of frames that come in.
            token: What a client must show, or None.
            version: Of this program, for logs.

        Raises:
            ConfigurationError: If the robot's description is too large for the wire.
        """
        self.control = control
        self.spec: RobotSpec = control.spec
        self.limits = limits
        self.guard = ActionGuard(self.spec.action_space, self.spec.out_of_bounds)
        self.welcome = self._make_welcome(version)
        self._token = token
        self._lease = Lease()
        self._peers: dict[int, Peer] = {}
        self._lock = threading.Lock()
        self._named_dropped: set[str] = set()

    def _make_welcome(self, version: str) -> Welcome:
        welcome = self.spec.to_welcome(
            message_id=1, session="", server=version, frame_size=self.limits.frame_size
        )
        try:
            encode(welcome, Layouts())
        except LocalProtocolError as error:
            raise ConfigurationError(
                f"the description of {self.spec.name} does not fit on the wire: {error}"
            ) from error
        return welcome

    def accept(self, sink: FrameSink) -> Peer:
        """Take a new connection."""
        peer = Peer(self, sink, number=next(_CONNECTION_NUMBERS))
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
        if token is None:
            raise AccessDeniedError(
                "this robot needs a token; pass token=... to gym.make, or --token-file on the "
                "command line",
                code="robot.access.token",
            )
        if not hmac.compare_digest(token.strip().encode(), self._token.encode()):
            raise AccessDeniedError("the token is wrong", code="robot.access.token")

    def begin(self, peer: Peer, request: ResetRequest, *, take: bool) -> None:
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

    def release_lease(self, peer: Peer) -> None:
        """Take the lease back from a peer, if it has it; the robot then holds."""
        with self._lock:
            if self._lease.release(peer.number):
                self.control.submit(HoldRequest())

    def check_lease(self, peer: Peer) -> None:
        """Refuse whoever does not hold the lease.

        Raises:
            LeaseError: Saying who does.
        """
        with self._lock:
            self._lease.check(peer.holder)

    def has_lease(self, peer: Peer) -> bool:
        """Whether a peer holds the lease."""
        with self._lock:
            holder = self._lease.holder
            return holder is not None and holder.connection == peer.number

    def forget(self, peer: Peer) -> None:
        """A connection is gone."""
        self.release_lease(peer)
        with self._lock:
            self._peers.pop(peer.number, None)

    def say_goodbye(self, reason: str) -> None:
        """Tell all peers that the server stops."""
        with self._lock:
            peers = list(self._peers.values())
        for peer in peers:
            peer.say_goodbye(reason)

    def name_dropped_once(self, dropped: Mapping[str, str]) -> None:
        """Warn about ``info`` entries that the wire cannot carry, each once."""
        for key, reason in dropped.items():
            if key not in self._named_dropped and len(self._named_dropped) < _MOST_NAMED:
                self._named_dropped.add(key)
                logger.warning("info[%r] is left out: %s", key, reason)
