"""A session whose answers are looked for now and then, beside those of other robots.

Between ``come`` and ``leave`` the learner's thread has the turn of the session, and ``poll`` is its
sign of life. Outside of these heartbeats are, as between the two halves of a step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from remote_env.asking import Answer, Waiting
from remote_env.client import RobotClient
from remote_env.errors import ActionRefusedError, DeadlineExceededError
from remote_env.protocol import ResetDone, StepDone, Value
from remote_env.resuming import SESSION_LASTS
from remote_env.shared_session import HEARTBEAT_TAKES, Begun

__all__ = ["PolledClient"]


class PolledClient(RobotClient):
    """A ``RobotClient`` that can be polled."""

    def __init__(self, url: str, **options: Any) -> None:
        """Prepare; see ``RobotClient``."""
        super().__init__(url, **options)
        self._cancel_begun = threading.Event()  # the reset that was begun

    def begin_reset(
        self,
        *,
        seed: int | None = None,
        options: Mapping[str, Value] | None = None,
        take: bool = False,
        max_steps: int | None = None,
        timeout: float = 120.0,
        reconnect_timeout: float = SESSION_LASTS,
    ) -> None:
        """Ask for a reset, and do not wait for it: ``poll`` or ``finish_reset`` does.

        Arguments are those of ``reset``. A lease that may be dead is not waited for.

        Raises:
            LocalProtocolError: If what was begun before was not finished.
        """
        make = self._reset_of(seed, options, take=take, max_steps=max_steps)
        self._may_hold_lease = True
        self._cancel_begun = threading.Event()
        self._resets.add(self._cancel_begun)
        waiting = Waiting(self._log_progress, self._cancel_begun, reconnect_timeout)
        try:
            self._begin("reset", make, timeout, waiting=waiting)
        except BaseException:
            self._resets.discard(self._cancel_begun)
            raise

    def finish_reset(self) -> ResetDone:
        """Return what came of the reset that ``begin_reset`` asked for.

        Raises:
            LocalProtocolError: If there is none.
            RemoteEnvError: As ``reset``.
        """
        self._go_on("finish_reset")
        try:
            return self._note(self._finish(None), ResetDone)
        finally:
            self._forget_begun()
            self._turns.release()

    def _forget_begun(self) -> None:
        self._resets.discard(self._cancel_begun)
        self._channel.waiting = Waiting()  # that one may refer to us

    def poll(self, timeout: float = 0.0) -> StepDone | ResetDone | None:
        """Return what came of what was begun, if it is here; to be called after ``come``.

        Args:
            timeout: How long to wait for something to come in, in seconds.

        Returns:
            None if it is not here; then call ``poll`` again, or ``leave``. Once it is, the
            turn is over.

        Raises:
            RemoteEnvError: As ``finish_step`` and ``finish_reset``; the turn is over.
        """
        begun = self._begun
        try:
            answer = self._poll(timeout)
        except ActionRefusedError as error:
            assert begun is not None
            self._ask_soon_again(begun, error)
            return None
        except BaseException:
            self._forget_begun()
            raise
        if answer is None:
            return None
        if type(answer.message) is ResetDone:
            self._forget_begun()
            return self._note(answer, ResetDone)
        return self._note(answer, StepDone)

    def _ask_soon_again(self, begun: Begun, error: ActionRefusedError) -> None:
        """As ``_step_again``, and do not wait for the answer.

        Raises:
            ActionRefusedError: If it was late, or refused for something else.
        """
        age = time.monotonic() - begun.at
        if error.code != "robot.action.expired" or age > self.spec.action_lifetime:
            raise error
        self._begin("step", begun.make, max(begun.timeout - age, 0.001))
        if not self.come():
            raise error

    def come(self) -> bool:
        """Be who waits for the answer to what was begun; then call ``poll``, or ``leave``.

        Returns:
            Whether that went; if not, a heartbeat is stuck, for which only whoever finishes it
            on another thread may wait.

        Raises:
            LocalProtocolError: If there is nothing such.
        """
        try:
            self._go_on("poll", HEARTBEAT_TAKES)
        except DeadlineExceededError:
            return False
        self._channel.come()
        return True

    def leave(self) -> None:
        """Do something else before it is answered; the lease is kept meanwhile."""
        self._channel.leave()
        self._turns.park()

    def hand_on(self) -> float:
        """As ``leave``, to who finishes it on another thread.

        Returns:
            Until when that takes at most, on ``time.monotonic``, in seconds.
        """
        deadline = self._channel.hand_on()
        self._turns.park()
        return deadline

    def stop_polling(self) -> None:
        """Give up what was begun, if its turn is parked or ours, as Ctrl-C does in a call."""
        if self._turns.is_parked and not self._turns.take_back(HEARTBEAT_TAKES):
            self._channel.break_link()  # under a heartbeat that is stuck
            self._turns.take_back(self._connect_timeout)
        self._let_go()

    @property
    def is_broken(self) -> bool:
        """Whether polling leads to nothing, because the link is lost: finish what was begun."""
        return self._channel.is_broken

    @property
    def has_unread(self) -> bool:
        """Whether ``poll`` has something to take of which a selector does not know."""
        return self._channel.has_unread

    def fileno(self) -> int:
        """Return what a selector waits for until ``poll`` may have more; -1 if nothing such."""
        return self._channel.fileno()

    def _poll(self, timeout: float) -> Answer | None:
        """Return the answer to what was begun if it is here; has a turn until then.

        Raises:
            RemoteEnvError: As ``Channel.finish``.
        """
        try:
            answer = self._channel.poll(timeout)
        except BaseException:
            self._turns.release()
            self._note_end()
            raise
        if answer is not None:
            self._turns.release()
        return answer
