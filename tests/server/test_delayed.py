"""Delayed: what a learner sees never depends on how long it thought about its action."""

import time

import numpy as np
import pytest
from beside import wait_for
from broken_robots import Simulator
from sample_robots import Counter

from remote_env import ActionLimit, errors
from remote_env_server import Mode, RobotServer

pytestmark = pytest.mark.realtime


class Watched(Counter):
    """A Counter that notes when it was observed and when it got an action."""

    def __init__(self):
        super().__init__()
        self.log = []

    def get_obs(self):
        self.log.append(("observed", time.monotonic()))
        return super().get_obs()

    def apply_action(self, action):
        self.log.append(("applied", time.monotonic()))
        super().apply_action(action)

    def hold(self):
        self.log.append(("held", time.monotonic()))
        super().hold()

    def times(self, what):
        return [at for name, at in self.log if name == what]


def action_of(number):
    return np.array([number / 64, -number / 64], np.float32)


@pytest.fixture
def robot():
    return Watched()


@pytest.fixture
def env(robot, serve, connect):
    return connect(serve(robot, mode="delayed").url)


@pytest.mark.parametrize(("mode", "seen"), [("delayed", 0), ("realtime", 1)])
def test_an_observation_sees_all_actions_but_the_last(serve, connect, mode, seen):
    env = connect(serve(Counter(), mode=mode).url)
    start, _ = env.reset(seed=1)
    expected = start["sum"]
    executed = [np.zeros(2, np.float32), *map(action_of, range(1, 6))]
    for number in range(1, 6):
        observation, *_, info = env.step(executed[number])
        expected = expected + executed[number - 1 + seen]
        assert observation["sum"].tolist() == expected.tolist()
        assert info["remote"]["action_executed"].tolist() == executed[number].tolist()


def test_it_is_said_to_be_served_so(env):
    assert env.spec_of_robot.mode is Mode.DELAYED


def test_an_action_is_applied_right_after_the_observation_at_the_tick(robot, env, slowdown):
    env.reset(seed=1)
    del robot.log[:]
    for number in range(8):
        time.sleep(0.002 * number)  # thinks longer and longer: it makes no difference
        env.step(action_of(number))
    names = [name for name, _ in robot.log]
    assert names == ["observed", "applied"] * 8
    gaps = np.subtract(robot.times("applied"), robot.times("observed"))
    assert np.median(gaps) < 0.005 * slowdown
    assert max(gaps) < 0.05 * slowdown
    # On whole periods, whatever the learner took.
    periods = np.diff(robot.times("applied")) / 0.02
    assert np.median(np.abs(periods - np.round(periods))) < 0.15 * slowdown


@pytest.mark.parametrize(("mode", "is_old"), [("delayed", False), ("realtime", True)])
def test_the_action_is_as_young_as_its_answer(serve, connect, mode, is_old, slowdown):
    robot = Counter()
    robot.control_hz = 5.0
    env = connect(serve(robot, mode=mode).url)
    env.reset(seed=1)
    env.step(action_of(1))
    ages = [env.step(action_of(1))[-1]["remote"]["action_age"] for _ in range(3)]
    if is_old:
        assert min(ages) > 0.2 - 0.1 * slowdown
    else:
        assert 0.0 <= max(ages) < 0.05 * slowdown


def test_a_step_takes_one_control_period(env, slowdown):
    env.reset(seed=1)
    env.step(action_of(0))
    started = time.monotonic()
    for _ in range(25):
        env.step(action_of(0))
    assert 0.48 <= time.monotonic() - started <= 0.5 + 0.35 * slowdown


def test_the_robot_holds_when_the_learner_falls_silent(robot, env, slowdown):
    env.reset(seed=1)
    env.step(action_of(1))
    wait_for(lambda: robot.holds)
    silent = robot.times("held")[-1] - robot.times("applied")[-1]
    assert 0.09 <= silent <= 0.1 + 0.15 * slowdown
    time.sleep(0.2)
    *_, truncated, info = env.step(action_of(1))
    assert not truncated
    assert info["remote"]["held"] >= 0.2


def test_the_robot_holds_at_the_end_after_its_last_action(serve, connect):
    robot = Watched()
    robot.max_episode_steps = 3
    env = connect(serve(robot, mode="delayed").url)
    env.reset(seed=1)
    flags = [env.step(action_of(1))[3] for _ in range(3)]
    assert flags == [False, False, True]
    assert [name for name, _ in robot.log][-3:] == ["observed", "applied", "held"]


def test_an_action_that_is_refused_at_the_tick_is_not_executed_and_nothing_else_changes(
    serve, connect
):
    class Limited(Watched):
        action_limits = ActionLimit(max_rate=1.0)  # 0.02 in a period

    robot = Limited()
    env = connect(serve(robot, mode="delayed").url)
    env.reset(seed=1)
    env.step(np.zeros(2, np.float32))
    with pytest.raises(errors.ActionRefusedError, match="max_rate") as refused:
        env.step(np.ones(2, np.float32))
    assert refused.value.code == "robot.action.rate"
    assert len(robot.actions) == 1
    *_, info = env.step(np.zeros(2, np.float32))
    assert info["remote"]["step"] == 2
    assert len(robot.actions) == 2


def test_a_driver_that_fails_at_the_tick_is_reported_and_holds(serve, connect):
    class Failing(Watched):
        def apply_action(self, action):
            raise OSError("no answer")

    robot = Failing()
    env = connect(serve(robot, mode="delayed").url)
    env.reset(seed=1)
    with pytest.raises(errors.RobotFaultError, match="OSError: no answer.*The robot holds"):
        env.step(action_of(1))
    assert robot.holds


def test_a_robot_of_lockstep_cannot_be_served_so():
    with pytest.raises(
        errors.ConfigurationError, match="cannot be served in delayed, only in lockstep"
    ):
        RobotServer(Simulator(), port=0, mode="delayed")
