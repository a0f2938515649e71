"""A request whose answer is looked for now and then, beside those of other robots.

``Channel.finish`` waits. ``PolledChannel.poll`` takes what is there, which costs a robot that has
nothing to say no time of the others. What takes time, a lost link, is left to ``finish``, which
whoever polls then calls on another thread.
"""

from __future__ import annotations

import time

from remote_env.asking import Answer
from remote_env.channel import Channel
from remote_env.errors import ConnectionLostError, LocalProtocolError, RemoteProtocolError
from remote_env.session import CLOSED

__all__ = ["PolledChannel"]


class PolledChannel(Channel):
    """A ``Channel`` that can be polled."""

    @property
    def is_broken(self) -> bool:
        """Whether what was begun needs ``finish``: its link is lost, or there was none."""
        asked = self._asked
        return asked is not None and (asked.failure is not None or asked.message is None)

    def fileno(self) -> int:
        """Return what a selector waits for until ``poll`` may have more; -1 if nothing such."""
        return -1 if self._link is None else self._link.fileno()

    @property
    def has_unread(self) -> bool:
        """Whether ``poll`` has something to take of which the selector does not know."""
        return self._link is not None and self._link.has_unread

    def come(self) -> None:
        """Begin to poll for what was begun: from now on we ask for signs of life.

        Who comes late has up to a second to fetch what is there.
        """
        asked = self._asked
        if asked is not None and asked.message is not None:
            self._vigil = self._begin_vigil(asked, asked.deadline_at(time.monotonic()))

    def leave(self) -> None:
        """Do something else before it is answered."""
        if self._asked is not None:
            self._asked.left_at = time.monotonic()

    def hand_on(self) -> float:
        """Leave what was begun to ``finish``, on another thread; return its deadline.

        That of who came, on ``time.monotonic``, in seconds.
        """
        asked = self._asked
        assert asked is not None
        if asked.message is not None:
            asked.deadline = self._vigil.deadline
        self.leave()
        return asked.deadline

    def poll(self, timeout: float = 0.0) -> Answer | None:
        """Return the answer to what was begun, if it is here; to be called between come and leave.

        Args:
            timeout: How long to wait for something to come in, in seconds.

        Returns:
            None if it is not, also if the link is lost: ``is_broken`` says so.

        Raises:
            RemoteEnvError: As ``finish``.
        """
        asked = self._asked
        if asked is None:
            raise LocalProtocolError("nothing was asked; begin a request first")
        if self.is_broken:
            return None
        try:
            answer = self._look(asked, self._vigil, timeout)
            while answer is None and self.has_unread:  # it came with what was not it
                answer = self._look(asked, self._vigil, 0.0)
            if answer is not None and self._is_given_up:
                self.close(CLOSED)
        except (ConnectionLostError, RemoteProtocolError) as error:
            asked.failure = error
            return None
        except BaseException as error:
            self._asked = None
            self._end_for(error)
            raise
        if answer is not None:
            self._asked = None
        return answer
