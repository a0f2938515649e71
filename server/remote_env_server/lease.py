"""The exclusive, expiring right to command. Pure: it is told the time.

Connecting, reading the metadata and watching need no lease. It is taken at ``reset``, kept
by any sign of life, and returned at ``close``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from remote_env.errors import LeaseError

__all__ = ["STALE_AFTER", "Holder", "Lease"]

# Four missed heartbeats (``remote_env.keeper`` sends one every 0.5 s).
STALE_AFTER: Final = 2.0


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds the lease.

    Attributes:
        peer: Unique to the client; stays when its connection is lost and resumed.
        process: Unique to the learner's process.
        owner: For people.
    """

    peer: int
    process: str
    owner: str


class Lease:
    """Who may command.

    Attributes:
        holder: Who holds it, or None.
        epoch: Grows each time the lease goes to another holder.
        sequence: Commands accepted in this epoch.
    """

    def __init__(self) -> None:
        self.holder: Holder | None = None
        self.epoch = 0
        self.sequence = 0
        self._last_taken_by: Holder | None = None

    def acquire(self, holder: Holder, *, take: bool, is_stale: bool) -> Holder | None:
        """Give the lease to a holder; one that has it retains it.

        Args:
            holder: Who asks.
            take: Whether to take it from another owner.
            is_stale: Whether the present holder gave no sign of life for ``STALE_AFTER``.

        Returns:
            Who lost it, or None.

        Raises:
            LeaseError: If somebody else holds it; names the owner. Retryable, because
                that one may return it or turn out to be dead.
        """
        present = self.holder
        if present == holder:
            self.sequence += 1
            return None
        if present is not None and not (take or is_stale or present.process == holder.process):
            raise LeaseError(
                f"the robot is commanded by {present.owner}; wait until that one is closed, or "
                "take the robot over with take=True",
                code="robot.lease.taken",
                retryable=True,
            )
        self.holder = holder
        self.epoch += 1
        self.sequence = 1
        self._last_taken_by = holder
        return present

    def release(self, peer: int) -> bool:
        """Return the lease, if this client holds it.

        Returns:
            Whether it did.
        """
        if self.holder is None or self.holder.peer != peer:
            return False
        self.holder = None
        return True

    def use(self, asking: Holder) -> None:
        """Count a command of the holder, and refuse everybody else's.

        Raises:
            LeaseError: Saying who holds the lease now.
        """
        if self.holder is not None and self.holder.peer == asking.peer:
            self.sequence += 1
            return
        if self.holder is None and (
            self._last_taken_by is None or self._last_taken_by.peer == asking.peer
        ):
            raise LeaseError("this learner has no lease; call env.reset()", code="robot.lease.none")
        taker = self.holder or self._last_taken_by
        assert taker is not None
        who = taker.owner
        if taker.process == asking.process:
            who = "another environment of this process (one url is one robot)"
        raise LeaseError(
            f"the robot was taken over by {who}; call env.reset() to command it again",
            code="robot.lease.lost",
        )
