"""Joined bytes: what those send who have nothing but messages."""

from __future__ import annotations

from typing import Final

import numpy as np

from benchmarks.payloads import Arrays

__all__ = ["join", "split"]

_REWARD: Final = np.zeros(2)  # and the flags


def join(observation: Arrays) -> bytes:
    """Return one message."""
    return b"".join([_REWARD.data, *(array.data for array in observation.values())])


def split(message: bytes | bytearray | memoryview, observation: Arrays) -> Arrays:
    """Return its arrays, as views; both ends know what is where."""
    arrays, at = {}, _REWARD.nbytes
    for name, like in observation.items():
        arrays[name] = np.frombuffer(message, like.dtype, like.size, at).reshape(like.shape)
        at += like.nbytes
    return arrays
