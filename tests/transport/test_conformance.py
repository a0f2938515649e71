"""One suite for every transport: frames arrive whole, in order, and an end is an end."""

import queue
import select
import threading

import numpy as np
import pytest
from beside import wait_for

from remote_env.errors import (
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
    DeadlineExceededError,
)
from remote_env.transport import connect
from remote_env.transport.fast_listener import FastListener
from remote_env.transport.inprocess import InProcessListener
from remote_env.transport.websocket_server import PlainListener

LARGE = 5 << 20


class ServerEnd:
    """A handler that remembers what it is told."""

    def __init__(self, sink):
        self.sink = sink
        self.frames = queue.SimpleQueue()
        self.closed = threading.Event()

    def on_frame(self, frame):
        self.frames.put(bytes(frame))

    def on_close(self, reason):
        assert not self.closed.is_set(), "told twice"
        self.closed.set()


def over_websocket(kind):
    return lambda folder: kind("127.0.0.1", 0, max_frame_size=LARGE, max_reply_size=4 * LARGE)


def over_unix(kind):
    return lambda folder: kind(
        "127.0.0.1",
        0,
        unix_path=f"{folder}/robot.sock",
        max_frame_size=LARGE,
        max_reply_size=4 * LARGE,
    )


def in_process(folder=None):
    return InProcessListener("conformance")


# Who listens, and whether clients take the fast lane and shared memory. Both sides are plain
# WebSockets to each other, so each lane must also do with the other one.
LISTENERS = {
    "fast": (over_websocket(FastListener), "1", "0"),
    "fast-shared": (over_websocket(FastListener), "1", "1"),
    "plain": (over_websocket(PlainListener), "0", "1"),
    "fast-to-plain": (over_websocket(PlainListener), "1", "1"),
    "plain-to-fast": (over_websocket(FastListener), "0", "1"),
    "unix": (over_unix(FastListener), "1", "0"),
    "unix-shared": (over_unix(FastListener), "1", "1"),
    "unix-plain": (over_unix(PlainListener), "0", "1"),
    "unix-fast-to-plain": (over_unix(PlainListener), "1", "1"),
    "unix-plain-to-fast": (over_unix(FastListener), "0", "1"),
    "in-process": (in_process, "1", "1"),
}


@pytest.fixture(params=LISTENERS.values(), ids=LISTENERS.keys())
def listener(request, monkeypatch, tmp_path):
    make, is_fast, shares = request.param
    monkeypatch.setenv("REMOTE_ENV_FAST", is_fast)
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", shares)
    listener = make(tmp_path)
    listener.accepted = queue.SimpleQueue()

    def accept(sink):
        end = ServerEnd(sink)
        listener.accepted.put(end)
        return end

    listener.start(accept)
    yield listener
    listener.stop()


def in_another_thread(function, *args):
    thread = threading.Thread(target=function, args=args)
    thread.start()
    thread.join()


@pytest.fixture
def ends(listener):
    client = connect(listener.url, timeout=5, max_frame_size=2 * LARGE)
    yield client, listener.accepted.get(timeout=5)
    client.close()


def test_a_frame_in_parts_arrives_whole(ends):
    client, server = ends
    client.send([b"one ", bytearray(b"frame "), memoryview(b"in parts")])
    assert server.frames.get(timeout=5) == b"one frame in parts"


def test_an_answer_arrives_in_memory_of_the_callers_own(ends):
    client, server = ends
    pixels = np.arange(100, dtype=np.uint8)
    server.sink.send([b"answer", pixels.data])
    answer = client.receive(timeout=5)
    assert answer[:6] == b"answer"
    answer[6:] = bytes(100)
    assert pixels[-1] == 99


@pytest.mark.parametrize("size", [1, 65535, 65536, LARGE])
def test_a_frame_is_received_without_waiting_once_it_is_here(ends, size):
    client, server = ends
    assert client.receive_nowait() is None
    frame = np.random.default_rng(size).bytes(size)
    server.sink.send([frame])
    assert wait_for(client.receive_nowait) == frame
    assert not client.has_unread
    assert client.receive_nowait() is None


def test_a_selector_or_has_unread_tells_of_every_frame(ends):
    client, server = ends
    server.sink.send([b"one"])
    if client.fileno() >= 0:
        assert select.select([client], [], [], 5)[0]
        server.sink.send([b"two"])
        assert client.receive(timeout=5) == b"one"
        wait_for(lambda: client.has_unread or select.select([client], [], [], 0)[0])
        client.serve_control_frames()  # as the keeper does, which takes it off the socket
        wait_for(lambda: client.has_unread)
    else:
        server.sink.send([b"two"])
        assert client.receive(timeout=5) == b"one"
    assert client.receive(timeout=5) == b"two"


def test_receiving_without_waiting_finds_the_end_too(ends):
    client, server = ends
    server.sink.close(1000, "enough")
    with pytest.raises(ConnectionLostError):
        wait_for(client.receive_nowait)


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, LARGE])
def test_frames_of_any_size_arrive_both_ways(ends, size):
    client, server = ends
    frame = np.random.default_rng(size).bytes(size)
    client.send([frame])
    assert server.frames.get(timeout=5) == frame
    server.sink.send([frame])
    assert client.receive(timeout=5) == frame


def test_frames_arrive_in_order(ends):
    client, server = ends
    for number in range(100):
        server.sink.send([b"%d" % number])
    assert [int(client.receive(timeout=5)) for _ in range(100)] == list(range(100))


def test_answers_from_another_thread_arrive_in_order(ends):
    client, server = ends

    def answer():
        for number in range(100):
            server.sink.send([b"%d" % number])

    in_another_thread(answer)
    assert [int(client.receive(timeout=5)) for _ in range(100)] == list(range(100))


def test_nothing_within_the_timeout_is_an_exceeded_deadline(ends):
    client, _ = ends
    with pytest.raises(DeadlineExceededError) as waited:
        client.receive(timeout=0.05)
    assert waited.value.waited == 0.05


def test_a_frame_that_is_late_is_not_lost(ends):
    client, server = ends
    with pytest.raises(DeadlineExceededError):
        client.receive(timeout=0.01)
    server.sink.send([b"late"])
    assert client.receive(timeout=5) == b"late"


def test_the_client_closing_is_noticed_by_the_server(ends):
    client, server = ends
    client.close()
    assert server.closed.wait(5)


def test_the_server_closing_is_a_lost_connection_with_its_reason(ends):
    client, server = ends
    server.sink.close(1008, "not today")
    with pytest.raises(ConnectionLostError, match="not today"):
        client.receive(timeout=5)
    with pytest.raises(ConnectionLostError):
        client.receive(timeout=5)
    with pytest.raises(ConnectionLostError):
        client.send([b"x"])
    assert server.closed.wait(5)


def test_what_was_sent_before_a_close_still_arrives(ends):
    client, server = ends
    server.sink.send([b"last words"])
    server.sink.close(1000, "bye")
    assert client.receive(timeout=5) == b"last words"


def test_a_listener_that_stops_is_a_lost_connection(listener, ends):
    client, server = ends
    listener.stop()
    with pytest.raises(ConnectionLostError):
        client.receive(timeout=5)
    assert server.closed.wait(5)


def test_stopping_and_closing_twice_is_harmless(listener, ends):
    client, server = ends
    client.close()
    client.close()
    listener.stop()
    listener.stop()
    server.sink.send([b"to nobody"])
    server.sink.close(1000, "again")


def test_connections_do_not_hear_each_other(listener):
    first = connect(listener.url, timeout=5, max_frame_size=LARGE)
    first_end = listener.accepted.get(timeout=5)
    second = connect(listener.url, timeout=5, max_frame_size=LARGE)
    second_end = listener.accepted.get(timeout=5)
    second_end.sink.send([b"for the second"])
    first_end.sink.send([b"for the first"])
    assert first.receive(timeout=5) == b"for the first"
    assert second.receive(timeout=5) == b"for the second"
    first.close()
    second.close()


def test_what_a_client_has_read_is_no_backlog(ends):
    client, server = ends
    assert server.sink.backlog() == 0
    server.sink.send([b"an ", b"answer"])
    client.receive(timeout=5)
    wait_for(lambda: server.sink.backlog() == 0)


def test_what_a_client_does_not_read_is_backlog_until_it_does(ends):
    client, server = ends
    for _ in range(30):  # more than the buffers of the system hold
        in_another_thread(server.sink.send, [bytes(1 << 20)])
    client.send([b"by now the network thread has sent what it could"])
    server.frames.get(timeout=5)
    assert server.sink.backlog() > 0
    for _ in range(30):
        client.receive(timeout=5)
    wait_for(lambda: server.sink.backlog() == 0)


def test_a_connection_that_is_gone_has_no_backlog(ends):
    client, server = ends
    server.sink.send([bytes(LARGE)])
    client.close()
    assert server.closed.wait(5)
    server.sink.send([bytes(LARGE)])
    wait_for(lambda: server.sink.backlog() == 0)


def test_a_listener_whose_name_is_taken_leaves_it_to_its_owner():
    owner, other = in_process(), in_process()
    owner.start(ServerEnd)
    with pytest.raises(ConfigurationError, match="is already served in this process"):
        other.start(ServerEnd)
    other.stop()
    try:
        connect(owner.url, timeout=5, max_frame_size=LARGE).close()
    finally:
        owner.stop()
    with pytest.raises(ConnectFailedError):
        connect(owner.url, timeout=5, max_frame_size=LARGE)
