"""A queue that wakes whoever waits: for what was put, and when the time is over."""

import queue
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from remote_env.timed_queue import TimedQueue
from remote_env_server.timing import wait_until


@pytest.fixture
def pool():
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_items_come_in_order_and_none_is_lost():
    mailbox = TimedQueue()
    assert mailbox.empty()
    for number in range(5):
        mailbox.put(number)
    assert not mailbox.empty()
    assert [mailbox.get(), mailbox.get(timeout=0), mailbox.get_nowait()] == [0, 1, 2]
    assert [mailbox.get(timeout=5), mailbox.get(timeout=-1)] == [3, 4]
    assert mailbox.empty()


@pytest.mark.parametrize("timeout", [-1.0, 0.0, 1e-9, 1e-6, 0.02])
def test_an_empty_one_says_so_in_time_and_not_before(timeout):
    began = time.monotonic()
    with pytest.raises(queue.Empty):
        TimedQueue().get(timeout=timeout)
    assert time.monotonic() - began >= timeout
    with pytest.raises(queue.Empty):
        TimedQueue().get_nowait()


@pytest.mark.parametrize("timeout", [1e-6, 5e-6, 20e-6])
def test_no_wait_is_too_short_to_end(pool, timeout):
    """What ``queue.SimpleQueue`` of Python 3.11 fails at after some thousand rounds."""
    mailbox, rounds = TimedQueue(), []

    def wait_often():
        for _ in range(40_000):
            mailbox.put("nobody waits for this")
            mailbox.get()
            with pytest.raises(queue.Empty):
                mailbox.get(timeout=timeout)
            rounds.append(1)

    waiting = pool.submit(wait_often)
    try:
        waiting.result(60)
    finally:
        mailbox.put(None)  # so that also a queue which fails lets this test end
        assert len(rounds) == 40_000


def test_a_control_thread_comes_out_of_every_period(pool):
    """``wait_until`` beside messages that come at any moment, also in its last microseconds."""
    mailbox, ended = TimedQueue(), threading.Event()

    def control():
        try:
            return [
                wait_until(time.monotonic() + 0.0005, mailbox) is not None for _ in range(10_000)
            ]
        finally:
            ended.set()

    periods = pool.submit(control)
    while not ended.is_set():
        mailbox.put("an action")
        time.sleep(0.0004)
    assert len(periods.result(60)) == 10_000


def test_who_waits_is_woken(pool):
    mailbox = TimedQueue()
    waiting = pool.submit(mailbox.get)
    mailbox.put("news")
    assert waiting.result(10) == "news"


def test_each_of_many_who_wait_gets_one(pool):
    """Four threads put, four others take: everything comes once."""
    mailbox = TimedQueue()

    def take():
        return [mailbox.get(timeout=30) for _ in range(2_000)]

    def give(first):
        for number in range(first, first + 2_000):
            mailbox.put(number)

    takers = [pool.submit(take) for _ in range(4)]
    for giver in [pool.submit(give, 2_000 * k) for k in range(4)]:
        giver.result(60)
    taken = [number for taker in takers for number in taker.result(60)]
    assert sorted(taken) == list(range(8_000))
    assert mailbox.empty()


def test_two_items_wake_two_who_wait(pool):
    for _ in range(200):
        mailbox = TimedQueue()
        waiting = [pool.submit(mailbox.get, 30) for _ in range(2)]
        mailbox.put(1)
        mailbox.put(2)
        assert {each.result(10) for each in waiting} == {1, 2}
