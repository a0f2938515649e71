"""Which arrays may cross the wire, and where each lies in a frame.

Both sides learn once, from the agreed specification, the name, dtype and shape of every
array that a message of a kind carries: its ``Layout``. After that an array is nothing but
its bytes at a known offset, so a peer cannot choose a dtype or a shape that was not agreed.
"""

from __future__ import annotations

import math
import reprlib
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import LocalProtocolError, RemoteProtocolError

__all__ = [
    "ALIGNMENT",
    "CODECS",
    "COPY_BELOW",
    "DTYPES",
    "NO_ARRAYS",
    "RAW",
    "ArraySpec",
    "Layout",
    "aligned",
    "is_shape",
    "place",
    "read_dtype",
    "read_shape",
]

# A cache line, and the widest alignment that a vector instruction asks for: every array
# starts at a multiple of it, so a receiver may use the frame's own memory as the array.
ALIGNMENT: Final = 64

# Fixed-size numbers only, little-endian. Object, void and string dtypes are what turns a
# decoder into a way to run code or to crash (guarded by tests/protocol/test_codec.py).
DTYPES: Final = {
    name: np.dtype(name)
    for name in (
        "|b1", "|u1", "|i1", "<u2", "<i2", "<u4", "<i4", "<u8", "<i8", "<f2", "<f4", "<f8",
    )
}  # fmt: skip
# How an array of an observation may travel: as its bytes, or as fewer (``compressing.py``).
RAW: Final = "raw"
CODECS: Final = (RAW, "jpeg", "depth16")
_ENCODED: Final = np.dtype(np.uint8)
# Noise does not shrink; more than this no encoder makes of it.
_MOST_GROWTH: Final = 2
_MOST_OVERHEAD: Final = 4096
_MAX_DIMENSIONS: Final = 8
# Layouts without some arrays that are remembered: of a few cameras there are a few.
_MOST_WITHOUT: Final = 64
_MAX_ELEMENTS: Final = 1 << 31
# Below this an array is cheaper to copy beside its neighbours than to send on its own;
# a system call's share for one more buffer is about 0.3 us, the copy of 16 KiB 0.4 us.
COPY_BELOW: Final = 16 * 1024


def aligned(offset: int) -> int:
    """Round up to the next multiple of ``ALIGNMENT``."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def place(sizes: Iterable[int]) -> tuple[list[int], int]:
    """Return where arrays of these sizes begin, and where the last one ends.

    Offsets count in bytes from the start of the payload; each is a multiple of ``ALIGNMENT``.
    """
    offsets = []
    end = 0
    for size in sizes:
        offsets.append(aligned(end))
        end = offsets[-1] + size
    return offsets, end


def read_dtype(raw: object) -> np.dtype[Any]:
    """Check a dtype name that came off the wire.

    Raises:
        RemoteProtocolError: If it is not one of ``DTYPES``.
    """
    dtype = DTYPES.get(raw) if isinstance(raw, str) else None
    if dtype is None:
        # Not repr: what a peer nests a thousand times overflows the stack.
        raise RemoteProtocolError(f"dtype {reprlib.repr(raw)} is not one of {', '.join(DTYPES)}")
    return dtype


def _shown(raw: object) -> str:
    return reprlib.repr(raw)  # not repr: what a peer nests a thousand times overflows the stack


def is_shape(shape: Sequence[object]) -> bool:
    """Whether the wire can say this shape: at most 8 integers >= 0, at most 2**31 elements."""
    return (
        len(shape) <= _MAX_DIMENSIONS
        and all(type(n) is int and n >= 0 for n in shape)
        # Without the zeros: numpy refuses (0, 2**31, 2**31, 2**31) as too big.
        and math.prod(n for n in shape if isinstance(n, int) and n) <= _MAX_ELEMENTS
    )


def read_shape(raw: object) -> tuple[int, ...]:
    """Check a shape that came off the wire.

    Raises:
        RemoteProtocolError: If it is not a list of integers, or not ``is_shape``.
    """
    if not isinstance(raw, list) or not is_shape(raw):
        raise RemoteProtocolError(
            f"{reprlib.repr(raw)} is no shape: at most {_MAX_DIMENSIONS} integers >= 0, for at "
            f"most {_MAX_ELEMENTS} elements"
        )
    return tuple(raw)


@dataclass(frozen=True, slots=True)
class ArraySpec:
    """One named array of fixed dtype and shape.

    Attributes:
        name: Unique in its layout, with slashes: ``"wrist_cam/image"``.
        dtype: One of ``DTYPES``.
        shape: Fixed; ``()`` is a scalar.
        codec: One of ``CODECS``. Unless it is ``"raw"``, what travels is not this array but what
            an encoder made of it: bytes, as many as it took.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    codec: str = RAW

    @property
    def nbytes(self) -> int:
        """How many bytes the array takes, without padding."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def most_encoded(self) -> int:
        """How many bytes it may take at most when it is encoded."""
        return _MOST_GROWTH * self.nbytes + _MOST_OVERHEAD

    def to_wire(self) -> list[object]:
        """Return ``[name, dtype, shape]``."""
        return [self.name, self.dtype.str, list(self.shape)]

    @classmethod
    def with_codec_from_wire(cls, raw: object) -> ArraySpec:
        """Check ``[name, dtype, shape, codec]`` as it came off the wire.

        Raises:
            RemoteProtocolError: If it is anything else.
        """
        if not isinstance(raw, list) or len(raw) != 4 or raw[3] not in CODECS:
            raise RemoteProtocolError(
                "an array that was asked for must be described as [name, dtype, shape, codec], "
                f"with a codec of {', '.join(CODECS)}"
            )
        return replace(cls.from_wire(raw[:3]), codec=raw[3])

    @classmethod
    def from_wire(cls, raw: object) -> ArraySpec:
        """Check ``[name, dtype, shape]`` as it came off the wire.

        Raises:
            RemoteProtocolError: If it is anything else.
        """
        if not isinstance(raw, list) or len(raw) != 3 or not isinstance(raw[0], str):
            raise RemoteProtocolError("an array must be described as [name, dtype, shape]")
        return cls(raw[0], read_dtype(raw[1]), read_shape(raw[2]))

    def check(self, array: NDArray[Any]) -> None:
        """Refuse an array of another dtype or shape.

        Raises:
            LocalProtocolError: Naming both.
        """
        if array.dtype != self.dtype or array.shape != self.shape:
            raise LocalProtocolError(
                f"{self.name!r} must be {self.shape} {self.dtype}, not {array.shape} {array.dtype}"
            )


class Layout(Sequence[ArraySpec]):
    """An agreed list of arrays.

    Attributes:
        specs: The arrays, in order; the same as the layout itself, and quicker to go through.
        nbytes: Bytes from the start of the payload to the end of the last array.
        places: Dtype, shape and number of bytes of each array, and where in the payload it begins.
        small: Puts the bytes of all arrays into a payload, in one call; None if one of them is so
            large that it should not be copied.
        encoded: Indices of those that travel encoded: of these ``with_sizes`` knows the places.
        sizes: How many bytes those have that were encoded, in a layout of ``with_sizes``.
    """

    __slots__ = ("_without", "encoded", "nbytes", "places", "sizes", "small", "specs")

    def __init__(self, specs: Iterable[ArraySpec] = (), sizes: Sequence[int] = ()) -> None:
        self.sizes = sizes
        self.specs = tuple(specs)
        self._without: dict[tuple[int, ...], Layout] = {}
        self.encoded = tuple(i for i, spec in enumerate(self.specs) if spec.codec != RAW)
        taken = [spec.nbytes for spec in self.specs]
        offsets, self.nbytes = place(taken)
        self.places = tuple(
            (spec.dtype, spec.shape, size, offset)
            for spec, size, offset in zip(self.specs, taken, offsets, strict=True)
        )
        self.small: struct.Struct | None = None
        if all(size < COPY_BELOW for size in taken):
            ends = [0, *(offset + size for offset, size in zip(offsets, taken, strict=True))]
            gaps = [offset - end for offset, end in zip(offsets, ends, strict=False)]
            parts = zip(gaps, taken, strict=True)
            self.small = struct.Struct("<" + "".join(f"{gap}x{size}s" for gap, size in parts))

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in order."""
        return tuple(spec.name for spec in self.specs)

    def subset(self, names: Iterable[str]) -> Layout:
        """Return the layout of some of the arrays, in the order given.

        Raises:
            KeyError: With the name that is not among them.
        """
        by_name = {spec.name: spec for spec in self.specs}
        return Layout(by_name[name] for name in names)

    def replaced(self, specs: Iterable[ArraySpec]) -> Layout:
        """Return the same names in the same order; these arrays are otherwise now."""
        by_name = {spec.name: spec for spec in specs}
        return Layout(by_name.get(spec.name, spec) for spec in self) if by_name else self

    def without(self, indices: tuple[int, ...]) -> Layout:
        """Return the layout of the other arrays.

        Raises:
            RemoteProtocolError: If the indices are not ascending, or not those of arrays.
        """
        layout = self._without.get(indices)
        if layout is None:
            left_out = set(indices)
            if list(indices) != sorted(left_out & set(range(len(self)))):
                raise RemoteProtocolError(
                    f"{reprlib.repr(indices)} are not ascending indices of {len(self)} arrays"
                )
            if len(self._without) >= _MOST_WITHOUT:
                self._without.clear()
            layout = Layout(spec for i, spec in enumerate(self) if i not in left_out)
            self._without[indices] = layout
        return layout

    def with_sizes(self, sizes: object) -> Layout:
        """Return the layout of one frame: encoded arrays are so many bytes.

        Args:
            sizes: Of those that are encoded, in order; as it came off the wire.

        Raises:
            RemoteProtocolError: If there are not as many, or one is none, or too large.
        """
        if not isinstance(sizes, list) or not sizes or len(sizes) != len(self.encoded):
            raise RemoteProtocolError(
                f"{len(self.encoded)} arrays are encoded, and their sizes are {_shown(sizes)}"
            )
        specs = list(self.specs)
        for index, size in zip(self.encoded, sizes, strict=True):
            spec = specs[index]
            if type(size) is not int or not 0 < size <= spec.most_encoded:
                raise RemoteProtocolError(
                    f"{spec.name!r} as {spec.codec} has 1 to {spec.most_encoded} bytes, not "
                    f"{_shown(size)}"
                )
            specs[index] = ArraySpec(spec.name, _ENCODED, (size,))
        return Layout(specs, sizes)

    def with_dtypes(self, dtypes: Sequence[np.dtype[Any]]) -> Layout:
        """Return the same names and shapes with other dtypes, one per array."""
        return Layout(
            ArraySpec(spec.name, dtype, spec.shape)
            for spec, dtype in zip(self.specs, dtypes, strict=True)
        )

    def __len__(self) -> int:
        return len(self.specs)

    def __iter__(self) -> Iterator[ArraySpec]:
        return iter(self.specs)

    def __getitem__(self, index: Any) -> Any:
        return self.specs[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Layout) and self.specs == other.specs

    def __hash__(self) -> int:
        return hash(self.specs)

    def __repr__(self) -> str:
        return f"Layout({', '.join(f'{s.name}: {s.shape} {s.dtype}' for s in self.specs)})"


NO_ARRAYS: Final = Layout()
