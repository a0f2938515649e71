"""One controller at a time, between real processes."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sample_robots import Counter, Rig

from remote_env import RobotClient, errors
from remote_env.keeper import HEARTBEAT_PERIOD

HOLD_THE_LEASE = """
import sys, time
import remote_env
env = remote_env.RemoteRobotEnv(sys.argv[1], owner="Ann")
env.reset()
print("holding", flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.fixture
def somebody_else():
    """Start another process that resets a robot and keeps it."""
    started = []

    def start(url):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD_THE_LEASE, url, "60"], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "holding\n"
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def test_a_second_controller_is_refused_with_the_owners_name(serve, connect, somebody_else):
    url = serve(Counter()).url
    somebody_else(url)
    env = connect(url)
    with pytest.raises(errors.LeaseError, match="commanded by Ann"):
        env.reset()


def test_the_owner_is_named_also_within_a_short_timeout(serve, connect, somebody_else):
    url = serve(Counter()).url
    somebody_else(url)
    with pytest.raises(errors.LeaseError, match="commanded by Ann"):
        connect(url, reset_timeout=1.0).reset()


def test_taking_over_is_explicit(serve, connect, somebody_else):
    url = serve(Counter()).url
    somebody_else(url)
    env = connect(url, take=True)
    env.reset()
    env.step(np.zeros(2, np.float32))


def test_the_lease_of_a_process_that_was_killed_is_free(serve, connect, somebody_else):
    url = serve(Counter()).url
    process = somebody_else(url)
    process.kill()
    env = connect(url)
    env.reset()


@pytest.mark.realtime
def test_reset_waits_for_the_lease_of_a_process_that_is_frozen(serve, connect, somebody_else):
    url = serve(Counter()).url
    process = somebody_else(url)
    process.send_signal(signal.SIGSTOP)
    env = connect(url)
    env.reset()


def test_the_same_process_takes_over_from_itself_and_the_older_env_says_so(serve, connect):
    url = serve(Counter()).url
    older, newer = connect(url), connect(url)
    older.reset()
    newer.reset()
    with pytest.raises(
        errors.LeaseError, match="taken over by another environment of this process"
    ):
        older.step(np.zeros(2, np.float32))
    older.reset()
    older.step(np.zeros(2, np.float32))


def test_close_returns_the_lease(serve, connect):
    server = serve(Counter())
    older = connect(server.url)
    older.reset()
    older.close()
    assert server._session._core.lease.holder is None


def test_an_observer_that_leaves_changes_nothing(serve, connect):
    url = serve(Counter()).url
    env = connect(url)
    env.reset()
    observer = RobotClient(url, role="observe")
    observer.connect()
    observer.close()
    env.step(np.zeros(2, np.float32))


@pytest.mark.realtime
def test_a_learner_that_is_silent_between_calls_keeps_its_lease(serve, connect):
    url = serve(Counter()).url
    env = connect(url)
    env.reset()
    time.sleep(5 * HEARTBEAT_PERIOD)  # longer than a lease without a sign of life lasts
    other = subprocess.run(
        [sys.executable, "-c", HOLD_THE_LEASE, url, "0"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "LeaseError: the robot is commanded by" in other.stderr
    env.step(np.zeros(2, np.float32))


class SlowToReset(Counter):
    def reset(self, *, seed=None, options=None):
        time.sleep(3.0)
        return super().reset(seed=seed)


@pytest.mark.realtime
def test_a_reset_that_takes_longer_than_a_lease_lasts_keeps_it(serve, connect):
    url = serve(SlowToReset()).url
    env = connect(url)
    other = subprocess.Popen(
        [sys.executable, "-c", HOLD_THE_LEASE, url, "0"], stderr=subprocess.PIPE, text=True
    )
    env.reset()
    _, complaint = other.communicate(timeout=30)
    assert "LeaseError: the robot is commanded by" in complaint
    env.step(np.zeros(2, np.float32))


class FailsToReset(Counter):
    def reset(self, *, seed=None, options=None):
        raise OSError("stuck")


def test_closing_after_a_failed_reset_returns_the_lease(serve, connect):
    server = serve(FailsToReset())
    env = connect(server.url)
    with pytest.raises(errors.RobotFaultError):
        env.reset()
    env.close()
    assert server._session._core.lease.holder is None


@pytest.mark.realtime
@pytest.mark.timeout(90)
def test_a_learner_may_sleep_for_thirty_seconds_in_mid_episode(serve, connect, slowdown):
    counter, rig = Counter(), Rig()
    lockstep, realtime = connect(serve(counter).url), connect(serve(rig).url)
    before, _ = lockstep.reset(seed=1)
    realtime.reset()
    realtime.step(np.zeros(3, np.float32))

    time.sleep(30)

    after, *_ = lockstep.step(np.array([0.5, 0.0], np.float32))
    assert after["sum"].tolist() == (before["sum"] + [0.5, 0.0]).tolist()
    *_, info = realtime.step(np.zeros(3, np.float32))
    applied, held_at = rig.actions[0][0], rig.holds[0]
    assert 0.09 <= held_at - applied <= 0.1 + 0.15 * slowdown
    assert len(rig.holds) == 1
    assert info["remote"]["held"] == pytest.approx(29.9, abs=1.0 * slowdown)
    assert info["remote"]["ages"]["cam/image"] < 0.5 * slowdown
