"""A socket that is lent: who reads, and who reads again when that one does not.

That nothing else changes is what ``test_fast_server.py`` tests, both ways.
"""

import queue
import random
import threading

import pytest
from beside import wait_for
from fast_peers import MUCH, Follower, Peer, ServerEnd, frame
from websockets.frames import Opcode

from remote_env.transport import fast_listener
from remote_env.transport.fast_listener import FastListener


class Noting(ServerEnd):
    """Remembers also on which thread it was told."""

    def __init__(self, sink):
        super().__init__(sink)
        self.threads = queue.SimpleQueue()

    def on_frame(self, came):
        super().on_frame(came)
        self.threads.put(threading.get_ident())


@pytest.fixture
def listener():
    listener = FastListener("127.0.0.1", 0, max_frame_size=1 << 20, max_reply_size=MUCH)
    listener.ends = queue.SimpleQueue()

    def accept(sink):
        listener.ends.put(end := Noting(sink))
        return end

    listener.start(accept)
    yield listener
    listener.stop()


@pytest.fixture
def peer(listener):
    peer = Peer(listener)
    yield peer
    peer.sock.close()


@pytest.fixture
def follower():
    follower = Follower()
    yield follower
    follower.stop()


class Away:
    """Takes loans, and reads nothing."""

    def __init__(self, is_away):
        self.loans = queue.SimpleQueue()
        self.is_away = lambda: is_away

    takes_one = False

    def takes(self, frame):
        return True

    def borrow(self, loan):
        self.loans.put(loan)


def tell(peer, payload):
    """Say something; return on which thread it was taken up."""
    peer.say(frame(payload))
    assert peer.end.get() == payload
    return peer.end.threads.get(timeout=5)


def lend(peer, borrower):
    peer.end.sink.lend(borrower)
    wait_for(lambda: peer.end.sink.is_lent)


def test_who_borrows_reads_and_hands_over_what_comes(listener, peer, follower):
    assert tell(peer, b"first") == listener._network_thread
    lend(peer, follower.mailbox)
    for number in range(50):
        assert tell(peer, b"%d" % number) == follower.ident
    assert peer.end.sink.is_lent


def test_a_frame_that_comes_in_pieces_is_taken_up_when_it_is_whole(peer, follower):
    lend(peer, follower.mailbox)
    payload = random.Random(1).randbytes(1 << 20)
    assert tell(peer, payload) == follower.ident
    for piece in frame(b"slowly"):
        peer.say(bytes([piece]))
    assert peer.end.get() == b"slowly"


@pytest.mark.parametrize("first", [b"", b"before it"])
def test_what_is_for_the_library_goes_back_to_the_network_thread(listener, peer, follower, first):
    lend(peer, follower.mailbox)
    peer.say(frame(first) + frame(b"ping", Opcode.PING) + frame(b"behind"))
    (pong,) = peer.hear()
    assert (pong.opcode, pong.data) == (Opcode.PONG, b"ping")
    assert [peer.end.get(), peer.end.get()] == [first, b"behind"]
    assert peer.end.threads.get() == follower.ident
    assert peer.end.threads.get() == listener._network_thread
    lend(peer, follower.mailbox)
    assert tell(peer, b"again") == follower.ident


def test_what_the_borrower_does_not_take_goes_back_in_order(listener, peer, follower, monkeypatch):
    monkeypatch.setattr(follower.mailbox, "takes", lambda frame: frame != b"not this")
    for _ in range(20):
        lend(peer, follower.mailbox)
        assert tell(peer, b"mine") == follower.ident
        peer.say(frame(b"mine too") + frame(b"not this") + frame(b"behind"))
        assert [peer.end.get() for _ in range(3)] == [b"mine too", b"not this", b"behind"]
        assert [peer.end.threads.get() for _ in range(3)] == [
            follower.ident,
            listener._network_thread,
            listener._network_thread,
        ]


def test_who_takes_one_frame_leaves_the_others(listener, peer, follower, monkeypatch):
    monkeypatch.setattr(follower.mailbox, "takes_one", True)
    monkeypatch.setattr(follower.mailbox, "takes", lambda frame: True)
    lend(peer, follower.mailbox)
    for _ in range(20):
        assert tell(peer, b"one") == follower.ident
    peer.say(frame(b"1") + frame(b"2") + frame(b"3"))
    assert [peer.end.get() for _ in range(3)] == [b"1", b"2", b"3"]
    assert [peer.end.threads.get() for _ in range(3)] == [
        follower.ident,
        listener._network_thread,
        listener._network_thread,
    ]


def test_who_is_away_keeps_nobody_from_being_heard(listener, peer):
    lend(peer, away := Away(True))
    assert tell(peer, b"hello") == listener._network_thread
    assert away.loans.get().is_over


def test_who_is_not_away_keeps_what_was_lent(peer):
    looks = []
    lend(peer, waiting := Away(False))
    waiting.is_away = lambda: looks.append(None)
    wait_for(lambda: len(looks) > 3)
    assert peer.end.sink.is_lent


def test_a_loan_that_was_taken_back_reads_nothing(listener, peer):
    lend(peer, away := Away(True))
    wait_for(lambda: not peer.end.sink.is_lent)
    peer.say(frame(b"for the network thread"))
    away.loans.get().read()
    assert peer.end.get() == b"for the network thread"
    assert peer.end.threads.get() == listener._network_thread


@pytest.mark.parametrize(("name", "rest"), [("_data", b"\x82"), ("_put_back", b"whole")])
def test_what_is_in_memory_is_not_lent(listener, peer, monkeypatch, name, rest):
    monkeypatch.setattr(peer.end.sink._incoming, name, bytearray(rest))
    peer.end.sink.lend(away := Away(False))
    listener.call((called := threading.Event()).set)
    assert called.wait(5)
    assert away.loans.empty()
    assert not peer.end.sink.is_lent
    peer.end.sink._incoming._data.clear()


def test_another_borrower_of_the_same_connection_gets_nothing(listener, peer):
    lend(peer, Away(False))
    peer.end.sink.lend(late := Away(False))
    listener.call((called := threading.Event()).set)
    assert called.wait(5)
    assert late.loans.empty()


def test_another_connection_takes_the_place_of_the_one_before(listener, peer, follower):
    lend(peer, follower.mailbox)
    other = Peer(listener)
    lend(other, follower.mailbox)
    wait_for(lambda: not peer.end.sink.is_lent)
    assert tell(peer, b"here") == listener._network_thread
    assert tell(other, b"there") == follower.ident
    other.sock.close()


@pytest.mark.parametrize("end", ["close", "cut"])
@pytest.mark.parametrize("is_away", [False, True])
def test_the_end_of_what_is_lent_is_told_once(peer, follower, end, is_away):
    lend(peer, Away(True) if is_away else follower.mailbox)
    if end == "close":
        peer.say(frame(b"\x03\xe8gone", Opcode.CLOSE))
        peer.hear_close()
    peer.sock.close()
    assert peer.end.ended.wait(5)
    assert ("gone" in peer.end.reason) is (end == "close")
    assert not peer.end.sink.is_lent


def test_who_borrows_hears_of_the_end_and_gives_back(peer):
    tell(peer, b"hello")  # or it would be ended for that
    lend(peer, borrower := Away(False))
    loan = borrower.loans.get()
    peer.sock.close()
    wait_for(lambda: (loan.read(), loan.is_over)[1])
    assert peer.end.ended.wait(5)


def test_a_loan_ends_with_its_connection(listener, peer):
    lend(peer, borrower := Away(False))
    loan = borrower.loans.get()
    listener.call(peer.end.sink.end)
    assert peer.end.ended.wait(5)
    assert loan.is_over
    assert loan.fileno() == -1


def test_a_connection_whose_end_is_found_while_it_is_lent_lends_nothing(peer, monkeypatch):
    sink = peer.end.sink
    monkeypatch.setattr(sink, "flush", sink.end)  # as when too much is unread
    sink.lend(borrower := Away(False))
    assert peer.end.ended.wait(5)
    assert borrower.loans.get(timeout=5).is_over


def test_we_close_what_is_lent(peer):
    lend(peer, Away(False))
    peer.end.sink.close(1000, "enough")
    assert peer.hear_close() == (1000, "enough")
    peer.say(frame(b"\x03\xe8", Opcode.CLOSE))
    assert peer.end.ended.wait(5)
    assert "(1000)" in peer.end.reason  # and not because nobody heard that


def test_a_listener_stops_whose_connections_are_lent(listener, peer, follower):
    lend(peer, follower.mailbox)
    stopping = threading.Thread(target=listener.stop)
    stopping.start()
    assert peer.hear_close() == (1012, "the robot server stopped")
    peer.say(frame(b"\x03\xf4", Opcode.CLOSE))
    stopping.join(5)
    assert not stopping.is_alive()
    assert peer.end.ended.is_set()


def test_a_bug_in_what_takes_frames_up_ends_that_connection_only(listener, peer, follower):
    lend(peer, follower.mailbox)
    peer.say(frame(b"fail"))
    assert peer.end.ended.wait(5)
    other = Peer(listener)
    lend(other, follower.mailbox)
    assert tell(other, b"next") == follower.ident
    other.sock.close()


def test_what_does_not_leave_at_once_is_sent_by_the_network_thread(peer, follower):
    """What waits for room is looked for also while nothing is to be read."""
    lend(peer, follower.mailbox)
    size = 1 << 20
    for _ in range(24):
        peer.end.sink.send([bytes(size)])
    assert peer.end.sink._outbox.size > 0
    for _ in range(24):
        (answer,) = peer.hear()
        assert len(answer.data) == size
    assert tell(peer, b"and on") == follower.ident


def test_everything_comes_once_and_in_order_whoever_reads(peer, follower, monkeypatch):
    """Frames, pings and fragments at random, while two threads take turns at random."""
    monkeypatch.setattr(fast_listener, "_LOOK_AT_LOANS", 0.001)  # takes back much oftener
    rng = random.Random(3)
    follower.mailbox.is_away = lambda: rng.random() < 0.3
    take = peer.end.on_frame
    peer.end.sink._handler.on_frame = lambda came: (
        take(came),
        peer.end.sink.lend(follower.mailbox),
    )
    pings = 0
    said = []
    for number in range(2_000):
        payload = b"%d" % number + rng.randbytes(rng.choice([0, 3, 200, 70_000]))
        data = b""
        if rng.random() < 0.1:
            data = frame(b"", Opcode.PING)
            pings += 1
        if rng.random() < 0.1:
            half = rng.randrange(len(payload))
            data += frame(payload[:half], Opcode.BINARY, fin=False)
            data += frame(payload[half:], Opcode.CONT)
        else:
            data += frame(payload)
        cut = rng.randrange(len(data) + 1)
        peer.say(data[:cut], data[cut:])
        said.append(payload)
        if rng.random() < 0.2:
            for payload in said:
                assert peer.end.get() == payload
            said.clear()
    for payload in said:
        assert peer.end.get() == payload
    readers = set()
    while not peer.end.threads.empty():
        readers.add(peer.end.threads.get())
    assert follower.ident in readers
    assert len(readers) == 2
    assert all(pong.opcode is Opcode.PONG for pong in peer.hear(pings))
