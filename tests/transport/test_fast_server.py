"""The server's fast lane and a raw socket that does what a script says, good or bad."""

import contextlib
import errno
import os
import queue
import random
import socket
import subprocess
import sys
import textwrap
import threading
import time

import pytest
from beside import Beside, wait_for
from fast_peers import MOST, MUCH, REQUEST, Follower, Peer, ServerEnd, frame, payload_of_close
from websockets.frames import Close, Frame, Opcode

from remote_env.errors import ConfigurationError
from remote_env.transport import connect, fast_listener, fast_server
from remote_env.transport.fast_listener import FastListener

BRIEF = b"Robot-Visit: brief\r\n"


@pytest.fixture(params=["network thread reads", "another thread reads"])
def follower(request):
    """Who else reads what peers send; None if that is the network thread's alone."""
    if request.param == "network thread reads":
        yield None
        return
    follower = Follower()
    yield follower
    follower.stop()


@pytest.fixture
def start(follower):
    """Start listeners; stops them at the end."""
    listeners = []

    def start(host="127.0.0.1", *, end=ServerEnd, **options):
        options = {"max_frame_size": MOST, "max_reply_size": MUCH, **options}
        listener = FastListener(host, 0, **options)
        listener.ends = queue.SimpleQueue()

        def accept(sink):
            listener.ends.put(one := end(sink))
            if follower is not None:
                sink.lend(follower.mailbox)
                take = one.on_frame
                one.on_frame = lambda frame: (sink.lend(follower.mailbox), take(frame))
            return one

        listener.start(accept)
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        listener.stop()


@pytest.fixture
def listener(start):
    return start()


@pytest.fixture
def meet(listener):
    """Make peers of the listener; closes them at the end."""
    with contextlib.ExitStack() as stack:
        yield lambda **options: closing(stack, Peer(listener, **options))


def closing(stack, peer):
    stack.callback(peer.sock.close)
    return peer


@pytest.fixture
def peer(meet):
    return meet()


def noise(size):
    return random.Random(size).randbytes(size)


# What comes in


def test_a_handshake_may_come_byte_by_byte_with_frames_behind_it(listener, meet):
    peer = meet(shakes=False)
    raw = REQUEST % b"" + frame(b"behind it") + frame(noise(300))
    peer.say(*(raw[i : i + 1] for i in range(len(raw))))
    assert peer.hear_answer().endswith(b"101 Switching Protocols")
    end = listener.ends.get(timeout=5)
    assert (end.get(), end.get()) == (b"behind it", noise(300))


def test_a_handshake_in_one_piece_with_all_that_follows(listener, meet):
    peer = meet(shakes=False)
    peer.say(REQUEST % b"" + b"".join(frame(noise(size)) for size in range(200)))
    peer.hear_answer()
    end = listener.ends.get(timeout=5)
    assert [end.get() for _ in range(200)] == [noise(size) for size in range(200)]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 65537, MOST])
def test_a_frame_of_any_size_arrives_writable_with_the_next_one(peer, size):
    peer.say(frame(noise(size)) + frame(b"next"))
    assert peer.end.get() == noise(size)
    assert peer.end.get() == b"next"


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_a_frame_may_come_in_many_pieces(peer, piece):
    raw = frame(noise(200 * piece)) + frame(b"next")
    peer.say(*(raw[start : start + piece] for start in range(0, len(raw), piece)))
    assert peer.end.get() == noise(200 * piece)
    assert peer.end.get() == b"next"


def test_fragments_with_pings_between_are_one_message(peer):
    first, last = frame(noise(70_000), fin=False), frame(b"end", Opcode.CONT)
    peer.say(first + frame(b"1", Opcode.PING) + frame(b"", Opcode.CONT, fin=False))
    peer.say(frame(b"2", Opcode.PING) + last + frame(b"next"))
    assert peer.end.get() == noise(70_000) + b"end"
    assert peer.end.get() == b"next"
    assert [(one.opcode, bytes(one.data)) for one in peer.hear(2)] == [
        (Opcode.PONG, b"1"), (Opcode.PONG, b"2"),
    ]  # fmt: skip


BROKEN = {
    "no mask": (Frame(Opcode.BINARY, b"x").serialize(mask=False), 1002),
    "reserved bits": (b"\xc2\x81abcdx", 1002),
    "a reserved opcode": (b"\x83\x81abcdx", 1002),
    "a fragment of nothing": (frame(b"x", Opcode.CONT), 1002),
    "a message within a message": (frame(b"x", fin=False) + frame(b"y"), 1002),
    "a message within a text": (frame(b"x", Opcode.TEXT, fin=False) + frame(b"y"), 1002),
    "a frame that is too large": (frame(bytes(MOST + 1))[:20], 1009),
    "a frame of all that there is": (b"\x82\xff" + b"\xff" * 8, 1009),
    "text": (frame(b"x", Opcode.TEXT), 1003),
    "text in fragments": (
        frame(b"x", Opcode.TEXT, fin=False) + frame(b"y", Opcode.CONT), 1003,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("raw", "code"), BROKEN.values(), ids=BROKEN.keys())
def test_what_may_not_be_is_the_end_and_the_peer_is_told(peer, raw, code):
    peer.say(frame(b"first") + raw + frame(b"not any more"))
    assert peer.hear_close()[0] == code
    assert peer.end.get() == b"first"
    peer.say(frame(payload_of_close(code), Opcode.CLOSE))
    peer.hear_end()
    peer.sock.close()
    assert peer.end.ended.wait(5)
    assert peer.end.frames.empty()


# What goes out


def test_a_pong_never_lands_inside_an_answer(peer):
    much = noise(MUCH)
    peer.end.sink.send([b"head", much[4:]])
    assert peer.end.sink.backlog() > 0
    peer.say(frame(b"?", Opcode.PING), frame(b"x"))
    assert peer.end.get() == b"x"  # so the ping was taken up too
    peer.end.sink.send([b"next"])
    answer, pong, after = peer.hear(3)
    assert bytes(answer.data) == b"head" + much[4:]
    assert (pong.opcode, bytes(pong.data), bytes(after.data)) == (Opcode.PONG, b"?", b"next")
    wait_for(lambda: peer.end.sink.backlog() == 0)


def test_answers_of_several_threads_and_pongs_arrive_whole(peer):
    peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)

    def answer(number):
        for index in range(40):
            peer.end.sink.send([b"%d %d" % (number, index), bytes(100_000)])

    answering = [Beside(lambda number=number: answer(number)) for number in range(3)]
    peer.say(*(frame(b"%d" % number, Opcode.PING) for number in range(50)))
    frames = peer.hear(170)
    for one in answering:
        one.join()
    binary = [bytes(f.data).rstrip(b"\0").split() for f in frames if f.opcode is Opcode.BINARY]
    for number in range(3):
        indices = [int(index) for who, index in binary if int(who) == number]
        assert indices == list(range(40))
    pongs = [int(bytes(f.data)) for f in frames if f.opcode is Opcode.PONG]
    assert pongs == list(range(50))


def test_a_close_waits_for_what_was_sent_before_it(peer):
    much = noise(MUCH)
    peer.end.sink.send([much])
    peer.end.sink.close(1008, "not today")
    answer = peer.hear()[0]
    assert bytes(answer.data) == much


def test_small_answers_that_nobody_reads_are_cut_off_by_the_memory_that_they_take(start):
    listener = start(hello_timeout=60.0, max_reply_size=MUCH // 2)  # so MUCH and 4 MiB may wait
    peer = Peer(listener)
    with peer.sock:
        peer.end.sink.send([bytes(MUCH)])
        with contextlib.suppress(ConnectionError):
            peer.say(*[frame(b"", Opcode.PING) * 1000] * 60)  # 120 kB of pongs
        assert peer.end.ended.wait(20)


# Ends


def test_half_a_close_is_a_close_after_all_that_was_said(peer):
    peer.say(frame(b"last words"), frame(noise(200_000)))
    peer.sock.shutdown(socket.SHUT_WR)
    assert peer.end.get() == b"last words"
    assert peer.end.get() == noise(200_000)
    assert peer.end.ended.wait(5)
    peer.hear_end()


def test_a_close_is_answered_and_its_reason_is_told(peer):
    peer.say(frame(Close(3001, "enough").serialize(), Opcode.CLOSE) + frame(b"not any more"))
    assert peer.hear_close() == (3001, "enough")
    assert peer.sock.recv(1) == b""  # the server ends it; RFC 6455, section 7.1.1
    peer.sock.close()
    assert peer.end.ended.wait(5)
    assert peer.end.reason == "enough (3001)"
    assert peer.end.frames.empty()


def test_a_handshake_that_takes_too_long_is_ended(meet, monkeypatch):
    monkeypatch.setattr(fast_server, "OPEN_TIMEOUT", 0.2)
    silent, slow = meet(shakes=False), meet(shakes=False)
    slow.say((REQUEST % b"")[:50])
    silent.hear_end()
    slow.hear_end()


def test_a_head_without_an_end_is_ended(meet):
    peer = meet(shakes=False)
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            peer.say(b"GET /" + b"a" * 1000)
    peer.hear_end()


def test_who_answers_no_ping_is_ended_and_who_does_is_not(meet, monkeypatch):
    monkeypatch.setattr(fast_server, "PING_EVERY", 0.1)
    monkeypatch.setattr(fast_server, "PONG_WITHIN", 0.4)
    silent, talking = meet(), meet()
    is_over = threading.Event()

    def answer():
        while not is_over.is_set():
            (ping,) = talking.hear()
            talking.say(frame(bytes(ping.data), Opcode.PONG))

    for peer in (silent, talking):
        peer.say(frame(b"hello"))
    answering = Beside(answer)
    assert silent.end.ended.wait(10)
    assert not talking.end.ended.is_set()
    is_over.set()
    answering.join()


def test_who_says_nothing_is_told_why_and_has_time_to_answer(start, monkeypatch):
    monkeypatch.setattr(fast_server, "CLOSE_TIMEOUT", 20.0)
    peer = Peer(start(hello_timeout=0.1))
    with peer.sock:
        assert peer.hear_close()[0] == 1008
        peer.sock.settimeout(0.5)
        with pytest.raises(TimeoutError):
            peer.sock.recv(1)
        peer.sock.settimeout(10)
        peer.say(frame(payload_of_close(1008), Opcode.CLOSE))
        peer.hear_end()


def test_a_brief_visit_is_let_in_when_it_is_full_and_is_brief(start, monkeypatch):
    monkeypatch.setattr(FastListener, "brief", 0.3)
    listener = start(max_connections=1)
    first = Peer(listener)
    refused, brief = Peer(listener, shakes=False), Peer(listener, headers=BRIEF)
    with first.sock, refused.sock, brief.sock:
        refused.say(REQUEST % b"")
        assert b"503" in refused.hear_answer()
        brief.say(frame(b"stop!"))
        assert brief.end.get() == b"stop!"
        assert brief.hear_close()[0] == 1008
        first.say(frame(b"and on"))
        assert first.end.get() == b"and on"
        assert not first.end.ended.is_set()


@pytest.mark.parametrize(
    "say",
    [frame(b"fail"), frame(Close(3000, "fail").serialize(), Opcode.CLOSE)],
    ids=["in a frame", "at the end"],
)
def test_a_bug_in_one_connection_is_the_end_of_it_and_of_no_other_one(meet, caplog, say):
    broken, other = meet(), meet()
    broken.say(say)
    broken.hear_end()
    broken.sock.close()
    assert broken.end.ended.wait(5)
    other.say(frame(b"and on"))
    assert other.end.get() == b"and on"
    wait_for(lambda: "on purpose" in caplog.text)


def test_a_bug_that_leads_to_another_one_leaves_the_others_alone(start, caplog):
    class Broken(ServerEnd):
        def on_close(self, reason):
            raise ValueError("another bug, on purpose")

    listener = start(end=Broken)
    broken, other = Peer(listener), Peer(listener)
    with broken.sock, other.sock:
        broken.say(frame(b"fail"))
        broken.hear_end()
        other.say(frame(b"and on"))
        assert other.end.get() == b"and on"
    wait_for(lambda: "was not handled" in caplog.text)


@pytest.mark.realtime
def test_stopping_waits_for_nobody_who_does_not_read(start, slowdown):
    listener = start()
    deaf, silent = Peer(listener), Peer(listener, shakes=False)
    with deaf.sock, silent.sock:
        deaf.end.sink.send([bytes(MUCH)])
        before = time.monotonic()
        listener.stop()
        assert time.monotonic() - before < 2 * slowdown
        assert deaf.end.ended.is_set()
        deaf.end.sink.send([b"to nobody"])
        deaf.end.sink.close(1000, "")
        assert deaf.end.sink.backlog() == 0


def test_stopping_tells_who_listens(listener, peer):
    stopping = Beside(listener.stop)
    assert peer.hear_close() == (1012, "the robot server stopped")
    peer.say(frame(payload_of_close(1012), Opcode.CLOSE))
    peer.hear_end()
    peer.sock.close()
    stopping.join()


def test_two_hundred_connections_come_and_go_and_leave_nothing(start):
    listener = start(max_connections=300)

    def counts():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    first = Peer(listener)  # a borrower has files of its own from now on
    first.say(frame(b"x"))
    first.end.get()
    first.sock.close()
    wait_for(lambda: not listener._connections)
    before = counts()
    for number in range(200):
        peer = Peer(listener, shakes=number % 4 != 0)
        if number % 4 == 1:
            peer.say(frame(b"x"))
        elif number % 4 == 2:
            peer.end.sink.send([bytes(1000)])
            peer.say(frame(payload_of_close(1000), Opcode.CLOSE))
        peer.sock.close()
    wait_for(lambda: not listener._connections and counts() == before)
    assert not listener._eager
    assert len(listener._selector.get_map()) == 2  # the socket that listens, and the waker


# What the system may lack


def test_of_a_name_with_an_address_that_is_not_there_the_other_one_is_used(start, monkeypatch):
    def two_families(*args, **options):
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        ]

    class NoIPv6(socket.socket):
        def __init__(self, family=socket.AF_INET, *args, **options):
            if family == socket.AF_INET6:
                raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
            super().__init__(family, *args, **options)

    listener = FastListener("localhost", 0, max_frame_size=MOST, max_reply_size=MUCH)
    with monkeypatch.context() as patch:
        patch.setattr(fast_listener.socket, "getaddrinfo", two_families)
        patch.setattr(fast_listener.socket, "socket", NoIPv6)
        listener.start(ServerEnd)
    connect(f"ws://127.0.0.1:{listener.port}", timeout=5, max_frame_size=MOST).close()
    listener.stop()


def test_a_listener_that_gets_no_file_says_so(monkeypatch):
    def no_file():
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    listener = FastListener("127.0.0.1", 0, max_frame_size=MOST, max_reply_size=MUCH)
    with monkeypatch.context() as patch:
        patch.setattr(fast_listener.socket, "socketpair", no_file)
        starting = Beside(lambda: listener.start(ServerEnd)).join()
    assert isinstance(starting.error, ConfigurationError)
    assert "Too many open files" in str(starting.error)
    listener.stop()


WITHOUT_FILES = """
    import logging, resource, socket, sys, time
    sys.path[:0] = {path!r}
    from remote_env.transport import fast_listener
    from tests.transport.test_fast_server import *

    def both(*args, **options):  # two sockets, of which both are ready at once
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, 0))
                for a in ("127.0.0.1", "127.0.0.2")]

    logging.basicConfig(stream=sys.stdout)
    listener = FastListener("localhost", 0, max_frame_size=MOST, max_reply_size=MUCH)
    before, socket.getaddrinfo = socket.getaddrinfo, both
    listener.ends = queue.SimpleQueue()
    def accept(sink):
        listener.ends.put(end := ServerEnd(sink))
        return end
    listener.start(accept)
    socket.getaddrinfo, listener.host = before, "127.0.0.1"
    peer = Peer(listener)
    waiting = [socket.socket() for _ in range(8)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    for number, sock in enumerate(waiting):
        sock.connect((f"127.0.0.{{1 + number % 2}}", listener.port))
    began, used = time.monotonic(), time.process_time()
    while time.monotonic() - began < 1.5:
        peer.say(frame(b"and on"))
        assert peer.end.get() == b"and on"
        time.sleep(0.02)
    print("busy", (time.process_time() - used) / 1.5)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, 500))
    late = Peer(listener)
    print("served again")
    listener.stop()
"""


@pytest.mark.realtime
def test_without_a_file_for_another_connection_those_there_are_go_on(slowdown):
    here = os.path.dirname(__file__)
    tests = os.path.dirname(here)
    code = textwrap.dedent(WITHOUT_FILES.format(path=[os.path.dirname(tests), tests]))
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "served again" in done.stdout, done.stdout + done.stderr
    assert 1 <= done.stdout.count("no more connections for a second") <= 6, done.stdout
    busy = float(done.stdout.split("busy ")[1].split()[0])
    assert busy < 0.5 * slowdown
