"""Encoded arrays on the wire: as many bytes as their sizes say, and never more than agreed."""

import struct
from dataclasses import replace

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import (
    ArraySpec,
    Layout,
    Layouts,
    OnStale,
    Reset,
    ResetDone,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
)
from remote_env.protocol.compressing import encode_array
from remote_env.protocol.messages import wire_fields
from remote_env.testing import ConnectionPair
from tests.protocol.frames import frame_of, packed_frame, read
from tests.protocol.sayings import welcome, word

DEPTH = ArraySpec("depth", np.dtype("<f4"), (6, 8), "depth16")
PLAIN = ArraySpec("joints", np.dtype("<f4"), (3,))
LAYOUTS = Layouts(observation=Layout([DEPTH, PLAIN, replace(DEPTH, name="other")]))
JOINTS = np.arange(3, dtype=np.float32)
METRES = np.round(np.linspace(0.1, 2.0, 48), 3).astype(np.float32).reshape(6, 8)


def encoded(array):
    return encode_array("depth16", array, quality=0)


def unpacked(frame):
    """Return the header of a frame."""
    (size,) = struct.unpack_from("<I", frame, 8)
    return msgpack.unpackb(frame[24 : 24 + size])


def step_done(arrays, **fields):
    return replace(word(StepDone, 1, LAYOUTS), observation=tuple(arrays), **fields)


def test_encoded_arrays_travel_as_their_bytes():
    arrays = (encoded(METRES), JOINTS, encoded(METRES + 1))
    found = read(frame_of(step_done(arrays), LAYOUTS), LAYOUTS).observation
    assert [a.tobytes() for a in found] == [a.tobytes() for a in arrays]
    assert found[0].dtype == np.uint8
    assert found[1].tolist() == JOINTS.tolist()


def test_what_is_unchanged_has_no_size():
    whole = (encoded(METRES), JOINTS, encoded(METRES))
    frame = frame_of(step_done(whole, unchanged=(0,)), LAYOUTS)
    assert [a.nbytes for a in read(frame, LAYOUTS).observation] == [12, whole[2].nbytes]
    frame = frame_of(step_done(whole, unchanged=(0, 2)), LAYOUTS)
    assert len(unpacked(frame)) == len(wire_fields(StepDone))


def test_frames_without_encoded_arrays_know_no_sizes():
    layouts = Layouts(observation=Layout([PLAIN]))
    done = replace(word(StepDone, 1, layouts), observation=(JOINTS,))
    assert len(unpacked(frame_of(done, layouts))) == len(wire_fields(StepDone))


@given(st.lists(st.integers(1, 4096), min_size=2, max_size=2), st.binary(min_size=3, max_size=3))
def test_any_sizes_survive_the_trip(sizes, noise):
    arrays = [np.frombuffer((noise * size)[:size], np.uint8) for size in sizes]
    frame = frame_of(step_done([arrays[0], JOINTS, arrays[1]]), LAYOUTS)
    first, _, last = read(frame, LAYOUTS).observation
    assert [first.tobytes(), last.tobytes()] == [a.tobytes() for a in arrays]


MOST = 2 * 6 * 8 * 4 + 4096


@pytest.mark.parametrize("size", [0, MOST + 1])
def test_what_is_too_large_or_nothing_is_not_written(size):
    with pytest.raises(LocalProtocolError, match=f"1 to {MOST} bytes"):
        frame_of(step_done((np.zeros(size, np.uint8), JOINTS, encoded(METRES))), LAYOUTS)


def test_an_array_that_was_not_encoded_is_not_written():
    with pytest.raises(LocalProtocolError, match="'depth' must be"):
        frame_of(step_done((METRES, JOINTS, encoded(METRES))), LAYOUTS)


def header_of(message, *more):
    """Return the values of the fields of a message, and what stands behind them."""
    return msgpack.packb([*(getattr(message, name) for name, _ in wire_fields(StepDone)), *more])


@pytest.mark.parametrize(
    "more",
    [
        [],
        [[]],
        [None],
        [[16]],
        [[16, 16, 16]],
        [{"depth": 16}],
        [[16, -16]],
        [[16, True]],
        [[16, 16.0]],
        [[16, "16"]],
        [[16, 0]],
        [[16, MOST + 1]],
        [[16, 2**63]],
        [[16, [[[[]]]]]],
        [[16, 15]],
        [[16, 16], []],
        [[16, 16], [16, 16]],
        [[16, 16], [["|u1", [0]]], []],
        [[["|u1", [0]]], [16, 16]],
    ],
)
def test_sizes_that_are_wrong_are_refused(more):
    payload = bytes(64 + 64 + 16)  # 16 bytes, three floats, 16 bytes
    with pytest.raises(RemoteProtocolError):
        read(packed_frame(StepDone.KIND, header_of(step_done(()), *more), payload), LAYOUTS)


@pytest.mark.parametrize("more", [[[16, 16]], [[16, 16], [["|u1", [0]]]]])
def test_the_payload_of_the_test_above_is_right_with_right_sizes(more):
    end = 144 if len(more) == 1 else 192
    header = header_of(step_done(()), *more)
    assert read(packed_frame(StepDone.KIND, header, bytes(end)), LAYOUTS)


def test_true_is_no_size():
    done = step_done(())
    assert read(packed_frame(StepDone.KIND, header_of(done, [16, 1]), bytes(129)), LAYOUTS)
    with pytest.raises(RemoteProtocolError, match="not True"):
        read(packed_frame(StepDone.KIND, header_of(done, [16, True]), bytes(129)), LAYOUTS)


@pytest.mark.parametrize("sizes", [[], [1], 0])
def test_sizes_without_encoded_arrays_are_refused(sizes):
    layouts = Layouts(observation=Layout([PLAIN]))
    done = word(StepDone, 1, layouts)
    assert read(packed_frame(StepDone.KIND, header_of(done), bytes(12)), layouts)
    with pytest.raises(RemoteProtocolError):
        read(packed_frame(StepDone.KIND, header_of(done, sizes), bytes(12)), layouts)


# Two ends


def subscribed(*derived, kept=(), streams=("a", "b")):
    """Both ends after a Subscribe whose answer says this."""
    pair = ConnectionPair.greeted(welcome())
    request = pair.client.next_id()
    wish = Subscribe(
        request, streams=streams, max_ages={}, on_stale=OnStale.FLAG, kept=kept, requests={}
    )
    pair.to_server(wish)
    pair.to_client(Subscribed(request, streams=streams, derived=derived))
    return pair


# The stream "a" of the sayings is (3,) <f4, "b" is (2, 2) |u1.
A = ArraySpec("a", np.dtype("<f4"), (1, 3), "depth16")


def said(pair, kind, observation, **fields):
    request = pair.client.next_id()
    pair.to_server(word(Reset if kind is ResetDone else Step, request, pair.server.layouts))
    message = word(kind, request, pair.server.layouts)
    return pair.to_client(replace(message, observation=observation, **fields)).observation


B = np.zeros((2, 2), np.uint8)
ONE = np.array([[0.5, 1.0, 0.0]], np.float32)


def test_the_client_gets_the_array_and_it_is_its_own():
    pair = subscribed(A)
    found, _ = said(pair, ResetDone, (encoded(ONE), B))
    assert found.tolist() == ONE.tolist()
    found[:] = 7
    assert said(pair, StepDone, (encoded(ONE), B))[0].tolist() == ONE.tolist()


def test_what_is_kept_is_decoded_once(monkeypatch):
    from remote_env.protocol import keeping

    decoded = []
    decode = keeping.decode_array
    monkeypatch.setattr(keeping, "decode_array", lambda *a: (decoded.append(1), decode(*a)))
    pair = subscribed(A, kept=("a",))
    bytes_of_one = encoded(ONE)
    said(pair, ResetDone, (bytes_of_one, B))
    for _ in range(3):
        found, _ = said(pair, StepDone, (bytes_of_one, B), unchanged=(0,))
        assert found.tolist() == ONE.tolist()
        found[:] = 7
    assert len(decoded) == 1


def test_damage_changes_nothing_and_is_a_protocol_error():
    pair = subscribed(A, kept=("a",))
    said(pair, ResetDone, (encoded(ONE), B))
    with pytest.raises(RemoteProtocolError, match="'a'"):
        said(pair, StepDone, (np.full(9, 255, np.uint8), B))
    state = pair.client.state
    assert pair.client._kept._kept[0].tolist() == ONE.tolist()
    assert state is pair.client.state


def test_who_resumes_goes_on_with_what_was_agreed():
    pair = subscribed(A)
    said(pair, ResetDone, (encoded(ONE), B))
    pair.lose_transport(welcome(resumed=True))
    assert said(pair, StepDone, (encoded(ONE), B))[0].tolist() == ONE.tolist()


@pytest.mark.parametrize(
    "derived",
    [
        (replace(A, shape=(4,)),),
        (replace(A, shape=(1 << 15, 1 << 15)),),
        (replace(A, dtype=np.dtype("<f8")),),
        (replace(A, name="c"),),
        (replace(A, name="nothing"),),
        (A, A),
    ],
)
def test_nothing_larger_than_the_stream_and_nothing_else_can_be_agreed(derived):
    with pytest.raises(LocalProtocolError):
        subscribed(*derived)


def test_a_client_refuses_it_too(monkeypatch):
    pair = ConnectionPair.greeted(welcome())
    request = pair.client.next_id()
    pair.to_server(Subscribe(request, streams=("a",), max_ages={}, on_stale=OnStale.FLAG))
    monkeypatch.setattr(pair.server, "_check_derived", lambda *_: None)
    with pytest.raises(RemoteProtocolError, match="more than the robot has"):
        huge = replace(A, shape=(1 << 15, 1 << 15))
        pair.to_client(Subscribed(request, streams=("a",), derived=(huge,)))
