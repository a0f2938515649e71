"""What a client makes of the arrays that came: encoded ones decoded, unchanged ones put back in.

It keeps the newest of some, so that what has not changed need not be sent again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import RemoteProtocolError
from remote_env.protocol.arrays import Layout
from remote_env.protocol.channel_messages import Observation, ResetDone, StepDone
from remote_env.protocol.compressing import decode_array
from remote_env.protocol.pool import BufferPool

__all__ = ["KeptArrays"]

_Observing: TypeAlias = ResetDone | StepDone | Observation


class KeptArrays:
    """Keeps some of the arrays of each observation, by index, and decodes others.

    One copy for each array that is new, into memory that is used again, and one for each that is
    unchanged: what the learner gets is its own. With ``copies=False`` neither: the learner and we
    have the same array, which is read-only.

    Attributes:
        indices: Of the arrays that it keeps.
        is_idle: Whether every array is as it came.
    """

    def __init__(
        self, indices: tuple[int, ...] = (), *, copies: bool = True, layout: Layout | None = None
    ) -> None:
        """Begin with nothing.

        Args:
            indices: Of the arrays to keep, in the order of the subscription.
            copies: Whether the learner's arrays are its own.
            layout: What was agreed; None if nothing is encoded.
        """
        self.indices = indices
        self._copies = copies
        self._kept: dict[int, NDArray[Any]] = {}
        self._encoded = {i: layout[i] for i in layout.encoded} if layout else {}
        self._pools = {i: BufferPool() for i in {*indices, *self._encoded}}
        self.is_idle = not self._pools

    def fill(self, message: _Observing) -> _Observing:
        """Return an observation decoded, with what is unchanged in it, and keep what is new.

        Raises:
            RemoteProtocolError: If an array is unchanged that never came, or that is not kept; or
                if one is damaged. Then nothing has changed.
        """
        unchanged = () if isinstance(message, ResetDone) else message.unchanged
        missing = [i for i in unchanged if i not in self._kept]
        if missing:
            raise RemoteProtocolError(
                f"array {missing[0]} is said to be unchanged, and it never came or is not kept"
            )
        present = iter(message.observation)
        count = len(message.observation) + len(unchanged)
        arrays = [
            self._copy(i) if i in unchanged else self._decode(i, next(present))
            for i in range(count)
        ]
        for i in self.indices:
            if i not in unchanged:
                self._keep(i, arrays[i])
        return replace(message, observation=tuple(arrays))

    def _decode(self, index: int, array: NDArray[Any]) -> NDArray[Any]:
        spec = self._encoded.get(index)
        if spec is None:
            return array
        room: NDArray[Any] = np.ndarray(
            spec.shape, spec.dtype, self._pools[index].take(spec.nbytes)
        )
        decode_array(spec, array, room)
        return room

    def _copy(self, index: int) -> NDArray[Any]:
        kept = self._kept[index]
        if not self._copies:
            return kept
        memory = self._pools[index].take(kept.nbytes)  # fresh memory takes ten times as long
        copy: NDArray[Any] = np.ndarray(kept.shape, kept.dtype, memory)
        np.copyto(copy, kept)
        return copy

    def _keep(self, index: int, array: NDArray[Any]) -> None:
        kept = self._kept.get(index)
        if not self._copies:
            array.flags.writeable = False
            self._kept[index] = array
        elif kept is None:
            self._kept[index] = array.copy()
        else:
            np.copyto(kept, array)
