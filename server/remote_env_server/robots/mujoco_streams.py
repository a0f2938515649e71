"""What a simulated robot feels: all its streams of one instant."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.spec import StreamKind, StreamSpec

__all__ = ["FeltStreams", "stream_name"]


class FeltStreams:
    """The proprioception streams of one instant, in one array: they are clipped together.

    Attributes:
        values: By stream name, where to write, ``(size,)`` float64, in the stream's unit.
    """

    def __init__(self, streams: Iterable[StreamSpec]) -> None:
        """Make room for the proprioception among these streams."""
        boxes = {
            stream.name: stream.space
            for stream in streams
            if stream.kind is StreamKind.PROPRIOCEPTION and isinstance(stream.space, spaces.Box)
        }
        ends = np.cumsum([0, *(box.shape[0] for box in boxes.values())]).tolist()
        self._slices = {
            name: slice(begin, end)
            for name, begin, end in zip(boxes, ends[:-1], ends[1:], strict=True)
        }
        self._low = np.concatenate([box.low for box in boxes.values()])
        self._high = np.concatenate([box.high for box in boxes.values()])
        self._all = np.zeros(ends[-1])
        self.values = {name: self._all[part] for name, part in self._slices.items()}

    def clipped(self) -> dict[str, NDArray[np.float32]]:
        """Return the streams within their bounds, float32; a copy."""
        everything = np.minimum(np.maximum(self._all.astype(np.float32), self._low), self._high)
        return {name: everything[part] for name, part in self._slices.items()}


def stream_name(name: str, otherwise: str) -> str:
    """Return a name out of a model as part of the name of a stream, which has no dots."""
    return name.replace(".", "_") or otherwise
