"""Who may not drive the robot, and what never brings its server down."""

import os
import random
import shutil
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from sample_robots import Counter
from websockets.exceptions import ConnectionClosed, InvalidStatus, NegotiationError
from websockets.sync.client import connect as connect_websocket

from remote_env.protocol.codec import WIRE_VERSION
from remote_env.transport.connecting import SUBPROTOCOL

pytestmark = pytest.mark.usefixtures("lane")

OPTIONS = {"subprotocols": [SUBPROTOCOL], "compression": None, "legacy": True, "proxy": None}


@pytest.fixture
def robot(serve, connect):
    """A robot in mid-episode, whose learner must not notice anything."""
    robot = Counter()
    robot.server = serve(robot)
    robot.env = connect(robot.server.url)
    before, _ = robot.env.reset(seed=1)
    yield robot
    after, *_ = robot.env.step(np.array([0.25, 0.0], np.float32))
    assert after["sum"].tolist() == (before["sum"] + [0.25, 0.0]).tolist()
    assert len(robot.actions) == 1


@pytest.mark.parametrize("origin", ["http://evil.test", "null", "http://127.0.0.1"])
def test_a_web_page_is_refused(robot, origin):
    with pytest.raises(InvalidStatus) as refused:
        connect_websocket(robot.server.url, origin=origin, **OPTIONS)
    assert refused.value.response.status_code == 403
    assert b"send no Origin" in refused.value.response.body


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8765", "0.0.0.0", "robot.evil.test"])
def test_a_name_that_is_not_ours_is_refused(robot, host):
    port = int(robot.server.url.rpartition(":")[2])
    answer = ask(port, f"Host: {host}", "Sec-WebSocket-Protocol: remote-robot-env")
    assert b"421" in answer.split(b"\r\n")[0]


def test_an_allowed_name_is_welcome(serve):
    server = serve(Counter(), allowed_hosts=["robot.test"])
    port = int(server.url.rpartition(":")[2])
    answer = ask(port, "Host: robot.test:80", "Sec-WebSocket-Protocol: remote-robot-env")
    assert b"101" in answer.split(b"\r\n")[0]


def ask(port, *headers):
    """Open a WebSocket by hand; return the first bytes of the answer."""
    request = (
        "GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        + "".join(f"{h}\r\n" for h in headers)
    )
    with socket.create_connection(("127.0.0.1", port), timeout=5) as sock:
        sock.sendall(request.encode() + b"\r\n")
        return sock.recv(4096)


def test_another_subprotocol_is_refused(robot):
    with pytest.raises((InvalidStatus, NegotiationError)):
        connect_websocket(robot.server.url, subprotocols=["chat"], legacy=True, proxy=None)


@pytest.mark.parametrize("version", [1, WIRE_VERSION + 1])
def test_a_peer_of_another_version_is_told_both_versions(robot, version):
    with connect_websocket(robot.server.url, **OPTIONS) as peer:
        peer.send(b"RRE" + bytes([version]) + bytes(20))
        answer = peer.recv(timeout=5)
        assert b"protocol.version" in answer
        assert f"wire version {version}".encode() in answer
        assert f"speaks {WIRE_VERSION}".encode() in answer
        with pytest.raises(ConnectionClosed, match="1002"):
            peer.recv(timeout=5)


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"GET / HTTP/1.1",
        b'{"type": "metadata"}',
        b"\x80",
        bytes(24),
        b"RRE" + bytes([WIRE_VERSION]) + bytes(20),
    ],
)
def test_another_protocol_is_told_so_and_closed(robot, frame):
    with connect_websocket(robot.server.url, **OPTIONS) as peer:
        peer.send(frame)
        assert b"protocol.remote" in peer.recv(timeout=5)
        with pytest.raises(ConnectionClosed, match="1002"):
            peer.recv(timeout=5)


def test_text_is_refused(robot):
    with connect_websocket(robot.server.url, **OPTIONS) as peer:
        peer.send("hello")
        with pytest.raises(ConnectionClosed, match="1003"):
            peer.recv(timeout=5)


def test_a_frame_that_is_too_large_is_refused(robot):
    with connect_websocket(robot.server.url, **OPTIONS) as peer:
        peer.send(bytes(4 << 20))
        with pytest.raises(ConnectionClosed, match="1009"):
            peer.recv(timeout=5)


def test_noise_never_brings_the_server_down(robot):
    noise = random.Random(1)
    for _ in range(150):
        with connect_websocket(robot.server.url, **OPTIONS) as peer:
            start = noise.choice([b"", b"RRE\x01", b"RRE\x01\x01\0\0\0"])
            peer.send(start + noise.randbytes(noise.choice([1, 16, 200, 5000])))
            with pytest.raises(ConnectionClosed):
                while True:
                    peer.recv(timeout=5)


def test_noise_below_the_websocket_never_brings_the_server_down(robot):
    noise = random.Random(2)
    port = int(robot.server.url.rpartition(":")[2])
    for _ in range(150):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.sendall(noise.randbytes(noise.choice([1, 50, 3000])))


def test_a_peer_that_says_nothing_is_closed(serve):
    server = serve(Counter())
    server._listeners[0]._hello_timeout = 0.2
    with (
        connect_websocket(server.url, **OPTIONS) as peer,
        pytest.raises(ConnectionClosed, match=r"1008.*no hello"),
    ):
        peer.recv(timeout=5)


def test_too_many_connections_are_refused_and_those_there_are_go_on(robot):
    robot.server._listeners[0]._max_connections = 3
    peers = [connect_websocket(robot.server.url, **OPTIONS) for _ in range(2)]
    with pytest.raises(InvalidStatus) as refused:
        connect_websocket(robot.server.url, **OPTIONS)
    assert refused.value.response.status_code == 503
    for peer in peers:
        peer.close()


def test_a_flood_of_pings_that_reads_nothing_is_cut_off(robot):
    robot.server._listeners[0]._hello_timeout = 60.0  # which would end it too
    port = int(robot.server.url.rpartition(":")[2])
    ping = b"\x89\xfd" + bytes(4) + bytes(125)  # masked, 125 bytes
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.settimeout(10)
        sock.sendall(
            b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: remote-robot-env\r\n\r\n"
        )
        sock.recv(4096)
        with pytest.raises(ConnectionError):
            for _ in range(20_000):
                sock.sendall(ping * 100)


def test_a_page_in_a_real_browser_is_refused(robot, tmp_path):
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not installed")
    page = tmp_path / "page.html"
    page.write_text(
        "<body>waiting<script>"
        f"const s = new WebSocket('{robot.server.url}', ['remote-robot-env']);"
        "s.onopen = () => document.body.innerText = 'OPENED';"
        "s.onerror = () => document.body.innerText = 'REFUSED';"
        "</script></body>"
    )
    shown = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", f"--user-data-dir={tmp_path}/profile", "--virtual-time-budget=3000",
            "--dump-dom", page.as_uri(),
        ],
        capture_output=True, text=True, timeout=60, check=True,
        env={**os.environ, "HOME": str(tmp_path)},
    )  # fmt: skip
    assert "REFUSED" in shown.stdout


def test_connections_that_come_and_go_leave_nothing_behind(robot):
    before = threading.active_count()
    for _ in range(50):
        connect_websocket(robot.server.url, **OPTIONS).close()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline and (
        len(robot.server._session._peers) > 1 or threading.active_count() > before
    ):
        time.sleep(0.01)
    assert len(robot.server._session._peers) == 1
    assert threading.active_count() == before
