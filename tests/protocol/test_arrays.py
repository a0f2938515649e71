import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import ArraySpec, Layout
from remote_env.protocol.arrays import ALIGNMENT, DTYPES, aligned, place, read_dtype, read_shape
from tests.protocol.strategies import array_specs

F4 = np.dtype("<f4")


@given(st.integers(0, 2**40))
def test_aligning_rounds_up_to_the_next_multiple(offset):
    result = aligned(offset)

    assert result % ALIGNMENT == 0
    assert 0 <= result - offset < ALIGNMENT


@pytest.mark.parametrize("name", DTYPES)
def test_every_dtype_of_the_list_has_a_fixed_size_and_holds_no_objects(name):
    dtype = read_dtype(name)

    assert dtype.str == name
    assert dtype.kind in "biuf"
    assert not dtype.hasobject


@pytest.mark.parametrize(
    "raw",
    [
        "O",
        "|O",
        "|S5",
        "<U3",
        "|V8",
        "<M8[ns]",
        ">f4",
        "<c8",
        "<f16",
        "float32",
        "f4",
        "",
        "=f4",
        "i4,O",
        "(2,)<f4",
        None,
        True,
        4,
        1.0,
        b"<f4",
        ["<f4"],
        {"a": "<f4"},
    ],
    ids=repr,
)
def test_no_other_dtype_is_read(raw):
    with pytest.raises(RemoteProtocolError, match="dtype"):
        read_dtype(raw)


@pytest.mark.parametrize("raw", [[], [0], [3], [4, 6, 3], [1] * 8, [2**31], [0, 2**31]], ids=repr)
def test_a_shape_of_a_few_integers_is_read(raw):
    assert read_shape(raw) == tuple(raw)


@pytest.mark.parametrize(
    "raw",
    [
        [-1],
        [2**31 + 1],
        [2**63],
        [2**16, 2**16],
        [1] * 9,
        [True],
        [1.0],
        ["3"],
        [None],
        [[3]],
        [0, 2**31, 2**31],
        None,
        3,
        "3",
        {},
        {"0": 3},
        b"\x03",
    ],
    ids=repr,
)
def test_no_other_shape_is_read(raw):
    with pytest.raises(RemoteProtocolError, match="shape"):
        read_shape(raw)


def test_a_shape_with_zeros_cannot_be_too_big_for_numpy():
    """numpy refuses to make an array of (0, 2**31, 2**31, 2**31), with a ValueError."""
    with pytest.raises(RemoteProtocolError, match="shape"):
        read_shape([0, 2**31, 2**31, 2**31])


@pytest.mark.parametrize("read", [read_dtype, read_shape])
def test_what_is_nested_too_deeply_to_be_shown_is_refused_like_the_rest(read):
    nested = []
    for _ in range(5000):
        nested = [nested]

    with pytest.raises(RemoteProtocolError):
        read(nested)


@given(array_specs)
def test_a_description_survives_the_trip(spec):
    assert ArraySpec.from_wire(spec.to_wire()) == spec


@pytest.mark.parametrize(
    "raw",
    [
        None,
        "a",
        [],
        ["a", "<f4"],
        ["a", "<f4", [3], 1],
        [1, "<f4", [3]],
        [b"a", "<f4", [3]],
        ["a", "O", [3]],
        ["a", "<f4", [-3]],
        ["a", "<f4", 3],
        {"name": "a"},
    ],
    ids=repr,
)
def test_a_description_of_another_form_is_refused(raw):
    with pytest.raises(RemoteProtocolError):
        ArraySpec.from_wire(raw)


@pytest.mark.parametrize(
    "array",
    [np.zeros(3, ">f4"), np.zeros(3, "<f8"), np.zeros(4, "<f4"), np.zeros((3, 1), "<f4")],
    ids=repr,
)
def test_an_array_of_another_dtype_or_shape_is_the_callers_mistake(array):
    with pytest.raises(LocalProtocolError, match=r"'a' must be \(3,\) float32"):
        ArraySpec("a", F4, (3,)).check(array)


def test_an_array_of_the_right_dtype_and_shape_passes():
    ArraySpec("a", F4, (3,)).check(np.zeros(3, np.float32))


def test_arrays_lie_at_multiples_of_64_and_nothing_follows_the_last():
    assert place([12, 65, 0, 8]) == ([0, 64, 192, 192], 200)
    assert place([]) == ([], 0)


@given(st.lists(st.integers(0, 200), max_size=6))
def test_arrays_are_aligned_do_not_overlap_and_waste_no_line(sizes):
    offsets, end = place(sizes)

    ends = [offset + size for offset, size in zip(offsets, sizes, strict=True)]
    gaps = [start - before for start, before in zip([*offsets, end], [0, *ends], strict=True)]
    assert {offset % ALIGNMENT for offset in offsets} <= {0}
    assert min(gaps) >= 0
    assert max(gaps) < ALIGNMENT


def test_a_layout_knows_the_size_of_its_payload():
    layout = Layout([ArraySpec("a", F4, (3,)), ArraySpec("b", np.dtype("<i8"), ())])

    assert layout.nbytes == 72


def test_a_subset_has_the_order_that_was_asked_for():
    layout = Layout(ArraySpec(name, F4, (1,)) for name in "abc")

    assert layout.subset("ca").names == ("c", "a")


def test_a_subset_names_what_there_is_not():
    with pytest.raises(KeyError, match="nope"):
        Layout().subset(["nope"])


def test_other_dtypes_leave_names_and_shapes_as_they_are():
    layout = Layout([ArraySpec("a", F4, (3,))])

    assert layout.with_dtypes([np.dtype("<f8")]) == Layout([ArraySpec("a", np.dtype("<f8"), (3,))])


def test_a_layout_is_a_sequence_and_a_value():
    specs = (ArraySpec("a", F4, (3,)), ArraySpec("b", F4, ()))
    layout = Layout(specs)

    assert len(layout) == 2
    assert tuple(layout) == specs
    assert layout[1] == specs[1]
    assert layout == Layout(specs)
    assert layout != specs
    assert hash(layout) == hash(Layout(specs))
    assert repr(layout) == "Layout(a: (3,) float32, b: () float32)"


THREE = Layout(ArraySpec(name, np.dtype("<f4"), (2,)) for name in "abc")


def test_a_layout_without_some_arrays_has_the_others_in_order():
    assert THREE.without((1,)).names == ("a", "c")
    assert THREE.without(()) == THREE
    assert len(THREE.without((0, 1, 2))) == 0


@pytest.mark.parametrize("indices", [(1, 0), (0, 0), (3,), (-1,), (0, 1, 2, 3)])
def test_what_are_no_ascending_indices_is_refused(indices):
    with pytest.raises(RemoteProtocolError, match="not ascending indices of 3 arrays"):
        THREE.without(indices)


def test_few_layouts_without_arrays_are_remembered():
    layout = Layout(ArraySpec(name, np.dtype("<f4"), (2,)) for name in "abcdefgh")
    for number in range(256):
        layout.without(tuple(i for i in range(8) if number >> i & 1))
    assert len(layout._without) <= 64
