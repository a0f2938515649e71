"""The offset of another clock: on links that we make up, and of a host whose offset is known."""

import contextlib
import math
import random
import shutil
import socket
import statistics
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.clock import DRIFT, ClockOffset

DELAY = st.floats(0.0, 0.2)
EXCHANGE = st.tuples(DELAY, st.floats(0.0, 1.0), DELAY, st.floats(0.0, 5.0))


@dataclass
class Peer:
    """Another clock: ``ahead`` at our time 0, and ``rate`` seconds faster in each second."""

    ahead: float
    rate: float = 0.0

    def offset(self, ours: float) -> Fraction:
        return Fraction(self.ahead) + Fraction(self.rate) * Fraction(ours)

    def exchange(self, sent: float, out: float = 0.001, there: float = 0.0, back: float = 0.001):
        """Return the four times; arithmetic is exact, and clocks are read as floats."""
        arrived = Fraction(sent) + Fraction(out)
        answered = arrived + Fraction(there)
        received = answered + Fraction(back)
        return (
            sent,
            float(arrived + self.offset(arrived)),
            float(answered + self.offset(answered)),
            float(received),
        )


def is_within(estimate, truth) -> bool:
    return abs(Fraction(estimate.offset) - truth) <= Fraction(estimate.error)


@given(
    ahead=st.floats(-1e6, 1e6),
    rate=st.floats(-DRIFT * 0.999, DRIFT * 0.999),
    began=st.floats(0.0, 1e6),
    exchanges=st.lists(EXCHANGE, min_size=1, max_size=40),
    asked=st.floats(-10.0, 100.0),
)
def test_the_true_offset_is_always_within_the_bound(ahead, rate, began, exchanges, asked):
    clock, peer, now = ClockOffset(max_age=math.inf), Peer(ahead, rate), began
    for out, there, back, pause in exchanges:
        times = peer.exchange(now, out, there, back)
        assert clock.add(*times)
        now = times[-1]
        assert is_within(clock.estimate(now), peer.offset(now))
        now += pause
    assert is_within(clock.estimate(now + asked), peer.offset(now + asked))
    assert clock.estimate(now).samples == min(len(exchanges), 25)


@given(st.floats(-1e6, 1e6), st.lists(EXCHANGE, min_size=1, max_size=25))
def test_clocks_that_run_alike_are_known_to_half_the_shortest_round_trip(ahead, exchanges):
    clock, peer, now = ClockOffset(max_age=math.inf, drift=0.0), Peer(ahead), 0.0
    for out, there, back, pause in exchanges:
        times = peer.exchange(now, out, there, back)
        assert clock.add(*times)
        now = times[-1] + pause
    estimate = clock.estimate(now)
    shortest = min(out + back for out, _, back, _ in exchanges)
    assert estimate.round_trip == pytest.approx(shortest, abs=1e-8)
    assert estimate.error <= shortest / 2 + 1e-8
    assert is_within(estimate, peer.offset(now))


def test_on_a_jittery_link_the_median_error_is_half_a_millisecond():
    """20 ms and up to 20 ms more each way; the shortest round trip alone gives 1.0 ms."""
    rng, peer, errors = random.Random(1), Peer(4321.0, rate=50e-6), []
    for _ in range(400):
        clock, now = ClockOffset(), 100.0
        for _ in range(25):
            out, back = 0.02 + rng.uniform(0, 0.02), 0.02 + rng.uniform(0, 0.02)
            clock.add(*(times := peer.exchange(now, out, 0.001, back)))
            now = times[-1]
        errors.append(abs(clock.estimate(now).offset - float(peer.offset(now))))
    assert statistics.median(errors) <= 0.5e-3
    assert max(errors) <= 5e-3


@pytest.mark.parametrize("step", [1e5, -1e5, 0.003, -0.003])
def test_when_the_other_clock_steps_the_first_exchange_after_it_is_believed(step):
    clock = ClockOffset()
    for n in range(25):
        assert clock.add(*Peer(50.0).exchange(float(n)))
    assert clock.add(*Peer(50.0 + step).exchange(25.0))
    estimate = clock.estimate(25.002)
    assert is_within(estimate, Fraction(50.0 + step))
    assert estimate.error < 0.0011
    assert estimate.samples == 1


def test_after_a_step_nothing_from_before_is_believed():
    """Not even what fits by chance, because it was less sure: the estimate would be wrong."""
    clock, fresh = ClockOffset(), ClockOffset()
    for n in range(25):
        clock.add(*Peer(50.0).exchange(float(n), out=0.001 if n % 2 else 0.1))
    after = Peer(50.05).exchange(25.0)
    assert clock.add(*after)
    assert fresh.add(*after)
    assert clock.estimate(26.0) == fresh.estimate(26.0)


def test_a_step_too_small_to_be_seen_is_over_with_the_window():
    clock = ClockOffset(window=5)
    for n in range(5):
        clock.add(*Peer(50.0).exchange(float(n)))
    for n in range(5, 10):
        clock.add(*Peer(50.0005).exchange(float(n)))
    assert clock.estimate(9.0).offset == pytest.approx(50.0005, abs=1e-6)
    assert clock.estimate(9.0).samples == 5


def test_an_exchange_counts_for_a_minute():
    clock = ClockOffset()
    clock.add(*Peer(50.0).exchange(0.0))
    clock.add(*Peer(50.0).exchange(59.9))
    assert clock.estimate(60.0).samples == 2
    clock.add(*Peer(50.0).exchange(60.1))
    assert clock.estimate(61.0).samples == 2


@pytest.mark.parametrize("away", [100.0, -100.0])
def test_the_bound_grows_with_the_time_from_the_newest_exchange(away):
    clock = ClockOffset(drift=100e-6)
    clock.add(*(times := Peer(50.0).exchange(1000.0)))
    now = times[-1]
    grown = clock.estimate(now + away).error - clock.estimate(now).error
    assert grown == pytest.approx(100 * 100e-6)
    assert clock.estimate(now + away).offset == pytest.approx(50.0)


def test_before_the_first_exchange_nothing_is_known():
    assert ClockOffset().estimate(1.0) is None


@pytest.mark.parametrize(
    "times",
    [
        (math.nan, 60.0, 60.0, 11.0),
        (10.0, math.nan, 60.0, 11.0),
        (10.0, 60.0, math.inf, 11.0),
        (10.0, 60.0, 60.0, -math.inf),
        (11.0, 60.0, 60.0, 10.0),  # received before it was sent
        (10.0, 60.5, 60.0, 11.0),  # answered before it was asked
        (10.0, 60.0, 61.1, 11.0),  # longer there than here
        (8.0, 58.5, 58.5, 8.9),  # received before the answer that was added last
    ],
)
def test_nonsense_is_ignored(times):
    clock = ClockOffset()
    clock.add(*Peer(50.0).exchange(9.0))
    before = clock.estimate(11.0)
    assert not clock.add(*times)
    assert clock.estimate(11.0) == before


def test_a_long_answer_of_a_fast_clock_is_no_nonsense():
    clock, peer = ClockOffset(), Peer(50.0, rate=100e-6)
    times = peer.exchange(0.0, out=1e-4, there=60.0, back=1e-4)
    assert times[2] - times[1] > times[3] - times[0]  # 6 ms longer there than here
    assert clock.add(*times)
    assert clock.estimate(times[3]).round_trip == 0.0
    assert is_within(clock.estimate(times[3]), peer.offset(times[3]))


@pytest.mark.parametrize(
    "arguments", [{"window": 0}, {"max_age": 0.0}, {"drift": -1e-6}, {"drift": math.nan}]
)
def test_settings_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="window must be"):
        ClockOffset(**arguments)


# A host whose clock is ahead by exactly this: the same clock, seen from a time namespace.
AHEAD = 100_000
SECOND_HOST = ("unshare", "--time", "--monotonic", str(AHEAD), "--fork")

ANSWER = """
import socket, struct, sys, time
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), timeout=30) as peer:
    while peer.recv(1):
        received = time.monotonic()
        peer.sendall(struct.pack("!dd", received, time.monotonic()))
"""


def why_no_second_host() -> str | None:
    if shutil.which("unshare") is None:
        return "unshare (util-linux) is not installed"
    tried = subprocess.run([*SECOND_HOST, "true"], capture_output=True, text=True, timeout=30)
    return None if tried.returncode == 0 else f"needs root on Linux: {tried.stderr.strip()}"


@contextlib.contextmanager
def second_host():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        command = [*SECOND_HOST, sys.executable, "-c", ANSWER, str(listener.getsockname()[1])]
        with subprocess.Popen(command) as process:
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(30)
                peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                yield peer
            process.wait(30)


def test_the_offset_of_a_second_host_is_known_to_half_a_round_trip():
    if (why_not := why_no_second_host()) is not None:
        pytest.skip(why_not)
    clock = ClockOffset()
    with second_host() as peer:
        began = time.monotonic()
        for _ in range(25):
            sent = time.monotonic()
            peer.sendall(b"?")
            answer = peer.recv(16, socket.MSG_WAITALL)
            assert clock.add(sent, *struct.unpack("!dd", answer), time.monotonic())
    now = time.monotonic()
    estimate = clock.estimate(now)
    assert estimate.samples == 25
    assert abs(estimate.offset - AHEAD) <= estimate.error
    assert estimate.error <= estimate.round_trip / 2 + DRIFT * (now - began) + 1e-9
    assert 0 < estimate.round_trip < now - began
