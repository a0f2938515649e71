"""Nothing old is told as new, and no dead sensor limits a motion."""

import threading
import time

import numpy as np
import pytest
from sample_robots import Counter, Rig

from remote_env import ActionLimit, RobotClient, errors
from remote_env_server import Outcome, ProprioConfig

pytestmark = pytest.mark.realtime
ZERO = np.zeros(3, np.float32)


class Thinking(Rig):
    """Looks at its camera for longer than the camera takes for the next picture."""

    def get_obs(self):
        newest = self.make_obs()
        observation = {name: newest[name] for name in ("cam/image", "cam/depth", "joint_pos")}
        seen = self._count
        while self._count < seen + 3:
            time.sleep(0.001)
        return observation


def test_what_get_obs_worked_on_is_not_told_as_what_came_meanwhile(serve):
    with RobotClient(serve(Thinking()).url) as client:
        done = client.reset(seed=1)
        names = [s.name for s in client.spec.streams if not s.on_request]
        camera = names.index("cam/image")
        for step in range(1, 6):
            done = client.step([ZERO], episode=done.episode, step=step, tick=done.tick, timeout=5)
            picture = int(done.observation[camera][0, 0, 0])
            # Perhaps told to be older than it is: one may come between our look and its own.
            assert (picture - done.sequences[camera]) % 256 <= 1


def test_what_get_obs_published_itself_is_new(serve, connect):
    class Own(Counter):
        def get_obs(self):
            self.update_proprio("sum", self._sum)
            return {"sum": self._sum.copy()}

        def apply_action(self, action):
            self._sum = self._sum + action

        def reset(self, *, seed=None, options=None):
            self._sum = np.zeros(2)

    connect(serve(Own()).url).reset()  # which refuses what was not delivered since


class Frozen(Rig):
    """Its camera has delivered the same picture from the beginning."""

    def read_camera(self):
        self.update_camera(
            "cam",
            image=np.full((24, 32, 3), 7, np.uint8),
            depth=np.full((24, 32), 1.0, np.float32),
            extrinsics=np.eye(4),
        )
        self._count += 1


def test_a_camera_that_was_frozen_before_is_told_with_the_reset(serve, connect, slowdown):
    robot = Frozen()
    url = serve(robot).url
    deadline = time.monotonic() + 20
    while robot._count < 60:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    _, info = connect(url).reset()
    assert info["remote"]["stale"]["cam/image"]["cause"] == "frozen"
    with pytest.raises(errors.SensorError, match="cam/image"):
        connect(url, on_stale="raise").reset(options=None)


class Measured(Rig):
    """Its action may be 0.1 from an encoder that nobody needs to watch."""

    action_limits = ActionLimit(max_step=0.1, measured="encoder")

    def __init__(self, fault):
        super().__init__()
        self.fault = fault
        self.is_broken = threading.Event()
        self.is_over = threading.Event()

    def proprio_configs(self):
        return [
            *super().proprio_configs(),
            ProprioConfig("encoder", 3, hz=50.0, on_request=True),
        ]

    def open(self):
        super().open()
        self.start_sensor("encoder", self.read_encoder, hz=50.0)

    def read_encoder(self):
        if self.is_broken.is_set():
            if self.fault == "throw":
                raise OSError("the cable")
            self.is_over.wait(20)
        self.update_proprio("encoder", np.zeros(3, np.float32))


@pytest.mark.parametrize("fault", ["throw", "hang"])
def test_no_limit_is_compared_with_a_dead_encoder(serve, connect, fault):
    robot = Measured(fault)
    env = connect(serve(robot).url)
    env.reset()
    env.step(ZERO)
    robot.is_broken.set()
    with pytest.raises((errors.ActionRefusedError, errors.SensorError)) as told:
        for _ in range(200):
            env.step(ZERO)
    robot.is_over.set()
    # The end of a thread may be found before an action needs what it measured.
    codes = {"throw": ("robot.action.measured", "robot.sensor.failed")}
    assert told.value.code in codes.get(fault, ("robot.action.measured",))


def test_an_action_that_the_driver_refuses_moves_no_limit(serve, connect):
    class KeepOut(Counter):
        action_limits = ActionLimit(max_rate=5.0)  # 0.1 in a step

        def apply_action(self, action):
            if 0.05 < action[0] < 0.45:
                raise errors.ActionRefusedError("a keep-out zone")
            super().apply_action(action)

    robot = KeepOut()
    env = connect(serve(robot).url)
    env.reset(seed=1)
    env.step(np.full(2, 0.0, np.float32))
    for value in (0.1, 0.2, 0.3, 0.4, 0.5):
        with pytest.raises(errors.ActionRefusedError):
            env.step(np.full(2, value, np.float32))
    assert [float(action[0]) for action in robot.actions] == [0.0]


@pytest.mark.parametrize("mode", ["lockstep", "realtime", "delayed"])
@pytest.mark.parametrize("method", ["outcome", "get_obs"])
def test_a_robot_that_refuses_after_it_moved_has_failed(serve, connect, mode, method):
    """Else the episode would go on, and the same step be executed twice."""

    class Late(Counter):
        is_late = False

        def get_obs(self):
            if self.is_late and method == "get_obs":
                raise errors.EmergencyStopError("its own button")
            return super().get_obs()

        def outcome(self, observation):
            if self.is_late and method == "outcome":
                raise errors.EmergencyStopError("its own button")
            return Outcome()

    robot = Late()
    env = connect(serve(robot, mode=mode).url)
    env.reset(seed=1)
    robot.is_late = True
    holds = len(robot.holds)
    with pytest.raises(errors.EmergencyStopError, match="its own button"):
        env.step(np.zeros(2, np.float32))
    robot.is_late = False
    with pytest.raises(errors.RemoteEnvError):
        env.step(np.zeros(2, np.float32))
    assert len(robot.actions) <= 1
    if mode != "lockstep":
        assert len(robot.holds) > holds


@pytest.mark.parametrize("mode", ["realtime", "delayed"])
def test_a_picture_and_a_depth_of_different_captures_are_told(serve, connect, mode):
    class Two(Rig):
        def read_camera(self):
            self._count += 1
            picture = np.full((24, 32, 3), self._count % 256, np.uint8)
            self.update_image("cam", picture)
            self.update_depth("cam", np.full((24, 32), self._count, np.float32))

    env = connect(serve(Two(), mode=mode).url)
    env.reset()
    *_, info = env.step(ZERO)
    assert info["remote"]["incoherent"] == ["cam"]


def test_the_age_counts_what_the_robots_code_took_after_the_observation(serve, connect, slowdown):
    class Classifying(Rig):
        def outcome(self, observation):
            time.sleep(0.05)
            return Outcome()

    robot = Classifying()
    robot.control_hz = 5.0
    env = connect(serve(robot).url, max_age=10.0)
    env.reset()
    for _ in range(3):
        *_, info = env.step(ZERO)
        assert 0.05 <= info["remote"]["ages"]["joint_pos"] <= 0.05 + 0.1 * slowdown


class Unhurried(Rig):
    """A stream that declares no rate, of a thread that fails."""

    def __init__(self):
        super().__init__()
        self.is_broken = threading.Event()

    def proprio_configs(self):
        return [*super().proprio_configs(), ProprioConfig("gripper", 1)]

    def open(self):
        super().open()
        self.start_sensor("gripper", self.read_gripper, hz=50.0)

    def read_gripper(self):
        if self.is_broken.is_set():
            raise OSError("the cable")
        self.update_proprio("gripper", np.zeros(1, np.float32))


def test_a_thread_that_fails_is_told_also_if_its_stream_has_no_rate(serve, connect):
    robot = Unhurried()
    env = connect(serve(robot).url)
    env.reset()
    robot.is_broken.set()
    with pytest.raises(errors.SensorError, match="sensor 'gripper' failed"):
        for _ in range(50):
            env.step(ZERO)


def test_a_learner_may_say_how_old_a_stream_without_a_rate_may_be(serve, connect):
    robot = Unhurried()
    env = connect(serve(robot).url, max_age=0.2)
    env.reset()
    for sensor in robot.sensors:
        if sensor.name == "gripper":
            sensor.ask_to_stop()
    for _ in range(50):
        *_, truncated, info = env.step(ZERO)
        if truncated:
            break
    assert info["remote"]["stale"].keys() == {"gripper"}


def test_a_calibration_that_changes_is_told(serve, connect):
    """As of a zoom lens, or of a camera on the wrist."""
    robot = Rig()
    env = connect(serve(robot).url, streams=["cam/intrinsics", "cam/extrinsics"])
    env.reset()
    lens, pose = 2.0 * np.eye(3), np.diag([1.0, -1.0, -1.0, 1.0])
    robot.stop_sensors()  # they tell the pose too
    robot.update_intrinsics("cam", lens)
    robot.update_extrinsics("cam", pose)
    observation, *_ = env.step(ZERO)
    assert observation["cam/intrinsics"].tolist() == lens.tolist()
    assert observation["cam/extrinsics"].tolist() == pose.tolist()
