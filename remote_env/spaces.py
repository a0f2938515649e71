"""Gymnasium spaces as plain data, and values of spaces as flat lists of arrays.

The wire carries a flat list of named fixed-shape arrays; the structure (Dict, Tuple, bounds)
stands once in the metadata. Box, Discrete, MultiBinary, MultiDiscrete, Dict and Tuple are
supported, nested as one likes. A leaf's name is its path, joined by slashes; a space without
structure has the one leaf ``"observation"`` or ``"action"``.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import RemoteProtocolError, UnsupportedSpaceError
from remote_env.protocol.arrays import DTYPES, ArraySpec, Layout
from remote_env.protocol.values import Value

__all__ = ["SpaceCodec", "describe_space", "read_space", "with_leaves"]

_LEAVES: Final = (spaces.Box, spaces.Discrete, spaces.MultiBinary, spaces.MultiDiscrete)


class SpaceCodec:
    """Takes values of one space apart into arrays, and puts them together again.

    Attributes:
        space: The space.
        layout: Its leaves, depth first.
        leaf_spaces: The space of each leaf.
    """

    def __init__(self, space: spaces.Space[Any], *, root: str) -> None:
        """Prepare for a space.

        Args:
            space: Made of the supported kinds.
            root: The name of the leaf if the space itself is one.

        Raises:
            UnsupportedSpaceError: Naming the part that is not supported, or two leaves
                that would have the same name.
        """
        self.space = space
        leaves = list(_leaves(space, "", root))
        self.layout = Layout(ArraySpec(n, np.dtype(s.dtype), s.shape or ()) for n, s in leaves)
        names = self.layout.names
        for name in names:
            if names.count(name) > 1:
                raise UnsupportedSpaceError(f"two leaves of the space are called {name!r}")
        self.leaf_spaces = tuple(leaf for _, leaf in leaves)
        # Decided once: to ask a space whether it is a Dict costs a microsecond.
        self._build = _builder_of(space)
        self._is_leaf = isinstance(space, _LEAVES)

    def flatten(self, value: Any, *, keep_dtype: bool = False) -> list[NDArray[Any]]:
        """Take a value apart; copies only what has another dtype.

        Args:
            value: Of this space's structure. Values are not checked against bounds.
            keep_dtype: Keep the dtypes of Box arrays as they are, where the wire can.

        Returns:
            One array per leaf, with exactly the shapes of ``layout``.

        Raises:
            ValueError: Naming the leaf whose structure, shape or dtype does not fit.
        """
        return [
            _to_array(spec, leaf, item, keep_dtype=keep_dtype)
            for spec, leaf, item in zip(
                self.layout, self.leaf_spaces, self.parts(value), strict=True
            )
        ]

    def parts(self, value: Any) -> list[Any]:
        """Take a value apart as it is, in the order of ``layout``.

        Raises:
            ValueError: If its structure does not fit.
        """
        return [value] if self._is_leaf else list(_parts(self.space, value, ""))

    def unflatten(self, arrays: Sequence[NDArray[Any]]) -> Any:
        """Put a value together; copies nothing, Discrete leaves become Python integers."""
        return self._build(iter(arrays))


def _leaves(
    space: spaces.Space[Any], path: str, root: str
) -> Iterator[tuple[str, spaces.Space[Any]]]:
    where = path or root
    if isinstance(space, _LEAVES):
        if np.dtype(space.dtype).str not in DTYPES:
            raise UnsupportedSpaceError(f"{where!r} has the dtype {space.dtype}")
        yield where, space
    elif isinstance(space, spaces.Dict):
        for key, child in space.spaces.items():
            if not isinstance(key, str) or not key:
                raise UnsupportedSpaceError(f"{where!r} has the key {key!r}; keys must be text")
            yield from _leaves(child, f"{path}/{key}" if path else key, root)
    elif isinstance(space, spaces.Tuple):
        for index, child in enumerate(space.spaces):
            yield from _leaves(child, f"{path}/{index}" if path else str(index), root)
    else:
        raise UnsupportedSpaceError(
            f"{where!r} is a {type(space).__name__} space, which has no fixed shape; supported "
            "are Box, Discrete, MultiBinary, MultiDiscrete, and Dict and Tuple of those. Wrap "
            "the environment so that it has only these"
        )


def _parts(space: spaces.Space[Any], value: Any, path: str) -> Iterator[Any]:
    if isinstance(space, spaces.Dict):
        if not isinstance(value, Mapping):
            raise ValueError(f"{path or 'the value'} must be a dict, not {type(value).__name__}")
        if value.keys() != space.spaces.keys():
            missing = sorted(space.spaces.keys() - value.keys())
            unknown = sorted(map(str, value.keys() - space.spaces.keys()))
            raise ValueError(
                f"{path or 'the value'} has other keys than the space: missing {missing}, "
                f"unknown {unknown}"
            )
        for key, child in space.spaces.items():
            yield from _parts(child, value[key], f"{path}/{key}")
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, (tuple, list)) or len(value) != len(space.spaces):
            raise ValueError(f"{path or 'the value'} must be a tuple of {len(space.spaces)}")
        for index, child in enumerate(space.spaces):
            yield from _parts(child, value[index], f"{path}/{index}")
    else:
        yield value


def _to_array(
    spec: ArraySpec, space: spaces.Space[Any], value: Any, *, keep_dtype: bool
) -> NDArray[Any]:
    if isinstance(space, spaces.Discrete):
        try:
            return np.asarray(operator.index(value), spec.dtype)
        except (TypeError, OverflowError) as error:
            raise ValueError(f"{spec.name!r} must be an integer, not {value!r:.60}") from error
    array = np.asarray(value)
    if array.shape != spec.shape:
        raise ValueError(f"{spec.name!r} must have the shape {spec.shape}, not {array.shape}")
    if array.dtype == spec.dtype or (keep_dtype and array.dtype.str in DTYPES):
        return array
    if array.dtype.kind not in "biuf" or not np.can_cast(array.dtype, spec.dtype, "same_kind"):
        raise ValueError(f"{spec.name!r} must be {spec.dtype}, not {array.dtype}")
    with np.errstate(over="ignore"):  # an overflow to infinity is refused as not finite
        return array.astype(spec.dtype)


def _builder_of(space: spaces.Space[Any]) -> Callable[[Iterator[NDArray[Any]]], Any]:
    """Return what puts a value of a space together from its leaves, depth first."""
    if isinstance(space, spaces.Dict):
        keyed = [(key, _builder_of(child)) for key, child in space.spaces.items()]
        return lambda arrays: {key: build(arrays) for key, build in keyed}
    if isinstance(space, spaces.Tuple):
        builders = [_builder_of(child) for child in space.spaces]
        return lambda arrays: tuple([build(arrays) for build in builders])
    if isinstance(space, spaces.Discrete):
        return lambda arrays: int(next(arrays))
    return next


def with_leaves(
    space: spaces.Space[Any], leaves: Mapping[str, spaces.Space[Any]], *, root: str
) -> spaces.Space[Any]:
    """Return a space in which some leaves, by name, are others."""

    def replaced(part: spaces.Space[Any], path: str) -> spaces.Space[Any]:
        if isinstance(part, spaces.Dict):
            children = part.spaces.items()
            return spaces.Dict(
                [(k, replaced(s, f"{path}/{k}" if path else k)) for k, s in children]
            )
        if isinstance(part, spaces.Tuple):
            return spaces.Tuple(
                [replaced(s, f"{path}/{i}" if path else str(i)) for i, s in enumerate(part.spaces)]
            )
        return leaves.get(path or root, part)

    return replaced(space, "")


def describe_space(space: spaces.Space[Any]) -> dict[str, Value]:
    """Describe a supported space as plain data.

    Bounds that are everywhere the same are one number, so a picture costs no megabyte.

    Raises:
        UnsupportedSpaceError: If a part is not supported.
    """
    list(_leaves(space, "", "the space"))
    return _describe(space)


def _describe(space: spaces.Space[Any]) -> dict[str, Value]:
    if isinstance(space, spaces.Dict):
        return {"type": "Dict", "spaces": [[k, _describe(s)] for k, s in space.spaces.items()]}
    if isinstance(space, spaces.Tuple):
        return {"type": "Tuple", "spaces": [_describe(s) for s in space.spaces]}
    dtype = np.dtype(space.dtype).str
    if isinstance(space, spaces.Box):
        return {
            "type": "Box",
            "dtype": dtype,
            "shape": list(space.shape),
            "low": _compact(space.low),
            "high": _compact(space.high),
        }
    if isinstance(space, spaces.Discrete):
        return {
            "type": "Discrete",
            "dtype": dtype,
            "n": int(space.n),
            "start": int(space.start),
        }
    if isinstance(space, spaces.MultiBinary):
        return {"type": "MultiBinary", "shape": list(space.shape), "flat": isinstance(space.n, int)}
    assert isinstance(space, spaces.MultiDiscrete)
    return {
        "type": "MultiDiscrete",
        "dtype": dtype,
        "nvec": np.ascontiguousarray(space.nvec),
        "start": np.ascontiguousarray(space.start),
    }


def _compact(bound: NDArray[Any]) -> Value:
    if bound.size and np.all(bound == bound.flat[0]):
        return bound.flat[0].item()
    return np.ascontiguousarray(bound)


def read_space(described: object) -> spaces.Space[Any]:
    """Build the space that a peer described.

    Raises:
        RemoteProtocolError: If the description is malformed.
    """
    try:
        return _read(described, 0)
    except (KeyError, TypeError, ValueError, AssertionError, IndexError) as error:
        raise RemoteProtocolError(f"the metadata describe no space: {error!r:.200}") from error


def _read(described: Any, depth: int) -> spaces.Space[Any]:
    if depth > 16:
        raise ValueError("nested deeper than 16 levels")
    kind = described["type"]
    if kind == "Dict":
        return spaces.Dict([(key, _read(child, depth + 1)) for key, child in described["spaces"]])
    if kind == "Tuple":
        return spaces.Tuple([_read(child, depth + 1) for child in described["spaces"]])
    if kind == "MultiBinary":
        shape = described["shape"]
        return spaces.MultiBinary(shape[0] if described["flat"] else shape)
    dtype = DTYPES[described["dtype"]]
    if kind == "Discrete":
        return spaces.Discrete(described["n"], start=described["start"], dtype=dtype.type)
    if kind == "Box":
        shape = tuple(described["shape"])
        return spaces.Box(
            _spread(described["low"], shape, dtype),
            _spread(described["high"], shape, dtype),
            shape,
            dtype.type,
        )
    if kind == "MultiDiscrete":
        return spaces.MultiDiscrete(described["nvec"], dtype=dtype.type, start=described["start"])
    raise ValueError(f"unknown kind {kind!r:.40}")


def _spread(bound: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if isinstance(bound, np.ndarray) and (bound.shape != shape or bound.dtype != dtype):
        raise ValueError("a bound has another shape or dtype than its space")
    return np.full(shape, bound, dtype)
