"""Hypothesis strategies for everything that can be said."""

from typing import Any

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from remote_env.protocol import MESSAGES, ArraySpec, EndReason, Message, OnStale, Step
from remote_env.protocol.arrays import CODECS, DTYPES
from remote_env.protocol.messages import arrays_field, wire_fields
from tests.golden.expected import LAYOUTS

__all__ = ["array_specs", "arrays", "messages", "messages_of", "numpy_scalars", "values"]

uints = st.integers(0, 2**64 - 1)
texts = st.text(max_size=20)
dtypes = st.sampled_from(list(DTYPES.values()))
shapes = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
arrays = dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes))
array_specs = st.builds(ArraySpec, texts, dtypes, shapes)
encoded_specs = st.builds(ArraySpec, texts, dtypes, shapes, st.sampled_from(CODECS))


@st.composite
def numpy_scalars(draw: st.DrawFn) -> np.generic:
    return draw(hnp.arrays(draw(dtypes), ()))[()]


_leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | texts
    | st.binary(max_size=20)
    | numpy_scalars()
    | arrays
)
_keys = texts | texts.map("${}".format) | st.integers(-(2**63), 2**64 - 1)
values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
    ),
    max_leaves=8,
)
maps = st.dictionaries(_keys, values, max_size=3)
named = st.dictionaries(texts, values, max_size=3)


def _tuples(items: st.SearchStrategy[Any]) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(items, max_size=5).map(tuple)


# By the name of the wire type, so that a new field of a known type needs nothing here.
_BY_WIRE_TYPE = {
    "uint": uints,
    "float": st.floats(),
    "number": st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**64 - 1),
    "bool": st.booleans(),
    "text": texts,
    "bytes": st.binary(max_size=20),
    "text or nil": st.none() | texts,
    "uint or nil": st.none() | uints,
    "list of text": _tuples(texts),
    "list of uint": _tuples(uints),
    "list of float": _tuples(st.floats()),
    "list of [name, dtype, shape]": _tuples(array_specs),
    "list of [name, dtype, shape, codec]": _tuples(encoded_specs),
    '"control" or "observe"': st.sampled_from(["control", "observe"]),
    "end reason or nil": st.none() | st.sampled_from(EndReason),
    "on-stale policy": st.sampled_from(OnStale),
    "value": values,
    "map": maps,
    "map with text keys": named,
    "map with text keys or nil": st.none() | named,
}


@st.composite
def messages_of(draw: st.DrawFn, message_class: type[Message]) -> Message:
    """Draw a message of this class, with arrays as agreed in the golden ``Welcome``."""
    fields = {name: draw(_BY_WIRE_TYPE[wire.name]) for name, wire in wire_fields(message_class)}
    if message_class is Step:
        others = st.tuples(*(st.sampled_from(list(DTYPES)) for _ in LAYOUTS.action))
        fields["dtypes"] = draw(st.just(()) | others)
    agreed = arrays_field(message_class)
    if agreed is not None:
        layout = getattr(LAYOUTS, agreed[1])
        if "unchanged" in fields:
            left_out = draw(st.sets(st.integers(0, len(layout) - 1)))
            fields["unchanged"] = tuple(sorted(left_out))
            layout = layout.without(fields["unchanged"])
        if fields.get("dtypes"):
            layout = layout.with_dtypes([DTYPES[name] for name in fields["dtypes"]])
        fields[agreed[0]] = tuple(draw(hnp.arrays(spec.dtype, spec.shape)) for spec in layout)
    return message_class(id=draw(uints), **fields)


messages = st.sampled_from(list(MESSAGES.values())).flatmap(messages_of)
