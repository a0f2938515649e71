"""What goals are worth in a Gymnasium environment is told only if it is proven."""

import contextlib
import logging
import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.wrappers import TransformReward

from remote_env import GoalReward
from remote_env_server.logs import wait_for_logs
from remote_env_server.robots.goal_proof import prove_goal_reward
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

GOAL = spaces.Box(-np.inf, np.inf, (3,), np.float64)


class Point(gym.Env):
    """A point that moves to a goal, with the reward of the Fetch environments."""

    action_space = spaces.Box(-1.0, 1.0, (3,))
    observation_space = spaces.Dict({"achieved_goal": GOAL, "desired_goal": GOAL})
    made: list["Point"]

    def __init__(self, reward_type="sparse", distance_threshold=0.1):
        self.reward_type = reward_type
        self.distance_threshold = distance_threshold
        self.calls = []
        self.made.append(self)

    def compute_reward(self, achieved_goal, desired_goal, info):
        self.calls.append("compute_reward")
        distance = np.linalg.norm(achieved_goal - desired_goal, axis=-1)
        if self.reward_type == "sparse":
            return -(distance > self.distance_threshold).astype(np.float32)
        return -distance

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.calls.append("reset")
        self.point, self.goal = self.np_random.normal(size=(2, 3))
        return self.observe(), {}

    def observe(self):
        return {"achieved_goal": self.point.copy(), "desired_goal": self.goal.copy()}

    def step(self, action):
        self.point = self.point + 0.1 * action
        return self.observe(), self.reward(), False, False, {}

    def reward(self):
        return self.compute_reward(self.point, self.goal, {})

    def close(self):
        self.calls.append("close")


class AtTheThreshold(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        distance = np.linalg.norm(achieved_goal - desired_goal, axis=-1)
        return -(distance >= self.distance_threshold).astype(np.float32)


class InFloat64(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info).astype(np.float64)


class WithoutMinusZero(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) + np.float32(0.0)


class OneByOne(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal, desired_goal, info) * np.float32(info == {})


class AllAtOnce(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        reward = super().compute_reward(achieved_goal, desired_goal, info)
        return reward if reward.shape else np.float32(0.5)


class OfTheFirstTwo(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        return super().compute_reward(achieved_goal[..., :2], desired_goal[..., :2], info)


class WithATax(Point):
    def reward(self):
        return super().reward() - 0.01


class Failing(Point):
    def compute_reward(self, achieved_goal, desired_goal, info):
        raise KeyError("weight")


class OfIntegers(Point):
    observation_space = spaces.Dict(
        {name: spaces.Box(-9, 9, (3,), np.int64) for name in ("achieved_goal", "desired_goal")}
    )


class Nameless(Point):
    def __init__(self):
        super().__init__()
        del self.distance_threshold


class WithoutGoals(Point):
    observation_space = spaces.Dict({"achieved_goal": GOAL})


class WithoutFunction(Point):
    compute_reward = None


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Collect what is made, in order: the first is the one that is served."""
    made = []
    monkeypatch.setattr(Point, "made", made, raising=False)
    return made


@pytest.mark.parametrize("kind", ["sparse", "dense"])
@pytest.mark.parametrize("threshold", [0.1, 0.05, 1e-6, 40.0, np.float32(0.1), 1])
def test_a_reward_that_is_proven_is_described(kind, threshold):
    reward = prove_goal_reward(Point(kind, threshold), lambda: Point(kind, threshold))
    assert reward == GoalReward(kind, float(threshold))


def test_goals_of_single_precision_are_compared_in_single_precision(monkeypatch):
    single = spaces.Box(-np.inf, np.inf, (3,), np.float32)
    space = spaces.Dict({"achieved_goal": single, "desired_goal": single})
    monkeypatch.setattr(Point, "observation_space", space)
    assert prove_goal_reward(Point(), Point) == GoalReward("sparse", 0.1)
    # This threshold is kept in double precision, which makes a difference for one distance.
    assert prove_goal_reward(Point(), lambda: Point("sparse", np.float64(0.1))) is None


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Nameless, "it has no distance_threshold"),
        (lambda: Point("shaped"), "must be 'dense' or 'sparse', not 'shaped'"),
        (lambda: Point("sparse", None), "must be a positive distance, not None"),
        (AtTheThreshold, "its compute_reward returns -1.0 where the distance makes it -0.0"),
        (InFloat64, r"returns float64 of the shape \(271,\), not float32 of the shape \(271,\)"),
        (WithoutMinusZero, "returns 0.0 where the distance makes it -0.0"),
        (OneByOne, "returns -0.0 where the distance makes it -1.0"),
        (AllAtOnce, "returns 0.5 where the distance makes it"),
        (OfTheFirstTwo, "returns -0.0 where the distance makes it -1.0"),
        (WithATax, r"a step gave the reward -1.0\d* where its goals make it -1.0"),
        (lambda: TransformReward(Point(), lambda r: 2 * r), "a step gave the reward -2.0 where"),
        (Failing, "'weight'"),
        (OfIntegers, "'achieved_goal' is Box.*int64"),
    ],
)
def test_a_reward_that_is_not_proven_is_not_described_and_the_log_says_why(make, reason, caplog):
    assert prove_goal_reward(make(), make) is None
    wait_for_logs()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(type(make().unwrapped).__name__ + " has goals, but ")
    assert re.search(f"cannot use HER, because its reward is not known: .*{reason}", caplog.text)


@pytest.mark.parametrize("make", [WithoutGoals, WithoutFunction])
def test_an_environment_without_goals_is_passed_over_in_silence(make, made, caplog):
    assert prove_goal_reward(make(), make) is None
    wait_for_logs()
    assert caplog.records == []
    assert len(made) == 1


@pytest.mark.parametrize("make", [Point, WithATax, Failing])
def test_the_served_environment_is_not_touched_and_the_copy_is_closed(make, made):
    prove_goal_reward(make(), make)
    served, copy = made
    assert served.calls == []
    assert copy.calls[-1] == "close"


@pytest.fixture
def registered():
    """Register an environment for this test alone."""
    with contextlib.ExitStack() as stack:

        def register(make):
            gym.register("Point-v0", entry_point=make, max_episode_steps=5)
            stack.callback(gym.registry.pop, "Point-v0")

        yield register


def test_a_served_environment_describes_its_reward(registered, serve, connect, made):
    registered(Point)
    config = GymnasiumConfig("Point-v0", camera=False, kwargs='{"distance_threshold": 0.2}')
    env = connect(serve(GymnasiumRobot(config)).url)
    assert env.spec_of_robot.goal_reward == GoalReward("sparse", 0.2)
    assert made[0].calls == []
    assert made[1].distance_threshold == 0.2


def test_a_served_environment_without_a_proof_has_no_compute_reward(registered, serve, connect):
    registered(WithATax)
    env = connect(serve(GymnasiumRobot(GymnasiumConfig("Point-v0", camera=False))).url)
    assert not hasattr(env, "compute_reward")
    env.reset(seed=1)


def test_the_copy_opens_no_window(registered, made):
    class Seen(Point):
        metadata = {"render_modes": ["human"], "render_fps": 10}  # noqa: RUF012

        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode

    registered(Seen)
    robot = GymnasiumRobot(GymnasiumConfig("Point-v0", kwargs='{"render_mode": "human"}'))
    robot.open()
    assert [env.render_mode for env in made] == ["human", None]
    robot.close()
