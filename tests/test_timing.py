"""Where the time went, how old things are, and how the learner's wishes reach the robot."""

import math

import gymnasium as gym
import numpy as np
import pytest
from sample_robots import Counter, Limited, Rig

import remote_env
from remote_env import errors
from remote_env.asking import Answer
from remote_env.protocol import StepDone
from remote_env.timing import StepTimer

ZERO = np.zeros(3, np.float32)
PARTS = {"round_trip", "serialize", "network", "queued", "worked", "waited", "deserialize"}


@pytest.mark.realtime
def test_in_realtime_each_step_says_where_its_time_went(serve, connect, slowdown):
    env = connect(serve(Rig()).url)
    _, info = env.reset()
    assert info["remote"]["timing"].keys() == PARTS
    for _ in range(5):
        *_, info = env.step(ZERO)
    timing = info["remote"]["timing"]
    assert timing.keys() == PARTS | {"period"}
    assert all(seconds >= 0 for seconds in timing.values())
    # The parts are what the whole is made of, but for what neither side can attribute.
    known = sum(timing[name] for name in PARTS - {"round_trip"})
    assert known <= timing["round_trip"] * 1.01
    assert timing["round_trip"] - known <= 0.005 * slowdown
    assert timing["period"] == pytest.approx(0.02, abs=0.015 * slowdown)
    assert timing["waited"] > 0.5 * timing["round_trip"]


def test_in_lockstep_the_timing_comes_only_on_request(serve, connect):
    url = serve(Counter()).url
    plain = connect(url)
    plain.reset(seed=1)
    *_, info = plain.step(np.zeros(2, np.float32))
    assert "timing" not in info["remote"]
    assert "ages" not in info["remote"]
    asked = connect(url, timing=True)
    asked.reset(seed=1)
    *_, info = asked.step(np.zeros(2, np.float32))
    assert info["remote"]["timing"]["waited"] <= info["remote"]["timing"]["round_trip"]


def test_statistics_summarise_all_steps(serve, connect):
    env = connect(serve(Counter()).url)
    env.reset(seed=1)
    for _ in range(20):
        env.step(np.zeros(2, np.float32))
    found = env.statistics()
    assert found.round_trip.count == 20
    assert found.period.count == 19
    assert 0 < found.round_trip.p50 <= found.round_trip.p99 <= found.round_trip.max
    assert found.round_trip.jitter == found.round_trip.p99 - found.round_trip.p50
    assert found.resumptions == 0
    # The same computer has the same clock.
    assert abs(found.clock.offset) <= found.clock.error + 1e-6


@pytest.mark.realtime
def answered(number):
    times = {"sequences": (), "stamps": (), "received": 0.0, "sent": 0.0}
    done = StepDone(
        1,
        episode=1,
        step=number,
        tick=number,
        time=0.0,
        reward=0.0,
        terminated=False,
        truncated=False,
        end_reason=None,
        durations=(math.inf, math.nan, 0.0, 0.0),
        info={},
        remote={},
        **times,
    )
    return Answer(done, float(number), number + 0.1, number + 0.2, number + 0.3, 0), done


class Meanwhile(list):
    """Rows, to which another thread adds one while they are copied."""

    def __getitem__(self, index):
        rows = super().__getitem__(index)
        self.append(rows[-1])
        return rows


def test_a_step_that_is_noted_while_another_thread_reads_is_not_lost():
    timer = StepTimer()
    timer._noted = Meanwhile()
    for number in range(5):
        timer.note(*answered(number))
    assert timer.statistics(resumptions=0, clock=None, carrier="").round_trip.count == 5
    assert timer.statistics(resumptions=0, clock=None, carrier="").round_trip.count == 6


def test_what_the_robot_says_and_is_no_duration_is_left_out():
    timer = StepTimer()
    for number in range(1000):  # more than are put into the histograms at once
        timer.note(*answered(number))
    found = timer.statistics(resumptions=0, clock=None, carrier="")
    assert found.round_trip.count == 1000
    assert found.period.count == 999
    assert found.queued.count == 0
    assert found.waited.count == 1000


def test_ages_grow_on_the_way_to_the_learner(serve, connect):
    robot = Rig()
    robot.simulated_latency = 0.1
    env = connect(serve(robot).url)
    _, info = env.reset()
    assert info["remote"]["age_error"] < 0.2
    assert min(info["remote"]["ages"].values()) >= 0.1 - info["remote"]["age_error"]


def test_the_learners_limit_of_steps_reaches_the_robot(serve):
    env = gym.make("RemoteRobot-v0", url=serve(Counter()).url, max_steps=4)
    env.reset(seed=1)
    for _ in range(3):
        *_, truncated, info = env.step(np.zeros(2, np.float32))
        assert not truncated
    *_, truncated, info = env.step(np.zeros(2, np.float32))
    assert truncated
    assert info["remote"]["end_reason"] == "time_limit"
    env.close()


def test_the_robots_own_limit_counts_if_it_is_less(serve):
    env = gym.make("RemoteRobot-v0", url=serve(Limited()).url, max_steps=100)
    env.reset(seed=1)
    for _ in range(3):
        *_, truncated, _ = env.step(np.zeros(2, np.float32))
    assert truncated
    env.close()


@pytest.mark.realtime
def test_a_stream_older_than_the_learner_wants_truncates(serve, connect):
    env = connect(serve(Rig()).url, max_age={"joint_pos": 1e-6})
    env.reset()
    *_, terminated, truncated, info = env.step(ZERO)
    assert (terminated, truncated) == (False, True)
    assert info["remote"]["end_reason"] == "stale_sensor"
    assert info["remote"]["stale"].keys() == {"joint_pos"}
    assert info["remote"]["stale"]["joint_pos"]["max_age"] == 1e-6
    with pytest.raises(errors.EpisodeOverError):
        env.step(ZERO)


@pytest.mark.realtime
def test_one_age_for_all_leaves_out_what_never_goes_stale(serve, connect):
    env = connect(serve(Rig()).url, max_age=1e-6, on_stale="flag")
    env.reset()
    for _ in range(2):
        *_, truncated, info = env.step(ZERO)
        assert not truncated
        assert info["remote"]["stale"].keys() == {"cam/image", "cam/depth", "joint_pos"}


@pytest.mark.realtime
def test_a_stale_stream_is_an_error_if_that_was_asked_for(serve, connect):
    env = connect(serve(Rig()).url, max_age=1e-6, on_stale="raise")
    with pytest.raises(errors.SensorError, match="max_age 1e-06 s") as stale:
        env.reset()
    assert stale.value.code == "robot.sensor.stale"


def test_a_stream_that_goes_stale_is_an_error_if_that_was_asked_for(serve, connect):
    robot = Rig()
    env = connect(serve(robot).url, on_stale="raise")
    env.reset()
    env.step(ZERO)
    robot.stop_sensors()
    with pytest.raises(errors.SensorError, match="joint_pos") as stale:
        for _ in range(50):
            env.step(ZERO)
    assert stale.value.code == "robot.sensor.stale"


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"on_stale": "ignore"}, "on_stale must be 'truncate', 'flag' or 'raise'"),
        ({"on_link_loss": "wait"}, "on_link_loss must be 'truncate' or 'raise'"),
        ({"max_steps": 0}, "max_steps must be a positive number"),
        ({"max_age": 0}, "max_age must be a positive number"),
        ({"max_age": {"nothing": 1.0}}, "max_age of 'nothing', which is not observed"),
        ({"max_age": {"joint_pos": -1.0}}, "joint_pos"),
        ({"max_age": {"cam/extrinsics": 1.0}}, "cam/extrinsics"),
        ({"reconnect_timeout": 0}, "reconnect_timeout must be a positive number"),
    ],
)
def test_nonsense_is_refused(serve, options, complaint):
    with pytest.raises(errors.ConfigurationError, match=complaint):
        remote_env.RemoteRobotEnv(serve(Rig()).url, **options)
