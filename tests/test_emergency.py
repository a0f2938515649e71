"""The emergency stop is tried again for as long as there is time."""

import threading
import time

import pytest
from sample_robots import Counter

from remote_env import emergency_stop, errors, release_stop
from remote_env.emergency import _PAUSE
from remote_env.testing import FaultProxy
from remote_env.transport import connect as open_link
from remote_env.transport import websocket_listener
from remote_env.transport.listening import WebSocketListener

TOKEN = "a token of sixteen characters"


class Pressing(threading.Thread):
    """Presses beside us."""

    def __init__(self, url):
        super().__init__(daemon=True)
        self.url, self.error = url, None
        self.start()

    def run(self):
        try:
            emergency_stop(self.url, "smoke", timeout=10.0)
        except Exception as error:
            self.error = error


def assert_pressed(pressing, server):
    pressing.join(timeout=20)
    assert pressing.error is None
    assert server.statistics()["emergency_stop"]["reason"] == "smoke"


@pytest.fixture
def full(serve):
    """A server with room for one, who is there."""
    listener = websocket_listener(
        "127.0.0.1", 0, max_frame_size=1 << 20, max_reply_size=1 << 20, max_connections=1
    )
    server = serve(Counter(), listeners=[listener])
    guest = open_link(listener.url, timeout=5, max_frame_size=1 << 20)
    yield server
    guest.close()


def test_it_is_pressed_also_if_the_server_is_full(full):
    with pytest.raises(errors.ConnectFailedError, match="is busy"):
        open_link(full.url, timeout=5, max_frame_size=1 << 20)
    emergency_stop(full.url, "smoke")
    assert full.statistics()["emergency_stop"]["reason"] == "smoke"
    assert release_stop(full.url)


def test_the_room_for_it_is_bounded_and_given_back(full, monkeypatch):
    monkeypatch.setattr(WebSocketListener, "brief", 0.5)
    brief = [
        open_link(full.url, timeout=5, max_frame_size=1 << 20, is_brief=True) for _ in range(8)
    ]
    with pytest.raises(errors.ConnectFailedError, match="is busy"):
        open_link(full.url, timeout=5, max_frame_size=1 << 20, is_brief=True)
    with pytest.raises(errors.ConnectionLostError):
        brief[0].receive(5.0)
    emergency_stop(full.url)
    for link in brief:
        link.close()


def test_it_is_pressed_as_soon_as_a_full_server_has_room(serve, monkeypatch):
    monkeypatch.setattr(WebSocketListener, "reserve", 0)
    listener = websocket_listener(
        "127.0.0.1", 0, max_frame_size=1 << 20, max_reply_size=1 << 20, max_connections=1
    )
    server = serve(Counter(), listeners=[listener])
    guest = open_link(listener.url, timeout=5, max_frame_size=1 << 20)
    with pytest.raises(errors.ConnectFailedError, match="is busy"):  # while it is full
        emergency_stop(listener.url, timeout=2 * _PAUSE)
    pressing = Pressing(listener.url)
    pressing.join(timeout=0.3)
    assert pressing.is_alive()  # it tries again
    guest.close()
    assert_pressed(pressing, server)


def test_it_is_pressed_after_connections_that_are_reset(serve):
    server = serve(Counter())
    with FaultProxy(server.url) as proxy:
        proxy.refuse()
        pressing = Pressing(proxy.url)
        pressing.join(timeout=0.3)
        assert pressing.is_alive()  # it tries again
        proxy.refuse(is_on=False)
        assert_pressed(pressing, server)


@pytest.mark.realtime
def test_who_is_refused_is_told_at_once(serve, slowdown):
    server = serve(Counter(), token=TOKEN)
    began = time.monotonic()
    with pytest.raises(errors.AccessDeniedError):
        emergency_stop(server.url, token="another one", timeout=10.0)
    assert time.monotonic() - began < 2 * slowdown


def test_a_timeout_that_is_none_is_refused():
    with pytest.raises(errors.ConfigurationError, match="timeout must be a positive"):
        emergency_stop("ws://127.0.0.1:9", timeout=0.0)
