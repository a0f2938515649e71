"""Limits as an author declares them, as the wire carries them, and as people see them."""

import numpy as np
import pytest
from gymnasium import spaces
from sample_robots import Counter, Rig

from remote_env import ActionLimit, RobotSpec, errors
from remote_env.cli import main
from remote_env_server import Mode, OutOfBounds, RobotServer
from remote_env_server.describe import describe_robot

LIMIT = ActionLimit(max_rate=[1.0, 2.0, np.inf], max_step=0.25, measured="joint_pos")
STRUCTURED = spaces.Dict(
    {
        "arm": spaces.Box(-1.0, 1.0, (3,), np.float32),
        "grip": spaces.Discrete(2),
        "dial": spaces.Box(0, 9, (3,), np.int64),
    }
)


def rig(limits, **attributes):
    """Return a robot with limits; its three joints are measured by ``joint_pos``."""
    robot = Rig()
    robot.action_limits = limits
    for name, value in attributes.items():
        setattr(robot, name, value)
    return robot


def described(robot, mode=Mode.REALTIME):
    return describe_robot(robot, mode, None)


def exactly(limits):
    return {
        name: (np.array(limit.max_rate).tolist(), np.array(limit.max_step).tolist(), limit.measured)
        for name, limit in limits.items()
    }


@pytest.mark.parametrize(
    ("robot", "leaf"),
    [
        (rig(LIMIT), "action"),
        (rig({"action": LIMIT}), "action"),
        (rig({"arm": LIMIT}, action_space=STRUCTURED), "arm"),
    ],
    ids=["one", "mapping", "structured"],
)
def test_limits_stand_in_the_spec_by_the_name_of_the_leaf(robot, leaf):
    assert exactly(described(robot).action_limits) == {
        leaf: ([1.0, 2.0, np.inf], 0.25, "joint_pos")
    }


def test_a_robot_has_no_limits_unless_it_declares_some():
    assert described(Rig()).action_limits == {}


def test_limits_survive_a_file_and_do_not_change_the_hash(tmp_path):
    robot = rig({"arm": LIMIT}, action_space=STRUCTURED)
    spec = described(robot)
    spec.save(tmp_path / "spec")
    robot.action_limits = None

    loaded = RobotSpec.load(tmp_path / "spec")
    assert exactly(loaded.action_limits) == exactly(spec.action_limits)
    assert loaded.hash() == described(robot).hash()


def test_a_learner_knows_the_limits(serve, connect):
    spec = connect(serve(rig(LIMIT)).url).spec_of_robot
    assert exactly(spec.action_limits) == exactly({"action": LIMIT})


def test_info_shows_the_limits_in_one_line(serve, capsys):
    both = {"arm": LIMIT, "lift": ActionLimit(max_rate=0.5)}
    space = spaces.Dict({**STRUCTURED.spaces, "lift": spaces.Box(0.0, 1.0, ())})
    assert main(["info", serve(rig(both, action_space=space)).url]) == 0
    assert (
        "limits       arm 1 to inf per second and 0.25 from joint_pos; lift 0.5 per second\n"
        in capsys.readouterr().out
    )


def test_info_has_no_line_for_limits_that_are_not_there(serve, capsys):
    assert main(["info", serve(Rig()).url]) == 0
    assert "limits" not in capsys.readouterr().out


STEP = ActionLimit(max_step=0.25, measured="joint_pos")


@pytest.mark.parametrize(
    ("robot", "message"),
    [
        (rig(2.0), "Rig: action_limits must be an ActionLimit, or map the names of leaves"),
        (rig({"action": 2.0}), "Rig: action_limits must be an ActionLimit, or map"),
        (rig({"arm": STEP}), "Rig: action_limits has 'arm', which is no leaf .* limits: 'action'"),
        (rig(STEP, action_space=STRUCTURED), "'action', which .* limits: 'arm', 'dial', 'grip'"),
        (rig({"grip": STEP}, action_space=STRUCTURED), "'grip'.: only a Box of floats can"),
        (rig({"dial": STEP}, action_space=STRUCTURED), "'dial'.: only a Box of floats can"),
        (rig(STEP, out_of_bounds=OutOfBounds.PASS), "do nothing with out_of_bounds='pass'"),
        (rig(ActionLimit(max_rate=[1.0, 2.0])), r"max_rate has the shape \(2,\); .* \(3,\)"),
        (rig(ActionLimit(max_rate=np.ones((1, 3)))), r"max_rate has the shape \(1, 3\)"),
        (rig(ActionLimit(max_step=[1.0], measured="joint_pos")), r"max_step has the shape \(1,\)"),
        (
            rig(ActionLimit(max_step=1.0, measured="joint_vel")),
            "'action'.*measured: Rig has no stream 'joint_vel'; it offers 'joint_pos', ",
        ),
        (
            rig(ActionLimit(max_rate=1.0, measured="cam/depth")),
            r"measured is 'cam/depth', which has the shape \(24, 32\); .* in the shape \(3,\)",
        ),
    ],
)
def test_limits_that_make_no_sense_are_found_at_start(robot, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        RobotServer(robot, port=0).start()


def test_a_rate_needs_a_robot_that_knows_time():
    robot = Counter()
    robot.control_hz = 0
    robot.action_limits = ActionLimit(max_rate=1.0)
    with pytest.raises(errors.ConfigurationError, match="is per second; declare control_hz"):
        described(robot, Mode.LOCKSTEP)
    robot.action_limits = ActionLimit(max_step=1.0, measured="sum")
    assert described(robot, Mode.LOCKSTEP).action_limits


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "needs max_rate, or max_step and measured"),
        ({"measured": "joint_pos"}, "needs max_rate, or max_step and measured"),
        ({"max_step": 1.0}, 'max_step needs measured: .* measured="joint_pos"'),
        ({"max_rate": -1.0}, "max_rate must be 0 or more, not -1.0"),
        ({"max_rate": [1.0, np.nan]}, r"max_rate must be 0 or more, not \[1.0, nan\]"),
        ({"max_step": -np.inf, "measured": "joint_pos"}, "max_step must be 0 or more, not -inf"),
        ({"max_rate": "fast"}, "max_rate must be numbers, not 'fast'"),
        ({"max_rate": [[1.0], [2.0, 3.0]]}, "max_rate must be numbers"),
        ({"max_rate": 1.0, "measured": None}, "measured must be the name of a stream, not None"),
    ],
)
def test_a_limit_that_makes_no_sense_by_itself_is_refused(arguments, message):
    with pytest.raises(errors.ConfigurationError, match=message):
        ActionLimit(**arguments)


def test_a_limit_stays_as_it_was_declared():
    rates = np.ones(3)
    limit = ActionLimit(max_rate=rates)
    rates[:] = 99.0
    assert limit.max_rate.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ValueError, match="read-only"):
        limit.max_rate[0] = 99.0


@pytest.mark.parametrize(
    "said",
    [
        {"nowhere": {"max_rate": 1.0, "max_step": None, "measured": ""}},
        {"action": {"max_rate": -1.0, "max_step": None, "measured": ""}},
        {"action": {"max_rate": 1.0, "max_step": None, "measured": "", "more": 1}},
        {"action": {"max_rate": 1.0, "max_step": None, "measured": "nowhere"}},
        {"action": 1.0},
        [],
    ],
    ids=str,
)
def test_limits_that_contradict_the_rest_are_the_servers_fault(said):
    spec = described(Rig())
    welcome = spec.to_welcome(message_id=1, session="", server="", frame_size=0)
    welcome.metadata["action_limits"] = said
    with pytest.raises(errors.RemoteProtocolError, match="metadata are malformed"):
        RobotSpec.from_welcome(welcome)
