"""Whole WebSocket messages are sent twice, however their bytes are cut into pieces."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import ConnectionClosed
from websockets.frames import Frame, Opcode
from websockets.sync.client import connect
from websockets.sync.server import serve

from remote_env.testing import Direction, FaultProxy
from remote_env.testing.websocket_messages import MessageRepeater

REQUEST = b"GET / HTTP/1.1\r\nHost: robot\r\nUpgrade: websocket\r\n\r\n"
RESPONSE = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"

sizes = st.sampled_from([0, 1, 5, 125, 126, 127, 300, 65_535, 65_536])
controls = st.sampled_from([Opcode.PING, Opcode.PONG])


@st.composite
def messages(draw):
    """The frames of one message, control frames between them."""
    payloads = draw(st.lists(sizes, min_size=1, max_size=4))
    opcode = draw(st.sampled_from([Opcode.TEXT, Opcode.BINARY]))
    frames = []
    for number, size in enumerate(payloads):
        is_last = number == len(payloads) - 1
        frames.append(Frame(opcode if number == 0 else Opcode.CONT, b"x" * size, fin=is_last))
        if not is_last and draw(st.booleans()):
            frames.append(Frame(draw(controls), b"beat"))
    return frames


def is_data(frame):
    return frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)


def encode(frames, *, mask):
    # Its own serializer takes a fresh mask each time, so encode each frame once.
    return [frame.serialize(mask=mask, extensions=[]) for frame in frames]


def pieces_of(data, cuts):
    bounds = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(bounds) if end > start]


def feed(repeater, pieces, *, is_repeating=True):
    out = bytearray()
    for piece in pieces:
        for part in repeater.feed(memoryview(piece), is_repeating=is_repeating):
            out += part
    return bytes(out)


@given(
    said=st.lists(messages(), max_size=4),
    is_client=st.booleans(),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=30),
)
def test_every_message_comes_twice_and_is_whole(said, is_client, cuts):
    opening = REQUEST if is_client else RESPONSE
    stream, expected = opening, opening
    for frames in said:
        encoded = encode(frames, mask=is_client)
        stream += b"".join(encoded)
        copies = [code for code, frame in zip(encoded, frames, strict=True) if is_data(frame)]
        expected += b"".join(encoded) + b"".join(copies)
    assert feed(MessageRepeater(), pieces_of(stream, cuts)) == expected


@given(
    said=st.lists(messages(), min_size=1, max_size=4),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=30),
)
def test_without_repeating_nothing_changes(said, cuts):
    stream = RESPONSE + b"".join(b"".join(encode(frames, mask=False)) for frames in said)
    assert feed(MessageRepeater(), pieces_of(stream, cuts), is_repeating=False) == stream


def test_every_byte_may_come_alone():
    [frame] = encode([Frame(Opcode.BINARY, b"y" * 200)], mask=True)
    stream = REQUEST + frame
    pieces = [stream[i : i + 1] for i in range(len(stream))]
    assert feed(MessageRepeater(), pieces) == stream + frame


@pytest.mark.parametrize("is_repeating", [(False, True), (True, False)], ids=["late", "early"])
def test_a_message_that_is_repeated_in_part_only_is_not(is_repeating):
    [frame] = encode([Frame(Opcode.BINARY, b"12345678")], mask=False)
    repeater = MessageRepeater()
    feed(repeater, [RESPONSE])
    assert feed(repeater, [frame[:5]], is_repeating=is_repeating[0]) == frame[:5]
    assert feed(repeater, [frame[5:]], is_repeating=is_repeating[1]) == frame[5:]
    assert feed(repeater, [frame]) == frame * 2


@pytest.mark.parametrize(
    "stream",
    [
        b"\x16\x03\x01\x02\x00\x01",  # TLS
        b"HTTP/1.1 404 Not Found\r\n\r\n\x82\x01x",
        b"GET /" + b"x" * 70_000 + b"\r\n\r\n\x82\x01x",
        b"GE",
    ],
)
def test_what_is_no_websocket_passes_as_it_is(stream):
    assert feed(MessageRepeater(), [stream[:70_000], stream[70_000:]]) == stream


def answer(peer):
    try:
        while True:
            peer.send(peer.recv())
    except ConnectionClosed:
        return


@pytest.mark.parametrize(
    ("direction", "answers"), [(Direction.TO_CLIENT, 2), (Direction.BOTH, 4)], ids=str
)
def test_real_peers_hear_whole_messages_twice(direction, answers):
    server = serve(answer, "127.0.0.1", 0)
    with server, FaultProxy(server.socket.getsockname()) as proxy:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with connect(proxy.url, compression=None, legacy=True, proxy=None) as client:
            proxy.duplicate(direction)
            client.send(b"\x01" * 100_000)
            assert [client.recv(timeout=5) for _ in range(answers)] == [b"\x01" * 100_000] * answers
            proxy.heal()
            client.send(b"once")
            client.send(b"last")
            assert [client.recv(timeout=5) for _ in range(2)] == [b"once", b"last"]
        server.shutdown()
        thread.join(5)
