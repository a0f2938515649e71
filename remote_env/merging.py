"""What several robots tell, merged as Gymnasium merges it.

``VectorEnv._add_info`` takes one ``info`` after the other, and one key after the other. In real
time a robot tells some twenty numbers of each step, so that takes as long as all else. Nearly
always all robots tell the same keys, with values of the same types: then what to do with them is
known from the last time, each key is taken of all of them at once, and all numbers of one type
become one array, of which each key has a row.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

__all__ = ["merge_infos"]

_PYTHON_NUMBERS: Final = (float, int, bool)
_FINAL: Final = "final_obs"  # which Gymnasium keeps as objects

# The values of one key, of each robot one.
_Column: TypeAlias = tuple[Any, ...]
_Keys: TypeAlias = tuple[str, ...]


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


class _Numbers(NamedTuple):
    """The keys of one map whose values are numbers of one type.

    Attributes:
        kind: The type.
        keys: The keys.
        get: Returns their columns, of those of all keys.
    """

    kind: type
    keys: _Keys
    get: Callable[[Sequence[_Column]], tuple[_Column, ...]]


class _Plan(NamedTuple):
    """What to do with maps of the same keys and types.

    Attributes:
        names: The keys of the merged map, in order: each with its mask, which says who told it.
        masks: Those of the masks.
        numbers: Keys whose values are Python's numbers, by type.
        maps: Keys whose values are maps, and which column that is.
        rest: All other keys, which column, and its type.
    """

    names: _Keys
    masks: _Keys
    numbers: tuple[_Numbers, ...]
    maps: tuple[tuple[str, int], ...]
    rest: tuple[tuple[str, int, type], ...]


@functools.lru_cache(maxsize=256)
def _plan(keys: _Keys, kinds: tuple[type, ...]) -> _Plan | None:
    """Return what to do; None if one of the keys is the mask of another."""
    masks = tuple(f"_{key}" for key in keys)
    if set(masks) & set(keys):
        return None
    of_kind: dict[type, list[int]] = {}
    for i, kind in enumerate(kinds):
        of_kind.setdefault(object if keys[i] == _FINAL else kind, []).append(i)
    return _Plan(
        names=tuple(name for pair in zip(keys, masks, strict=True) for name in pair),
        masks=masks,
        numbers=tuple(
            _Numbers(kind, tuple(keys[i] for i in of_kind[kind]), _getter(of_kind.pop(kind)))
            for kind in _PYTHON_NUMBERS
            if kind in of_kind
        ),
        maps=tuple((keys[i], i) for i in of_kind.pop(dict, ())),
        rest=tuple((keys[i], i, kind) for kind, indices in of_kind.items() for i in indices),
    )


def _getter(indices: Sequence[int]) -> Callable[[Sequence[_Column]], tuple[_Column, ...]]:
    if len(indices) == 1:
        return lambda columns: (columns[indices[0]],)
    return operator.itemgetter(*indices)


@functools.lru_cache(maxsize=256)
def _all_true(masks: int, count: int) -> NDArray[np.bool_]:
    return np.ones((masks, count), np.bool_)


class _Columns:
    """The numbers and masks of one merged ``info``, of which arrays are made in the end."""

    def __init__(self, count: int) -> None:
        self._count = count
        # By type: the columns, and which maps want them by which keys.
        self._numbers: dict[type, tuple[list[_Column], list[tuple[dict[str, Any], _Keys]]]] = {}
        self._masks: list[tuple[dict[str, Any], _Keys]] = []

    def merge(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Merge what all have told; numbers and masks come with ``fill``."""
        keys, kinds = tuple(infos[0]), tuple(map(type, infos[0].values()))
        plan = _plan(keys, kinds)
        if plan is None or any(
            [tuple(i) != keys or tuple(map(type, i.values())) != kinds for i in infos]
        ):
            return _Merging(self._count).merge(infos)
        if not keys:
            return {}
        columns = list(zip(*[info.values() for info in infos], strict=True))
        merged: dict[str, Any] = dict.fromkeys(plan.names)
        for kind, own, get in plan.numbers:
            numbers, places = self._numbers.setdefault(kind, ([], []))
            numbers += get(columns)
            places.append((merged, own))
        self._masks.append((merged, plan.masks))
        for key, i in plan.maps:
            merged[key] = self.merge(columns[i])
        for key, i, kind in plan.rest:
            merged[key] = self._merge_values(key, kind, columns[i])
        return merged

    def _merge_values(self, key: str, kind: type, values: _Column) -> Any:
        if issubclass(kind, np.number):
            return np.array(values, kind)
        if kind is np.ndarray and _are_alike(values):
            return np.array(values)
        return _Merging(self._count).merge([{key: value} for value in values])[key]

    def fill(self) -> None:
        """Put the arrays into the maps."""
        for kind, (numbers, places) in self._numbers.items():
            _hand_out(np.array(numbers, kind), places)
        count = sum([len(masks) for _, masks in self._masks])
        _hand_out(_all_true(count, self._count).copy(), self._masks)


def _hand_out(rows: NDArray[Any], places: Sequence[tuple[dict[str, Any], _Keys]]) -> None:
    """Give each key of each map the next row."""
    following = iter(rows)
    for merged, keys in places:
        merged.update(zip(keys, following))  # noqa: B905 (each takes as many as it has keys)


def _are_alike(arrays: Sequence[NDArray[Any]]) -> bool:
    dtype, shape = arrays[0].dtype, arrays[0].shape
    return not dtype.hasobject and all(a.dtype == dtype and a.shape == shape for a in arrays)
