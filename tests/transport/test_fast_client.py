"""The client's fast lane and a peer that does what a script says, good or bad."""

import contextlib
import os
import random
import signal
import socket
import struct
import threading
import time

import pytest
from beside import Beside, wait_for
from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN, Side
from websockets.protocol import Protocol as WebSocket
from websockets.uri import parse_uri
from websockets.utils import accept_key
from wires import ByHand

from remote_env.errors import ConnectionLostError, DeadlineExceededError, RemoteProtocolError
from remote_env.transport import connect
from remote_env.transport.connecting import SUBPROTOCOL
from remote_env.transport.fast_client import FastLink
from remote_env.transport.fast_cutter import Cutter
from remote_env.transport.fast_frames import Library
from remote_env.transport.kernel import set_timeout, tune_client

MOST = 4 << 20
AHEAD = 64 << 10  # what is read together with a header
SIZES = [0, 1, 125, 126, 127, 65526, 65527, AHEAD - 4, AHEAD - 3, 65535, AHEAD, 65537, 1 << 20]


def socket_pair():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        here = socket.create_connection(listening.getsockname())
        there, _ = listening.accept()
    there.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    there.settimeout(10)
    return here, there


def noise(size):
    return random.Random(size).randbytes(size)


def binary(data=b"", **options):
    return Frame(Opcode.BINARY, data, **options).serialize(mask=False)


def control(opcode, data=b""):
    return Frame(opcode, data).serialize(mask=False)


class Peer(ByHand):
    """The other end of a link: writes what it is told, and understands what it reads."""

    def __init__(self, ahead=b"", max_size=MOST):
        here, self.sock = socket_pair()
        protocol = ClientProtocol(parse_uri("ws://robot.test"), state=OPEN, max_size=max_size)
        tune_client(here, 5.0)
        self.link = FastLink(here, Cutter(Library(protocol), ahead), "ws://robot.test")
        self._reading = WebSocket(Side.SERVER, max_size=None)

    def hear_close(self):
        """Return the code with which the link closed."""
        (frame,) = [frame for frame in self.hear() if frame.opcode is Opcode.CLOSE]
        return Close.parse(frame.data).code

    def hear_the_rest(self):
        """Read to the end; breaks if what comes are not frames, the last one perhaps cut off."""
        with contextlib.suppress(ConnectionError):
            while data := self.sock.recv(1 << 20):
                self._reading.receive_data(data)
        assert self._reading.parser_exc is None

    def reset(self):
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.sock.close()


@pytest.fixture
def make_peer():
    peers = []

    def make(**options):
        peers.append(Peer(**options))
        return peers[-1]

    yield make
    for peer in peers:
        peer.sock.close()
        peer.link.abort()


@pytest.fixture
def peer(make_peer):
    return make_peer()


def beside(call):
    """A call on another thread, whose error is for whoever joins it."""
    return Beside(call)


# Messages


@pytest.mark.parametrize("size", SIZES)
def test_a_frame_of_any_size_arrives(peer, size):
    sending = beside(lambda: peer.say(binary(noise(size)), binary(b"next")))
    assert peer.link.receive(5) == noise(size)
    assert peer.link.receive(5) == b"next"
    sending.join()


def test_frames_that_came_in_one_piece_arrive_one_by_one(peer):
    sizes = [0, 1, 125, 126, 300, 65535, 70_000, 5, 65_000, 65_000, 200_000, 0]
    sending = beside(lambda: peer.say(b"".join(binary(noise(size)) for size in sizes)))
    for size in sizes:
        assert peer.link.receive(5) == noise(size)
    sending.join()


def test_bytes_may_come_one_by_one(peer):
    frames = [binary(b"one"), control(Opcode.PING, b"?"), binary(noise(130))]
    frames += [binary(b"of ", fin=False), Frame(Opcode.CONT, b"two").serialize(mask=False)]
    raw = b"".join(frames)
    sending = beside(lambda: peer.say(*(raw[i : i + 1] for i in range(len(raw)))))
    assert [bytes(peer.link.receive(5)) for _ in range(3)] == [b"one", noise(130), b"of two"]
    sending.join()
    assert [(frame.opcode, bytes(frame.data)) for frame in peer.hear()] == [(Opcode.PONG, b"?")]


@pytest.mark.parametrize("cut", [1, 2, 9, 10, 11, AHEAD, 99_999])
def test_a_large_frame_in_two_pieces_arrives_whole(peer, cut):
    raw = binary(noise(100_000)) + binary(b"next")
    peer.say(raw[:cut])
    with pytest.raises(DeadlineExceededError):
        peer.link.receive(0.01)
    sending = beside(lambda: peer.say(raw[cut:]))
    assert peer.link.receive(5) == noise(100_000)
    assert peer.link.receive(5) == b"next"
    sending.join()


def test_what_is_late_in_the_middle_of_a_large_frame_still_arrives(peer):
    raw = binary(noise(1 << 20))
    for start in range(0, len(raw), 300_000):
        with pytest.raises(DeadlineExceededError):
            peer.link.receive(0.01)
        sending = beside(lambda start=start: peer.say(raw[start : start + 300_000]))
        with contextlib.suppress(DeadlineExceededError):
            assert peer.link.receive(0.05) == noise(1 << 20)
            start = None
        sending.join()
    if start is not None:
        assert peer.link.receive(5) == noise(1 << 20)


def test_frames_behind_the_answer_to_the_handshake_arrive(make_peer):
    large = binary(noise(70_000))
    peer = make_peer(ahead=binary(b"first") + control(Opcode.PING, b"?") + large[:3000])
    sending = beside(lambda: peer.say(large[3000:]))
    assert peer.link.receive(5) == b"first"
    assert peer.link.receive(5) == noise(70_000)
    assert peer.hear()[0].opcode is Opcode.PONG
    sending.join()


def test_fragments_with_pings_between_are_one_message(peer):
    def fragment(data, opcode=Opcode.CONT, fin=False):
        return Frame(opcode, data, fin).serialize(mask=False)

    raw = fragment(noise(70_000), Opcode.BINARY) + control(Opcode.PING, b"1") + fragment(b"")
    raw += control(Opcode.PONG) + fragment(noise(9)) + control(Opcode.PING, b"2")
    sending = beside(lambda: peer.say(raw, fragment(b"end", fin=True), binary(b"next")))
    message = peer.link.receive(5)
    assert message == noise(70_000) + noise(9) + b"end"
    message[0] = 0  # it is ours
    assert peer.link.receive(5) == b"next"
    sending.join()
    assert [bytes(frame.data) for frame in peer.hear(2)] == [b"1", b"2"]


def test_a_message_that_is_sent_is_masked_and_whole(peer):
    peer.link.send([b"in ", bytearray(b"three "), memoryview(b"parts")])
    (frame,) = peer.hear()
    assert (frame.opcode, frame.fin, bytes(frame.data)) == (Opcode.BINARY, True, b"in three parts")


# What may not be


@pytest.mark.parametrize("fragments", [1, 2, 5])
def test_text_is_refused_and_what_follows_is_not(peer, fragments):
    opcodes = [Opcode.TEXT] + [Opcode.CONT] * (fragments - 1)
    last = len(opcodes) - 1
    peer.say(*(Frame(o, b"x", i == last).serialize(mask=False) for i, o in enumerate(opcodes)))
    peer.say(binary(b"next"))
    with pytest.raises(RemoteProtocolError, match="frames are binary"):
        peer.link.receive(5)
    assert peer.link.receive(5) == b"next"


BROKEN = {
    "a mask": (Frame(Opcode.BINARY, b"x").serialize(mask=True), 1002),
    "reserved bits": (b"\xc2\x01x", 1002),
    "a reserved opcode": (b"\x83\x01x", 1002),
    "a reserved control opcode": (b"\x8b\x00", 1002),
    "a long ping": (b"\x89\x7e\x00\x7e" + bytes(126), 1002),
    "a ping in fragments": (b"\x09\x00", 1002),
    "a fragment of nothing": (b"\x80\x01x", 1002),
    "a message within a message": (binary(b"x", fin=False) + binary(b"y"), 1002),
    "a message within a text": (b"\x01\x01x" + binary(b"y"), 1002),
    "a close of one byte": (b"\x88\x01x", 1002),
    "a frame that is too large": (b"\x82\x7f" + struct.pack(">Q", MOST + 1), 1009),
    "a frame of all that there is": (b"\x82\x7f" + b"\xff" * 8, 1009),
    "fragments that are too large together": (
        b"\x02\x7e\xff\xff" + bytes(65535) + b"\x80\x7f" + struct.pack(">Q", MOST), 1009,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_what_breaks_the_standard_is_the_end_and_the_peer_is_told(peer, raw, code):
    sending = beside(lambda: peer.say(binary(b"first") + raw + binary(b"not any more")))
    assert peer.link.receive(5) == b"first"
    for _ in range(3):
        with pytest.raises(ConnectionLostError, match="broke the WebSocket protocol"):
            peer.link.receive(5)
    with pytest.raises(ConnectionLostError):
        peer.link.send([b"x"])
    sending.join()
    assert peer.hear_close() == code


# The end


def test_a_close_is_answered_and_its_reason_is_told(peer):
    peer.say(binary(b"last words"), control(Opcode.CLOSE, Close(1008, "not today").serialize()))
    peer.say(binary(b"not any more"))
    assert peer.link.receive(5) == b"last words"
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"not today \(1008\)"):
            peer.link.receive(5)
    with pytest.raises(ConnectionLostError, match=r"not today \(1008\)"):
        peer.link.send([b"x"])
    assert peer.hear_close() == 1008


def test_a_close_without_a_word_is_answered(peer):
    peer.say(control(Opcode.CLOSE))
    with pytest.raises(ConnectionLostError, match=r"no reason given \(1005\)"):
        peer.link.receive(5)
    assert [(frame.opcode, bytes(frame.data)) for frame in peer.hear()] == [(Opcode.CLOSE, b"")]


CUT_SHORT = {
    "at once": b"",
    "a header": b"\x82",
    "a long header": b"\x82\x7f\x00",
    "a small frame": binary(noise(100))[:50],
    "a large frame": binary(noise(100_000))[:90_000],
    "a ping": control(Opcode.PING, b"abc")[:3],
    "fragments": binary(b"x", fin=False),
}


@pytest.mark.parametrize("how", ["EOF", "RST"])
@pytest.mark.parametrize("raw", CUT_SHORT.values(), ids=CUT_SHORT.keys())
def test_an_end_in_the_middle_is_a_lost_connection(peer, raw, how):
    peer.say(binary(b"first") + raw)
    assert peer.link.receive(5) == b"first"
    peer.reset() if how == "RST" else peer.sock.close()
    for _ in range(2):
        with pytest.raises(ConnectionLostError, match=r"ws://robot\.test is closed"):
            peer.link.receive(5)


def test_closing_says_so_and_waits_for_the_server_to_end_it(peer):
    closing = beside(peer.link.close)
    assert peer.hear_close() == 1000
    peer.say(
        binary(noise(3000)), b"\xff\xff\xff", control(Opcode.CLOSE, Close(1000, "").serialize())
    )
    assert closing.is_running
    peer.sock.shutdown(socket.SHUT_WR)
    closing.join()
    assert closing.error is None
    assert peer.sock.recv(1) == b""
    with pytest.raises(ConnectionLostError):
        peer.link.receive(1)
    peer.link.close()


@pytest.mark.realtime
@pytest.mark.parametrize("floods", [False, True])
def test_closing_takes_its_time_of_a_server_that_does_not_end_it_and_no_more(
    peer, floods, slowdown
):
    def flood():
        with contextlib.suppress(OSError):
            while floods:
                peer.say(control(Opcode.PING) * 20_000)

    flooding = beside(flood)
    start = time.monotonic()
    peer.link.close()
    assert 0.3 < time.monotonic() - start < 1.0 * slowdown
    flooding.join()


@pytest.mark.realtime
def test_closing_waits_for_nobody_who_does_not_read(peer, slowdown):
    with contextlib.suppress(BlockingIOError):
        while True:
            peer.link._sock.send(bytes(1 << 20), socket.MSG_DONTWAIT)
    start = time.monotonic()
    peer.link.close()
    assert time.monotonic() - start < 2.0 * slowdown


def test_what_was_not_sent_whole_is_the_end(peer):
    set_timeout(peer.link._sock, socket.SO_SNDTIMEO, 0.05)
    with pytest.raises(ConnectionLostError):
        peer.link.send([noise(32 << 20)])  # nobody reads
    with pytest.raises(ConnectionLostError):
        peer.link.send([b"a frame within a frame"])
    peer.hear_the_rest()
    with pytest.raises(ConnectionLostError):
        peer.link.receive(5)


def test_a_pong_that_was_not_sent_whole_is_the_end(peer):
    set_timeout(peer.link._sock, socket.SO_SNDTIMEO, 0.05)
    peer.link._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 0)  # another end
    sending = beside(lambda: peer.say(control(Opcode.PING, bytes(125)) * 100_000))
    with pytest.raises(ConnectionLostError):
        while True:
            peer.link.receive(20)
    peer.hear_the_rest()  # half a pong, and nothing behind it
    peer.sock.close()
    sending.join()


# Time


@pytest.mark.realtime
def test_a_flood_of_pings_does_not_hold_up_the_deadline(peer, slowdown):
    flooding = flood_with_pings(peer)
    start = time.monotonic()
    with pytest.raises(DeadlineExceededError) as waited:
        peer.link.receive(0.2)
    assert time.monotonic() - start < 0.6 * slowdown
    assert waited.value.waited == 0.2
    start = time.monotonic()
    peer.link.serve_control_frames()
    assert time.monotonic() - start < 0.4 * slowdown
    peer.reset()
    flooding.join()


def flood_with_pings(peer):
    def flood():
        with contextlib.suppress(OSError):
            while True:
                peer.sock.sendall(control(Opcode.PING) * 10_000)

    def listen():
        with contextlib.suppress(OSError):
            while peer.sock.recv(1 << 20):
                pass

    listening = threading.Thread(target=listen, daemon=True)
    listening.start()
    flooding = beside(flood)
    wait_for(lambda: peer.link.idle_for() < 1)
    return flooding


def test_nothing_at_all_is_no_reason_to_wait(peer):
    for timeout in (0.0, -1.0):
        with pytest.raises(DeadlineExceededError):
            peer.link.receive(timeout)
    peer.say(binary(b"x"), binary(noise(70_000)))
    wait_for(lambda: unread(peer.link._sock) >= 70_000)
    assert peer.link.receive(0.0) == b"x"
    assert peer.link.receive(-1.0) == noise(70_000)


def unread(sock):
    return len(sock.recv(1 << 20, socket.MSG_PEEK | socket.MSG_DONTWAIT))


@pytest.mark.realtime
def test_a_signal_now_and_then_does_not_put_off_the_deadline(peer, slowdown):
    before = signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    # Or a link that does not notice would wait for ever.
    rescue = threading.Timer(5 * slowdown, peer.say, [binary(b"rescue")])
    rescue.start()
    try:
        start = time.monotonic()
        with pytest.raises(DeadlineExceededError):
            peer.link.receive(0.2)
        assert time.monotonic() - start < 1.0 * slowdown
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        rescue.cancel()


class Interrupted(BaseException):
    """As Ctrl-C."""


def interrupt_once(peer, timeout=20):
    """Interrupt the link while it receives."""

    def interrupt(*_):
        raise Interrupted

    before = signal.signal(signal.SIGUSR1, interrupt)
    main = threading.main_thread().ident
    timer = threading.Timer(0.2, signal.pthread_kill, [main, signal.SIGUSR1])
    timer.start()
    try:
        with pytest.raises(Interrupted):
            peer.link.receive(timeout)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)


def test_an_interrupt_in_a_large_frame_never_makes_another_frame_of_the_rest(peer):
    raw = binary(binary(b"evil") * 30_000)
    sending = beside(lambda: peer.say(raw[:100_000]))
    sending.join()
    set_timeout(peer.link._sock, socket.SO_RCVTIMEO, 5)  # that it is in the receive, not before
    interrupt_once(peer)
    peer.say(raw[100_000:])
    with pytest.raises(ConnectionLostError):
        peer.link.receive(5)
    peer.link.send([b"goodbye"])  # which is whole, and is said
    assert bytes(peer.hear()[0].data) == b"goodbye"


def test_an_interrupt_while_nothing_comes_leaves_the_link_as_it_was(peer):
    peer.say(binary(b"first")[:3])
    interrupt_once(peer)
    peer.say(binary(b"first")[3:], binary(noise(100_000)))
    assert peer.link.receive(5) == b"first"
    assert peer.link.receive(5) == noise(100_000)


# Between calls


def test_pings_are_answered_while_nobody_receives(peer):
    peer.link.serve_control_frames()  # nothing came, and it does not wait
    peer.say(control(Opcode.PING, b"1"), binary(b"a frame"), control(Opcode.PING, b"2"))
    wait_for(lambda: unread(peer.link._sock) == 15)
    peer.link.serve_control_frames()
    assert [bytes(frame.data) for frame in peer.hear(2)] == [b"1", b"2"]
    assert peer.link.receive(5) == b"a frame"


def test_a_few_frames_are_kept_and_the_others_wait_where_they_are(peer):
    frames = [b"%d" % number for number in range(20)]
    peer.say(*map(binary, frames))
    wait_for(lambda: unread(peer.link._sock) == sum(map(len, map(binary, frames))))
    peer.link.serve_control_frames()
    peer.link.serve_control_frames()
    assert len(peer.link._kept) == 4
    assert [bytes(peer.link.receive(5)) for _ in frames] == frames


def test_an_end_between_calls_is_noticed(peer):
    peer.sock.close()
    with pytest.raises(ConnectionLostError):
        while True:
            peer.link.serve_control_frames()


@pytest.mark.parametrize(
    "raw",
    [b"", b"\x82", binary(bytes(100_000))[:70_000]],
    ids=["nothing", "a header", "a large frame"],
)
def test_abort_ends_a_receive_of_another_thread(peer, raw, slowdown):
    peer.say(raw)
    receiving = beside(lambda: peer.link.receive(20))
    wait_for(peer.link._receiving.locked)
    start = time.monotonic()
    peer.link.abort()
    receiving.join()
    assert isinstance(receiving.error, ConnectionLostError)
    assert "ended by this side" in str(receiving.error)
    assert receiving.ended_at - start < 2 * slowdown
    peer.link.abort()
    assert peer.link._sock.fileno() == -1
    peer.link.close()


def test_abort_ends_a_send_of_another_thread(peer):
    sending = beside(lambda: peer.link.send([bytes(64 << 20)]))
    wait_for(peer.link._sending.locked)
    peer.link.abort()
    sending.join()
    assert isinstance(sending.error, ConnectionLostError)


def test_links_leave_no_file_and_start_no_thread():
    threads, files = threading.active_count(), len(os.listdir("/proc/self/fd"))
    for number in range(30):
        peer = Peer()
        peer.say(binary(b"x"))
        assert peer.link.receive(5) == b"x"
        assert threading.active_count() == threads
        if number % 3 == 0:
            peer.link.abort()
        elif number % 3 == 1:
            peer.sock.shutdown(socket.SHUT_WR)
            peer.link.close()
        peer.sock.close()
        del peer  # the third way: nobody has it any more
    assert len(os.listdir("/proc/self/fd")) == files


# The handshake

ACCEPTED = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Protocol: " + SUBPROTOCOL.encode() + b"\r\nSec-WebSocket-Accept: %s\r\n\r\n"
)


def serve_once(answer):
    """Answer one handshake; return the url, and the thread that does it."""
    listening = socket.create_server(("127.0.0.1", 0))

    def run():
        with listening, listening.accept()[0] as sock:
            sock.settimeout(10)
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                request += sock.recv(4096)
            key = request.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0].decode()
            answer(sock, ACCEPTED % accept_key(key).encode())
            while sock.recv(4096):
                pass

    return f"ws://127.0.0.1:{listening.getsockname()[1]}", beside(run)


@pytest.mark.parametrize("size", [1, 7, 4096])
def test_an_answer_in_pieces_with_frames_behind_it_is_understood(size, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_FAST", "1")

    def answer(sock, accepted):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        raw = accepted + binary(b"behind") + binary(noise(300))
        for start in range(0, len(raw), size):
            sock.sendall(raw[start : start + size])

    url, serving = serve_once(answer)
    link = connect(url, timeout=5, max_frame_size=MOST)
    assert isinstance(link, FastLink)
    assert link.receive(5) == b"behind"
    assert link.receive(5) == noise(300)
    link.abort()
    serving.join()


@pytest.mark.parametrize("end", ["abort", "close"])
def test_what_this_side_ended_is_over_at_once(peer, end):
    peer.say(binary(b"x"))
    peer.sock.shutdown(socket.SHUT_WR)
    getattr(peer.link, end)()
    here, there = socket.socketpair()  # which get the number of its file
    with here, there:
        start = time.monotonic()
        with pytest.raises(ConnectionLostError, match="ended by this side"):
            peer.link.receive(20)
        assert time.monotonic() - start < 10
