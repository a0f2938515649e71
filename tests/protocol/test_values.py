import msgpack
import numpy as np
import pytest
from hypothesis import given

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import UnsupportedValueError, drop_unsupported
from remote_env.protocol.values import (
    MAX_DEPTH,
    MAX_ITEMS,
    is_plain_map,
    pack_value,
    unpack_value,
)
from tests.protocol.exactly import exactly
from tests.protocol.strategies import values


def there_and_back(value):
    arrays = []
    packed = msgpack.unpackb(msgpack.packb(pack_value(value, arrays)))
    return unpack_value(packed, arrays)


def nested(depth):
    value = None
    for _ in range(depth):
        value = [value]
    return value


def nested_maps(depth):
    value = None
    for _ in range(depth):
        value = {"a": value}
    return value


@given(values)
def test_every_value_comes_back_with_its_exact_types(value):
    assert exactly(there_and_back(value)) == exactly(value)


@pytest.mark.parametrize(
    ("value", "packed"),
    [
        ((1, "a"), {"$t": [1, "a"]}),
        (np.float32(0.5), {"$n": ["<f4", b"\x00\x00\x00\x3f"]}),
        (np.bool_(True), {"$n": ["|b1", b"\x01"]}),
        ({1: "a"}, {"$m": [[1, "a"]]}),
        ({"$t": 1}, {"$m": [["$t", 1]]}),
        ({"a": 1, 2: 3}, {"$m": [["a", 1], [2, 3]]}),
        ({"a": {"b": ()}}, {"a": {"b": {"$t": []}}}),
        (np.zeros(2), {"$a": 0}),
    ],
    ids=repr,
)
def test_what_msgpack_has_not_goes_as_a_map_with_one_reserved_key(value, packed):
    assert pack_value(value, []) == packed


@pytest.mark.parametrize(
    "value",
    [
        {"a": 0.5, "b": True, "c": None, "d": b"\xff", "e": "text", "f": 1},
        {"least": -(2**63), "largest": 2**64 - 1},
    ],
    ids=repr,
)
def test_numbers_and_text_by_name_are_plain_maps(value):
    assert is_plain_map(value)
    assert pack_value(value, []) == value


@pytest.mark.parametrize(
    "value",
    [
        {1: 0.5},
        {"a": 0.5, 1: 0.5},
        {"$a": 0.5},
        {"é": 0.5},
        {"a": "é"},
        {"a": "text", "b": "\ud800"},
        {"a": 0, "b": 2**64},
        {"a": 0, "b": -(2**63) - 1},
        {"a": [0.5]},
        {"a": 0.5, "b": {}},
        {"a": np.float64(0.5)},
        {str(i): 0.5 for i in range(MAX_ITEMS + 1)},
    ],
    ids=lambda value: ascii(value)[:40],
)
def test_any_other_map_is_looked_at_value_by_value(value):
    assert not is_plain_map(value)


def test_arrays_go_by_reference_and_keep_their_number_of_dimensions():
    arrays = []
    first, second = np.zeros((2, 3)), np.array(1.0)

    packed = pack_value({"a": first, "b": [second]}, arrays)

    assert packed == {"a": {"$a": 0}, "b": [{"$a": 1}]}
    assert np.shares_memory(arrays[0], first)
    assert arrays[1].shape == ()


def test_an_array_that_is_not_contiguous_is_copied():
    arrays = []

    pack_value(np.zeros((4, 4))[:, ::2], arrays)

    assert arrays[0].flags.c_contiguous


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (object(), "builtins.object"),
        (1j, "complex"),
        ({1, 2}, "set"),
        (bytearray(b"a"), "bytearray"),
        (2**64, "64 bits"),
        (-(2**63) - 1, "64 bits"),
        ("\ud800", "not Unicode"),
        (np.str_("a"), "dtype <U1"),
        (np.datetime64(0, "s"), "dtype datetime64"),
        (np.complex64(1), "complex64"),
        (np.array(["a"]), "dtype <U1"),
        (np.array([object()]), "dtype object"),
        (np.zeros(2, ">f4"), "dtype >f4"),
        (np.zeros(1, [("a", "<f4")]), "dtype"),
        (np.zeros((1,) * 9), "shape"),
        (np.zeros((0, 2**31, 2)), "shape"),
        ([0] * (MAX_ITEMS + 1), "1025 items"),
        ((0,) * (MAX_ITEMS + 1), "1025 items"),
        (dict.fromkeys(range(MAX_ITEMS + 1)), "1025 items"),
        ([np.zeros(1)] * 513 + [[np.zeros(1)] * 512], "one array more"),
        ({True: 1}, "key True"),
        ({None: 1}, "key None"),
        ({(1, 2): 1}, "keys are str or int"),
        ({np.str_("a"): 1}, "keys are str or int"),
        ({2**64: 1}, "64 bits"),
        ({"\udcff": 1}, "not Unicode"),
        ({"\udcff": None}, "not Unicode"),
        (nested(MAX_DEPTH + 1), "nested deeper"),
        (nested_maps(MAX_DEPTH - 1), "nested deeper"),  # in two others: None alone is too deep
    ],
)
def test_what_the_wire_cannot_carry_is_refused_with_its_path(value, reason):
    with pytest.raises(UnsupportedValueError, match=reason) as caught:
        pack_value({"there": [value]}, [], path="info")

    assert str(caught.value).startswith("info['there'][0]")
    assert isinstance(caught.value, (LocalProtocolError, TypeError))


@pytest.mark.parametrize(
    "value",
    [nested(MAX_DEPTH), [0] * MAX_ITEMS, dict.fromkeys(range(MAX_ITEMS)), 2**64 - 1, -(2**63)],
    ids=["depth", "list", "map", "most", "least"],
)
def test_limits_are_inclusive(value):
    assert there_and_back(value) == value


def test_enumerations_and_other_subclasses_go_as_what_they_are_made_of():
    class Answer(int):
        pass

    assert exactly(there_and_back([Answer(42), {Answer(1): 2}])) == exactly([42, {1: 2}])


@pytest.mark.parametrize(
    "raw",
    [
        {"$a": 0},
        {"$a": -1},
        {"$a": True},
        {"$a": 0.0},
        {"$a": "0"},
        {"$a": None},
        {"$a": [0]},
        {"$t": None},
        {"$t": {"a": 1}},
        {"$t": "ab"},
        {"$n": []},
        {"$n": ["<f4"]},
        {"$n": ["<f4", b"\0\0\0\0", 1]},
        {"$n": ["<f4", b"\0\0\0"]},
        {"$n": ["<f4", b"\0\0\0\0\0"]},
        {"$n": ["<f4", "abcd"]},
        {"$n": ["O", b"\0" * 8]},
        {"$n": ["|S4", b"\0\0\0\0"]},
        {"$n": [None, b""]},
        {"$m": None},
        {"$m": {}},
        {"$m": [1]},
        {"$m": [[1]]},
        {"$m": [[1, 2, 3]]},
        {"$m": [[True, 1]]},
        {"$m": [[1.0, 1]]},
        {"$m": [[None, 1]]},
        {"$m": [[b"a", 1]]},
        {"$m": [[[1], 1]]},
        {"$m": [[1, 2], [1, 3]]},
        {"$m": [["a", 2], ["a", 3]]},
        {"$x": []},
        {"$": []},
        {"$t": [], "$m": []},
        {"$t": [], "a": 1},
        {"a": 1, "$a": 0},
    ],
    ids=repr,
)
def test_a_malformed_reserved_map_is_refused(raw):
    with pytest.raises(RemoteProtocolError):
        unpack_value({"deeper": [raw]}, [])


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: [inner],
        lambda inner: {"a": inner},
        lambda inner: {"$t": [inner]},
        lambda inner: {"$m": [[1, inner]]},
    ],
    ids=["list", "map", "tuple", "map with integer keys"],
)
def test_nesting_is_limited_whatever_nests(wrap):
    value = None
    for _ in range(MAX_DEPTH):
        value = wrap(value)

    unpack_value(value, [])
    with pytest.raises(RemoteProtocolError, match="deeper than 16"):
        unpack_value(wrap(value), [])


def test_an_index_too_deep_to_be_shown_is_refused_like_the_rest():
    with pytest.raises(RemoteProtocolError, match="array index"):
        unpack_value({"$a": nested(5000)}, [])


def test_what_can_be_carried_is_kept_and_the_rest_named():
    info = {"good": 1, "bad": object(), "nested": {"good": (2,), "bad": {3}}, 7: object(), 8: 9}

    kept, dropped = drop_unsupported(info)

    assert kept == {"good": 1, "nested": {"good": (2,)}, 8: 9}
    assert dropped.keys() == {"bad", "nested/bad", "7"}
    assert "set" in dropped["nested/bad"]


def test_entries_that_are_maps_with_other_keys_or_too_many_are_dropped_whole():
    info = {"large": dict.fromkeys(range(MAX_ITEMS + 1)), 5: {"bad": object()}}

    kept, dropped = drop_unsupported(info)

    assert kept == {}
    assert dropped.keys() == {"large", "5"}


def test_text_that_is_not_unicode_is_dropped():
    assert drop_unsupported({"name": "\udcff"})[0] == {}


def test_a_map_that_holds_itself_is_kept_as_deep_as_the_wire_allows():
    info = {"good": 1}
    info["self"] = info

    kept, dropped = drop_unsupported(info)

    assert kept["self"]["self"]["good"] == 1
    assert {key.count("/") for key in dropped} == {MAX_DEPTH}
    assert exactly(there_and_back(kept)) == exactly(kept)
