"""Headers, masks and what is left of buffers: as the library has them."""

import contextlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.streams import StreamReader
from websockets.uri import parse_uri

from remote_env.errors import RemoteProtocolError
from remote_env.transport.fast_frames import (
    Header,
    Library,
    binary_header,
    end_of_head,
    mask,
    read_header,
    rest,
)

# Around every size at which the form of the header changes.
SIZES = st.one_of(
    st.sampled_from([0, 1, 124, 125, 126, 127, 128, 65534, 65535, 65536, 65537, 100_000]),
    st.integers(0, 1 << 17),
)
KEYS = st.sampled_from([b""]) | st.binary(min_size=4, max_size=4)
OPCODES = st.sampled_from(list(Opcode))


def parse(data, *, masked):
    """What the library makes of a frame."""
    reader = StreamReader()
    reader.feed_data(data)
    try:
        next(Frame.parse(reader.read_exact, mask=masked))
    except StopIteration as done:
        return done.value
    raise AssertionError("it wants more")


@given(SIZES, KEYS, st.data())
def test_the_library_reads_what_we_write(size, key, data):
    content = data.draw(st.binary(min_size=1, max_size=64)) * (size + 1)
    content = content[:size]
    body = mask(content, key) if key else content
    frame = parse(binary_header(size, key=key) + body, masked=bool(key))
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.BINARY, True, content)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 1 << 20])
def test_a_header_is_what_the_library_writes(size):
    whole = Frame(Opcode.BINARY, bytes(size)).serialize(mask=False)
    assert binary_header(size) == whole[: len(whole) - size]
    masked = Frame(Opcode.BINARY, bytes(size)).serialize(mask=True)
    header = masked[: len(masked) - size]
    assert binary_header(size, key=header[-4:]) == header


@given(SIZES, OPCODES, st.booleans(), st.booleans(), st.integers(0, 20))
def test_we_read_what_the_library_writes(size, opcode, fin, masked, start):
    if opcode >= Opcode.CLOSE:
        size, fin = size % 126, True
    raw = Frame(opcode, bytes(size), fin).serialize(mask=masked)
    data = bytes(start) + raw
    header = read_header(data, start, len(data))
    assert header == Header(fin << 7 | opcode, masked, len(raw) - size, size)


@given(SIZES, st.booleans())
def test_a_header_is_read_when_all_of_it_is_there_and_not_before(size, masked):
    raw = Frame(Opcode.BINARY, bytes(size)).serialize(mask=masked)
    whole = len(raw) - size
    assert [read_header(raw, 0, end) is not None for end in range(whole + 1)] == [False] * whole + [
        True
    ]


def test_the_longest_length_is_read():
    raw = b"\x82\x7f" + b"\xff" * 8
    assert read_header(raw, 0, len(raw)).length == (1 << 64) - 1


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4), st.sampled_from([0, 1, 3]))
def test_a_mask_covers_every_byte_and_comes_off_again(data, key, offset):
    part = memoryview(bytearray(bytes(offset) + data))[offset:]
    masked = mask(part, key)
    assert masked == bytes(byte ^ key[i % 4] for i, byte in enumerate(data))
    assert mask(bytearray(masked), key) == data


@given(st.lists(st.binary(max_size=5), max_size=6), st.data())
def test_the_rest_is_what_was_not_sent(parts, data):
    whole = b"".join(parts)
    sent = data.draw(st.integers(0, len(whole)))
    left = rest(parts, sent)
    assert b"".join(left) == whole[sent:]
    assert all(len(part) for part in left)


@pytest.mark.parametrize(
    ("data", "end"),
    [(b"", -1), (b"GET / HTTP/1.1\r\n", -1), (b"A\r\n\r", -1), (b"A\r\n\r\n", 5),
     (bytearray(b"A\r\n\r\n\x82\r\n\r\n"), 5)],
)  # fmt: skip
def test_a_head_ends_at_its_empty_line(data, end):
    assert end_of_head(data) == end


def client_library(most=1000):
    uri = parse_uri("ws://robot.test")
    return Library(ClientProtocol(uri, state=OPEN, max_size=most))


@pytest.mark.parametrize(
    ("header", "is_usual"),
    [
        (Header(0x82, False, 4, 1000), True),
        (Header(0x82, False, 2, 0), True),
        (Header(0x82, False, 4, 1001), False),
        (Header(0x02, False, 2, 1), False),  # the first of several fragments
        (Header(0xC2, False, 2, 1), False),  # reserved bits
        (Header(0x92, False, 2, 1), False),
        (Header(0x80, False, 2, 1), False),
        (Header(0x81, False, 2, 1), False),
        (Header(0x89, False, 2, 1), False),
    ],
)
def test_a_usual_frame_is_a_whole_binary_message_of_a_size_that_is_allowed(header, is_usual):
    assert client_library(most=1000).is_usual(header) is is_usual


def test_the_mask_must_be_that_of_the_other_side():
    plain, masked = Header(0x82, False, 2, 1), Header(0x82, True, 6, 1)
    server = Library(ServerProtocol(state=OPEN, max_size=1000))
    client = client_library()
    assert [library.is_usual(header) for library in (client, server) for header in (plain, masked)
            ] == [True, False, False, True]  # fmt: skip


def feed(library, *frames):
    return [library.feed(frame.serialize(mask=False)) for frame in frames]


def test_fragments_are_one_message():
    library = client_library()
    first, ping, middle, last = (
        Frame(Opcode.BINARY, b"one ", fin=False),
        Frame(Opcode.PING, b""),
        Frame(Opcode.CONT, b"", fin=False),
        Frame(Opcode.CONT, b"message"),
    )
    assert feed(library, first, ping, middle, last) == [None, None, None, b"one message"]
    assert feed(library, first, last) == [None, b"one message"]


def test_between_fragments_a_binary_frame_is_not_usual():
    library = client_library()
    for opcode in (Opcode.TEXT, Opcode.BINARY):
        assert library.is_usual(Header(0x82, False, 2, 1))
        feed(library, Frame(opcode, b"x", fin=False))
        assert not library.is_usual(Header(0x82, False, 2, 1))
        with contextlib.suppress(RemoteProtocolError):
            feed(library, Frame(Opcode.CONT, b"x"))


def test_text_in_fragments_is_text_and_no_message():
    library = client_library()
    feed(library, Frame(Opcode.TEXT, b"he", fin=False))
    with pytest.raises(RemoteProtocolError, match="frames are binary"):
        feed(library, Frame(Opcode.CONT, b"llo"))
    assert feed(library, Frame(Opcode.BINARY, b"x", fin=False), Frame(Opcode.CONT, b"y")) == [
        None, b"xy",
    ]  # fmt: skip


def test_very_many_empty_fragments_take_no_memory():
    library = client_library()
    feed(library, Frame(Opcode.BINARY, b"", fin=False))
    empty = Frame(Opcode.CONT, b"", fin=False)
    feed(library, empty)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(5000):
            library.feed(b"\x00\x00")
        assert tracemalloc.get_traced_memory()[0] - before < 20_000
    finally:
        tracemalloc.stop()
