"""A learner on the robot's machine can tell how observations came only by the time it took."""

import functools
import socket
import warnings

import gymnasium as gym
import numpy as np
import pytest
from beside import wait_for
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.wrappers import PassiveEnvChecker
from watching import RawObserver
from wires import client_socket, lies_in_shared_memory, mappings, server_sockets

import remote_env
from remote_env import RobotClient
from remote_env.cli import main
from remote_env.spec import Mode
from remote_env_server import CameraConfig, ProprioConfig, Robot, RobotServer

ACTIONS = np.random.default_rng(5).uniform(-1, 1, (30, 2)).astype(np.float32)


class Painter(Robot):
    """Paints what it was told so far: a picture of 0.3 MB and its depth in every third step."""

    slower = 3
    modes = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = 100.0
    seedable = True
    max_episode_steps = 1000

    def camera_configs(self):
        return [CameraConfig("cam", 320, 320, has_depth=True, hz=30.0)]

    def proprio_configs(self):
        return [ProprioConfig("told", 2, np.float64, low=-2e3, high=2e3)]

    def _paint(self):
        rng = np.random.default_rng(abs(int(1e6 * self._told.sum())))
        image = rng.integers(0, 255, (320, 320, 3), np.uint8)
        depth = rng.random((320, 320), np.float32)
        self.update_camera("cam", image=image, depth=depth)
        self.update_proprio("told", self._told)

    def reset(self, *, seed=None):
        self._steps, self._told = 0, np.random.default_rng(seed).normal(size=2)
        self._paint()

    def apply_action(self, action):
        self._steps += 1
        self._told = self._told + action
        if self._steps % self.slower == 0:
            self._paint()
        else:
            self.update_proprio("told", self._told)

    def hold(self):
        pass


class Quick(Painter):
    """Paints in every step."""

    slower = 1

    def camera_configs(self):
        return [CameraConfig("cam", 320, 320, has_depth=True)]


class Flat(Quick):
    """Has pictures without depth, whose bounds the checkers find too wide."""

    def camera_configs(self):
        return [CameraConfig("cam", 320, 320)]

    def _paint(self):
        rng = np.random.default_rng(abs(int(1e6 * self._told.sum())))
        self.update_camera("cam", image=rng.integers(0, 255, (320, 320, 3), np.uint8))
        self.update_proprio("told", self._told)


@pytest.fixture(params=["tcp", "unix"])
def served(request, serve, tmp_path):
    """Serve robots at a port or at a path."""

    def start(robot, **options):
        if request.param == "tcp":
            return serve(robot, **options)
        return serve(robot, unix_path=tmp_path / "robot.sock", latch_file=False, **options)

    return start


def trajectory(env):
    """Play; keep everything that came back."""
    steps = [env.reset(seed=3)[0]]
    steps += [env.step(action)[:4] for action in ACTIONS]
    return steps


def is_shared(env):
    return env.unwrapped.statistics().carrier.startswith("shared memory")


@pytest.mark.parametrize("kind", [Painter, Quick])
@pytest.mark.parametrize("copy", [True, False])
def test_a_trajectory_is_bit_by_bit_what_it_is_by_tcp(served, connect, monkeypatch, kind, copy):
    server = served(kind())
    shared = connect(server.url, copy=copy)
    first = trajectory(shared)
    assert is_shared(shared)
    shared.close()
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "0")
    plain = connect(server.url, copy=copy)
    assert data_equivalence(first, trajectory(plain), exact=True)
    assert not is_shared(plain)


def test_observations_outlive_the_environment_and_the_robot(connect):
    with RobotServer(Quick(), port=0) as server:
        env = connect(server.url)
        kept = trajectory(env)
        assert is_shared(env)
        copies = [step[0]["cam/image"].copy() for step in kept[1:]]
        env.close()
    assert mappings()
    for step, copy in zip(kept[1:], copies, strict=True):
        assert np.array_equal(step[0]["cam/image"], copy)
        step[0]["cam/image"][:] = 0


def test_the_checkers_say_nothing(serve, connect):
    env = connect(serve(Flat()).url)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env, skip_render_check=True)
        checked = PassiveEnvChecker(env)
        checked.reset()
        for action in ACTIONS:
            checked.step(action)
    assert is_shared(env)


def test_gymnasium_finds_a_robot_at_a_path(tmp_path, serve):
    server = serve(Quick(), unix_path=tmp_path / "robot.sock", latch_file=False)
    env = gym.make("RemoteRobot-v0", url=server.url)
    env.reset()
    assert env.step(ACTIONS[0])[0]["cam/image"].shape == (320, 320, 3)
    env.close()


def test_a_link_that_was_lost_shares_memory_again(serve, connect):
    server = serve(Quick())
    env = connect(server.url)
    kept = [env.reset(seed=3)[0]]
    for number, action in enumerate(ACTIONS):
        if number % 10 == 5:
            for sock in server_sockets(server):
                sock.shutdown(socket.SHUT_RDWR)
        kept.append(env.step(action)[0])
    assert env.statistics().resumptions == 3
    assert is_shared(env)
    told = kept[0]["told"] + np.cumsum([np.zeros(2), *ACTIONS], axis=0)
    assert np.allclose([one["told"] for one in kept], told)
    assert len({one["cam/image"].tobytes() for one in kept}) == len(kept)


def test_links_that_were_lost_leave_no_memory(serve):
    server = serve(Quick())
    before = mappings()
    with RobotClient(server.url) as client:
        client.reset()
        for _ in range(5):
            client_socket(client._channel._link).shutdown(socket.SHUT_RDWR)
            client.reset()
        assert client.carrier == "shared memory and TCP"
        assert mappings() <= before + 8  # of one connection, both ends
    assert client.carrier == ""
    wait_for(lambda: mappings() == before)


def test_an_observer_shares_memory_too(served, connect):
    server = served(Quick())
    env = connect(server.url)
    env.reset(seed=3)
    with remote_env.observe(server.url, hz=100.0) as observer:
        for action in ACTIONS[:10]:
            observation = env.step(action)[0]
            seen = wait_for(functools.partial(newest, observer, observation))
            assert lies_in_shared_memory(seen["cam/image"])
            assert np.array_equal(seen["cam/image"], observation["cam/image"])


def newest(observer, observation):
    """Return what the observer sees, when it is of the learner's step."""
    seen = next(observer).arrays
    return seen if np.array_equal(seen["told"], observation["told"]) else None


def test_an_observer_that_stalls_costs_one_frame_and_then_sees_what_is_newest(served, connect):
    server = served(Quick())
    env = connect(server.url)
    env.reset(seed=3)
    observer = RawObserver(server.url, streams=["told", "cam/image"])
    observer.observe(hz=1000.0)
    assert observer.receive() is not None
    (peer,) = server._session.observers._observers

    def step_until_dropped():
        env.step(ACTIONS[0])
        return server.statistics()["observers"]["dropped"] > 20

    wait_for(step_until_dropped, timeout=30)
    assert peer._sink._lender.unread() < 2 * 320 * 320 * 3
    newest = env.step(ACTIONS[0])[0]["told"]
    seen = [observer.receive().observation[0] for _ in range(2)]
    assert np.array_equal(seen[-1], newest)
    observer.close()


def test_the_command_line_says_what_carries_observations(serve, capsys, monkeypatch):
    url = serve(Quick()).url
    assert main(["info", url]) == 0
    assert "carried by   shared memory and TCP" in capsys.readouterr().out
    main(["doctor", url, "--seconds", "0.1"])
    assert "to connect, by shared memory and TCP" in capsys.readouterr().out
    monkeypatch.setenv("REMOTE_ENV_SHARED_MEMORY", "0")
    assert main(["info", url]) == 0
    assert "carried by   TCP" in capsys.readouterr().out
