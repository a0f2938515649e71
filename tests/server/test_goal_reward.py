"""A goal reward as an author declares it, as the wire carries it, and as people see it."""

import math

import numpy as np
import pytest
from gymnasium import spaces
from sample_robots import Counter, Reacher

from remote_env import GoalReward, RobotSpec, errors
from remote_env.cli import main
from remote_env_server import Mode, RobotServer
from remote_env_server.describe import describe_robot
from remote_env_server.streams import space_streams

GOAL = spaces.Box(-1.0, 1.0, (3,), np.float32)


def described(robot):
    return describe_robot(robot, Mode.LOCKSTEP, None)


class Spaced(Counter):
    """Observes whatever space it is given."""

    @property
    def observation_space(self):
        return self.space

    def streams(self):
        return space_streams(self.space)


def declaring(goal_reward, **observed):
    robot = Spaced()
    robot.space = spaces.Dict({"joint_pos": GOAL, **observed})
    robot.goal_reward = goal_reward
    return robot


def test_the_declaration_stands_in_the_spec():
    assert described(Reacher()).goal_reward == GoalReward("sparse", 0.1, ("goal_difference",))


def test_a_robot_has_no_goal_reward_unless_it_declares_one():
    assert described(Counter()).goal_reward is None


def test_it_survives_a_file_and_does_not_change_the_hash(tmp_path):
    spec = described(Reacher())
    spec.save(tmp_path / "spec")
    other = Reacher()
    other.goal_reward = None

    loaded = RobotSpec.load(tmp_path / "spec")
    assert loaded.goal_reward == spec.goal_reward == GoalReward("sparse", 0.1, ("goal_difference",))
    assert loaded.hash() == described(other).hash()


def test_a_list_of_derived_streams_is_taken_as_a_tuple():
    assert GoalReward("dense", 1, ["goal_difference"]).derived == ("goal_difference",)


def test_info_shows_it_in_one_line(serve, capsys):
    assert main(["info", serve(Reacher()).url]) == 0
    shown = "goal reward  sparse, reached within 0.1; HER can be used; without goal_difference\n"
    assert shown in capsys.readouterr().out


def test_info_has_no_line_for_a_reward_that_is_not_described(serve, capsys):
    assert main(["info", serve(Counter()).url]) == 0
    assert "goal reward" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("shaped", 0.1), "kind of a GoalReward must be 'dense' or 'sparse', not 'shaped'"),
        ((None, 0.1), "kind of a GoalReward must be 'dense' or 'sparse', not None"),
        ((np.array(["dense", "sparse"]), 0.1), "kind of a GoalReward must be"),
        (("sparse", 0.0), "threshold of a GoalReward must be a positive distance, not 0.0"),
        (("sparse", -1.0), "must be a positive distance, not -1.0"),
        (("sparse", math.nan), "must be a positive distance, not nan"),
        (("sparse", math.inf), "must be a positive distance, not inf"),
        (("sparse", True), "must be a positive distance, not True"),
        (("sparse", "0.1"), "must be a positive distance, not '0.1'"),
        (("sparse", 0.1, "goal_difference"), r'derived=\("goal_difference",\), not \'goal_diff'),
        (("sparse", 0.1, [1]), r"derived must list the names of the streams .* not \[1\]"),
    ],
)
def test_a_reward_that_makes_no_sense_by_itself_is_refused(arguments, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        GoalReward(*arguments)


REWARD = GoalReward("sparse", 0.1)
OTHER = GoalReward("sparse", 0.1, ("goal_diff",))
ITSELF = GoalReward("sparse", 0.1, ("achieved_goal",))
BOTH = {"achieved_goal": GOAL, "desired_goal": GOAL}


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        (declaring("sparse", **BOTH), "Spaced: goal_reward must be a GoalReward, .* not 'sparse'"),
        (declaring(REWARD), "Spaced: goal_reward needs .* floats .* 'achieved_goal' is not there"),
        (declaring(REWARD, achieved_goal=GOAL), "; 'desired_goal' is not there"),
        (declaring(REWARD, desired_goal=GOAL), "; 'achieved_goal' is not there"),
        (
            declaring(REWARD, **BOTH | {"desired_goal": spaces.Discrete(3)}),
            r"'desired_goal' is Discrete\(3\)",
        ),
        (
            declaring(REWARD, **BOTH | {"achieved_goal": spaces.Box(0, 9, (3,), np.int64)}),
            "'achieved_goal' is Box.*int64",
        ),
        (
            declaring(REWARD, **BOTH | {"achieved_goal": spaces.Box(-1.0, 1.0, (1, 3))}),
            r"'achieved_goal' is Box.*\(1, 3\)",
        ),
        (
            declaring(REWARD, **BOTH | {"desired_goal": spaces.Box(-1.0, 1.0, (2,))}),
            r"goals of one shape; 'achieved_goal' has \(3,\) and 'desired_goal' has \(2,\)",
        ),
        (declaring(OTHER, **BOTH), "derived has 'goal_diff'; name streams .* out of 'joint_pos'"),
        (declaring(ITSELF, **BOTH), "derived has 'achieved_goal'; name streams"),
    ],
)
def test_a_reward_that_does_not_fit_the_robot_is_refused(robot, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        described(robot)


def test_the_server_does_not_start_with_a_reward_that_does_not_fit():
    with pytest.raises(errors.ConfigurationError, match="goal_reward needs"):
        RobotServer(declaring(REWARD), port=0).start()


@pytest.mark.parametrize(
    "said",
    [
        {"kind": "sparse", "threshold": 0.0, "derived": []},
        {"kind": "shaped", "threshold": 0.1, "derived": []},
        {"kind": "sparse", "threshold": 0.1, "derived": ["nowhere"]},
        {"kind": "sparse", "threshold": 0.1, "derived": 3},
        {"kind": "sparse", "threshold": 0.1, "derived": [], "more": 1},
        {"kind": "sparse"},
        "sparse",
        [],
        0,
    ],
    ids=str,
)
def test_a_reward_that_contradicts_the_rest_is_the_servers_fault(said):
    welcome = described(Reacher()).to_welcome(message_id=1, session="", server="", frame_size=0)
    welcome.metadata["goal_reward"] = said
    with pytest.raises(errors.RemoteProtocolError, match="metadata are malformed"):
        RobotSpec.from_welcome(welcome)


def test_metadata_without_a_word_on_it_are_malformed():
    welcome = described(Reacher()).to_welcome(message_id=1, session="", server="", frame_size=0)
    del welcome.metadata["goal_reward"]
    with pytest.raises(errors.RemoteProtocolError, match="goal_reward"):
        RobotSpec.from_welcome(welcome)


def test_a_robot_without_goals_cannot_have_a_reward_for_them():
    welcome = described(Counter()).to_welcome(message_id=1, session="", server="", frame_size=0)
    welcome.metadata["goal_reward"] = REWARD.describe()
    with pytest.raises(errors.RemoteProtocolError, match="'achieved_goal' is not there"):
        RobotSpec.from_welcome(welcome)
