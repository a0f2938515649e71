"""Several robots as one vector environment of Stable-Baselines3."""

import os
import signal
import subprocess
import sys
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
import torch
from beside import Beside, wait_for
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from sample_robots import Counter, Limited
from stable_baselines3 import PPO, SAC, TD3
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from remote_env import ConfigurationError, errors
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_server import CameraConfig, LocalRobotEnv, Mode, Outcome
from remote_env_server.robots import make_robot


class Pair(gym.Env):
    """Shows the action that it got."""

    observation_space = spaces.Box(-9.0, 9.0, (2,), np.float32)
    action_space = spaces.Tuple([spaces.Discrete(3), spaces.Discrete(3)])

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.array(action, np.float32), 0.0, False, False, {}


class Named(Pair):
    action_space = spaces.Dict({"a": spaces.Discrete(3)})

    def step(self, action):
        return super().step([action["a"]] * 2)


gym.register("Pair-v0", entry_point=Pair)
gym.register("Named-v0", entry_point=Named)


@pytest.fixture
def connect_all():
    """Make vector environments; closes them at the end of the test."""
    made = []

    def make(robots, serve, **options):
        urls = [serve(robot, mode="lockstep").url for robot in robots]
        made.append(RemoteRobotVecEnv(urls, env_kwargs=options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def actions_for(space, count, rng):
    if isinstance(space, spaces.Box):
        return rng.normal(0.0, 1.5, (count, *space.shape)).astype(np.float32)
    return rng.integers(space.n, size=count)


def plain(observation):
    """Return an observation of which a Dict is a dict, and not an OrderedDict."""
    return dict(observation) if isinstance(observation, dict) else observation


def play(env, steps):
    """Play with a vector environment; return all that came back."""
    rng = np.random.default_rng(5)
    env.seed(7)
    told = [plain(env.reset()), list(env.reset_infos)]
    for number in range(steps):
        observation, *rest = env.step(actions_for(env.action_space, env.num_envs, rng))
        told += [(plain(observation), *rest), list(env.reset_infos)]
        if number == steps // 2:
            env.seed(11)
            told += [plain(env.reset()), list(env.reset_infos)]
    return told


ROBOTS = ["double-pendulum", "gymnasium:CartPole-v1", "gymnasium:FrozenLake-v1"]


@pytest.mark.parametrize("name", ROBOTS)
@pytest.mark.parametrize("monitored", [False, True], ids=["bare", "VecMonitor"])
def test_it_is_bit_by_bit_what_a_dummy_vec_env_is(serve, connect_all, name, monitored):
    local = DummyVecEnv([lambda: LocalRobotEnv(make_robot(name), max_steps=20) for _ in range(3)])
    remote = connect_all([make_robot(name) for _ in range(3)], serve, max_steps=20)
    wrap = VecMonitor if monitored else (lambda env: env)
    expected, got = play(wrap(local), 150), play(wrap(remote), 150)
    steps = [step for step in expected if isinstance(step, tuple)]
    ends = [sum("terminal_observation" in info for info in infos) for *_, infos in steps]
    assert sum(ends) >= 15
    assert max(ends) > 1  # several in one step
    for step in [*expected, *got]:
        for info in step[3] if isinstance(step, tuple) else ():
            info.get("episode", {}).pop("t", None)  # of the wall clock
    assert data_equivalence(got, expected, exact=True)
    local.close()


class Ending(Limited):
    """Its task ends with the last step that it may take."""

    def outcome(self, observation):
        return Outcome(terminated=self._steps == 3)


def test_an_end_that_is_also_the_limit_is_not_truncated_for_sb3(serve, connect_all):
    env = connect_all([Ending(), Limited()], serve)
    env.reset()
    for _ in range(3):
        _, _, dones, infos = env.step(np.zeros((2, 2), np.float32))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [False, True]


def test_options_are_used_once(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.set_options([{"start": 1.0}, {"start": 2.0}])
    env.reset()
    assert [info["start"] for info in env.reset_infos] == [1.0, 2.0]
    env.reset()
    assert [info["start"] for info in env.reset_infos] == [0.0, 0.0]


@pytest.mark.parametrize("options", [{"start": object()}, [{}], "xy", [{}, {1: 2}]])
def test_options_that_make_no_sense_are_refused_and_forgotten(serve, connect_all, options):
    env = connect_all([Counter(), Counter()], serve)
    with pytest.raises(ConfigurationError, match="options"):
        env.set_options(options)
    env.reset()
    assert [info["start"] for info in env.reset_infos] == [0.0, 0.0]


def test_a_seed_of_numpy_is_one(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.seed(np.int64(7))
    expected = [np.random.default_rng(seed).normal(size=2).tolist() for seed in (7, 8)]
    assert env.reset()["sum"].tolist() == expected


def test_a_seed_that_is_none_is_refused_and_forgotten(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.seed(-1)
    with pytest.raises(ConfigurationError, match="seed must be"):
        env.reset()
    env.reset()
    assert not env.step(np.ones((2, 2), np.float32))[2].any()


def test_every_step_has_arrays_of_its_own(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.reset()
    first = env.step(np.zeros((2, 2), np.float32))
    second = env.step(np.ones((2, 2), np.float32))
    for one, other in zip(first[:3], second[:3], strict=True):
        a, b = (one["sum"], other["sum"]) if isinstance(one, dict) else (one, other)
        assert not np.shares_memory(a, b)
        assert a.flags.writeable
    assert first[0]["sum"].shape == (2, 2)
    assert (first[1].dtype, first[2].dtype) == (np.float32, np.bool_)


class Waiting(Counter):
    """Does nothing before it is let go."""

    def __init__(self):
        super().__init__()
        self.is_in = threading.Event()
        self.may_go = threading.Event()
        self.is_slow_to_reset = False

    def reset(self, *, seed=None, options=None):
        while self.is_slow_to_reset:
            self.is_in.set()
            self.progress(0.5)
            time.sleep(0.002)
        return super().reset(seed=seed, options=options)

    def apply_action(self, action):
        self.is_in.set()
        assert self.may_go.wait(20)
        super().apply_action(action)


def test_the_robots_move_at_once(serve, connect_all):
    robots = [Waiting() for _ in range(3)]
    env = connect_all(robots, serve)
    env.reset()
    env.step_async(np.zeros((3, 2), np.float32))
    assert all(robot.is_in.wait(5) for robot in robots)
    for robot in robots:
        robot.may_go.set()
    assert env.step_wait()[2].tolist() == [False] * 3


def test_the_robots_are_reset_at_once(serve, connect_all):
    together = threading.Barrier(3, timeout=10)

    class Homing(Limited):
        def reset(self, *, seed=None, options=None):
            together.wait()
            return super().reset(seed=seed, options=options)

    env = connect_all([Homing() for _ in range(3)], serve)
    env.reset()
    for _ in range(3):
        dones = env.step(np.zeros((3, 2), np.float32))[2]
    assert dones.all()


def test_ppo_trains_on_it(serve, connect_all):
    env = VecMonitor(connect_all([make_robot("double-pendulum") for _ in range(2)], serve))
    torch.set_num_threads(1)
    model = PPO("MultiInputPolicy", env, n_steps=64, batch_size=64, n_epochs=2, device="cpu")
    model.learn(256)
    assert model.num_timesteps == 256
    assert model.ep_info_buffer


def test_what_a_vec_env_can_it_can(serve, connect_all):
    env = connect_all(
        [make_robot("double-pendulum") for _ in range(2)], serve, render_mode="rgb_array"
    )
    env.reset()
    assert env.render_mode == "rgb_array"
    assert env.metadata["render_modes"] == ["rgb_array"]
    assert [image.shape for image in env.get_images()] == [(96, 128, 3)] * 2
    assert env.render().shape == (192, 128, 3)  # tiled
    assert env.get_attr("spec_of_robot")[1].name == "double-pendulum"
    env.set_attr("colour", "red", indices=1)
    assert env.get_attr("colour", indices=[1]) == ["red"]
    assert not env.has_attr("colour")
    assert [s.resumptions for s in env.env_method("statistics")] == [0, 0]
    assert env.env_is_wrapped(Monitor) == [False, False]


# What goes wrong


class Wider(Counter):
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_robots_with_different_spaces_are_refused_by_name(serve):
    urls = [serve(robot).url for robot in (Counter(), Counter(), Wider())]
    with pytest.raises(ConfigurationError) as error:
        RemoteRobotVecEnv(urls)
    assert f"{urls[0]} and {urls[2]}" in str(error.value)
    assert "action_space is Box(-1.0, 1.0, (2,), float32) and Box(-1.0, 1.0, (3,)" in str(
        error.value
    )


def test_a_key_in_which_observations_differ_is_named(serve):
    urls = [serve(make_robot("double-pendulum"), mode="lockstep").url, serve(Counter()).url]
    with pytest.raises(ConfigurationError, match=r"observation_space\['joint_pos'\] is .* missing"):
        RemoteRobotVecEnv(urls)


@pytest.mark.parametrize("urls", [[], "ws://robot:8765", ["ws://a:1", "ws://a:1"]])
def test_urls_that_make_no_sense_are_refused(urls):
    with pytest.raises(ConfigurationError, match="urls must be|comes twice"):
        RemoteRobotVecEnv(urls)


def test_a_robot_that_is_not_there_is_named_and_the_others_are_let_go(serve):
    server = serve(Counter())
    with pytest.raises(errors.ConnectFailedError, match="127.0.0.1:1;"):
        RemoteRobotVecEnv([server.url, "ws://127.0.0.1:1"])
    wait_for(lambda: server.statistics()["connections"] == 0)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("Pair", [(0, 1), (2, 0)]),
        ("Named", [{"a": 1}, {"a": 2}]),
    ],
    ids=["Tuple", "Dict"],
)
def test_actions_are_one_for_each_robot_as_in_a_dummy_vec_env(serve, connect_all, name, actions):
    local = DummyVecEnv([lambda: gym.make(f"{name}-v0")] * 2)
    env = connect_all([make_robot(f"gymnasium:{name}-v0") for _ in range(2)], serve)
    local.reset()
    env.reset()
    assert env.step(actions)[0].tolist() == local.step(actions)[0].tolist()


def test_an_action_that_does_not_fit_is_named_and_the_others_are_received(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.reset()
    with pytest.raises(errors.ActionRefusedError, match=rf"{env.urls[1]}: .*shape"):
        env.step_async([np.zeros(2, np.float32), np.zeros(3, np.float32)])
    with pytest.raises(errors.LocalProtocolError, match="1 actions for 2 robots"):
        env.step_async(np.zeros((1, 2), np.float32))
    env.reset()
    assert not env.step(np.zeros((2, 2), np.float32))[2].any()


def test_a_step_twice_or_without_actions_is_refused(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.reset()
    env.step_async(np.zeros((2, 2), np.float32))
    with pytest.raises(errors.LocalProtocolError, match=r"call step_wait\(\) first"):
        env.step_async(np.zeros((2, 2), np.float32))
    env.step_wait()
    with pytest.raises(errors.LocalProtocolError, match="step_async"):
        env.step_wait()


def test_reset_gives_up_a_step_that_nobody_waits_for(serve, connect_all):
    env = connect_all([Counter(), Counter()], serve)
    env.reset()
    env.step_async(np.zeros((2, 2), np.float32))
    env.reset()
    assert not env.step(np.zeros((2, 2), np.float32))[2].any()


@pytest.mark.realtime
def test_closing_does_not_wait_for_robots_that_hang(serve, connect_all, slowdown):
    robots = [Waiting() for _ in range(4)]
    env = connect_all(robots, serve)
    env.reset()
    env.step_async(np.zeros((4, 2), np.float32))
    waiting = Beside(env.step_wait)
    assert all(robot.is_in.wait(5) for robot in robots)
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 2.5 + 0.5 * slowdown
    for robot in robots:
        robot.may_go.set()
    assert isinstance(waiting.join().error, errors.RemoteEnvError)
    env.close()


def test_ctrl_c_in_a_reset_gives_all_of_them_up(serve, connect_all):
    robots = [Waiting() for _ in range(2)]
    env = connect_all(robots, serve)
    for robot in robots:
        robot.is_slow_to_reset = True

    def press():
        assert all(robot.is_in.wait(5) for robot in robots)
        os.kill(os.getpid(), signal.SIGINT)

    beside = Beside(press)
    with pytest.raises(KeyboardInterrupt):
        env.reset()
    beside.join()
    for robot in robots:
        robot.is_slow_to_reset = False
        robot.may_go.set()
    env.reset()
    env.step(np.zeros((2, 2), np.float32))


def test_a_nested_observation_is_refused_with_advice(serve):
    class Nested(gym.Env):
        observation_space = spaces.Dict({"a": spaces.Dict({"b": spaces.Box(-1, 1, (2,))})})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    gym.register("Nested-v0", entry_point=Nested)
    urls = [serve(make_robot("gymnasium:Nested-v0")).url]
    with pytest.raises(ConfigurationError, match="'flatten': True"):
        RemoteRobotVecEnv(urls)
    env = RemoteRobotVecEnv(urls, env_kwargs={"flatten": True})
    assert env.reset()["a/b"].shape == (1, 2)
    env.close()


def test_stable_baselines3_is_not_imported_before_it_is_needed():
    look = "import sys, remote_env; sys.exit('stable_baselines3' in sys.modules)"
    subprocess.run([sys.executable, "-c", look], check=True, timeout=60)


class Seeing(Counter):
    """Counts, and has a camera."""

    modes = (Mode.LOCKSTEP,)

    def camera_configs(self):
        return [CameraConfig("cam", 36, 36)]

    def update_proprio(self, name, value, **options):
        super().update_proprio(name, value, **options)
        self.update_image("cam", np.full((36, 36, 3), int(value[0]) % 256, np.uint8))


@pytest.mark.parametrize("learner", [PPO, SAC, TD3])
@pytest.mark.parametrize("streams", [["sum"], ["cam/image", "sum"]], ids=["joints", "pictures"])
def test_learners_train_on_it(serve, connect_all, learner, streams):
    env = VecMonitor(connect_all([Seeing() for _ in range(2)], serve, streams=streams, max_steps=5))
    torch.set_num_threads(1)
    options = {"n_steps": 8} if learner is PPO else {"learning_starts": 8, "buffer_size": 64}
    model = learner("MultiInputPolicy", env, batch_size=8, device="cpu", **options)
    model.learn(32)
    assert model.num_timesteps == 32
    assert len(model.ep_info_buffer) == 6
