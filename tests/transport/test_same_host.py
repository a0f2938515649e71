"""Two ends on one machine share memory when nothing speaks against it, and else do without."""

import gc
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from beside import wait_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side
from wires import ByHand, client_socket, lies_in_shared_memory, mappings

from remote_env.errors import ConnectionLostError, DeadlineExceededError, RemoteProtocolError
from remote_env.testing import FaultProxy
from remote_env.transport import connect, shared_offer
from remote_env.transport.fast_frames import REFERENCE_HEADER
from remote_env.transport.fast_listener import FastListener
from remote_env.transport.shared_memory import LEAST, REFERENCE_SIZE
from remote_env.transport.shared_offer import NAME, ServerOffer

HERE = str(Path(__file__).parent)
LARGE = 1 << 20
MOST = 64 << 20


class Echo:
    """Answers a number with so many bytes, which the number decides."""

    def __init__(self, sink):
        self.sink = sink

    def on_frame(self, frame):
        self.sink.send([b"head", noise(int(frame))])

    def on_close(self, reason):
        pass


def noise(size):
    return random.Random(size).randbytes(size)


@pytest.fixture
def start(tmp_path):
    """Start a listener, at a port or at a path; stops it at the end."""
    listeners = []

    def start(*, unix=False, end=Echo, most=LARGE):
        path = f"{tmp_path}/robot.sock" if unix else None
        listener = FastListener(
            "127.0.0.1", 0, unix_path=path, max_frame_size=LARGE, max_reply_size=most
        )
        listener.ends = queue.SimpleQueue()

        def accept(sink):
            listener.ends.put(sink)
            return end(sink)

        listener.start(accept)
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        listener.stop()


@pytest.fixture
def link_to():
    """Connect; closes at the end."""
    links = []

    def link_to(listener):
        links.append(connect(getattr(listener, "url", listener), timeout=5, max_frame_size=MOST))
        return links[-1]

    yield link_to
    for link in links:
        link.close()


def ask(link, size):
    link.send([b"%d" % size])
    return link.receive(timeout=5)


def is_right(frame, size):
    return frame == b"head" + noise(size)


WHERE = pytest.mark.parametrize("unix", [False, True], ids=["tcp", "unix"])


# When memory is shared


@WHERE
def test_large_frames_lie_in_shared_memory_and_small_ones_come_by_the_socket(start, link_to, unix):
    link = link_to(start(unix=unix))
    assert link.carrier == f"shared memory and {'Unix socket' if unix else 'TCP'}"
    for size in (10, LEAST - 5, LEAST - 4, LARGE):
        link.send([b"%d" % size])
        frame = link.receive(timeout=5)
        assert is_right(frame, size)
        assert lies_in_shared_memory(frame) == (size + 4 >= LEAST)


@pytest.mark.parametrize("side", ["client", "server"])
def test_either_side_can_switch_it_off(start, link_to, monkeypatch, side):
    listener = start()
    if side == "client":
        monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "0")
    else:
        monkeypatch.setattr(ServerOffer, "process_request_params", _refuse)
    link = link_to(listener)
    assert link.carrier == "TCP"
    assert is_right(ask(link, LARGE), LARGE)
    assert listener.ends.get(timeout=5)._lender is None


def _refuse(self, params, accepted):
    raise shared_offer.NegotiationError("no")


def test_a_server_that_switched_it_off_grants_nothing(start, link_to, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "0")
    listener = start()
    here = socket.create_connection(("127.0.0.1", listener.port))
    monkeypatch.setattr(shared_offer, "may_share", lambda sock: True)
    answer = by_hand(here, shared_offer.ClientOffer(here, MOST).get_request_params())
    assert NAME.lower() not in answer.lower()
    here.close()


def by_hand(sock, params):
    """Shake hands; return the head of the answer."""
    offered = "; ".join([NAME, *(f"{key}={value}" for key, value in params)])
    sock.settimeout(5)
    sock.sendall(
        (
            "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            "Sec-WebSocket-Protocol: remote-robot-env\r\n"
            f"Sec-WebSocket-Extensions: {offered}\r\n\r\n"
        ).encode()
    )
    answer = ""
    while "\r\n\r\n" not in answer:
        answer += sock.recv(4096).decode()
    return answer


def test_a_client_without_the_memory_is_sent_everything_by_the_socket(start):
    listener = start()
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        answer = by_hand(sock, shared_offer.ClientOffer(sock, MOST).get_request_params())
        assert f"{NAME}; pid={os.getpid()}; file=" in answer
        sink = listener.ends.get(timeout=5)
        before = mappings()
        peer = ByHand()
        peer.sock, peer._reading = sock, Protocol(Side.CLIENT, max_size=None)
        peer.say(Frame(Opcode.BINARY, b"%d" % LARGE).serialize(mask=True))
        (frame,) = peer.hear()
        assert is_right(frame.data, LARGE)
        assert sink._lender is None
        assert mappings() < before


@pytest.mark.parametrize(
    "params",
    [[], [("where", None)], [("where", "0" * 32)], [("where", "x"), ("where", "y")]],
)
def test_what_was_not_said_at_this_connection_is_granted_nothing(start, params):
    listener = start()
    with socket.create_connection(("127.0.0.1", listener.port)) as sock:
        said = [(key, value) for key, value in params if value is not None]
        assert NAME not in by_hand(sock, said)


LIES = {
    "another process": {"pid": "1"},
    "no process": {"pid": str(1 << 30)},
    "no number": {"pid": "x"},
    "another file": {"file": "0"},
    "another size": {"size": "8192"},
    "another token": {"token": "00" * 32},
    "no token": {"token": "zz"},
    "nothing": {"pid": None, "file": None, "size": None, "token": None},
}


@pytest.mark.parametrize("lies", LIES.values(), ids=LIES.keys())
def test_a_client_that_does_not_find_the_memory_does_without(start, link_to, monkeypatch, lies):
    honest = ServerOffer.process_request_params

    def lie(self, params, accepted):
        said, extension = honest(self, params, accepted)
        return [(key, lies.get(key, value)) for key, value in said], extension

    monkeypatch.setattr(ServerOffer, "process_request_params", lie)
    gc.collect()
    before = mappings()
    listener = start()
    link = link_to(listener)
    assert link.carrier == "TCP"
    assert is_right(ask(link, LARGE), LARGE)
    assert listener.ends.get(timeout=5)._lender is None
    assert mappings() == before


def test_a_system_without_memory_does_without(start, link_to, monkeypatch):
    def fail(*args):
        raise OSError("none left")

    monkeypatch.setattr(os, "memfd_create", fail)
    link = link_to(start())
    assert link.carrier == "TCP"
    assert is_right(ask(link, LARGE), LARGE)


def test_somebody_in_between_is_not_passed_by(start, link_to):
    listener = start()
    with FaultProxy(listener.url) as proxy:
        link = link_to(proxy.url)
        assert link.carrier == "TCP"
        assert is_right(ask(link, LARGE), LARGE)


def test_small_replies_are_worth_no_memory(start, link_to):
    assert link_to(start(most=LEAST - 1)).carrier == "TCP"


# What comes through it


def test_a_learner_that_keeps_all_frames_gets_each_whole(start, link_to):
    listener = start()
    link = link_to(listener)
    sizes = [LARGE + number for number in range(12)]
    held = [ask(link, size) for size in sizes]
    assert sum(map(lies_in_shared_memory, held)) == 3
    assert all(is_right(frame, size) for frame, size in zip(held, sizes, strict=True))
    held.clear()
    assert lies_in_shared_memory(ask(link, LARGE))


def test_frames_that_were_not_taken_are_backlog_and_come_in_order(start, link_to):
    listener = start()
    link = link_to(listener)
    sizes = [LARGE, 10, LARGE + 1, LARGE + 2, LARGE + 3, 20]
    for size in sizes:
        link.send([b"%d" % size])
    sink = listener.ends.get(timeout=5)
    wait_for(lambda: sink.backlog() > 3 * LARGE)
    for size in sizes:
        assert is_right(link.receive(timeout=5), size)
    assert sink.backlog() == 0


def test_frames_that_come_between_calls_are_kept(start, link_to):
    link = link_to(start())
    link.send([b"%d" % LARGE])
    deadline = time.monotonic() + 5
    while not link._kept and time.monotonic() < deadline:
        link.serve_control_frames()
    assert is_right(link.receive(timeout=5), LARGE)


def test_a_pong_lands_between_references(start, link_to):
    listener = start()
    link = link_to(listener)
    for number in range(20):
        client_socket(link).sendall(b"\x89\x81\0\0\0\0p")
        assert is_right(ask(link, LARGE + number), LARGE + number)


def test_a_reference_may_come_in_pieces(start, link_to):
    listener = start()
    link = link_to(listener)
    assert is_right(ask(link, LARGE), LARGE)
    sink = listener.ends.get(timeout=5)
    data = noise(LARGE)
    reference = REFERENCE_HEADER + sink._lender.place([data], len(data))
    for byte in reference[:-1]:
        sink._outbox.put([bytes([byte])])
        with pytest.raises(DeadlineExceededError):
            link.receive(timeout=0.001)
    sink._outbox.put([reference[-1:]])
    assert link.receive(timeout=5) == data


@WHERE
@given(sizes=st.lists(st.integers(0, 4 * LARGE) | st.integers(LEAST - 8, LEAST), max_size=12))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=20)
def test_every_frame_is_what_it_would_be_by_tcp(start, link_to, monkeypatch, unix, sizes):
    listener = start(unix=unix)
    shared = link_to(listener)
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "0")
    plain = link_to(listener)
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "1")
    assert plain.carrier != shared.carrier
    kept = []
    for size in sizes:
        kept.append((ask(shared, size), ask(plain, size)))
        if size % 3:
            kept.pop(0)
    assert all(one == other for one, other in kept)
    assert all(type(one) is type(other) for one, other in kept)
    shared.close()
    plain.close()
    listener.stop()


def test_a_reference_at_random_is_the_peers_fault(start, link_to):
    listener = start()
    link = link_to(listener)
    assert is_right(ask(link, LARGE), LARGE)
    listener.ends.get(timeout=5)._outbox.put([REFERENCE_HEADER, bytes(REFERENCE_SIZE)])
    with pytest.raises(RemoteProtocolError, match="shared memory, where no frame may lie"):
        link.receive(timeout=5)


ODD = {
    "too short": bytes((REFERENCE_HEADER[0], 1, 0)),
    "in fragments": bytes((REFERENCE_HEADER[0] & 0x7F, REFERENCE_SIZE)) + bytes(REFERENCE_SIZE),
    "among fragments": b"\x02\x01x" + REFERENCE_HEADER + bytes(REFERENCE_SIZE),
    "with another bit": bytes((0xA2, REFERENCE_SIZE)) + bytes(REFERENCE_SIZE),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD.keys())
def test_what_is_no_reference_breaks_the_websocket_protocol(start, link_to, data):
    listener = start()
    link = link_to(listener)
    assert is_right(ask(link, 10), 10)
    listener.ends.get(timeout=5)._outbox.put([data])
    with pytest.raises(ConnectionLostError, match="broke the WebSocket protocol"):
        link.receive(timeout=5)


def test_several_threads_may_answer_at_once(start, link_to):
    sent = 16

    class Flood(Echo):
        def on_frame(self, frame):
            for number in range(4):
                threading.Thread(target=self.flood, args=(number,)).start()

        def flood(self, number):
            for _ in range(sent // 4):
                self.sink.send([bytes([number]) * (LARGE - number)])

    link = link_to(start(end=Flood, most=8 * LARGE))
    link.send([b"go"])
    for _ in range(sent):
        frame = link.receive(timeout=10)
        number = LARGE - len(frame)
        assert frame == bytes([number]) * len(frame)


# How it ends


def test_frames_outlive_the_connection_and_then_the_memory_goes(start, link_to):
    gc.collect()
    before = mappings()
    listener = start()
    link = connect(listener.url, timeout=5, max_frame_size=MOST)
    picture = np.frombuffer(ask(link, LARGE), np.uint8)[4:]
    assert mappings() > before
    link.close()
    listener.stop()
    assert picture.tobytes() == noise(LARGE)
    picture[0] = 0
    del link, picture
    wait_for(lambda: mappings() == before)


def test_connections_that_come_and_go_leave_nothing(start):
    listener = start()
    gc.collect()
    before = mappings()
    for number in range(20):
        link = connect(listener.url, timeout=5, max_frame_size=MOST)
        assert link.carrier.startswith("shared")
        if number % 2:
            assert is_right(ask(link, LARGE), LARGE)
        link.abort()
    del link
    wait_for(lambda: mappings() == before)


SERVER = """
import sys
sys.path[:0] = {path!r}
from test_same_host import Echo, LARGE
from remote_env.transport.fast_listener import FastListener
listener = FastListener("127.0.0.1", 0, max_frame_size=LARGE, max_reply_size=LARGE)
listener.start(Echo)
print(listener.url, flush=True)
sys.stdin.read()
"""
CLIENT = """
import os, sys
sys.path[:0] = {path!r}
from test_same_host import LARGE, MOST, ask, is_right
from remote_env.transport import connect
{before}
link = connect(sys.argv[1], timeout=5, max_frame_size=MOST)
frame = ask(link, LARGE)
print(link.carrier, is_right(frame, LARGE), flush=True)
sys.stdin.read()
"""
BECOME_NOBODY = "os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)"


@pytest.fixture
def run():
    """Run a program; killed at the end."""
    processes = []

    def run(program, *arguments, before=""):
        source = textwrap.dedent(program).format(path=[HERE, *sys.path], before=before)
        process = subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def test_a_client_that_is_killed_leaves_nothing(run, link_to):
    named = set(os.listdir("/dev/shm"))
    server = run(SERVER)
    url = server.stdout.readline().strip()
    client = run(CLIENT, url)
    assert client.stdout.readline() == "shared memory and TCP True\n"
    assert mappings(server.pid)
    client.send_signal(signal.SIGKILL)
    client.wait(5)
    wait_for(lambda: not mappings(server.pid))
    assert set(os.listdir("/dev/shm")) <= named
    assert is_right(ask(link_to(url), LARGE), LARGE)


def test_a_server_that_is_killed_takes_no_frame_away(run):
    gc.collect()
    before = mappings()
    server = run(SERVER)
    link = connect(server.stdout.readline().strip(), timeout=5, max_frame_size=MOST)
    assert link.carrier.startswith("shared memory")
    frame = ask(link, LARGE)
    server.send_signal(signal.SIGKILL)
    server.wait(5)
    with pytest.raises(ConnectionLostError):
        link.receive(timeout=5)
    assert is_right(frame, LARGE)
    link.abort()
    del link, frame
    assert mappings() == before


def test_another_user_is_served_by_tcp(run):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    server = run(SERVER)
    client = run(CLIENT, server.stdout.readline().strip(), before=BECOME_NOBODY)
    assert client.stdout.readline() == "TCP True\n"
    assert not mappings(server.pid)
