"""The arm in real time: physics and cameras keep their rates, and it holds."""

import time

import numpy as np
import pytest

pytest.importorskip("mujoco")

from beside import wait_for

from remote_env import observe
from remote_env.spec import Mode
from remote_env_server.robots import headless
from remote_env_server.robots.arm import GOAL_CENTRE, ArmConfig, ArmRobot

pytestmark = pytest.mark.realtime

WAY, WHY_NOT = headless.find()
needs_rendering = pytest.mark.skipif(not WAY, reason=WHY_NOT)
SMALL = ArmConfig(image_size=(48, 64), cameras=("front", "wrist"))
FORWARD = np.array([0.3, 0, 0, 0], np.float32)


@pytest.fixture
def arm(serve):
    robot = ArmRobot(SMALL)
    robot.server = serve(robot, mode=Mode.REALTIME)
    return robot


@needs_rendering
def test_physics_and_watched_cameras_keep_their_rates(arm, slowdown):
    streams = ["joint_pos", "front/image", "wrist/depth"]
    with observe(arm.server.url, hz=2, streams=streams) as observer:
        seen = iter(observer)
        first = next(s for s in seen if min(s.sequences.values()) > 0)
        last = next(s for s in seen if s.time - first.time > 3)
    rates = {
        n: (last.sequences[n] - first.sequences[n]) / (last.time - first.time) for n in streams
    }
    most = 0.1 * slowdown
    assert rates["joint_pos"] == pytest.approx(500, rel=most)
    assert rates["front/image"] == pytest.approx(30, rel=most)
    assert rates["wrist/depth"] == pytest.approx(30, rel=most)


@needs_rendering
def test_cameras_that_nobody_watches_do_not_render(arm):
    with observe(arm.server.url, hz=10, streams=["wrist/image"]) as observer:
        seen = iter(observer)
        next(s for s in seen if s.sequences["wrist/image"] > 3)
    fields = arm.make_obs().fields
    assert fields["front/image"].sequence == 0

    def has_stopped():
        before = arm.make_obs().fields["wrist/image"].sequence
        time.sleep(0.2)
        return arm.make_obs().fields["wrist/image"].sequence == before

    wait_for(has_stopped)


@needs_rendering
def test_a_reset_ends_with_pictures_that_show_its_goal(arm, connect):
    env = connect(arm.server.url, streams=["front/image", "desired_goal"])
    pictures = []
    for goal in ([0.5, -0.1, 0.1], [0.5, 0.1, 0.1], [0.5, -0.1, 0.1]):
        observation, _ = env.reset(options={"goal": goal})
        np.testing.assert_allclose(observation["desired_goal"], goal, atol=1e-6)
        green = observation["front/image"].astype(int)
        green = green[..., 1] - np.maximum(green[..., 0], green[..., 2])
        pictures.append(np.nonzero(green > 40)[1].mean())
    assert abs(pictures[0] - pictures[2]) < 1 < abs(pictures[0] - pictures[1])


def test_it_moves_while_it_is_told_and_holds_when_nobody_does(arm, connect):
    env = connect(arm.server.url)
    env.reset(seed=0)
    for _ in range(5):
        observation, *_ = env.step(FORWARD)
    assert observation["achieved_goal"][0] > GOAL_CENTRE[0] + 0.01
    arm_is_still = lambda: np.abs(arm.proprios["joint_vel"]).max() < 1e-3  # noqa: E731
    wait_for(arm_is_still)
    rest = arm.proprios["achieved_goal"].copy()
    # At 0.15 m/s for the 0.25 s that an action lasts, and as much again for a busy machine.
    assert np.linalg.norm(rest - observation["achieved_goal"]) < 0.075
    time.sleep(0.3)
    np.testing.assert_allclose(arm.proprios["achieved_goal"], rest, atol=1e-3)


def test_the_emergency_stop_stops_it(arm, connect):
    env = connect(arm.server.url)
    env.reset(seed=0)
    for _ in range(3):
        env.step(FORWARD)
    before = arm.proprios["achieved_goal"].copy()
    arm.stop()
    wait_for(lambda: np.abs(arm.proprios["joint_vel"]).max() < 1e-3)
    assert np.linalg.norm(arm.proprios["achieved_goal"] - before) < 0.03
