"""Batches: observations of several robots, as Gymnasium batches them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.protocol.arrays import place
from remote_env.protocol.pool import BufferPool
from remote_env.spaces import SpaceCodec
from remote_env.translation import Arrays

__all__ = ["Batch", "Batches"]


class Batch:
    """One row for each robot, of each leaf of the observation space.

    Attributes:
        leaves: ``(n, ...)`` arrays, in the order of the leaves.
    """

    __slots__ = ("_build", "leaves")

    def __init__(self, leaves: list[NDArray[Any]], build: Callable[[Arrays], Any]) -> None:
        self.leaves = leaves
        self._build = build

    def keep(self, index: int, arrays: Arrays | None) -> None:
        """Copy an observation into its row; zeros if there is none."""
        if arrays is None:
            for leaf in self.leaves:
                leaf[index] = 0
            return
        for leaf, array in zip(self.leaves, arrays, strict=True):
            leaf[index] = array

    @property
    def observation(self) -> Any:
        """The batch in the structure of the batched space; a view."""
        return self._build(self.leaves)


class Batches:
    """Makes batches of one space, in memory that is used again when nobody holds the batch."""

    def __init__(self, codec: SpaceCodec, *, copy: bool) -> None:
        """Prepare.

        Args:
            codec: Of the space of one observation.
            copy: Whether every batch is the learner's own; if not, there is one.
        """
        self._shapes = [(spec.dtype, spec.shape) for spec in codec.layout]
        self._sizes = [spec.nbytes for spec in codec.layout]
        self._build = _builder_of(codec.space)
        self._places: dict[int, tuple[list[int], int]] = {}  # of so many rows
        self._copy = copy
        self._pool = BufferPool()
        self._one: Batch | None = None

    def take(self, count: int) -> Batch:
        """Return a batch of so many rows; what stands in it is not said."""
        if self._one is not None and not self._copy and len(self._one.leaves[0]) == count:
            return self._one
        if count not in self._places:
            self._places[count] = place([count * size for size in self._sizes])
        offsets, size = self._places[count]
        memory = self._pool.take(size)
        leaves: list[NDArray[Any]] = [
            np.ndarray((count, *shape), dtype, memory, offset)
            for (dtype, shape), offset in zip(self._shapes, offsets, strict=True)
        ]
        self._one = batch = Batch(leaves, self._build)
        if self._copy:
            self._one = None
        return batch


def _builder_of(space: spaces.Space[Any]) -> Callable[[Arrays], Any]:
    build = _build_of(space)
    return lambda leaves: build(iter(leaves))


def _build_of(space: spaces.Space[Any]) -> Callable[[Iterator[NDArray[Any]]], Any]:
    """Return what puts a batch together from its leaves, depth first."""
    if isinstance(space, spaces.Dict):
        keyed = [(key, _build_of(child)) for key, child in space.spaces.items()]
        return lambda leaves: {key: build(leaves) for key, build in keyed}
    if isinstance(space, spaces.Tuple):
        builders = [_build_of(child) for child in space.spaces]
        return lambda leaves: tuple([build(leaves) for build in builders])
    return next
