import contextlib
import dataclasses
import math
import struct

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from remote_env.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError
from remote_env.protocol import (
    MESSAGES,
    ArraySpec,
    Bye,
    Error,
    Heartbeat,
    Layout,
    Layouts,
    Limits,
    Observe,
    Ping,
    Pong,
    Reset,
    ResetDone,
    Step,
    StepDone,
    Subscribed,
    Welcome,
    codec,
    decode,
    encode,
)
from remote_env.protocol.codec import CLIENT_LIMITS, SERVER_LIMITS, kind_of
from remote_env.protocol.messages import wire_fields
from tests.golden.expected import GOLDEN, LAYOUTS
from tests.protocol.exactly import exactly
from tests.protocol.frames import (
    RESET_HEADER,
    frame_of,
    in_order,
    packed_frame,
    read,
    reset_frame,
    valid_header,
)
from tests.protocol.strategies import messages, messages_of, numpy_scalars

HELLO = GOLDEN["01-hello"]
STEP = GOLDEN["07-step"]
SUBSCRIBE = GOLDEN["03-subscribe"]
RESET_MESSAGE = GOLDEN["05-reset"]
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


# The trip


@pytest.mark.parametrize("message_class", MESSAGES.values(), ids=lambda cls: cls.__name__)
@given(data=st.data())
@FEW
def test_every_message_survives_the_trip(message_class, data):
    message = data.draw(messages_of(message_class))

    assert exactly(read(frame_of(message))) == exactly(message)


@given(messages)
@FEW
def test_what_was_read_is_written_with_the_same_bytes(message):
    frame = frame_of(message)

    assert frame_of(read(frame)) == frame


def test_the_first_24_bytes_are_as_documented():
    frame = frame_of(Pong(id=0x1122334455667788, time=0.0))

    assert frame[:24].hex(" ") == (
        "52 52 45 05 0c 00 00 00 0a 00 00 00 00 00 00 00 88 77 66 55 44 33 22 11"
    )


@pytest.mark.parametrize("message", GOLDEN.values(), ids=GOLDEN)
def test_the_kind_of_a_frame_is_told_without_reading_it(message):
    frame = frame_of(message)
    assert kind_of(frame) == kind_of(memoryview(frame)[:5]) == message.KIND


def test_what_is_too_short_to_have_a_kind_has_none():
    assert kind_of(b"") == kind_of(frame_of(GOLDEN["07-step"])[:4]) == -1


def test_a_message_without_fields_is_a_prefix_and_an_empty_array():
    assert frame_of(Ping(id=7))[24:] == b"\x90"


def test_numbers_of_another_width_are_read():
    """Encoders of other languages write floats of 32 bits, and integers of any width."""
    header = b"\x91\xca\x3f\x00\x00\x00"

    assert read(packed_frame(Pong.KIND, header)) == Pong(id=1, time=0.5)


# Arrays


def test_decoded_arrays_are_writable_views_into_the_frame():
    frame = frame_of(GOLDEN["08-step-done"])
    memory = np.frombuffer(frame, np.uint8)

    done = read(frame)

    arrays = (*done.observation, done.info["array"])
    assert [np.shares_memory(array, memory) for array in arrays] == [True] * 4
    done.observation[2][0, 0, 0] = 99
    assert 99 in frame


def test_decoded_arrays_of_bytes_cannot_be_written():
    done = read(bytes(frame_of(GOLDEN["08-step-done"])))

    assert not done.observation[2].flags.writeable


def test_decoded_arrays_are_aligned_in_the_frame():
    frame = frame_of(GOLDEN["08-step-done"])
    start = np.frombuffer(frame, np.uint8).__array_interface__["data"][0]

    done = read(frame)

    arrays = (*done.observation, done.info["array"], done.info["zero_dimensional"])
    assert [(a.__array_interface__["data"][0] - start) % 64 for a in arrays] == [0] * 5


LARGE = Layouts(
    observation=Layout(
        [
            ArraySpec("small", np.dtype("<f4"), (3,)),
            ArraySpec("first", np.dtype("|u1"), (100, 200)),
            ArraySpec("empty", np.dtype("<f8"), (0,)),
            ArraySpec("second", np.dtype("<f4"), (70, 70)),
            ArraySpec("last", np.dtype("|b1"), ()),
        ]
    )
)


def large_reset_done(**fields):
    observation = (
        np.arange(3, dtype=np.float32),
        np.full((100, 200), 7, np.uint8),
        np.zeros(0),
        np.full((70, 70), 0.5, np.float32),
        np.array(True),
    )
    return ResetDone(
        id=1,
        episode=1,
        tick=0,
        time=0.0,
        sequences=(),
        stamps=(),
        received=0.0,
        sent=0.0,
        durations=(),
        info={},
        remote={},
        observation=fields.get("observation", observation),
    )


def test_large_arrays_go_by_reference_and_small_ones_are_copied():
    message = large_reset_done()

    parts = encode(message, LARGE)

    views = [np.frombuffer(part, np.uint8) for part in parts]
    by_reference = [
        any(np.shares_memory(array, view) for view in views) for array in message.observation
    ]
    assert by_reference == [False, True, False, True, False]
    assert exactly(read(b"".join(parts), LARGE)) == exactly(message)


def test_a_frame_may_end_with_a_large_array():
    layouts = Layouts(observation=LARGE.observation.subset(["first"]))
    message = large_reset_done(observation=(np.full((100, 200), 3, np.uint8),))

    parts = encode(message, layouts)

    assert len(parts) == 2
    assert exactly(read(b"".join(parts), layouts)) == exactly(message)


def test_an_array_that_is_not_contiguous_arrives_whole():
    layouts = Layouts(observation=LARGE.observation.subset(["first"]))
    slanted = np.arange(20_000, dtype=np.int64).astype(np.uint8).reshape(200, 100).T
    message = large_reset_done(observation=(slanted,))

    done = read(frame_of(message, layouts), layouts)

    assert np.array_equal(done.observation[0], slanted)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 2**31)], ids=repr)
def test_arrays_without_any_bytes_make_a_frame_without_payload(shape):
    message = dataclasses.replace(RESET_MESSAGE, options={"none": np.zeros(shape, np.float32)})

    frame = frame_of(message)

    assert frame[12:16] == bytes(4)
    assert exactly(read(frame)) == exactly(message)


def test_an_action_of_no_elements_survives_the_trip():
    layouts = Layouts(action=Layout([ArraySpec("action", np.dtype("<f4"), (0,))]))
    step = Step(id=1, episode=1, step=1, tick=0, dtypes=(), action=(np.zeros(0, np.float32),))

    assert exactly(read(frame_of(step, layouts), layouts)) == exactly(step)


# The agreement


def test_a_step_may_name_other_dtypes_and_keeps_the_shapes():
    step = GOLDEN["07-step-dtypes"]

    assert read(frame_of(step)).action[0].dtype == np.float64


@pytest.mark.parametrize(
    "dtypes",
    [
        ["<f4"],
        ["<f4", "<i8", "<f4"],
        ["<f4", "O"],
        ["<f4", "|S8"],
        ["<f4", 8],
        ["<f4", None],
        "<f4<i8",
        {"<f4": "<i8"},
        True,
        None,
        0,
        "",
        {},
        False,
    ],
    ids=repr,
)
def test_a_step_must_name_dtypes_of_the_wire_one_for_each_array(dtypes):
    frame = packed_frame(STEP_KIND, {**STEP_HEADER, "dtypes": dtypes}, bytes(72))

    with pytest.raises(RemoteProtocolError):
        read(frame)


@pytest.mark.parametrize("size", [0, 1, 12, 63, 64, 71, 73, 128, 136])
def test_a_payload_of_another_size_than_agreed_is_refused(size):
    with pytest.raises(RemoteProtocolError, match="agreed arrays take 72"):
        read(packed_frame(STEP_KIND, STEP_HEADER, bytes(size)))


def test_a_payload_of_the_agreed_size_is_read():
    assert read(packed_frame(STEP_KIND, STEP_HEADER, bytes(72))).action[1] == 0


def test_before_the_agreement_no_array_is_agreed():
    with pytest.raises(RemoteProtocolError, match="agreed arrays take 0"):
        read(frame_of(STEP), Layouts())


def test_messages_without_arrays_have_no_payload():
    with pytest.raises(RemoteProtocolError, match="agreed arrays take 0"):
        read(packed_frame(PING, {}, bytes(64)))


@pytest.mark.parametrize(
    "action",
    [
        (),
        (np.zeros(3, np.float32),),
        (np.zeros(3, np.float32), np.array(1), np.array(1)),
        (np.zeros(4, np.float32), np.array(1)),
        (np.zeros((3, 1), np.float32), np.array(1)),
        (np.zeros(3), np.array(1)),
        (np.zeros(3, ">f4"), np.array(1)),
        (np.array(1), np.zeros(3, np.float32)),
    ],
)
def test_other_arrays_than_agreed_are_not_sent(action):
    with pytest.raises(LocalProtocolError):
        frame_of(Step(id=1, episode=1, step=1, tick=0, dtypes=(), action=action))


# Free arrays


def test_free_arrays_are_described_in_the_header():
    frame = reset_frame([["<f4", [2]], ["|u1", []]], bytes(65), {"a": {"$a": 1}})

    assert read(frame).options["a"].dtype == np.uint8


@pytest.mark.parametrize(
    "arrays",
    [
        None,
        False,
        0,
        "",
        b"",
        {},
        {"<f4": [2]},
        "<f4",
        1,
        [None],
        ["<f4"],
        [["<f4"]],
        [["<f4", [2], 3]],
        [["<f4", 2]],
        [["O", [1]]],
        [["|O", [1]]],
        [["|S5", [1]]],
        [["<M8[ns]", [1]]],
        [["|V8", [1]]],
        [["<f4", [-2]]],
        [["<f4", [2**63]]],
        [["<f4", [2**16, 2**16]]],
        [["<f8", [2**31]]],
        [["<f4", [0, 2**31, 2**31, 2**31]]],
        [["<f4", [True, 2]]],
        [["<f4", [2.0]]],
        [["<f4", [3]]],
        [["<f4", [1]]],
        [["<f4", [2]], ["<f4", [2]]],
        [["<f4", [1] * 9]],
    ],
    ids=repr,
)
def test_free_arrays_that_are_malformed_or_do_not_fit_are_refused(arrays):
    with pytest.raises(RemoteProtocolError):
        read(reset_frame(arrays, bytes(8)))


@pytest.mark.parametrize("surplus", [None, False, 0, 0.0, "", b"", {}, [], 1, "<f4"], ids=repr)
@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_what_follows_the_fields_is_a_list_of_arrays_that_is_not_empty(cls, surplus):
    """Of no payload, so that nothing else is wrong."""
    header = {**valid_header(cls.KIND), "arrays": surplus}

    with pytest.raises(RemoteProtocolError, match=rf"a {cls.__name__} may have a list of \[dtype"):
        read(packed_frame(cls.KIND, header), Layouts())


def test_a_message_without_free_arrays_has_no_item_for_them():
    with_one = dataclasses.replace(RESET_MESSAGE, options={"array": np.zeros(1)})

    frame = frame_of(RESET_MESSAGE)

    assert frame[24] == 0x94
    assert frame_of(with_one)[24] == 0x95


# The frame


def test_another_version_is_named_together_with_ours():
    with pytest.raises(VersionMismatchError, match=r"version 7 .* speaks 5;"):
        read(packed_frame(PING, {}, version=7))


def test_the_version_is_told_whatever_follows_it():
    with pytest.raises(VersionMismatchError):
        read(b"RRE\x01" + bytes(range(20)))


@pytest.mark.parametrize("magic", [b"GET", b"RRF", b"\0\0\0", b"rre"])
def test_something_else_than_a_frame_is_told_apart(magic):
    with pytest.raises(RemoteProtocolError, match="does not speak remote-robot-env"):
        read(packed_frame(PING, {}, magic=magic))


@pytest.mark.parametrize("reserved", [{"reserved": 1}, {"reserved_too": 256}], ids=str)
def test_reserved_bytes_must_be_zero(reserved):
    with pytest.raises(RemoteProtocolError, match="reserved"):
        read(packed_frame(PING, {}, **reserved))


@pytest.mark.parametrize("kind", [0, len(MESSAGES) + 1, 255])
def test_an_unknown_kind_is_refused(kind):
    with pytest.raises(RemoteProtocolError, match=f"kind {kind} "):
        read(packed_frame(kind, {}))


@pytest.mark.parametrize("size", range(24))
def test_a_frame_shorter_than_its_prefix_is_refused(size):
    with pytest.raises(RemoteProtocolError, match=f"of {size} bytes is shorter"):
        read(frame_of(Ping(id=1))[:size])


@pytest.mark.parametrize(
    ("header_size", "payload_size"),
    [(0, 0), (2, 0), (1, 1), (2**32 - 1, 0), (1, 2**32 - 1), (2**32 - 1, 2**32 - 1)],
)
def test_sizes_that_do_not_fit_the_frame_are_refused(header_size, payload_size):
    frame = frame_of(Ping(id=1))
    struct.pack_into("<II", frame, 8, header_size, payload_size)

    with pytest.raises(RemoteProtocolError):
        read(frame)


def test_limits_of_the_receiver_are_inclusive():
    frame = frame_of(STEP)
    size, header_size = len(frame), 7

    assert is_message(decode(frame, LAYOUTS, limits=Limits(size, header_size)))
    with pytest.raises(RemoteProtocolError, match="limits"):
        decode(frame, LAYOUTS, limits=Limits(size - 1, header_size))
    with pytest.raises(RemoteProtocolError, match="limits"):
        decode(frame, LAYOUTS, limits=Limits(size, header_size - 1))


def test_limits_of_the_receiver_bind_the_sender():
    size, header_size = len(frame_of(STEP)), 7

    encode(STEP, LAYOUTS, limits=Limits(size, header_size))
    with pytest.raises(LocalProtocolError, match="the limit is 135"):
        encode(STEP, LAYOUTS, limits=Limits(size - 1, header_size))
    with pytest.raises(LocalProtocolError, match="header of 7 bytes, and the limit is 6"):
        encode(STEP, LAYOUTS, limits=Limits(size, header_size - 1))


# The header


@pytest.mark.parametrize(
    "packed",
    [
        b"",
        b"\xc0",
        b"\x80",
        b"\x90",
        b"\xa0",
        b"\xc1",
        b"\x90\x90",
        b"\x91\xcb" + bytes(8) + b"\xc0",
        b"\x91\xcb" + bytes(8) + b"\x91\xcb" + bytes(8),
        b"\x91",
        b"\x92\xcb" + bytes(8),
        b"\x91\xcb\0\0",
        b"\x92\xcb" + bytes(8) + b"\xcb" + bytes(8),
        b"\x81\xa4time\xcb" + bytes(8),
        b"\x82\xa4time\xcb" + bytes(8) + b"\xa4time\xcb" + bytes(8),
        b"\x81\xc4\x04time\xcb" + bytes(8),
        b"\x81\x00\xcb" + bytes(8),
        b"\x91\x82\xa1a\xc0\xa1a\xc0",
        b"\x91\x81\xc4\x04time\xc0",
        b"\x91\x81\x01\x01",
        b"\x91\x81\xc0\x01",
        b"\x91\x81\xc3\x01",
        b"\x91\x81\xcb" + bytes(8) + b"\x01",
        b"\x91\x81\x90\x01",
        b"\x91\x81\x80\x01",
        b"\x91\x81\xd4\x05\x00\x01",
        b"\x91\x81\xd6\xff\0\0\0\0\x01",
        b"\x91\x81\xa2\xff\xfe\x01",
        b"\x91\xd4\x05\x00",
        b"\x91\xd6\xff\0\0\0\0",
        b"\x91\xd7\xff" + bytes(8),
        b"\x91\xc7\x0c\xff" + bytes(12),
        b"\x91\xc7\x00\xff",
        b"\x91\xc7\x00\x05",
        b"\x91\xc9\xff\xff\xff\xff\x05",
        b"\x91\xa2\xff\xfe",
        b"\x91\xa3\xed\xa0\x80",
        b"\xdf\xff\xff\xff\xff",
        b"\xdd\xff\xff\xff\xff",
        b"\x91\xdd\xff\xff\xff\xff",
        b"\x91\xdf\xff\xff\xff\xff",
        b"\x91\xdb\xff\xff\xff\xff",
        b"\x91\xc6\xff\xff\xff\xff",
        b"\x91\xdc\x04\x01" + b"\xc0" * 1025,
        b"\xdc\x04\x01\xcb" + bytes(8) + b"\xc0" * 1024,
    ],
    ids=lambda packed: packed[:12].hex(),
)
def test_msgpack_that_is_damaged_or_not_allowed_is_refused(packed):
    with pytest.raises(RemoteProtocolError):
        read(packed_frame(Pong.KIND, packed))


@pytest.mark.parametrize(
    "packed",
    [
        b"\x82\xa1a\xc0\xa1a\xc0",
        b"\x81\xc4\x01a\x01",
        b"\x81\x01\x01",
        b"\x81\xc0\x01",
        b"\x81\xc3\x01",
        b"\x81\xcb" + bytes(8) + b"\x01",
        b"\x81\x90\x01",
        b"\x81\x80\x01",
        b"\x81\xd4\x05\x00\x01",
        b"\x81\xd6\xff\0\0\0\0\x01",
        b"\x81\xa2\xff\xfe\x01",
        b"\xc1",
        b"\xd4\x05\x00",
        b"\xc7\x00\x05",
        b"\xd6\xff\0\0\0\0",
        b"\xd7\xff" + bytes(8),
        b"\xa1\xff",
        b"\xdc\x04\x01" + b"\xc0" * 1025,
        b"\xde\x04\x01" + b"".join(b"\xa4%04d\xc0" % n for n in range(1025)),
        b"\xcf",
    ],
    ids=lambda packed: packed[:8].hex(),
)
def test_a_free_form_value_allows_no_more_of_msgpack_than_the_rest(packed):
    header = msgpack.packb(in_order(RESET, {**RESET_HEADER, "options": {"a": "HERE"}}))

    with pytest.raises(RemoteProtocolError):
        read(packed_frame(RESET, header.replace(b"\xa4HERE", packed)))


def test_a_key_that_stands_twice_is_refused_at_any_depth():
    header = msgpack.packb(in_order(RESET, {**RESET_HEADER, "options": {"xa": 1, "xb": 2}}))

    read(packed_frame(RESET, header))
    with pytest.raises(RemoteProtocolError, match="stands twice"):
        read(packed_frame(RESET, header.replace(b"xb", b"xa")))


ONE_ARRAY = [["<f4", [0]]]
WRONG_HEADERS = {
    "nothing": lambda values: [],
    "without the last": lambda values: values[:-1],
    "without the first": lambda values: values[1:],
    "with another": lambda values: [*values, None],
    "with two others": lambda values: [*values, None, None],
    "with free arrays twice": lambda values: [*values, ONE_ARRAY, ONE_ARRAY],
    "with free arrays and one more": lambda values: [*values, ONE_ARRAY, None],
    "with free arrays first": lambda values: [ONE_ARRAY, *values, None],
    "in an array": lambda values: [values],
}


def values_of(message_class):
    return list(valid_header(message_class.KIND).values())


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        pytest.param(cls, wrong(values_of(cls)), id=f"{cls.__name__} {name}")
        for cls in MESSAGES.values()
        for name, wrong in WRONG_HEADERS.items()
        if len(wrong(values_of(cls))) != len(values_of(cls))
    ],
)
def test_there_are_exactly_as_many_values_as_the_message_has_fields(cls, wrong):
    values = values_of(cls)

    assert is_message(read(packed_frame(cls.KIND, values), Layouts()))
    assert is_message(read(packed_frame(cls.KIND, [*values, ONE_ARRAY]), Layouts()))
    # Before what follows the fields is looked at, the fields themselves may be found wrong.
    complaint = rf"{len(values)} fields(, not| a {cls.__name__})|dtypes must name"
    with pytest.raises(RemoteProtocolError, match=complaint):
        read(packed_frame(cls.KIND, wrong), Layouts())


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_a_map_is_no_header(cls):
    """It was one until version 4."""
    by_name = msgpack.packb(valid_header(cls.KIND))
    by_number = msgpack.packb(dict(enumerate(valid_header(cls.KIND).values())))

    with pytest.raises(RemoteProtocolError, match="the header is not an array"):
        read(packed_frame(cls.KIND, by_name), Layouts())
    with pytest.raises(RemoteProtocolError):
        read(packed_frame(cls.KIND, by_number), Layouts())


def test_the_values_stand_in_the_order_of_the_fields():
    step = read(packed_frame(STEP_KIND, [7, 1, 1000, ["<f8", "<i4"]], bytes(68)))

    assert (step.episode, step.step, step.tick, step.dtypes) == (7, 1, 1000, ("<f8", "<i4"))
    assert [array.dtype.str for array in step.action] == ["<f8", "<i4"]


WRONG = {
    "uint": [-1, True, 1.0, "1", None, b"\x01", [1], {}],
    "float": [1, True, "1.0", None, [1.0]],
    "number": [True, "1", None, [1], {}, math.inf, -math.inf, math.nan],
    "bool": [0, 1, None, "true", 1.0],
    "text": [None, b"a", 1, ["a"], {"a": "b"}, "x" * 4097],
    "text or nil": [False, b"a", 0, [], "x" * 4097],
    "uint or nil": [-1, False, 0.0, "", []],
    "list of text": [None, "a", {}, [1], [None], [b"a"], [["a"]]],
    "list of uint": [None, 1, {}, [-1], [True], [1.0], [None]],
    "list of float": [None, 1.0, {}, [1], [True], [None]],
    "list of [name, dtype, shape]": [None, {}, ["a"], [["a", "O", [1]]], [["a", "<f4", [-1]]]],
    "list of [name, dtype, shape, codec]": [
        None,
        ["a"],
        [["a", "<f4", [1]]],
        [["a", "<f4", [1], "png"]],
        [["a", "<f4", [1], ["raw"]]],
        [["a", "O", [1], "raw"]],
    ],
    '"control" or "observe"': ["admin", "", None, 1, ["control"], b"control"],
    "end reason or nil": ["done", "", 1, True, ["task"], b"task"],
    "bytes": [None, "text", 1, [], True],
    "on-stale policy": ["ignore", "", None, 1, True, ["flag"], b"flag"],
    "value": [{"$a": 0}],
    "map": [None, [], 1, "a", {"$t": []}, {"$n": ["<f4", bytes(4)]}],
    "map with text keys": [
        None,
        [],
        1,
        "a",
        {"$t": []},
        {"$m": [[1, 2]]},
        {"$m": [["a", 1], [2, 3]]},
    ],
    "map with text keys or nil": [False, [], 0, "", {"$t": []}, {"$m": [[1, 2]]}],
}
WRONG_FIELDS = [
    pytest.param(cls, name, raw, id=f"{cls.__name__}.{name}={str(raw)[:20]}")
    for cls in MESSAGES.values()
    for name, wire in wire_fields(cls)
    for raw in WRONG[wire.name]
]


@pytest.mark.parametrize(("message_class", "field", "raw"), WRONG_FIELDS)
def test_a_field_of_another_type_is_refused(message_class, field, raw):
    header = valid_header(message_class.KIND)
    layouts = Layouts()

    assert is_message(read(packed_frame(message_class.KIND, header), layouts))
    with pytest.raises(RemoteProtocolError):
        read(packed_frame(message_class.KIND, {**header, field: raw}), layouts)


FIELDS = [
    pytest.param(cls, name, id=f"{cls.__name__}.{name}")
    for cls in MESSAGES.values()
    for name, _ in wire_fields(cls)
]


@pytest.mark.parametrize("begin", [b"\x91", b"\x81\xa1a", b"\x81\xa2$a"], ids=["list", "map", "$a"])
@pytest.mark.parametrize(("message_class", "field"), FIELDS)
def test_a_field_nested_too_deeply_to_be_shown_is_refused_like_the_rest(
    message_class, field, begin
):
    """The repr of a list of 1000 levels overflows the stack; msgpack reads 1024."""
    header = {**valid_header(message_class.KIND), field: "HERE"}
    packed = msgpack.packb(in_order(message_class.KIND, header))
    deep = packed.replace(msgpack.packb("HERE"), begin * 1000 + b"\xc0")

    with pytest.raises(RemoteProtocolError):
        read(packed_frame(message_class.KIND, deep), Layouts())


# Our own mistakes


@pytest.mark.parametrize(
    "message",
    [
        Ping(id=-1),
        Ping(id=2**64),
        Ping(id="1"),
        Pong(id=1, time=1),
        Pong(id=1, time=None),
        Bye(reason="x" * 4097),
        Bye(reason=b"bytes"),
        Bye(reason="\udcff"),
        dataclasses.replace(HELLO, role="admin"),
        dataclasses.replace(HELLO, asking=-1),
        dataclasses.replace(HELLO, asking=None),
        dataclasses.replace(SUBSCRIBE, streams="text"),
        dataclasses.replace(SUBSCRIBE, streams=(1,)),
        dataclasses.replace(SUBSCRIBE, streams=("a",) * 1025),
        dataclasses.replace(SUBSCRIBE, max_ages={1: 0.5}),
        dataclasses.replace(SUBSCRIBE, max_ages=None),
        dataclasses.replace(SUBSCRIBE, on_stale="ignore"),
        dataclasses.replace(RESET_MESSAGE, seed=-1),
        dataclasses.replace(RESET_MESSAGE, seed=2**64),
        dataclasses.replace(RESET_MESSAGE, seed=np.int64(1)),
        dataclasses.replace(RESET_MESSAGE, seed=True),
        dataclasses.replace(RESET_MESSAGE, options=[1]),
        dataclasses.replace(RESET_MESSAGE, options={1: 2}),
        dataclasses.replace(RESET_MESSAGE, options={"a": object()}),
        dataclasses.replace(RESET_MESSAGE, take=np.bool_(True)),
        dataclasses.replace(RESET_MESSAGE, max_steps=-1),
        Observe(id=1, hz=math.inf),
        Observe(id=1, hz=math.nan),
        Observe(id=1, hz=True),
        Observe(id=1, hz=10**400),
        Observe(id=1, hz=None),
        Step(id=1, episode=1, step=1, tick=0, dtypes=("<f4",), action=STEP.action),
        Step(id=1, episode=1, step=1, tick=0, dtypes=("<f4", "O"), action=STEP.action),
        Step(id=1, episode=1, step=1, tick=0, dtypes=("<f4", ">i8"), action=STEP.action),
        Error(id=1, code="error", message=None, retryable=False),
        Subscribed(id=1, streams=(np.str_,)),
    ],
    ids=lambda message: type(message).__name__,
)
def test_what_the_peer_would_refuse_is_not_sent(message):
    with pytest.raises(LocalProtocolError):
        frame_of(message)


def test_too_many_streams_are_not_sent():
    specs = tuple(ArraySpec(str(n), np.dtype("|u1"), ()) for n in range(1025))
    welcome = Welcome(
        id=1,
        session="",
        resumed=False,
        server="",
        spec_hash="",
        capabilities=(),
        max_frame_size=0,
        streams=specs,
        subscribed=(),
        action=(),
        metadata={},
    )

    with pytest.raises(LocalProtocolError, match="at most 1024"):
        frame_of(welcome)


def test_a_payload_that_has_no_place_in_32_bits_is_not_sent():
    """Memory of zeros that nobody touches costs nothing."""
    huge = np.broadcast_to(np.zeros(1, np.uint8), (2**31,))
    layouts = Layouts(
        observation=Layout([ArraySpec(name, huge.dtype, huge.shape) for name in "abc"])
    )
    message = large_reset_done(observation=(huge,) * 3)

    with pytest.raises(LocalProtocolError, match="no place in a frame"):
        encode(message, layouts, limits=Limits(2**40, CLIENT_LIMITS.header_size))


@given(st.floats() | numpy_scalars())
def test_a_reward_keeps_its_type(reward):
    done = GOLDEN["08-step-done-ended"]

    again = read(frame_of(dataclasses.replace(done, reward=reward))).reward

    assert exactly(again) == exactly(reward)


def test_floats_that_are_no_numbers_survive():
    assert math.isnan(read(frame_of(Pong(id=1, time=math.nan))).time)
    assert read(frame_of(Pong(id=1, time=-math.inf))).time == -math.inf


def test_a_numpy_float_is_a_float():
    assert read(frame_of(Pong(id=1, time=np.float64(0.5)))).time == 0.5
    assert read(frame_of(Observe(id=1, hz=np.float64(0.5)))).hz == 0.5


@pytest.mark.parametrize("packed", [b"\x1e", b"\xca\x41\xf0\0\0", b"\xcf" + bytes(7) + b"\x1e"])
def test_a_number_may_be_written_as_an_int_or_as_a_float(packed):
    assert read(packed_frame(Observe.KIND, b"\x91" + packed)) == Observe(id=1, hz=30)


@pytest.mark.parametrize("name", ["01-hello", "01-hello-resume", "02-welcome"])
def test_a_secret_is_not_shown(name):
    assert "correct horse" not in repr(GOLDEN[name])
    assert "golden-session" not in repr(GOLDEN[name])


def test_a_heartbeat_fits_into_one_packet():
    assert len(frame_of(Heartbeat())) == 25


# What most maps are, and what looks like it and is not.
NEARLY_PLAIN = st.dictionaries(
    st.sampled_from(["a", "b", "$a", "$t", "é", "\ud800", 0]),
    st.floats()
    | st.booleans()
    | st.none()
    | st.sampled_from([0, -(2**63), -(2**63) - 1, 2**64 - 1, 2**64])
    | st.sampled_from(["", "text", "é", "\ud800"])
    | st.binary(max_size=2)
    | st.lists(st.floats(), max_size=1)
    | st.integers(0, 3).map(np.uint8),
    max_size=3,
)


def slowly(message, monkeypatch):
    """Return its schema, with which each field is looked at by itself."""
    schema = codec.SCHEMAS[message.KIND]
    monkeypatch.setitem(codec.SCHEMAS, message.KIND, dataclasses.replace(schema, usual=None))


def outcome_of(call):
    try:
        return call()
    except (LocalProtocolError, RemoteProtocolError) as error:
        return type(error), str(error)


# All of whose fields are what they usually are.
USUAL = dataclasses.replace(GOLDEN["08-step-done"], reward=0.5, info={}, remote={})


def check_quick_as_slow(message):
    """Check that what is checked at once is as what is checked one by one."""
    quick = outcome_of(lambda: frame_of(message))
    with pytest.MonkeyPatch.context() as patch:
        slowly(message, patch)
        assert outcome_of(lambda: frame_of(message)) == quick
        if isinstance(quick, tuple):
            return
        read_slowly = outcome_of(lambda: read(quick))
    assert exactly(outcome_of(lambda: read(quick))) == exactly(read_slowly)


@given(messages_of(StepDone))
def test_an_answer_is_read_and_written_alike_at_once_and_one_by_one(message):
    check_quick_as_slow(message)


@MANY
@given(NEARLY_PLAIN)
def test_a_map_is_read_and_written_alike_at_once_and_one_by_one(values):
    check_quick_as_slow(dataclasses.replace(USUAL, info=values))


def test_what_is_usual_is_checked_at_once():
    schema = codec.SCHEMAS[USUAL.KIND]
    for info in ({}, {"a": 0.5, "b": 3, "c": "text", "d": None}):
        values = schema.values_of(dataclasses.replace(USUAL, info=info, remote=info))
        assert schema.usual.are_written(values)
    assert not schema.usual.are_written(
        schema.values_of(dataclasses.replace(USUAL, info={"a": [0.5]}))
    )


def test_a_map_that_is_too_long_is_refused_at_once_too():
    done = dataclasses.replace(USUAL, info={str(i): 0.0 for i in range(1025)})
    with pytest.raises(LocalProtocolError, match="1025 items"):
        frame_of(done)
