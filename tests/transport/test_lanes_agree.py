"""Whatever comes in, the fast lane makes of it what the library alone does, however it is cut."""

import socket
import struct
from itertools import pairwise

from hypothesis import event, given, settings
from hypothesis import strategies as st
from websockets.client import ClientProtocol
from websockets.frames import Opcode
from websockets.protocol import OPEN, Protocol, Side
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from remote_env.errors import ConnectionLostError, DeadlineExceededError, RemoteProtocolError
from remote_env.transport.fast_client import FastLink
from remote_env.transport.fast_cutter import Cutter
from remote_env.transport.fast_frames import Library
from remote_env.transport.fast_server import FastConnection

URI = parse_uri("ws://127.0.0.1")
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: remote-robot-env\r\n\r\n"
)
BUFFER = 1 << 20
TEXT = "text"  # stands for a message that is text
MANY = settings(max_examples=settings().max_examples * 2)


# Streams of bytes


def raw_frame(first, data, *, masked, length=None):
    """A frame as its bytes; what is wrong with it is up to the caller."""
    length = len(data) if length is None else length
    bit = 0x80 if masked else 0
    if length < 126:
        header = bytes((first, bit | length))
    elif length < 1 << 16:
        header = struct.pack(">BBH", first, bit | 126, length)
    else:
        header = struct.pack(">BBQ", first, bit | 127, length)
    return header + (bytes(4) if masked else b"") + data


def payloads(most):
    """Around the sizes at which something changes, and at random."""
    edges = [0, 1, 2, 125, 126, 127, most - 1, most, most + 1, 65535, 65536, 65525, 65526, 65527]
    sizes = st.sampled_from([size for size in edges if size <= most + 1]) | st.integers(0, 300)
    return st.tuples(sizes, st.integers(0, 255)).map(lambda pair: bytes([pair[1]]) * pair[0])


def streams(most, *, masked):
    """Lists of bytes of which each is a frame, if nothing went wrong with it."""

    def frames(first, data):
        return st.builds(lambda f, d: raw_frame(f, d, masked=masked), first, data)

    small = st.binary(max_size=125)
    content = payloads(most)
    usual = frames(st.just(0x82), content)
    text = frames(st.just(0x81), st.just(b"text"))
    pings = frames(st.sampled_from([0x89, 0x8A]), small)
    closes = frames(
        st.just(0x88),
        st.sampled_from([b"", b"x", b"\x03\xe8", b"\x03\xf0why", b"\x03\xed", b"\x03\xe8\xff"]),
    )
    middle = frames(st.just(0x00), payloads(most // 4))
    part = st.sampled_from([middle] * 5 + [pings] * 3 + [usual]).flatmap(lambda kind: kind)
    whole = st.builds(
        lambda first, middle, last: [first, *middle, last],
        frames(st.sampled_from([0x02, 0x02, 0x02, 0x01]), payloads(most // 2)),
        st.lists(part, max_size=4),
        frames(st.just(0x80), small),
    )
    odd = st.one_of(
        frames(st.integers(0, 255), small),
        frames(st.sampled_from([0x89, 0x88, 0x09, 0xC2, 0x83]), content),
        st.builds(lambda d: raw_frame(0x82, d, masked=not masked), small),
        st.builds(
            lambda n: raw_frame(0x82, b"", masked=masked, length=n),
            st.integers(most, (1 << 64) - 1),
        ),
        st.binary(min_size=1, max_size=20),
        closes,
    )
    # How often each comes; one_of would take each once.
    single = [usual] * 6 + [pings] * 2 + [text, odd]
    kinds = [kind.map(lambda frame: [frame]) for kind in single] + [whole] * 6
    lists = st.lists(st.sampled_from(kinds).flatmap(lambda kind: kind), max_size=10)
    return lists.map(lambda lists: [frame for frames in lists for frame in frames])


@st.composite
def cut_streams(draw, most, *, masked):
    """The bytes of a stream, perhaps damaged, in the pieces in which they come."""
    raw = bytearray().join(draw(streams(most, masked=masked)))
    if raw and draw(st.integers(0, 7)) == 7:
        for _ in range(draw(st.integers(1, 3))):
            raw[draw(st.integers(0, min(len(raw), 400) - 1))] ^= 1 << draw(st.integers(0, 7))
    # The library ends it after half of a header that is wrong, the fast lane after all of it.
    raw += raw_frame(0x89, bytes(12), masked=masked)
    ends = st.lists(st.integers(0, len(raw)), max_size=8)
    near = st.lists(st.integers(0, min(len(raw), 40)), max_size=8)
    cuts = sorted({0, len(raw), *draw(ends), *draw(near)})
    return [bytes(raw[a:b]) for a, b in pairwise(cuts)]


# What both make of them


class Outcome:
    """What was delivered, what was answered, and whether that is all for ever."""

    def __init__(self):
        self.messages = []
        self.answers = []
        self.is_over = False

    def __eq__(self, other):
        return vars(self) == vars(other)

    def __repr__(self):
        return f"{vars(self)!r:.2000}"


def by_the_library(protocol, pieces, side, *, refuses_text):
    """Feed the library, and put messages together as the plain path does."""
    outcome, answers, message = Outcome(), [], []
    for piece in pieces:
        protocol.receive_data(piece)
        for frame in protocol.events_received():
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            message.append(frame)
            if not frame.fin:
                continue
            is_text = message[0].opcode is Opcode.TEXT
            data = TEXT if is_text else b"".join(bytes(one.data) for one in message)
            message = []
            if not refuses_text:
                outcome.messages.append(data)
            elif protocol.state is OPEN:
                if is_text:
                    protocol.send_close(1003, "frames are binary")
                else:
                    outcome.messages.append(data)
        answers += [data for data in protocol.data_to_send() if data]
    outcome.answers = understood(b"".join(answers), side)
    outcome.is_over = protocol.state is not OPEN
    return outcome


def understood(raw, side):
    """The frames that one end sent to ``side``."""
    reading = Protocol(side, max_size=None)
    frames = []
    reading.receive_data(raw)
    assert reading.parser_exc is None
    frames = [(one.opcode, bytes(one.data)) for one in reading.events_received()]
    assert not reading.reader.buffer, "half a frame"
    return frames


def socket_pair():
    here, there = socket.socketpair()
    for sock in (here, there):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER)
    there.setblocking(False)
    return here, there


def drained(sock):
    data = bytearray()
    while True:
        try:
            some = sock.recv(BUFFER)
        except BlockingIOError:
            return bytes(data)
        if not some:
            return bytes(data)
        data += some


def by_a_link(pieces, most):
    outcome, answers = Outcome(), b""
    here, there = socket_pair()
    with there:
        library = Library(ClientProtocol(URI, state=OPEN, max_size=most))
        link = FastLink(here, Cutter(library), "ws://robot.test")
        for piece in pieces:
            there.sendall(piece)
            take_all(link, outcome)
            answers += drained(there)
        link.abort()
    outcome.answers = understood(answers, Side.SERVER)
    return outcome


def take_all(link, outcome):
    while True:
        try:
            outcome.messages.append(bytes(link.receive(0.0)))
        except RemoteProtocolError:
            outcome.messages.append(TEXT)
        except DeadlineExceededError:
            assert not outcome.is_over
            return
        except ConnectionLostError:
            outcome.is_over = True
            return


class Network:
    """What drives a connection, without its thread: calls are made at once."""

    max_frame_size = 2000
    max_reply_size = 0
    max_unread = BUFFER
    hello_timeout = 60.0

    def judge(self, request):
        return float("inf")

    def watch(self, connection, *, is_writing):
        assert not is_writing

    def forget(self, connection):
        pass


class ServerEnd:
    def __init__(self, outcome):
        self._outcome = outcome

    def on_frame(self, frame):
        self._outcome.messages.append(bytes(frame))

    def on_close(self, reason):
        pass


def by_a_connection(pieces):
    outcome = Outcome()
    here, there = socket_pair()
    here.setblocking(False)
    scratch = bytearray(BUFFER)
    with there:
        connection = FastConnection(here, "a peer", Network(), lambda sink: ServerEnd(outcome))
        raw = b""
        for piece in (REQUEST, *pieces):
            there.sendall(piece)
            connection.read(scratch)
            while connection.take_next():
                pass
            raw += drained(there)
        outcome.is_over = not connection._library.is_open
        connection.end()
    outcome.answers = understood(raw.partition(b"\r\n\r\n")[2], Side.CLIENT)
    return outcome


def note(outcome):
    ending = "then the end" if outcome.is_over else "and no end"
    event(f"{'some' if outcome.messages else 'no'} messages, {ending}")


CLIENT_MOST = 70_000
SERVER_MOST = Network.max_frame_size


@given(cut_streams(CLIENT_MOST, masked=False))
@MANY
def test_a_client_in_the_fast_lane_and_the_library_agree(pieces):
    protocol = ClientProtocol(URI, state=OPEN, max_size=CLIENT_MOST)
    expected = by_the_library(protocol, pieces, Side.SERVER, refuses_text=False)
    note(expected)
    assert by_a_link(pieces, CLIENT_MOST) == expected


@given(cut_streams(SERVER_MOST, masked=True))
@MANY
def test_a_server_in_the_fast_lane_and_the_library_agree(pieces):
    protocol = ServerProtocol(state=OPEN, max_size=SERVER_MOST)
    # Byte by byte: then text is refused before what follows it is looked at.
    single = [bytes([byte]) for byte in b"".join(pieces)]
    expected = by_the_library(protocol, single, Side.CLIENT, refuses_text=True)
    note(expected)
    assert by_a_connection(pieces) == expected
