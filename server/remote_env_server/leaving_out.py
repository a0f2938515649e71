"""What need not be sent again: arrays that a client has and keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

__all__ = ["LeftOut"]


class LeftOut:
    """Remembers what one client got last, by reference.

    An array is unchanged if it is the very same object, and read-only: what is published once
    never changes (``buffers.py``), and a robot's own arrays may.
    """

    def __init__(self, streams: Sequence[str] = (), kept: Sequence[str] = ()) -> None:
        """Begin with nothing sent.

        Args:
            streams: What the client is subscribed to.
            kept: Of which of these it keeps the newest array.
        """
        self._indices = tuple(i for i, name in enumerate(streams) if name in kept)
        self._sent: Sequence[NDArray[Any]] = ()

    def of(self, arrays: Sequence[NDArray[Any]]) -> tuple[int, ...]:
        """Return the indices of what the client has already, ascending."""
        if not self._sent:
            return ()
        return tuple(
            i for i in self._indices if arrays[i] is self._sent[i] and not arrays[i].flags.writeable
        )

    def note_sent(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Note what the client got, or will get when it resumes."""
        if self._indices:
            self._sent = arrays

    def forget(self) -> None:
        """Send everything next time."""
        self._sent = ()
