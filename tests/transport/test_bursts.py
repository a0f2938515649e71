"""One peer that sends very much in one piece: others do not wait, and memory does not grow."""

import threading

import pytest
from beside import wait_for
from sample_robots import Counter
from watching import RawObserver
from websockets.frames import Frame, Opcode
from wires import client_socket

from remote_env import RobotClient, errors
from remote_env.protocol import GetStatistics, Probe
from remote_env.transport import websocket_server
from remote_env.transport.fast_server import FastConnection

COUNT = 1200


pytestmark = pytest.mark.usefixtures("lane")


def send_at_once(peer, messages):
    """Send messages, made one by one, in one piece, so that they arrive in one."""
    frames = (b"".join(peer.connection.send(message)) for message in messages)
    raw = b"".join(Frame(Opcode.BINARY, frame).serialize(mask=True) for frame in frames)
    assert len(raw) < 64 << 10
    client_socket(peer.link).sendall(raw)


@pytest.fixture
def written(monkeypatch):
    """What the server writes: to whom, and how much waits for that one then."""
    log = []
    broadcast, send = websocket_server.broadcast, FastConnection.send

    def note_broadcast(connections, data):
        broadcast(connections, data)
        (connection,) = connections
        host, port = connection.remote_address
        log.append((f"{host}:{port}", connection.transport.get_write_buffer_size()))

    def note_send(connection, frame):
        send(connection, frame)
        log.append((connection.peer_name, connection._outbox.size))

    monkeypatch.setattr(websocket_server, "broadcast", note_broadcast)
    monkeypatch.setattr(FastConnection, "send", note_send)
    return log


def test_a_burst_of_one_peer_delays_the_others_by_a_frame_and_no_more(serve, written):
    server = serve(Counter())
    peer = RawObserver(server.url)
    with RobotClient(server.url, role="observe") as other:
        is_over = threading.Event()

        def ping_on():
            while not is_over.is_set():
                other.ping(timeout=10)

        pinging = threading.Thread(target=ping_on, daemon=True)
        pinging.start()
        send_at_once(peer, (GetStatistics(peer.connection.next_id()) for _ in range(COUNT)))
        for _ in range(COUNT):
            assert peer.receive(timeout=10) is not None
        is_over.set()
        pinging.join()
    host, port = client_socket(peer.link).getsockname()
    peer.close()
    is_of_burst = [name == f"{host}:{port}" for name, _ in written]
    first = is_of_burst.index(True) + 1  # the welcome
    first += is_of_burst[first:].index(True)
    last = len(is_of_burst) - is_of_burst[::-1].index(True)
    # How many is up to the scheduler; without turns there is none.
    assert is_of_burst[first:last].count(False) > 0


def test_a_burst_whose_answers_nobody_reads_is_cut_off_before_they_fill_the_memory(serve, written):
    server = serve(Counter())
    limit = server._listeners[0]._max_unread
    size = 256 << 10
    peer = RawObserver(server.url)
    send_at_once(peer, (Probe(peer.connection.next_id(), size) for _ in range(COUNT)))
    wait_for(lambda: not server.statistics()["connections"])
    assert max(waits for _, waits in written) < limit + 2 * size
    assert sum(waits > 0 for _, waits in written) < COUNT / 4
    with RobotClient(server.url, role="observe") as other:
        other.ping(timeout=5)
    with pytest.raises(errors.ConnectionLostError):
        while True:
            peer.receive(timeout=5)
    peer.close()
