"""What leaves to a peer leaves in order, once, and is copied only where it must be."""

import random
import socket
import threading

import pytest
from beside import wait_for

from remote_env.transport.outbox import Outbox

FULL = 8 << 20  # more than the system's buffers hold


@pytest.fixture
def ends():
    """An outbox, and the socket of its peer."""
    here, there = socket.socketpair()
    here.setblocking(False)
    here.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
    there.settimeout(10)
    outbox = Outbox(here)
    with there:
        yield outbox, there
        outbox.close()


def receive(sock, size):
    data = bytearray()
    while len(data) < size and (some := sock.recv(1 << 20)):
        data += some
    return bytes(data)


def drain(outbox, sock, size):
    """Receive while the outbox sends what waits."""
    data = bytearray()
    while len(data) < size:
        outbox.flush()
        data += sock.recv(1 << 20)
    return bytes(data)


def fill(outbox):
    """Send more than the system takes; return it."""
    much = random.Random(1).randbytes(FULL)
    assert outbox.put([much])
    assert 0 < outbox.size < FULL
    return much


def test_what_fits_leaves_at_once(ends):
    outbox, peer = ends
    assert not outbox.put([b"one ", b"", memoryview(b"frame")])
    assert outbox.size == 0
    assert receive(peer, 9) == b"one frame"


def test_what_does_not_fit_leaves_when_there_is_room_and_in_order(ends):
    outbox, peer = ends
    much = fill(outbox)
    start = receive(peer, 1 << 17)  # so there is room, and those who wait come first
    assert outbox.put([b"next", b""])
    assert outbox.put([bytearray(b"last")])
    left = FULL + 8 - len(start)
    assert start + drain(outbox, peer, left) == much + b"nextlast"
    assert outbox.size == 0
    assert outbox.footprint == 0
    assert outbox.flush() is False


def test_more_parts_than_one_call_of_the_system_takes(ends):
    outbox, peer = ends
    parts = [b"%06d" % number for number in range(3000)]
    outbox.put(parts)
    assert drain(outbox, peer, 18_000) == b"".join(parts)
    much = fill(outbox)
    outbox.put(parts)
    assert drain(outbox, peer, FULL + 18_000) == much + b"".join(parts)


def test_what_is_read_only_waits_by_reference(ends):
    outbox, _ = ends
    fill(outbox)
    picture = bytes(1 << 20)
    outbox.put([picture])
    assert outbox._waiting[-1].obj is picture


def test_what_may_be_written_to_waits_as_a_copy(ends):
    outbox, peer = ends
    much = fill(outbox)
    buffer = bytearray(b"before")
    outbox.put([buffer])
    buffer[:] = b"after!"
    buffer += b"and it may grow"
    assert drain(outbox, peer, FULL + 6) == much + b"before"


def test_half_of_what_may_be_written_to_waits_as_a_copy(ends):
    outbox, peer = ends
    buffer = bytearray(random.Random(2).randbytes(FULL))
    before = bytes(buffer)
    assert outbox.put([buffer])
    buffer[:] = bytes(FULL)
    assert drain(outbox, peer, FULL) == before


def test_each_frame_of_many_threads_arrives_whole_and_each_threads_in_order(ends):
    outbox, peer = ends
    count, threads, size = 300, 4, 4001
    received = bytearray()

    def send(number):
        for index in range(count):
            text = b"%d:%05d" % (number, index)
            outbox.put([text[:3], text[3:], bytes(size - len(text))])

    def flush():
        while not is_over.is_set():
            outbox.flush()

    is_over = threading.Event()
    running = [threading.Thread(target=send, args=(number,)) for number in range(threads)]
    running.append(threading.Thread(target=flush))
    for thread in running:
        thread.start()
    while len(received) < count * threads * size:
        received += peer.recv(1 << 20)
    is_over.set()
    for thread in running:
        thread.join(10)
    frames = [received[start : start + size] for start in range(0, len(received), size)]
    said = [tuple(map(int, frame.rstrip(b"\0").split(b":"))) for frame in frames]
    for number in range(threads):
        assert [index for who, index in said if who == number] == list(range(count))


def test_nothing_follows_the_last(ends):
    outbox, peer = ends
    outbox.put([b"last"], is_last=True)
    outbox.put([b"too late"])
    outbox.put([], is_last=True, shuts=True)
    outbox.flush()
    assert peer.recv(100) == b"last"
    assert peer.recv(100) == b""


def test_the_peer_hears_of_the_end_after_all_that_waited(ends):
    outbox, peer = ends
    much = fill(outbox)
    assert outbox.put([b"last"], is_last=True, shuts=True)
    assert drain(outbox, peer, FULL + 4) == much + b"last"
    assert peer.recv(1) == b""


def test_a_closed_one_forgets_what_waits_and_takes_nothing(ends):
    outbox, peer = ends
    fill(outbox)
    outbox.close()
    outbox.close()
    assert outbox.size == 0
    assert outbox.put([b"x"]) is False
    assert outbox.flush() is False
    wait_for(lambda: not peer.recv(1 << 20))


def test_a_peer_that_is_gone_is_no_error(ends):
    outbox, peer = ends
    fill(outbox)
    peer.close()
    outbox.flush()
    outbox.put([b"x"])


def test_many_small_parts_count_for_the_memory_that_they_take(ends):
    outbox, _ = ends
    fill(outbox)
    before = outbox.footprint
    for _ in range(1000):
        outbox.put([b"\x8a\x00"])
    assert outbox.footprint - before > 100 * 1000
    assert outbox.size <= FULL + 2000
