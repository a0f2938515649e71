"""The messages that the golden frames hold, for ``make.py`` and for ``test_golden.py``.

All but another robot's ``Welcome`` were written with the same agreement, that of the golden
``Welcome``: its ``action`` and its ``subscribed`` streams.
"""

import math
from dataclasses import replace
from typing import Final

import numpy as np
from gymnasium import spaces

from remote_env.goals import GoalReward
from remote_env.protocol import (
    ArraySpec,
    Bye,
    Cancel,
    EmergencyStop,
    EmergencyStopped,
    EndReason,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Layout,
    Layouts,
    Message,
    Observation,
    Observe,
    Observing,
    OnStale,
    Ping,
    Pong,
    Probe,
    Probed,
    Progress,
    Release,
    Released,
    ReleaseStop,
    Reset,
    ResetDone,
    Statistics,
    Step,
    StepDone,
    StopReleased,
    Subscribe,
    Subscribed,
)
from remote_env.spec import ActionLimit, Mode, OutOfBounds, RobotSpec, StreamKind, StreamSpec

__all__ = ["ENCODED_LAYOUTS", "GOAL_SPEC", "GOLDEN", "GOLDEN_ENCODED", "LAYOUTS", "SPEC"]

_HEIGHT, _WIDTH = 4, 6


def _stream(
    name: str,
    kind: StreamKind,
    space: spaces.Box,
    *,
    camera: str = "",
    unit: str = "",
    on_request: bool = False,
    hz: float = 0.0,
    max_age: float = math.inf,
) -> StreamSpec:
    array = ArraySpec(name, space.dtype, space.shape)
    return StreamSpec(array, kind, space, camera, unit, on_request, hz, max_age)


_JOINT_POS = spaces.Box(
    np.array([-np.pi, -1.5, -1.5], np.float32), np.array([np.pi, 1.5, 1.5], np.float32)
)
_JOINT_VEL = spaces.Box(-np.inf, np.inf, (3,), np.float32)
_INTRINSICS = spaces.Box(-np.inf, np.inf, (3, 3), np.float64)
_IMAGE = spaces.Box(0, 255, (_HEIGHT, _WIDTH, 3), np.uint8)
_DEPTH = spaces.Box(0.0, np.inf, (_HEIGHT, _WIDTH), np.float32)

SPEC: Final = RobotSpec(
    name="golden-arm",
    mode=Mode.REALTIME,
    observation_space=spaces.Dict(
        [("joint_pos", _JOINT_POS), ("joint_vel", _JOINT_VEL), ("wrist_cam/image", _IMAGE)]
    ),
    action_space=spaces.Dict(
        [
            ("target", spaces.Box(-1.0, 1.0, (3,), np.float32)),
            ("gripper", spaces.Discrete(2)),
        ]
    ),
    streams=(
        _stream(
            "joint_pos",
            StreamKind.PROPRIOCEPTION,
            _JOINT_POS,
            unit="rad",
            hz=500.0,
            max_age=0.056,
        ),
        _stream("joint_vel", StreamKind.PROPRIOCEPTION, _JOINT_VEL, unit="rad/s", hz=500.0),
        _stream(
            "wrist_cam/intrinsics",
            StreamKind.INTRINSICS,
            _INTRINSICS,
            camera="wrist_cam",
            unit="px",
            on_request=True,
        ),
        _stream(
            "wrist_cam/image", StreamKind.IMAGE, _IMAGE, camera="wrist_cam", hz=30.0, max_age=0.15
        ),
        _stream("wrist_cam/depth", StreamKind.DEPTH, _DEPTH, camera="wrist_cam", unit="m", hz=30.0),
    ),
    control_hz=20.0,
    max_episode_steps=200,
    out_of_bounds=OutOfBounds.CLIP,
    action_limits={
        "target": ActionLimit(
            max_rate=2.0, max_step=np.array([0.25, 0.25, np.inf]), measured="joint_pos"
        )
    },
    action_lifetime=0.25,
    seedable=False,
    reset_options={"home": "begin at the home position"},
    extra={"serial": "A-17", "gear_ratios": (100, 100, 50)},
)

_GOAL: Final = spaces.Box(-np.inf, np.inf, (3,), np.float64)

_GOALS: Final = ("achieved_goal", "desired_goal", "goal_difference")

# One whose learner may put other goals in place of those it missed.
GOAL_SPEC: Final = RobotSpec(
    name="golden-reacher",
    mode=Mode.LOCKSTEP,
    observation_space=spaces.Dict([(name, _GOAL) for name in _GOALS]),
    action_space=spaces.Box(-1.0, 1.0, (4,), np.float32),
    streams=tuple(_stream(name, StreamKind.OBSERVATION, _GOAL, unit="m") for name in _GOALS),
    control_hz=25.0,
    max_episode_steps=50,
    seedable=True,
    goal_reward=GoalReward("sparse", 0.05, derived=("goal_difference",)),
)

_WELCOME: Final = SPEC.to_welcome(
    message_id=1, session="golden-session", server="remote-env-server 0.1.0", frame_size=262144
)

LAYOUTS: Final = Layouts(
    action=Layout(_WELCOME.action),
    observation=Layout(_WELCOME.streams).subset(_WELCOME.subscribed),
)

_OBSERVATION: Final = (
    np.array([0.5, -0.25, 1.0], np.float32),
    np.array([0.0, -0.0, np.inf], np.float32),
    np.arange(_HEIGHT * _WIDTH * 3, dtype=np.uint8).reshape(_HEIGHT, _WIDTH, 3),
)

# What a client asked for in place of what the robot has.
_DERIVED: Final = (
    ArraySpec("wrist_cam/depth", np.dtype(np.float32), (1, 2), "depth16"),
    ArraySpec("wrist_cam/image", np.dtype(np.uint8), (1, 2, 1), "raw"),
)

# The name of a file is the number of the kind and what is special about the message.
GOLDEN: Final[dict[str, Message]] = {
    "01-hello": Hello(
        id=1,
        role="control",
        token="correct horse battery",
        owner="ada@lab (process 42)",
        process="lab/42/0123456789abcdef",
        client="golden 1",
        resume=None,
        asking=0,
    ),
    "01-hello-observer": Hello(
        id=1,
        role="observe",
        token=None,
        owner="Zoë 🤖",
        process="p",
        client="",
        resume=None,
        asking=0,
    ),
    "01-hello-resume": Hello(
        id=6,
        role="control",
        token="correct horse battery",
        owner="ada@lab (process 42)",
        process="lab/42/0123456789abcdef",
        client="golden 1",
        resume="golden-session",
        asking=5,
    ),
    "02-welcome": _WELCOME,
    "02-welcome-goal-reward": GOAL_SPEC.to_welcome(
        message_id=1,
        session="golden-session",
        server="remote-env-server 0.1.0",
        frame_size=262144,
    ),
    "02-welcome-resumed": replace(_WELCOME, id=6, resumed=True),
    "03-subscribe": Subscribe(
        id=2,
        streams=("wrist_cam/depth", "joint_pos"),
        max_ages={},
        on_stale=OnStale.TRUNCATE,
    ),
    "03-subscribe-max-ages": Subscribe(
        id=2,
        streams=("wrist_cam/depth", "joint_pos"),
        max_ages={"wrist_cam/depth": math.inf, "joint_pos": 1},
        on_stale=OnStale.RAISE,
        kept=("wrist_cam/depth",),
    ),
    "03-subscribe-requests": Subscribe(
        id=2,
        streams=("joint_pos", "wrist_cam/depth", "wrist_cam/image"),
        max_ages={},
        on_stale=OnStale.FLAG,
        kept=("wrist_cam/depth",),
        requests={
            "wrist_cam/depth": {"codec": "depth16", "every_n": 3, "max_rate": 12.5},
            "wrist_cam/image": {"crop": [1, 0, 2, 4], "size": [1, 2], "grayscale": True},
        },
    ),
    "04-subscribed": Subscribed(id=2, streams=("wrist_cam/depth", "joint_pos")),
    "04-subscribed-derived": Subscribed(
        id=2,
        streams=("joint_pos", "wrist_cam/depth", "wrist_cam/image"),
        derived=_DERIVED,
    ),
    "05-reset": Reset(id=3, seed=None, options=None, take=False, max_steps=None),
    "05-reset-options": Reset(
        id=2**40 + 1,
        seed=2**63 + 1,
        options={"home": True, "pose": np.array([[1.0, 2.0], [3.0, 4.0]]), "speed": 0.5},
        take=True,
        max_steps=500,
    ),
    "06-reset-done": ResetDone(
        id=3,
        episode=7,
        tick=1000,
        time=123.5,
        sequences=(501, 502, 33),
        stamps=(123.498, 123.499, 123.47),
        received=5120.5,
        sent=5122.0625,
        durations=(0.001, 1.5, 0.0605, 0.0005),
        info={},
        remote={"seed_applied": False},
        observation=_OBSERVATION,
    ),
    "07-step": Step(
        id=4,
        episode=7,
        step=1,
        tick=1000,
        dtypes=(),
        action=(np.array([0.25, -0.5, 1.0], np.float32), np.array(1, np.int64)),
    ),
    "07-step-dtypes": Step(
        id=5,
        episode=7,
        step=2,
        tick=1001,
        dtypes=("<f8", "<i8"),
        action=(np.array([0.1, -0.2, 0.3], np.float64), np.array(0, np.int64)),
    ),
    "08-step-done": StepDone(
        id=4,
        episode=7,
        step=1,
        tick=1001,
        time=123.55,
        reward=np.float32(0.125),
        terminated=False,
        truncated=False,
        end_reason=None,
        sequences=(526, 527, 34),
        stamps=(123.549, 123.549, 123.53),
        received=5122.125,
        sent=5122.15625,
        durations=(0.0001, 0.002, 0.028, 0.0015),
        info={
            "tuple": (1, -2, 3.5, "text", None, True, b"\x00\xff"),
            "scalar": np.int16(-300),
            "flag": np.bool_(True),
            "array": np.array([[1, 2, 3], [4, 5, 6]], np.int32),
            "zero_dimensional": np.array(2.5, np.float16),
            "by_number": {0: "front", -1: "rear", 2**33: "far"},
            "$escaped": {"$t": [1]},
            "list": [[], {}, ()],
            "large": [2**64 - 1, -(2**63)],
        },
        remote={"held": 0.0, "overruns": 0, "action_executed": {"gripper": 1}},
        observation=_OBSERVATION,
    ),
    "08-step-done-ended": StepDone(
        id=5,
        episode=7,
        step=2,
        tick=1002,
        time=123.6,
        reward=1,
        terminated=False,
        truncated=True,
        end_reason=EndReason.EMERGENCY_STOP,
        sequences=(),
        stamps=(),
        received=5122.1875,
        sent=5122.25,
        durations=(),
        info={"nothing": np.zeros((0, 3), np.float64)},
        remote={},
        observation=_OBSERVATION,
    ),
    "08-step-done-unchanged": StepDone(
        id=6,
        episode=7,
        step=3,
        tick=1003,
        time=123.65,
        reward=0.5,
        terminated=False,
        truncated=False,
        end_reason=None,
        sequences=(527, 527, 34),
        stamps=(123.649, 123.549, 123.53),
        received=5122.25,
        sent=5122.28125,
        durations=(0.0001, 0.002, 0.028, 0.0015),
        info={},
        remote={},
        unchanged=(1, 2),
        observation=_OBSERVATION[:1],
    ),
    "09-release": Release(id=6),
    "10-released": Released(id=6),
    "11-ping": Ping(id=7),
    "12-pong": Pong(id=7, time=124.0),
    "13-heartbeat": Heartbeat(),
    "14-error": Error(
        id=8,
        code="robot.lease.taken",
        message="the robot is commanded by ada@lab (process 42)",
        retryable=True,
    ),
    "14-error-of-connection": Error(
        id=0, code="protocol.remote", message="the header is not a map", retryable=False
    ),
    "15-bye": Bye(reason="closed by the learner"),
    "16-cancel": Cancel(request=3),
    "17-progress": Progress(id=3, fraction=0.25, text="homing joint 2 of 6"),
    "17-progress-unknown": Progress(id=3, fraction=math.nan, text=""),
    "18-emergency-stop": EmergencyStop(id=9, reason="a hand in the cell"),
    "19-emergency-stopped": EmergencyStopped(id=9),
    "20-release-stop": ReleaseStop(id=10),
    "21-stop-released": StopReleased(id=10, was_pressed=True),
    "22-get-statistics": GetStatistics(id=11),
    "23-statistics": Statistics(
        id=11,
        values={
            "connections": 2,
            "lease": {"owner": "ada@lab (process 42)", "epoch": 3, "sequence": 141},
            "emergency_stop": None,
        },
    ),
    "24-observe": Observe(id=2, hz=12.5),
    "24-observe-int": Observe(id=2, hz=30),
    "25-observing": Observing(id=2),
    "26-observation": Observation(
        episode=7,
        step=41,
        time=125.5,
        sent=5124.0625,
        dropped=3,
        sequences=(1501, 1502, 0),
        stamps=(125.498, 125.499, -math.inf),
        remote={},
        observation=_OBSERVATION,
    ),
    "27-probe": Probe(id=12, size=4),
    "28-probed": Probed(id=12, padding=bytes(4)),
}

# Of a client that asked for depth as depth16: a row of unknown, two of 1 m, one of 2.5 m.
ENCODED_LAYOUTS: Final = Layouts(
    action=LAYOUTS.action,
    observation=Layout(
        [
            _WELCOME.streams[0],
            ArraySpec("wrist_cam/depth", np.dtype(np.float32), (_HEIGHT, _WIDTH), "depth16"),
            _WELCOME.streams[1],
        ]
    ),
)
_DEPTH16: Final = "11000100 17e80100 11c40100 01170027 00030100 60090909 090909"

GOLDEN_ENCODED: Final[dict[str, Message]] = {
    "08-step-done-encoded": StepDone(
        id=7,
        episode=7,
        step=4,
        tick=1004,
        time=123.7,
        reward=0.5,
        terminated=False,
        truncated=False,
        end_reason=None,
        sequences=(528, 35, 528),
        stamps=(123.699, 123.69, 123.699),
        received=5122.3125,
        sent=5122.34375,
        durations=(),
        info={},
        remote={},
        observation=(
            _OBSERVATION[0],
            np.frombuffer(bytes.fromhex(_DEPTH16), np.uint8),
            _OBSERVATION[1],
        ),
    ),
}
