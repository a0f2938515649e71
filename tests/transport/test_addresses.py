"""Names of hosts, while nobody answers for them."""

import contextlib
import multiprocessing
import socket
import threading
import time

import numpy as np
import pytest
from sample_robots import Counter

from remote_env import errors
from remote_env.testing import FaultProxy
from remote_env.transport import addresses


@pytest.fixture
def silent(monkeypatch):
    """While it is set, the system's resolver does not answer; as without a network."""
    is_silent, may_answer = threading.Event(), threading.Event()
    ask = socket.getaddrinfo

    def ask_somebody(*args, flags=0, **options):
        if is_silent.is_set() and not flags & socket.AI_NUMERICHOST:
            may_answer.wait(20)
        return ask(*args, flags=flags, **options)

    monkeypatch.setattr(socket, "getaddrinfo", ask_somebody)
    monkeypatch.setattr(addresses, "_names", {})
    yield is_silent
    may_answer.set()


@pytest.mark.realtime
def test_a_step_without_a_network_ends_at_its_deadline_also_for_a_robot_with_a_name(
    silent, serve, connect, slowdown
):
    with FaultProxy(serve(Counter()).url) as proxy:
        env = connect(proxy.url.replace("127.0.0.1", "localhost"), step_timeout=1.0)
        env.reset(seed=1)
        silent.set()
        proxy.blackhole()
        started = time.monotonic()
        *_, info = env.step(np.ones(2, np.float32))
        assert time.monotonic() - started < 1.0 + 0.5 * slowdown
        assert info["remote"]["end_reason"] == "link_lost"
        proxy.heal()
        env.reset(seed=1)  # who was found before is looked for at the same address


@pytest.mark.realtime
def test_a_name_that_nobody_knows_is_given_up_in_time(silent, connect, slowdown):
    silent.set()
    started = time.monotonic()
    with pytest.raises(errors.ConnectFailedError, match=r"nobody says within 0.3 s which"):
        connect("ws://localhost:9", connect_timeout=0.3)
    assert time.monotonic() - started < 0.3 + 0.5 * slowdown
    with contextlib.suppress(TimeoutError):
        addresses.open_socket("localhost", 9, 0.1)
    waiting = [t.name for t in threading.enumerate() if t.name == "remote-env names"]
    assert waiting == ["remote-env names"]  # one for each name, however often it is asked for


@pytest.mark.realtime
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
@pytest.mark.parametrize("holds_lock", [False, True])
def test_a_child_of_a_fork_during_a_look_up_finds_the_name(silent, holds_lock, counter, slowdown):
    port = int(counter.server.url.rpartition(":")[2])
    silent.set()
    with pytest.raises(TimeoutError):
        addresses.open_socket("localhost", port, 0.1)
    answers = multiprocessing.get_context("fork").SimpleQueue()

    def child():
        silent.clear()
        sock = addresses.open_socket("localhost", port, 5.0 * slowdown)
        answers.put(sock.getpeername()[1])

    process = multiprocessing.get_context("fork").Process(target=child)
    with addresses._lock if holds_lock else contextlib.nullcontext():
        process.start()
    process.join(timeout=10 * slowdown)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode == 0
    assert answers.get() == port
