"""What a simulated robot feels: all its streams of one instant."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError
from remote_env.spec import StreamKind, StreamSpec

__all__ = ["FeltStreams", "stream_names"]


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


def stream_names(what: str, names: Sequence[str], otherwise: str) -> list[str]:
    """Return names out of a model as parts of names of streams, which have no dots.

    Args:
        what: Is called so, for people, such as "camera".
        names: Of all of them, in the model's order; empty where the model gives none.
        otherwise: Before the number of one without a name.

    Raises:
        ConfigurationError: If two would be called the same, and one of them be lost.
    """
    chosen: list[str] = []
    for number, name in enumerate(names):
        stream = name.replace(".", "_") or f"{otherwise}{number}"
        if stream in chosen:
            other = names[chosen.index(stream)] or chosen.index(stream)
            raise ConfigurationError(
                f"the {what}s {other!r} and {name or number!r} of the model would both be served "
                f"as {stream!r}; rename one in the MJCF file"
            )
        chosen.append(stream)
    return chosen
