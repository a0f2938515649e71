"""Batches: observations, rewards and ``info`` of several robots, as Gymnasium batches them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

from remote_env.protocol.arrays import place
from remote_env.protocol.pool import BufferPool
from remote_env.spaces import SpaceCodec
from remote_env.translation import Arrays

__all__ = ["Batch", "Batches", "merge_infos"]

_FLOAT: Final = {float}


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


class _Merging(VectorEnv[Any, Any, Any]):
    """Gymnasium's own way to merge, for so many robots."""

    def __init__(self, count: int) -> None:
        self.num_envs = count

    def merge(self, infos: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
        merged: dict[str, Any] = {}
        for index, info in enumerate(infos):
            if info is not None:
                merged = self._add_info(merged, dict(info), index)
        return merged


def merge_infos(infos: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Merge what several robots told, as ``VectorEnv._add_info`` does one after the other.

    That takes its time. Nearly always all have told the same keys; then a key is merged at once,
    and all keys with floats together.

    Args:
        infos: One for each row; None of those that told nothing.
    """
    told = [info for info in infos if info is not None]
    if not told:
        return {}
    keys = told[0].keys()
    names = _names_of(tuple(keys))
    is_even = len(told) == len(infos) and all(info.keys() == keys for info in told)
    if not is_even or not names:
        return _Merging(len(infos)).merge(infos)
    merged: dict[str, Any] = {}
    floats: list[str] = []
    for key, (mask, is_told) in zip(
        keys, zip(names, np.ones((len(names), len(infos)), np.bool_), strict=True), strict=True
    ):
        values = [info[key] for info in told]
        kinds = set(map(type, values))
        if kinds == _FLOAT and key != "final_obs":
            floats.append(key)
            merged[key] = values
        else:
            merged[key] = _merge(key, values, kinds)
        merged[mask] = is_told
    if floats:
        merged.update(zip(floats, np.array([merged[key] for key in floats]), strict=True))
    return merged


@functools.lru_cache(maxsize=256)
def _names_of(keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return what is called in Gymnasium who has told a key; nothing if that is a key itself."""
    names = tuple(f"_{key}" for key in keys)
    return () if set(names) & set(keys) else names


def _merge(key: str, values: list[Any], kinds: set[type]) -> Any:
    if len(kinds) == 1 and key != "final_obs":
        (kind,) = kinds
        if kind is dict:
            return merge_infos(values)
        if kind in (int, bool) or issubclass(kind, np.number):
            return np.array(values, kind)
        if kind is np.ndarray and _are_alike(values):
            return np.array(values)
    return _Merging(len(values)).merge([{key: value} for value in values])[key]


def _are_alike(arrays: Sequence[NDArray[Any]]) -> bool:
    dtype, shape = arrays[0].dtype, arrays[0].shape
    return not dtype.hasobject and all(a.dtype == dtype and a.shape == shape for a in arrays)
