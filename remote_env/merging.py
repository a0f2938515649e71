"""What several robots tell, merged as Gymnasium merges it.

``VectorEnv._add_info`` takes one ``info`` after the other, and one key after the other. In real
time a robot tells some twenty numbers of each step, so that takes as long as all else. Nearly
always all robots tell the same keys, with values of the same types: then each key is taken of
all of them at once, and all numbers of one type become one array, of which each key has a row.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

__all__ = ["merge_infos"]

_PYTHON_NUMBERS: Final = (float, int, bool)
_FINAL: Final = "final_obs"  # which Gymnasium keeps as objects


def merge_infos(infos: Sequence[dict[str, Any] | None]) -> dict[str, Any]:
    """Merge what several robots told, as ``VectorEnv._add_info`` does one after the other.

    Args:
        infos: One for each row; None of those that told nothing.
    """
    told = [info for info in infos if info is not None]
    if not told:
        return {}
    if len(told) < len(infos):
        return _Merging(len(infos)).merge(infos)
    columns = _Columns(len(told))
    merged = columns.merge(told)
    columns.fill()
    return merged


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


class _Keys(NamedTuple):
    """The keys of a map.

    Attributes:
        masks: What Gymnasium calls who has told each.
        get: Returns the values of all of them, as a tuple.
    """

    masks: tuple[str, ...]
    get: Callable[[Mapping[str, Any]], tuple[Any, ...]]


@functools.lru_cache(maxsize=256)
def _look_at(keys: tuple[str, ...]) -> _Keys | None:
    """Return what there is to know of keys; None if one of them is the mask of another."""
    masks = tuple(f"_{key}" for key in keys)
    if set(masks) & set(keys):
        return None
    if len(keys) == 1:
        return _Keys(masks, lambda info: (info[keys[0]],))
    return _Keys(masks, operator.itemgetter(*keys) if keys else lambda info: ())


class _Columns:
    """The numbers and masks of one merged ``info``, of which arrays are made in the end."""

    def __init__(self, count: int) -> None:
        self._count = count
        # By type: into which map by which key which values go.
        self._numbers: dict[type, list[tuple[dict[str, Any], str, tuple[Any, ...]]]] = {}
        self._masks: list[tuple[dict[str, Any], str]] = []

    def merge(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge what all have told; numbers and masks come with ``fill``."""
        first = infos[0]
        keys = _look_at(tuple(first))
        size = len(first)
        if keys is None or any([len(info) != size for info in infos]):
            return _Merging(self._count).merge(infos)
        try:
            rows = [keys.get(info) for info in infos]
        except KeyError:
            return _Merging(self._count).merge(infos)
        merged: dict[str, Any] = {}
        for key, mask, values in zip(first, keys.masks, zip(*rows, strict=True), strict=True):
            merged[key] = self._merge_values(merged, key, values)
            merged[mask] = None
            self._masks.append((merged, mask))
        return merged

    def _merge_values(self, merged: dict[str, Any], key: str, values: tuple[Any, ...]) -> Any:
        kinds = set(map(type, values))
        if len(kinds) == 1 and key != _FINAL:
            (kind,) = kinds
            if kind in _PYTHON_NUMBERS:
                self._numbers.setdefault(kind, []).append((merged, key, values))
                return None
            if kind is dict:
                return self.merge(values)
            if issubclass(kind, np.number):
                return np.array(values, kind)
            if kind is np.ndarray and _are_alike(values):
                return np.array(values)
        return _Merging(self._count).merge([{key: value} for value in values])[key]

    def fill(self) -> None:
        """Put the arrays into the maps."""
        for kind, numbers in self._numbers.items():
            arrays: NDArray[Any] = np.array([values for _, _, values in numbers], kind)
            for (merged, key, _), array in zip(numbers, arrays, strict=True):
                merged[key] = array
        masks = np.ones((len(self._masks), self._count), np.bool_)
        for (merged, mask), array in zip(self._masks, masks, strict=True):
            merged[mask] = array


def _are_alike(arrays: Sequence[NDArray[Any]]) -> bool:
    dtype, shape = arrays[0].dtype, arrays[0].shape
    return not dtype.hasobject and all(a.dtype == dtype and a.shape == shape for a in arrays)
