"""The arm: it moves as it is told, sees what is there, and repeats itself bit by bit."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from remote_env.errors import ConfigurationError, UnknownOptionError
from remote_env.spec import Mode
from remote_env_server.robots import headless
from remote_env_server.robots.arm import (
    GOAL_CENTRE,
    GOAL_REACH,
    MAX_GRIPPER_SPEED,
    MAX_OPENING,
    MAX_SPEED,
    TOOL_REACH,
    ArmConfig,
    ArmRobot,
)

BLIND = ArmConfig(cameras=("none",))
PERIOD = 0.05  # s, 20 Hz
CAMERAS = ("front", "side", "wrist")
SIZE = (240, 320)

WAY, WHY_NOT = headless.find()
needs_rendering = pytest.mark.skipif(not WAY, reason=WHY_NOT)


class LocalArm:
    """An arm in lockstep, driven as its server drives it."""

    def __init__(self, config=BLIND, *, watched=()):
        self.robot = ArmRobot(config)
        self.robot.mode = Mode.LOCKSTEP
        self.robot.open()
        self.robot.set_subscribed(frozenset(watched))

    def reset(self, **kwargs):
        self.steps = 0
        self.robot.set_simulated_time(0.0)
        self.robot.reset(**kwargs)
        return self.robot.get_obs()

    def step(self, *action):
        self.steps += 1
        self.robot.set_simulated_time(self.steps * PERIOD)
        self.robot.apply_action(np.array(action, np.float32))
        return self.robot.get_obs()

    def close(self):
        self.robot.close()


@pytest.fixture
def make_arm():
    arms = []

    def make(*args, **kwargs):
        arms.append(LocalArm(*args, **kwargs))
        return arms[-1]

    yield make
    for arm in arms:
        arm.close()


@pytest.fixture
def arm(make_arm):
    return make_arm()


def actions(seed, count):
    return np.random.default_rng(seed).uniform(-1, 1, (count, 4))


def rollout(arm, seed, count=40):
    observations = [arm.reset(seed=seed)]
    observations += [arm.step(*action) for action in actions(seed, count)]
    return [{name: o[name].tobytes() for name in arm.robot.observation_space} for o in observations]


# Bits


def test_a_seed_decides_every_bit(make_arm):
    one, other = make_arm(), make_arm()
    rollout(other, 5)  # whatever it did before
    assert rollout(one, 3) == rollout(other, 3)
    assert rollout(one, 3) != rollout(one, 4)


@needs_rendering
def test_whether_anybody_looks_does_not_change_a_bit(make_arm):
    watched = make_arm(ArmConfig(image_size=(48, 64)), watched=["wrist/image", "front/depth"])
    assert rollout(watched, 7) == rollout(make_arm(), 7)


def test_episodes_without_a_seed_go_on_with_the_one_before(make_arm):
    one, other = make_arm(), make_arm()
    one.reset(seed=1)
    other.reset(seed=1, options={"goal": [0.4, 0.0, 0.2]})  # does not shift what comes later
    np.testing.assert_array_equal(one.reset()["desired_goal"], other.reset()["desired_goal"])


# Motion


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("share", [0.5, -0.5])
def test_the_tool_moves_along_an_axis_as_fast_as_told(arm, axis, share):
    arm.reset(seed=0)
    action = np.zeros(4)
    action[axis] = share
    before = arm.step(*action)["achieved_goal"]
    moved = (arm.step(*action)["achieved_goal"] - before) / PERIOD
    wanted = action[:3] * MAX_SPEED
    assert np.abs(moved - wanted).max() < 0.1 * MAX_SPEED


def test_the_gripper_opens_and_closes_as_fast_as_told(arm):
    before = float(arm.reset(seed=0)["gripper_opening"][0])
    for _ in range(4):
        opening = float(arm.step(0, 0, 0, 0.5)["gripper_opening"][0])
    assert opening - before == pytest.approx(4 * PERIOD * 0.5 * MAX_GRIPPER_SPEED, rel=0.3)
    for _ in range(30):
        opening = float(arm.step(0, 0, 0, -1)["gripper_opening"][0])
    assert opening == pytest.approx(0.0, abs=0.005)
    for _ in range(30):
        opening = float(arm.step(0, 0, 0, 1)["gripper_opening"][0])
    assert opening == pytest.approx(MAX_OPENING, abs=0.005)


def test_nothing_winds_up_while_the_tool_is_held_back(arm):
    arm.reset(seed=0)
    for _ in range(40):  # against the wall of its box
        at_wall = arm.step(1, 0, 0, 0)["achieved_goal"][0]
    left = arm.step(-1, 0, 0, 0)["achieved_goal"][0]
    assert at_wall - left > 0.5 * MAX_SPEED * PERIOD


def test_at_rest_it_stays_where_it_is(arm):
    start = arm.reset(seed=0)["achieved_goal"]
    for _ in range(40):
        end = arm.step(0, 0, 0, 0)["achieved_goal"]
    assert np.abs(end - start).max() < 1e-3


@pytest.mark.parametrize("pause", [1, 3, 10])
def test_whatever_is_commanded_the_tool_stays_in_its_box_and_the_hand_points_down(arm, pause):
    space = arm.robot.observation_space
    generator = np.random.default_rng(pause)
    farthest = tilt = 0.0
    for seed in range(4):
        observation = arm.reset(seed=seed)
        for step in range(50):
            if step % pause == 0:
                action = np.sign(generator.uniform(-1, 1, 4))
            observation = arm.step(*action)
            assert {n: observation[n] for n in space} in space
            farthest = max(farthest, np.abs(observation["achieved_goal"] - GOAL_CENTRE).max())
            down = -arm.robot.pose_of("tool")[2, 2]
            tilt = max(tilt, float(np.degrees(np.arccos(np.clip(down, -1, 1)))))
    assert farthest < TOOL_REACH + 0.03
    assert tilt < 4


def test_a_hand_that_was_turned_away_points_down_again(arm):
    arm.reset(seed=0)
    arm.robot._data.qpos[4] += 0.3  # nobody can turn it from outside
    turned = arm.robot._data.qpos[4]
    arm.step(0, 0, 0, 0)
    assert arm.robot.pose_of("tool")[2, 2] > -np.cos(0.1)
    for _ in range(20):
        arm.step(0, 0, 0, 0)
    assert arm.robot.pose_of("tool")[2, 2] < -np.cos(0.03)
    assert arm.robot._data.qpos[4] < turned - 0.2


# The task


def test_goals_fill_their_box_and_can_be_chosen(arm):
    goals = np.array([arm.reset(seed=seed)["desired_goal"] for seed in range(300)]) - GOAL_CENTRE
    assert np.abs(goals).max() <= GOAL_REACH
    assert (goals.min(axis=0) < -0.9 * GOAL_REACH).all()
    assert (goals.max(axis=0) > 0.9 * GOAL_REACH).all()
    chosen = arm.reset(seed=1, options={"goal": [0.5, -0.1, 0.3]})["desired_goal"]
    np.testing.assert_allclose(chosen, [0.5, -0.1, 0.3], atol=1e-7)


@pytest.mark.parametrize(
    "goal", [[0.4, 0.0], [0.4, 0.0, 9.0], "abc", [0.4, 0.0, float("nan")], 3, [[0.4, 0, 0.2]]]
)
def test_a_goal_that_cannot_be_is_refused(arm, goal):
    arm.reset(seed=1)
    with pytest.raises(UnknownOptionError, match="goal"):
        arm.reset(options={"goal": goal})


def test_an_option_that_does_not_exist_is_refused(arm):
    with pytest.raises(UnknownOptionError, match="it has 'goal'"):
        arm.reset(options={"start": 1})


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_the_reward_is_the_one_that_the_metadata_describe(make_arm, kind):
    arm = make_arm(ArmConfig(reward=kind, cameras=("none",)))
    observation = arm.reset(seed=2)
    successes = []
    for _ in range(30):
        observation = arm.step(*np.clip(5 * observation["goal_difference"], -1, 1), 0)
        achieved, desired = observation["achieved_goal"], observation["desired_goal"]
        outcome = arm.robot.outcome(observation)
        distance = np.linalg.norm(achieved - desired, axis=-1)
        expected = -distance if kind == "dense" else -float(distance > 0.025)
        assert outcome.reward == float(expected)
        assert outcome.info["distance"] == distance
        assert outcome.info["is_success"] == (distance < 0.025)
        assert not outcome.terminated
        successes.append(outcome.info["is_success"])
    assert not successes[0]
    assert successes[-1]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"goal_radius": 0.0}, "goal_radius"),
        ({"goal_radius": float("nan")}, "goal_radius"),
        ({"max_steps": 0}, "max_steps"),
        ({"cameras": ("front", "back")}, "front, side, wrist"),
        ({"image_size": (8, 8)}, "image_size"),
        ({"camera_hz": 0.0}, "camera_hz"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options, word):
    with pytest.raises(ConfigurationError, match=word):
        ArmRobot(ArmConfig(**options))


# What the cameras see


def goal_pixels(image):
    """Return where the green marker of the goal is, as columns and rows."""
    red, green, blue = np.moveaxis(image.astype(int), -1, 0)
    rows, columns = np.nonzero((green > red + 50) & (green > blue + 40))
    return columns, rows


@needs_rendering
@pytest.mark.parametrize("camera", CAMERAS)
@pytest.mark.parametrize("goal", [[0.45, 0.08, 0.12], [0.34, -0.06, 0.1], [0.5, 0.0, 0.15]])
def test_a_known_point_is_where_the_camera_shows_it(make_arm, camera, goal):
    names = [f"{camera}/{kind}" for kind in ("image", "depth", "intrinsics", "extrinsics")]
    arm = make_arm(ArmConfig(image_size=SIZE), watched=names)
    arm.reset(seed=0, options={"goal": goal})
    observation = arm.step(0.3, 0.4, 0.3, 0)  # the wrist camera has moved
    image, depth, intrinsics, extrinsics = (observation[name] for name in names)
    x, y, z = (np.linalg.inv(extrinsics) @ [*goal, 1.0])[:3]
    u, v = intrinsics[0, 0] * x / z + intrinsics[0, 2], intrinsics[1, 1] * y / z + intrinsics[1, 2]
    columns, rows = goal_pixels(image)
    assert len(columns) > 20
    # Seen from near a sphere is an ellipse whose middle is a little outward.
    near = 0.3 if z > 0.5 else 4.0
    assert abs(columns.mean() - u) < near
    assert abs(rows.mean() - v) < near
    # The marker's core, 8 mm in radius, is in front of its centre.
    assert depth[round(v), round(u)] == pytest.approx(z - 0.008, abs=2e-3)


@needs_rendering
def test_every_pixel_has_a_depth_within_the_room(make_arm):
    arm = make_arm(ArmConfig(image_size=SIZE), watched=["front/depth"])
    depth = arm.reset(seed=0)["front/depth"]
    assert depth.min() > 0.1
    assert depth.max() < 6


@needs_rendering
def test_only_cameras_that_somebody_watches_are_rendered(make_arm):
    arm = make_arm(ArmConfig(image_size=(48, 64)), watched=["side/image"])
    arm.reset(seed=0)
    fields = arm.step(0, 0, 0, 0).fields
    assert fields["side/image"].sequence == 2
    assert fields["front/image"].sequence == fields["wrist/image"].sequence == 0


@needs_rendering
def test_a_picture_shows_the_state_of_its_own_step(make_arm):
    watched = make_arm(ArmConfig(image_size=(96, 128)), watched=["front/image"])
    watched.reset(seed=0)
    for _ in range(3):
        moved = watched.step(1, 0, 0, 0)["front/image"].copy()
    late = make_arm(ArmConfig(image_size=(96, 128)))
    late.reset(seed=0)
    for _ in range(2):
        late.step(1, 0, 0, 0)
    late.robot.set_subscribed(frozenset(["front/image"]))
    np.testing.assert_array_equal(late.step(1, 0, 0, 0)["front/image"], moved)


# Served


def test_served_and_local_rollouts_are_the_same_bit_by_bit(make_arm, serve, connect):
    local, env = make_arm(), connect(serve(ArmRobot(BLIND)).url)
    seen, _ = env.reset(seed=11)
    expected = local.reset(seed=11)
    for action in actions(11, 30):
        action = action.astype(np.float32)
        assert {n: a.tobytes() for n, a in seen.items()} == {n: expected[n].tobytes() for n in seen}
        seen, reward, terminated, truncated, info = env.step(action)
        expected = local.step(*action)
        outcome = local.robot.outcome(expected)
        assert (type(reward), reward) == (float, outcome.reward)
        assert {k: info[k] for k in outcome.info} == outcome.info
        assert not terminated
    assert truncated
    assert info["remote"]["end_reason"] == "time_limit"


def test_the_learner_computes_the_reward_of_any_goal(serve, connect):
    env = connect(serve(ArmRobot(BLIND)).url)
    assert env.spec_of_robot.goal_reward.derived == ("goal_difference",)
    observation, _ = env.reset(seed=1)
    observation, reward, *_ = env.step(np.ones(4, np.float32))
    goals = observation["achieved_goal"], observation["desired_goal"]
    assert env.unwrapped.compute_reward(*goals, {}) == reward
