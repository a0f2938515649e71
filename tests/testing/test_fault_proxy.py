"""The network that breaks at will, byte by byte, between plain sockets."""

import contextlib
import errno
import os
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest
from beside import wait_for
from sample_robots import Counter

from remote_env import errors
from remote_env.testing import Direction, FaultProxy
from remote_env.testing.fault_lane import Allowance

TO_SERVER, TO_CLIENT = Direction.TO_SERVER, Direction.TO_CLIENT
NOISE = random.Random(1).randbytes(4 << 20)


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as sock:
        sock.settimeout(5)
        yield sock


@pytest.fixture
def proxy(listener):
    with FaultProxy(listener.getsockname()) as proxy:
        yield proxy


@pytest.fixture
def join(proxy, listener):
    """Connect a client with a server through the proxy."""
    sockets = []

    def join():
        client = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        server, _ = listener.accept()
        server.settimeout(5)
        sockets.extend((client, server))
        return client, server

    yield join
    for sock in sockets:
        sock.close()


@pytest.fixture
def ends(join):
    return join()


@pytest.fixture(params=[TO_SERVER, TO_CLIENT], ids=["to_server", "to_client"])
def way(request, ends):
    """Both directions: which it is, who sends, who receives."""
    return request.param, *(ends if request.param is TO_SERVER else ends[::-1])


def read(sock, count):
    data = bytearray()
    while len(data) < count and (piece := sock.recv(min(count - len(data), 1 << 16))):
        data += piece
    return bytes(data)


def read_to_the_end(sock):
    """Everything that still comes, and how it ended."""
    data = bytearray()
    try:
        while piece := sock.recv(1 << 16):
            data += piece
    except ConnectionResetError:
        return bytes(data), "rst"
    return bytes(data), "fin"


def connect_and_be_reset(port):
    """Whether a new connection is reset: in the middle of connecting, or right after."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
            return read_to_the_end(client) == (b"", "rst")
    except ConnectionResetError:
        return True


def send_all(sock, data):
    """Send on a thread of its own, also to a peer that reads late; the end may come before."""

    def send():
        with contextlib.suppress(OSError):
            sock.sendall(data)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


def fill(sock):
    """Send until the sender is blocked for good; return how much was taken."""
    sock.settimeout(0.2)
    sent = 0
    with pytest.raises(TimeoutError):
        while True:
            sent += sock.send(NOISE[: 1 << 16])
    sock.settimeout(5)
    return sent


def reset(sock):
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def assert_nothing_came(sock):
    sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        sock.recv(1)
    sock.settimeout(5)


# Without a fault


def test_all_bytes_pass_as_they_are(way, proxy):
    direction, sender, receiver = way
    thread = send_all(sender, NOISE)
    assert read(receiver, len(NOISE)) == NOISE
    thread.join(5)
    counts = proxy.statistics()
    forwarded = {
        TO_SERVER: counts.forwarded_to_server,
        TO_CLIENT: counts.forwarded_to_client,
    }
    assert forwarded.pop(direction) == len(NOISE)
    assert sum(forwarded.values()) == counts.dropped_to_server == counts.dropped_to_client == 0
    assert (counts.accepted, counts.open) == (1, 1)


def test_one_end_may_finish_before_the_other(way):
    _, sender, receiver = way
    sender.sendall(b"question")
    sender.shutdown(socket.SHUT_WR)
    assert read_to_the_end(receiver) == (b"question", "fin")
    receiver.sendall(b"answer")
    receiver.close()
    assert read_to_the_end(sender) == (b"answer", "fin")


def test_a_reset_is_passed_on_behind_the_bytes_before_it(way, proxy):
    _, sender, receiver = way
    sender.sendall(b"last words")
    wait_for(lambda: sum_forwarded(proxy) == 10)
    reset(sender)
    assert read_to_the_end(receiver) == (b"last words", "rst")
    wait_for(lambda: proxy.statistics().open == 0)


def sum_forwarded(proxy):
    counts = proxy.statistics()
    return counts.forwarded_to_server + counts.forwarded_to_client


def sum_dropped(proxy):
    counts = proxy.statistics()
    return counts.dropped_to_server + counts.dropped_to_client


def test_a_reset_that_is_found_while_sending_is_a_reset(way, proxy):
    direction, sender, receiver = way
    proxy.stall(Direction.BOTH & ~direction)  # so that the proxy does not read it
    reset(receiver)
    sender.sendall(b"nobody reads this")  # once: a second time may itself find the reset
    wait_for(lambda: sum_dropped(proxy) > 0)
    proxy.heal()
    assert read_to_the_end(sender) == (b"", "rst")


def test_a_target_that_does_not_listen_resets_the_client(proxy, listener):
    listener.close()
    assert connect_and_be_reset(proxy.port)


# Cuts


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("count", [0, 1, 7, 1_000, 300_001])
def test_a_cut_lets_exactly_so_many_bytes_through(way, proxy, count, how):
    direction, sender, receiver = way
    sender.sendall(b"before")
    assert read(receiver, 6) == b"before"
    proxy.cut_after(count, direction, how=how)
    thread = send_all(sender, NOISE[: count + 100])
    assert read_to_the_end(receiver) == (NOISE[:count], how)
    thread.join(5)
    wait_for(lambda: proxy.statistics().open == 0)


def test_a_cut_comes_right_after_the_last_byte(way, proxy):
    direction, sender, receiver = way
    proxy.cut_after(7, direction, how="fin")
    sender.sendall(b"request")
    assert read_to_the_end(receiver) == (b"request", "fin")
    assert read_to_the_end(sender) == (b"", "fin")


@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_cut_waits_for_a_peer_that_reads_late(way, proxy, how):
    direction, sender, receiver = way
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 14)
    count = 3_000_000
    proxy.cut_after(count, direction, how=how)
    thread = send_all(sender, NOISE)
    wait_for(lambda: sum_forwarded(proxy) > 1_000)
    assert read_to_the_end(receiver) == (NOISE[:count], how)
    thread.join(5)


def test_a_cut_to_silence_closes_nothing_and_spares_new_connections(way, proxy, join):
    direction, sender, receiver = way
    proxy.cut_after(4, direction, how="blackhole")
    sender.sendall(b"12345678")
    assert read(receiver, 4) == b"1234"
    receiver.sendall(b"unheard")
    wait_for(lambda: sum_dropped(proxy) == 4 + 7)
    assert_nothing_came(sender)
    assert_nothing_came(receiver)
    client, server = join()
    client.sendall(b"new")
    assert read(server, 3) == b"new"


def test_a_cut_comes_once(proxy, join):
    proxy.cut_after(3, TO_SERVER)
    client, server = join()
    client.sendall(b"123")
    assert read_to_the_end(server) == (b"123", "rst")
    client, server = join()
    client.sendall(b"123456")
    assert read(server, 6) == b"123456"


def test_a_cut_that_was_disarmed_does_not_come(ends, proxy):
    client, server = ends
    proxy.cut_after(3, TO_SERVER)
    proxy.heal()
    client.sendall(b"123456")
    assert read(server, 6) == b"123456"


def test_a_connection_is_known_to_whatever_comes_after_it(ends, proxy):
    busy = send_all(ends[0], NOISE * 20)
    reading = threading.Thread(target=read_to_the_end, args=(ends[1],))
    reading.start()
    for number in range(200):
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5):
            assert proxy.statistics().accepted == number + 2
    proxy.reset_connections()
    busy.join(5)
    reading.join(5)


def test_all_connections_are_reset_at_once(proxy, join):
    pairs = [join() for _ in range(3)]
    proxy.reset_connections()
    assert [read_to_the_end(sock) for pair in pairs for sock in pair] == [(b"", "rst")] * 6
    assert proxy.statistics().open == 0


def test_all_connections_are_finished_at_once(proxy, join):
    pairs = [join() for _ in range(3)]
    proxy.close_connections()
    assert [read_to_the_end(sock) for pair in pairs for sock in pair] == [(b"", "fin")] * 6
    assert proxy.statistics().open == 0


def test_after_a_finish_nobody_is_at_the_other_end(ends, proxy):
    client, _ = ends
    proxy.close_connections()
    with pytest.raises(OSError) as refused:
        while True:
            client.sendall(b"hello?")
    assert refused.value.errno in (errno.EPIPE, errno.ECONNRESET)


# Stall


def test_a_stall_builds_backpressure_and_loses_nothing(way, proxy):
    direction, sender, receiver = way
    proxy.set_latency(1e-3)  # with latency much may be under way
    proxy.stall(direction)
    sent = fill(sender)
    assert sent < 16 << 20  # it waits in the sender
    assert_nothing_came(receiver)
    proxy.heal()
    expected = (NOISE[: 1 << 16] * (sent // (1 << 16) + 1))[:sent]
    assert read(receiver, sent) == expected
    assert sum_dropped(proxy) == 0


def test_a_stall_spares_the_other_direction(way, proxy):
    direction, sender, receiver = way
    proxy.stall(direction)
    sender.sendall(b"later")
    receiver.sendall(b"now")
    assert read(sender, 3) == b"now"
    assert_nothing_came(receiver)
    proxy.stall(direction, is_on=False)
    assert read(receiver, 5) == b"later"


def test_a_stall_stops_what_is_under_way(way, proxy):
    direction, sender, receiver = way
    proxy.set_latency(60.0)
    sender.sendall(b"under way")
    proxy.statistics()
    proxy.stall(direction)
    proxy.set_latency(0.0)
    proxy.statistics()  # the proxy's thread has been round
    assert_nothing_came(receiver)
    proxy.heal()
    assert read(receiver, 9) == b"under way"


def test_a_stall_holds_the_end_of_a_connection_back(way, proxy):
    _, sender, receiver = way
    proxy.freeze()
    sender.sendall(b"goodbye")
    reset(sender)
    proxy.statistics()  # the proxy's thread has been round
    assert_nothing_came(receiver)
    proxy.heal()
    assert read_to_the_end(receiver) == (b"goodbye", "rst")


# Blackhole


def test_what_falls_into_a_blackhole_is_lost_and_the_connection_dead(way, proxy):
    direction, sender, receiver = way
    proxy.blackhole(direction)
    sender.sendall(b"lost")
    wait_for(lambda: sum_dropped(proxy) == 4)
    receiver.sendall(b"the other way is open")
    assert read(sender, 21) == b"the other way is open"
    proxy.heal()
    sender.sendall(b"torn")
    receiver.sendall(b"torn too")
    wait_for(lambda: sum_dropped(proxy) == 4 + 4 + 8)
    assert_nothing_came(receiver)
    assert_nothing_came(sender)
    assert proxy.statistics().open == 1


def test_what_was_under_way_is_lost_too(way, proxy):
    direction, sender, receiver = way
    proxy.set_latency(60.0)
    sender.sendall(b"under way")
    proxy.blackhole(direction)
    wait_for(lambda: sum_dropped(proxy) == 9)
    proxy.heal()
    assert_nothing_came(receiver)


def test_a_connection_that_was_idle_in_a_blackhole_goes_on(way, proxy):
    _, sender, receiver = way
    proxy.blackhole()
    proxy.heal()
    sender.sendall(b"still here")
    assert read(receiver, 10) == b"still here"


@pytest.mark.parametrize("end", [reset, socket.socket.close], ids=["rst", "fin"])
def test_the_end_of_a_connection_is_lost_in_a_blackhole(way, proxy, end):
    _, sender, receiver = way
    sender.sendall(b"hi")  # a reset before the proxy knows its connection is a failed connection
    assert read(receiver, 2) == b"hi"
    proxy.blackhole()
    end(sender)
    [connection] = proxy._loop._connections
    wait_for(lambda: any(pipe.is_torn for pipe in connection._pipes))
    assert_nothing_came(receiver)
    proxy.heal()
    receiver.sendall(b"anybody?")
    wait_for(lambda: sum_dropped(proxy) == 8)
    assert_nothing_came(receiver)
    receiver.close()
    wait_for(lambda: proxy.statistics().open == 0)


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT], ids=["to_server", "to_client"])
def test_a_connection_made_in_a_blackhole_never_reaches_the_server(proxy, listener, direction):
    proxy.blackhole(direction)
    with socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client:
        client.sendall(b"hello?")
        wait_for(lambda: sum_dropped(proxy) == 6)
        proxy.heal()
        client.sendall(b"hello?")
        wait_for(lambda: sum_dropped(proxy) == 12)
        assert_nothing_came(client)
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()
    wait_for(lambda: proxy.statistics().open == 0)


@pytest.mark.realtime
def test_an_outage_ends_by_itself(ends, proxy, listener, slowdown):
    client, server = ends
    proxy.outage(0.5 * slowdown)
    client.sendall(b"lost")
    wait_for(lambda: sum_dropped(proxy) == 4)
    listener.settimeout(0.1)

    def is_over():
        with socket.create_connection(("127.0.0.1", proxy.port), timeout=5):
            try:
                listener.accept()[0].close()
            except TimeoutError:
                return False
            return True

    assert not is_over()
    wait_for(is_over)
    client.sendall(b"dead")
    wait_for(lambda: sum_dropped(proxy) == 8)
    assert_nothing_came(server)


def test_new_connections_are_refused_and_old_ones_go_on(ends, proxy, join):
    client, server = ends
    proxy.refuse()
    assert connect_and_be_reset(proxy.port)
    client.sendall(b"old")
    assert read(server, 3) == b"old"
    proxy.heal()
    client, server = join()
    client.sendall(b"new")
    assert read(server, 3) == b"new"
    assert proxy.statistics().accepted == 2


# Slow


@pytest.mark.realtime
def test_latency_is_added_each_way_and_nothing_overtakes(way, proxy, slowdown):
    direction, sender, receiver = way
    proxy.set_latency(0.1, direction, jitter=0.05)
    started = time.monotonic()
    for number in range(20):
        sender.sendall(bytes([number]))
        proxy.statistics()  # its thread has been round, and has read this byte alone
    assert read(receiver, 1) == b"\0"
    assert 0.1 <= time.monotonic() - started < 0.1 + 0.05 + 0.02 * slowdown
    assert read(receiver, 19) == bytes(range(1, 20))
    started = time.monotonic()
    receiver.sendall(b"the other way")
    assert read(sender, 13) == b"the other way"
    assert time.monotonic() - started < 0.05 * slowdown


def test_latency_that_ends_lets_go_what_is_under_way(way, proxy):
    _, sender, receiver = way
    proxy.set_latency(60.0)
    sender.sendall(b"patience")
    sender.shutdown(socket.SHUT_WR)
    proxy.statistics()  # the proxy's thread has been round
    assert_nothing_came(receiver)
    proxy.heal()
    assert read_to_the_end(receiver) == (b"patience", "fin")


@pytest.mark.realtime
def test_a_rate_holds(way, proxy, slowdown):
    direction, sender, receiver = way
    proxy.set_rate(200_000, direction)
    started = time.monotonic()
    thread = send_all(sender, NOISE[:100_000])
    assert read(receiver, 100_000) == NOISE[:100_000]
    # 20 ms of it may come at once.
    assert 0.48 <= time.monotonic() - started < 0.5 + 0.2 * slowdown
    thread.join(5)


def test_a_slow_drip_drips(way, proxy):
    direction, sender, receiver = way
    proxy.set_rate(50, direction)
    started = time.monotonic()
    sender.sendall(b"drops")
    assert read(receiver, 5) == b"drops"
    assert time.monotonic() - started >= 4 / 50  # the first of them may come at once


def test_a_rate_wakes_nobody_for_every_byte():
    allowance = Allowance()
    allowance.spend(allowance.take(500_000, 1.0))
    assert allowance.wait(500_000) == pytest.approx(0.002, rel=0.01)
    allowance = Allowance()
    allowance.spend(allowance.take(50, 1.0))
    assert allowance.wait(50) == pytest.approx(1 / 50)


def test_a_rate_that_ends_lets_go_the_rest(way, proxy):
    direction, sender, receiver = way
    proxy.set_rate(0.01, direction)
    sender.sendall(b"hurry")
    assert receiver.recv(100) == b"h"
    proxy.set_rate(None)
    assert read(receiver, 4) == b"urry"


# Damage


@pytest.mark.parametrize("offset", [0, 5, 100_000])
def test_one_bit_is_flipped_and_no_other(way, proxy, offset):
    direction, sender, receiver = way
    sender.sendall(b"before")
    assert read(receiver, 6) == b"before"
    proxy.corrupt(offset, direction, bit=3)
    sent = NOISE[:200_000]
    thread = send_all(sender, sent)
    received = read(receiver, len(sent))
    thread.join(5)
    differences = [i for i in range(len(sent)) if sent[i] != received[i]]
    assert differences == [offset]
    assert sent[offset] ^ received[offset] == 1 << 3


def corrupted(sizes, *, seed):
    """What comes out for zeros that are sent in pieces."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        FaultProxy(listener.getsockname(), seed=seed) as proxy,
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5) as client,
    ):
        server, _ = listener.accept()
        proxy.corrupt(probability=0.01)
        with server:
            server.settimeout(5)
            return b"".join(send_and_read(client, server, bytes(size)) for size in sizes)


def send_and_read(client, server, data):
    client.sendall(data)
    return read(server, len(data))


def test_random_damage_hangs_on_the_seed_and_not_on_the_pieces():
    whole = corrupted([20_000], seed=1)
    assert corrupted([1, 999, 10_000, 9_000], seed=1) == whole
    assert corrupted([20_000], seed=2) != whole
    assert {byte.bit_count() for byte in whole} == {0, 1}
    assert 120 < sum(map(bool, whole)) < 280  # 200 expected; 5.7 standard deviations
    assert len(set(whole)) == 9  # every bit has its turn


def test_random_damage_ends(ends, proxy):
    client, server = ends
    proxy.corrupt(probability=1.0)
    assert all(send_and_read(client, server, bytes(100)))
    proxy.corrupt(probability=0.0)
    assert not any(send_and_read(client, server, bytes(100)))


# The proxy itself


def descriptors():
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts descriptors in /proc")
def test_a_proxy_that_is_stopped_leaves_nothing_behind(listener):
    before = threading.active_count(), descriptors()
    proxy = FaultProxy(listener.getsockname())
    proxy.start()
    proxy.start()
    sockets = []
    for fault in (proxy.freeze, proxy.blackhole, proxy.heal):
        fault()
        sockets.append(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))
        sockets[-1].sendall(b"something")
    assert proxy.statistics().accepted == 3
    proxy.stop()
    proxy.stop()
    for sock in sockets:
        sock.close()
    assert (threading.active_count(), descriptors()) == before
    assert (proxy.statistics().accepted, proxy.statistics().open) == (3, 0)


def test_a_proxy_starts_again_healed_and_at_the_same_address(proxy, join):
    url = proxy.url
    proxy.blackhole()
    proxy.stop()
    proxy.heal()
    with pytest.raises(errors.ConfigurationError, match="does not run"):
        proxy.freeze()
    proxy.start()
    assert proxy.url == url
    client, server = join()
    client.sendall(b"again")
    assert read(server, 5) == b"again"


def test_a_proxy_has_no_address_before_it_is_started():
    with pytest.raises(errors.ConfigurationError, match="before it is started"):
        _ = FaultProxy("ws://127.0.0.1:1").url


@pytest.mark.parametrize("target", ["http://127.0.0.1:1", "ws://127.0.0.1", "ws://:1", "robot"])
def test_a_target_that_is_none_is_refused(target):
    with pytest.raises(errors.ConfigurationError, match="ws://host:port"):
        FaultProxy(target)


@pytest.mark.parametrize(
    ("fault", "complaint"),
    {
        "latency": (lambda p: p.set_latency(-1.0), "seconds must be at least 0, not -1.0"),
        "nan": (lambda p: p.set_latency(float("nan")), "seconds must be"),
        "jitter": (lambda p: p.set_latency(0.0, jitter=float("inf")), "jitter must be"),
        "rate": (lambda p: p.set_rate(0), "bytes_per_second must be at least 0.001, not 0"),
        "outage": (lambda p: p.outage(-0.1), "seconds must be"),
        "bit": (lambda p: p.corrupt(0, bit=8), "bit must be from 0 to 7, not 8"),
        "probability": (lambda p: p.corrupt(probability=1.1), "probability must be from 0 to 1"),
        "nothing": (lambda p: p.corrupt(), "needs an offset or a probability"),
        "offset": (lambda p: p.corrupt(-1), "offset must be"),
        "count": (lambda p: p.cut_after(-1, TO_SERVER), "count must be"),
        "both": (lambda p: p.cut_after(1, Direction.BOTH), "in one direction"),
        "how": (lambda p: p.cut_after(1, TO_SERVER, how="axe"), "'axe'"),
    }.values(),
)
def test_a_fault_that_makes_no_sense_is_refused(proxy, fault, complaint):
    with pytest.raises(ValueError, match=complaint):
        fault(proxy)


# With a real robot


@pytest.fixture
def robot(serve, connect):
    robot = Counter()
    server = serve(robot)
    with FaultProxy(server.url) as robot.proxy:
        robot.env = connect(
            robot.proxy.url, step_timeout=1.0, connect_timeout=1.0, reconnect_timeout=0.5
        )
        yield robot


ZERO = np.zeros(2, np.float32)


def test_a_robot_is_reached_through_the_proxy(robot):
    robot.env.reset(seed=1)
    for _ in range(3):
        robot.env.step(ZERO)
    assert len(robot.actions) == 3


ONE = np.ones(2, np.float32)


def test_a_reply_that_is_cut_off_is_asked_for_again_and_the_action_executed_once(robot):
    before, _ = robot.env.reset(seed=1)
    robot.proxy.cut_after(10, TO_CLIENT)
    after, _, _, truncated, info = robot.env.step(ONE)
    assert not truncated
    assert after["sum"].tolist() == (before["sum"] + 1.0).tolist()
    assert len(robot.actions) == info["remote"]["step"] == 1
    assert robot.env.statistics().resumptions == 1
    after, *_ = robot.env.step(ONE)
    assert after["sum"].tolist() == (before["sum"] + 2.0).tolist()
    assert len(robot.actions) == 2


def test_a_request_that_is_cut_off_is_sent_again_and_executed_once(robot):
    before, _ = robot.env.reset(seed=1)
    robot.proxy.cut_after(10, TO_SERVER)
    after, _, _, truncated, info = robot.env.step(ONE)
    assert not truncated
    assert after["sum"].tolist() == (before["sum"] + 1.0).tolist()
    assert len(robot.actions) == info["remote"]["step"] == 1
    assert robot.env.statistics().resumptions == 1
    robot.env.step(ONE)
    assert len(robot.actions) == 2


@pytest.mark.parametrize(
    ("direction", "executed"), [(TO_CLIENT, 1), (TO_SERVER, 0)], ids=["reply", "request"]
)
@pytest.mark.realtime
def test_whether_an_action_was_executed_hangs_on_what_was_cut_off(robot, direction, executed):
    before, _ = robot.env.reset(seed=1)
    robot.proxy.cut_after(10, direction)
    robot.proxy.refuse()  # and nobody comes back
    after, reward, _, truncated, info = robot.env.step(ONE)
    assert truncated
    assert info["remote"]["end_reason"] == "link_lost"
    assert info["remote"]["invalid_transition"]
    assert reward == 0.0
    assert after["sum"].tolist() == before["sum"].tolist()
    assert len(robot.actions) == executed
    robot.proxy.heal()
    robot.env.reset(seed=1)
    robot.env.step(ONE)
    assert len(robot.actions) == executed + 1


@pytest.mark.realtime
def test_a_robot_that_is_not_reached_is_a_link_that_is_lost(robot):
    robot.env.reset(seed=1)
    robot.proxy.blackhole()
    started = time.monotonic()
    *_, truncated, info = robot.env.step(ONE)
    assert truncated
    assert info["remote"]["end_reason"] == "link_lost"
    assert "could not resume" in info["remote"]["end_cause"]
    assert time.monotonic() - started >= 0.95  # it tried for all of step_timeout
    with pytest.raises(errors.ConnectFailedError):
        robot.env.reset()
    robot.proxy.heal()
    robot.env.reset(seed=1)
    robot.env.step(ONE)
    assert len(robot.actions) == 1


@pytest.mark.realtime
def test_a_robot_that_is_reached_and_does_not_answer_is_a_deadline(robot):
    may_go_on = threading.Event()
    apply_action = robot.apply_action

    def apply_late(action):
        may_go_on.wait(10)
        apply_action(action)

    robot.env.reset(seed=1)
    robot.apply_action = apply_late
    with pytest.raises(errors.DeadlineExceededError, match="the connection stands"):
        robot.env.step(ONE)
    may_go_on.set()
    robot.env.reset(seed=1)


def test_a_request_that_comes_twice_is_executed_once(robot):
    robot.env.reset(seed=1)
    robot.proxy.duplicate(TO_SERVER)
    for _ in range(3):
        robot.env.step(ZERO)
    assert len(robot.actions) == 3
