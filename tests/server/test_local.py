"""A robot without a network is, bit by bit, the robot behind one."""

import signal

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env, data_equivalence
from sample_robots import Clipping, Counter, Limited, Rig, Unopenable

from remote_env import errors
from remote_env_server import LocalRobotEnv, Outcome
from remote_env_server.robots import make_robot

ONE = np.ones(2, np.float32)
ROBOTS = ["double-pendulum", "gymnasium:CartPole-v1", "gymnasium:Pendulum-v1"]
OPTIONS = {
    "double-pendulum": {"state": [0.1, 0.0, 0.05, 0.0, 0.0, 0.0]},
    "gymnasium:CartPole-v1": {"low": -0.01, "high": 0.01},
}


def play(env, *, number=0, seed=None, options=None, most=60):
    """Play one episode; return all that came back."""
    rng = np.random.default_rng(number)
    trajectory = [env.reset(seed=seed, options=options)]
    for _ in range(most):
        if isinstance(env.action_space, gym.spaces.Box):
            action = rng.normal(0.0, 1.5, env.action_space.shape) * env.action_space.high
            action = action.astype(np.float32)  # many are out of bounds
        else:
            action = int(rng.integers(env.action_space.n))
        trajectory.append(env.step(action))
        if trajectory[-1][2] or trajectory[-1][3]:
            break
    return trajectory


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("max_steps", [None, 7])
def test_ten_episodes_are_bit_identical_to_remote_ones(name, max_steps, serve, connect):
    remote = connect(serve(make_robot(name), mode="lockstep").url, max_steps=max_steps)
    with LocalRobotEnv(make_robot(name), max_steps=max_steps) as local:
        assert local.observation_space == remote.observation_space
        assert local.action_space == remote.action_space
        assert local.metadata == remote.metadata
        assert local.spec_of_robot.hash() == remote.spec_of_robot.hash()
        for number in range(10):
            given = {"number": number, "seed": None if number % 3 == 2 else number}
            if number % 2:
                given["options"] = OPTIONS.get(name)
            expected = play(remote, **given)
            assert data_equivalence(play(local, **given), expected, exact=True)
        assert max_steps is None or expected[-1][-1]["remote"]["end_reason"] in (
            "time_limit",
            "task",
        )


def test_pictures_calibration_and_flattening_are_the_remote_ones(serve, connect):
    for options in (
        {"render_mode": "rgb_array"},
        {"streams": ["camera/image", "camera/depth", "joint_pos"], "render_mode": "rgb_array"},
    ):
        remote = connect(serve(make_robot("double-pendulum"), mode="lockstep").url, **options)
        with LocalRobotEnv(make_robot("double-pendulum"), **options) as local:
            assert data_equivalence(
                play(local, seed=2, most=3), play(remote, seed=2, most=3), exact=True
            )
            assert np.array_equal(local.render(), remote.render())


class Odd(Clipping):
    """Says things of every kind in ``info``, and some that cannot be sent."""

    table = np.arange(3.0)

    def outcome(self, observation):
        info = {
            "tuple": (1, 2.5),
            "array": self.table,
            "scalar": np.float32(0.1),
            7: "seven",
            "nested": {"list": [None, b"x"], "file": object()},
            "class": Odd,
        }
        return Outcome(reward=np.float64(self._sum[0]), info=info)


def test_what_the_wire_cannot_carry_is_left_out_here_too(serve, connect):
    remote = connect(serve(Odd()).url)
    with LocalRobotEnv(Odd()) as local:
        remote.reset(seed=1)
        local.reset(seed=1)
        expected, got = remote.step(3 * ONE), local.step(3 * ONE)
        assert data_equivalence(got, expected, exact=True)
        assert type(got[1]) is type(expected[1])
        assert "file" not in got[4]["nested"]
        got[4]["array"][:] = 0.0  # it is the caller's own
        assert Odd.table.tolist() == [0.0, 1.0, 2.0]


def test_every_array_is_the_callers_own_and_writable():
    robot = Counter()
    with LocalRobotEnv(robot) as env:
        first, _ = env.reset(seed=1)
        action = ONE.copy()
        first["sum"][:] = 99.0
        second, *_, info = env.step(action)
        action[:] = 7.0
        assert robot.actions[0].tolist() == [1.0, 1.0]
        assert info["remote"]["action_executed"].tolist() == [1.0, 1.0]
        assert second["sum"].tolist() != [99.0, 99.0]


class Moody(Limited):
    def apply_action(self, action):
        if action[0] == 0.5:
            raise OSError("the gearbox")
        if action[0] == 0.25:
            raise errors.ActionRefusedError("not that one", code="robot.action.mood")
        super().apply_action(action)


BAD = {
    "shape": [np.ones(3)],
    "bounds": [3 * ONE],
    "not_finite": [np.nan * ONE],
    "driver": [0.25 * ONE],
    "fault": [0.5 * ONE],
    "after a fault": [0.5 * ONE, ONE],
    "after the end": [ONE, ONE, ONE, ONE],
}


@pytest.mark.parametrize("name", BAD)
def test_errors_are_the_remote_ones(serve, connect, name):
    remote = connect(serve(Moody()).url)

    def provoke(env):
        env.reset(seed=1)
        told = []
        for action in BAD[name]:
            try:
                env.step(action)
            except errors.RemoteEnvError as error:
                told.append((type(error), error.code, str(error)))
        try:
            told.append(env.step(ONE)[4]["remote"])
        except errors.RemoteEnvError as error:
            told.append((type(error), error.code, str(error)))
        return told

    with LocalRobotEnv(Moody()) as local:
        expected = provoke(remote)
        assert data_equivalence(provoke(local), expected, exact=True)
        assert isinstance(expected[0], tuple)


def test_an_unknown_option_is_refused():
    with LocalRobotEnv(Counter()) as env, pytest.raises(errors.UnknownOptionError, match="speed"):
        env.reset(options={"speed": 1.0})


@pytest.mark.filterwarnings("ignore:.*(out of date|precision).*")
def test_the_checker_of_gymnasium_is_content():
    with LocalRobotEnv(make_robot("double-pendulum")) as env:
        check_env(env, skip_render_check=True)


def test_a_robot_without_lockstep_is_refused():
    with pytest.raises(errors.ConfigurationError, match=r"Rig has no lockstep.*RobotServer"):
        LocalRobotEnv(Rig())


def test_a_robot_is_run_by_one_of_us_only(serve):
    robot = Counter()
    with LocalRobotEnv(robot):
        with pytest.raises(errors.ConfigurationError, match="served already"):
            LocalRobotEnv(robot)
        with pytest.raises(errors.ConfigurationError, match="served already"):
            serve(robot)
    assert robot.closed


def test_what_open_raises_is_raised():
    with pytest.raises(OSError, match="ttyUSB0"):
        LocalRobotEnv(Unopenable())


def test_it_is_refused_before_reset_and_after_close():
    env = LocalRobotEnv(Counter())
    with pytest.raises(errors.LocalProtocolError, match=r"before reset; call env\.reset"):
        env.step(ONE)
    env.reset()
    env.close()
    env.close()
    for call in (env.reset, lambda: env.step(ONE)):
        with pytest.raises(errors.LocalProtocolError, match="after close"):
            call()


class Interrupted(Counter):
    def apply_action(self, action):
        signal.raise_signal(signal.SIGINT)


def test_ctrl_c_in_the_robots_code_is_ctrl_c():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with LocalRobotEnv(Interrupted()) as env:
            env.reset()
            with pytest.raises(KeyboardInterrupt):
                env.step(ONE)
    finally:
        signal.signal(signal.SIGINT, before)


def test_no_thread_and_no_socket_is_needed(monkeypatch):
    def refuse(*arguments, **options):
        raise AssertionError("a network")

    monkeypatch.setattr("socket.socket", refuse)
    monkeypatch.setattr("threading.Thread.start", refuse)
    with LocalRobotEnv(Counter()) as env:
        env.reset(seed=1)
        env.step(ONE)
