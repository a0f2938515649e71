"""Damaged, hostile and huge bytes raise one kind of error, soon, and nothing else."""

import contextlib
import struct
import tracemalloc

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env.errors import RemoteProtocolError
from remote_env.protocol import (
    MESSAGES,
    Ping,
    Reset,
    Step,
    decode,
)
from remote_env.protocol.codec import SERVER_LIMITS
from tests.golden.expected import GOLDEN, LAYOUTS
from tests.protocol.frames import frame_of, in_order, packed_frame, read, reset_frame, valid_header
from tests.protocol.strategies import messages

HELLO = GOLDEN["01-hello"]
STEP = GOLDEN["07-step"]
STEP_HEADER = {"episode": 7, "step": 1, "tick": 1000, "dtypes": []}
PING, RESET, STEP_KIND = Ping.KIND, Reset.KIND, Step.KIND
# Relative to the profile (see tests/conftest.py).
FEW = settings(max_examples=settings().max_examples // 3)
MANY = settings(max_examples=settings().max_examples * 3)


def is_message(value):
    return type(value) in MESSAGES.values()


def assert_only_the_peer_is_blamed(frame, limits=SERVER_LIMITS):
    """Read damaged bytes: a message or RemoteProtocolError, and nothing else."""
    with contextlib.suppress(RemoteProtocolError):
        assert is_message(decode(frame, LAYOUTS, limits=limits))


# Damage


@given(st.sampled_from(list(GOLDEN)), st.data())
@MANY
def test_a_flipped_bit_is_survived(name, data):
    frame = frame_of(GOLDEN[name])
    bit = data.draw(st.integers(0, 8 * len(frame) - 1))

    frame[bit // 8] ^= 1 << bit % 8

    assert_only_the_peer_is_blamed(frame)


@given(
    st.sampled_from(list(GOLDEN)),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1),
)
@MANY
def test_damage_anywhere_after_the_version_is_survived(name, damages):
    frame = frame_of(GOLDEN[name])

    for where, byte in damages:
        frame[4 + int(where * (len(frame) - 4))] = byte

    assert_only_the_peer_is_blamed(frame)


@given(st.sampled_from(list(GOLDEN)), st.data())
@MANY
def test_damage_to_the_header_is_survived(name, data):
    frame = frame_of(GOLDEN[name])
    (header_size,) = struct.unpack_from("<I", frame, 8)
    begin = data.draw(st.integers(24, 23 + header_size))
    damage = data.draw(st.binary(min_size=1, max_size=24 + header_size - begin))

    frame[begin : begin + len(damage)] = damage

    assert_only_the_peer_is_blamed(frame)


@given(messages, st.data())
def test_a_frame_that_was_cut_is_refused(message, data):
    frame = frame_of(message)
    size = data.draw(st.integers(0, len(frame) - 1))

    with pytest.raises(RemoteProtocolError):
        read(frame[:size])


@given(messages, st.binary(min_size=1, max_size=70))
def test_a_frame_with_something_after_it_is_refused(message, more):
    with pytest.raises(RemoteProtocolError):
        read(frame_of(message) + more)


@given(st.binary(max_size=200))
def test_noise_is_survived(noise):
    assert_only_the_peer_is_blamed(noise)


@given(
    st.sampled_from(list(MESSAGES)),
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**64 - 1)
        | st.floats()
        | st.text()
        | st.binary(),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(
                st.text(max_size=3) | st.sampled_from(["$t", "$a", "$n", "$m"]), inner, max_size=4
            )
        ),
    ),
    st.binary(max_size=130),
    st.data(),
)
@MANY
def test_any_msgpack_in_any_field_is_survived(kind, value, payload, data):
    arrays = [["|u1", [len(payload)]]]
    header = {**valid_header(kind), "arrays": arrays}
    name = data.draw(st.sampled_from(list(header)))

    assert_only_the_peer_is_blamed(packed_frame(kind, msgpack.packb(value), payload))
    assert_only_the_peer_is_blamed(packed_frame(kind, {**header, name: value}, payload))


@given(st.sampled_from(list(MESSAGES)), st.data())
@MANY
def test_fields_that_are_left_out_repeated_or_exchanged_are_survived(kind, data):
    """What stands in a place says nothing about what it is; each has values of its own type."""
    header = in_order(kind, {**valid_header(kind), "arrays": [["|u1", [0]]]})
    places = data.draw(st.lists(st.sampled_from(range(len(header))), max_size=len(header) + 2))

    assert_only_the_peer_is_blamed(packed_frame(kind, [header[place] for place in places]))


@given(st.sampled_from(list(MESSAGES)), st.binary(max_size=100), st.binary(max_size=100))
@MANY
def test_noise_behind_a_valid_prefix_is_survived(kind, header, payload):
    assert_only_the_peer_is_blamed(packed_frame(kind, header, payload))


SIZE = 64 << 10
FULL_LIST = b"\xdc\x04\x00"
# A Reset of which all is right but the second of its four fields, the options.
BEGIN, END = b"\x94\xc0", b"\xc2\xc0"
BOMBS = {
    "empty lists one after the other": b"\x90" * SIZE,
    "lists in lists": b"\x91" * SIZE,
    "maps in maps": b"\x81\xa0" * (SIZE // 2),
    "lists in lists as a field": BEGIN + b"\x91" * SIZE,
    "maps in maps as a field": BEGIN + b"\x81\xa0" * (SIZE // 2),
    "a list that claims 2**32 items": b"\xdd\xff\xff\xff\xff" * (SIZE // 5),
    "a map that claims 2**32 entries": b"\xdf\xff\xff\xff\xff" * (SIZE // 5),
    "more fields than any message has": b"\xdd\x00\x00\xfd\xe8" + b"\x90" * 65000,
    "as many fields as a list may have": FULL_LIST + (b"\xdc\x00\x3c" + b"\x90" * 60) * 1024,
    "a long list of empty lists": BEGIN + b"\xdd\x00\x00\xfd\xe8" + b"\x90" * 65000 + END,
    "long lists in long lists": b"\x92\xc0\xdc\x00\x3f" + (FULL_LIST + b"\x90" * 1024) * 63,
    "long lists as options": BEGIN + b"\xdc\x00\x38" + (FULL_LIST + b"\x90" * 1024) * 56 + END,
    "long lists as arrays": (
        b"\x95\xc0\xc0" + END + b"\xdc\x00\x3f" + (FULL_LIST + b"\x90" * 1024) * 63
    ),
    "text that claims 4 GiB": BEGIN + b"\xdb\xff\xff\xff\xff" + b"a" * 60000,
    "an extension that claims 4 GiB": BEGIN + b"\xc9\xff\xff\xff\xff\x01" + b"a" * 60000,
    "large integers": (b"\xcf" + b"\xff" * 8) * (SIZE // 9),
}


@pytest.mark.parametrize("packed", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_of_64_kib_is_refused_without_much_memory(packed):
    frame = packed_frame(RESET, packed[:SIZE])

    tracemalloc.start()
    with pytest.raises(RemoteProtocolError):
        decode(frame, LAYOUTS, limits=SERVER_LIMITS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 8 << 20


def test_an_array_that_claims_much_is_refused_before_it_is_allocated():
    described = [["<f8", [2**31]]] * 1024

    tracemalloc.start()
    with pytest.raises(RemoteProtocolError, match="the payload has 8 bytes"):
        read(reset_frame(described, bytes(8)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 1 << 20
