"""Comparing messages down to the types and bytes of what they hold."""

import dataclasses
from typing import Any

import numpy as np

__all__ = ["exactly"]


def exactly(value: Any) -> Any:
    """Return what is equal for two values if and only if types, dtypes and bits are the same."""
    kind = type(value).__name__
    if dataclasses.is_dataclass(value):
        return kind, [(f.name, exactly(getattr(value, f.name))) for f in dataclasses.fields(value)]
    if isinstance(value, (np.ndarray, np.generic)):
        return kind, value.dtype.str, value.shape, value.tobytes()
    if isinstance(value, dict):
        return kind, [(exactly(key), exactly(item)) for key, item in value.items()]
    if isinstance(value, (list, tuple)):
        return kind, [exactly(item) for item in value]
    # repr tells 0.0 from -0.0, and a NaN from nothing but another NaN.
    return kind, repr(value)
