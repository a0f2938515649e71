"""The control thread in real time: periods, expiry, and who is told what."""

import math
import threading
import time

import numpy as np
import pytest
from beside import wait_for
from sample_robots import Counter, Rig

from remote_env import RobotClient, errors
from remote_env.spec import StreamKind
from remote_env_server import Mode
from remote_env_server.control import ControlLoop

pytestmark = pytest.mark.realtime
ZERO = np.zeros(3, np.float32)


def test_an_observation_comes_at_the_end_of_the_control_period(serve, connect, slowdown):
    env = connect(serve(Rig()).url)
    env.reset()
    env.step(ZERO)
    started = time.monotonic()
    for _ in range(25):
        env.step(ZERO)
    assert 0.48 <= time.monotonic() - started <= 0.5 + 0.2 * slowdown


@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_the_first_period_of_an_episode_and_after_a_hold_is_a_whole_one(serve, connect, mode):
    robot = Counter()
    robot.control_hz = 10.0
    env = connect(serve(robot, mode=mode).url)
    for number in range(4):
        env.reset(seed=1)
        time.sleep(0.023 * number)  # anywhere in the period of before
        for is_after_hold in (False, True):
            began = time.monotonic()
            env.step(np.zeros(2, np.float32))
            assert time.monotonic() - began >= 0.1
            if not is_after_hold:
                count = len(robot.holds)
                wait_for(lambda count=count: len(robot.holds) > count)


def test_work_of_the_learner_within_a_period_costs_no_rate(serve, connect, slowdown):
    env = connect(serve(Rig()).url)
    env.reset()
    env.step(ZERO)
    started = time.monotonic()
    for _ in range(25):
        time.sleep(0.009)
        env.step(ZERO)
    assert time.monotonic() - started <= 0.5 + 0.15 * slowdown


def test_an_action_is_applied_at_once_and_not_at_the_next_tick(serve, connect, slowdown):
    robot = Rig()
    robot.control_hz = 2.0
    env = connect(serve(robot).url)
    env.reset()
    env.step(ZERO)
    called = time.monotonic()
    env.step(ZERO)
    assert robot.actions[-1][0] - called <= 0.2 * slowdown
    assert time.monotonic() - called >= 0.3


def test_the_robot_holds_when_the_learner_falls_silent(serve, connect, slowdown):
    robot = Rig()
    env = connect(serve(robot).url)
    env.reset()
    env.step(ZERO)
    assert wait_until(lambda: robot.holds, 1.0 * slowdown)
    assert 0.09 <= robot.holds[0] - robot.actions[-1][0] <= 0.1 + 0.15 * slowdown


def test_the_step_after_a_hold_says_how_long_it_lasted(serve, connect, slowdown):
    robot = Rig()
    env = connect(serve(robot).url)
    env.reset()
    *_, info = env.step(ZERO)
    assert info["remote"]["held"] == 0.0
    time.sleep(0.4)
    *_, info = env.step(ZERO)
    assert info["remote"]["held"] == pytest.approx(0.3, abs=0.2 * slowdown)


def test_the_robot_holds_when_the_learner_disconnects(serve, connect, slowdown):
    robot = Rig()
    env = connect(serve(robot).url)
    env.reset()
    env.step(ZERO)
    env.close()
    assert wait_until(lambda: robot.holds, 1.0 * slowdown)


def test_the_robot_holds_when_its_own_code_fails(serve, connect):
    class Failing(Rig):
        def apply_action(self, action):
            raise OSError("no answer")

    robot = Failing()
    env = connect(serve(robot).url)
    env.reset()
    with pytest.raises(errors.RobotFaultError):
        env.step(ZERO)
    assert len(robot.holds) == 1


def test_the_robot_holds_when_its_server_stops(serve, connect):
    robot = Rig()
    server = serve(robot)
    connect(server.url).reset()
    server.stop()
    assert robot.holds


def test_the_control_thread_holds_before_it_closes_the_robot():
    robot = Rig()
    control = ControlLoop(robot, Mode.REALTIME, sensor_timeout=1.0)
    control.start()
    assert len(robot.holds) == 1  # whoever was there before may have been killed
    control.stop()
    assert len(robot.holds) == 2


def test_a_restarted_server_does_not_move_before_it_is_asked(serve):
    robot = Rig()
    serve(robot)
    assert robot.actions == []


def test_a_reset_ends_only_with_frames_captured_after_it(serve, connect):
    class SlowReset(Rig):
        def reset(self):
            time.sleep(0.1)
            self.ready_at = self.now()

    robot = SlowReset()
    with RobotClient(serve(robot).url) as client:
        done = client.reset()
        kinds = [s.kind for s in client.spec.streams if not s.on_request]
    assert kinds.count(StreamKind.IMAGE) == 1
    measured = [stamp for stamp in done.stamps if math.isfinite(stamp)]
    assert len(measured) >= 3
    assert min(measured) >= robot.ready_at


def test_an_overrun_is_counted_and_never_made_up_for(serve, connect):
    class Slow(Rig):
        slow = False

        def get_obs(self):
            if self.slow:
                time.sleep(0.09)  # four periods and a half
            return super().get_obs()

    robot = Slow()
    env = connect(serve(robot).url)
    env.reset()
    *_, info = env.step(ZERO)
    before = info["remote"]["overruns"]
    robot.slow = True
    env.step(ZERO)
    robot.slow = False
    started = time.monotonic()
    *_, info = env.step(ZERO)
    assert info["remote"]["overruns"] >= before + 4
    assert time.monotonic() - started >= 0.018


def test_async_methods_run_on_the_control_thread_too(serve, connect):
    class Async(Rig):
        async def reset(self):
            self.thread = threading.current_thread().name

        async def apply_action(self, action):
            self.thread = threading.current_thread().name

    robot = Async()
    env = connect(serve(robot).url)
    env.reset()
    env.step(ZERO)
    assert robot.thread == "remote-env control"


def test_one_robot_can_be_served_in_both_modes(serve, connect):
    for mode in (Mode.LOCKSTEP, Mode.REALTIME):
        env = connect(serve(Counter(), mode=mode).url)
        assert env.spec_of_robot.mode is mode
        env.reset(seed=1)
        env.step(np.zeros(2, np.float32))


def test_simulated_latency_delays_the_reply_and_not_the_robot(serve, connect):
    robot = Counter()
    robot.simulated_latency = 0.1
    env = connect(serve(robot).url)
    env.reset(seed=1)
    started = time.monotonic()
    env.step(np.zeros(2, np.float32))
    assert time.monotonic() - started >= 0.1


def wait_until(is_true, timeout):
    """Wait for something to become true; return whether it did."""
    deadline = time.monotonic() + timeout
    while not is_true() and time.monotonic() < deadline:
        time.sleep(0.005)
    return bool(is_true())
