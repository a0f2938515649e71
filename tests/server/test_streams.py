"""How old streams may get: declared, on the wire, in a file, and as a learner wishes."""

import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from sample_robots import Rig

from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env_server import CameraConfig, ProprioConfig
from remote_env_server.describe import describe_robot
from remote_env_server.streams import describe_streams, space_streams


@pytest.mark.parametrize(
    ("declared", "max_age"),
    [
        ({}, math.inf),
        ({"hz": 30}, 0.15),
        ({"hz": 100.0}, 0.08),
        ({"max_age": 0.5}, 0.5),
        ({"hz": 30, "max_age": 1}, 1.0),
        ({"hz": 30, "max_age": math.inf}, math.inf),
    ],
)
def test_a_stream_may_be_three_periods_and_50_ms_old_unless_its_author_says_else(declared, max_age):
    camera = CameraConfig("cam", 2, 2, has_depth=True, **declared)
    streams = describe_streams([camera], [ProprioConfig("q", 3, **declared)])
    assert {stream.name: stream.max_age for stream in streams} == {
        "q": pytest.approx(max_age),
        "cam/intrinsics": math.inf,
        "cam/extrinsics": math.inf,
        "cam/image": pytest.approx(max_age),
        "cam/depth": pytest.approx(max_age),
    }


@pytest.mark.parametrize(
    "make", [lambda **o: CameraConfig("s", 2, 2, **o), lambda **o: ProprioConfig("s", 2, **o)]
)
@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"max_age": 0.0}, "'s': max_age must be a positive number of seconds.*not 0.0"),
        ({"max_age": -1}, "max_age must be a positive"),
        ({"max_age": math.nan}, "max_age must be a positive.*not nan"),
        ({"max_age": "1 s"}, "max_age must be a positive.*not '1 s'"),
        ({"max_age": True}, "max_age must be a positive.*not True"),
        ({"hz": 30, "max_age": 0.033}, "'s': with a max_age of 0.033 s it is stale between"),
        ({"hz": -1.0}, "'s': hz must be 0, for no rate, or a positive number, not -1.0"),
        ({"hz": math.nan}, "hz must be 0"),
        ({"hz": math.inf}, "hz must be 0"),
    ],
)  # fmt: skip
def test_an_age_or_a_rate_that_makes_no_sense_is_refused(make, declared, message):
    with pytest.raises(ConfigurationError, match=message):
        make(**declared)


def test_the_leaves_of_an_observation_space_never_go_stale():
    space = spaces.Dict({"a": spaces.Box(0, 1, (2,)), "b": spaces.Discrete(3)})
    assert [stream.max_age for stream in space_streams(space)] == [math.inf, math.inf]


def test_in_lockstep_no_stream_has_an_age():
    realtime = describe_robot(Rig(), Mode.REALTIME, {})
    lockstep = describe_robot(Rig(), Mode.LOCKSTEP, {})
    assert realtime.stream("cam/image").max_age == pytest.approx(0.08)
    assert {stream.max_age for stream in lockstep.streams} == {math.inf}


@pytest.fixture
def spec():
    return describe_robot(Rig(), Mode.REALTIME, {})


def test_ages_survive_the_way_over_the_wire_and_into_a_file(spec, tmp_path):
    spec.save(tmp_path / "spec")
    assert RobotSpec.load(tmp_path / "spec").streams == spec.streams


@pytest.mark.parametrize(
    "change",
    [{"max_age": 7.0}, {"hz": 7.0}, {"on_request": True}],
    ids=str,
)
def test_delivery_does_not_decide_whether_a_policy_can_be_used(spec, change):
    changed = tuple(replace(s, **change) for s in spec.streams)
    assert replace(spec, streams=changed).hash() == spec.hash()


@pytest.mark.parametrize(
    "change",
    [
        lambda s: [*s[1:], s[0]],
        lambda s: s[:-1],
        lambda s: [replace(s[0], kind=StreamKind.EXTRINSICS), *s[1:]],
        lambda s: [replace(s[0], camera="other"), *s[1:]],
        lambda s: [replace(s[0], unit="furlong"), *s[1:]],
        lambda s: [
            replace(s[0], space=spaces.Box(-7, 7, s[0].space.shape, s[0].space.dtype)),
            *s[1:],
        ],
        lambda s: [replace(s[0], array=replace(s[0].array, dtype=np.dtype("<u2"))), *s[1:]],
        lambda s: [replace(s[0], array=replace(s[0].array, shape=(7,))), *s[1:]],
        lambda s: [replace(s[0], array=replace(s[0].array, name="other")), *s[1:]],
    ],
    ids=["order", "number", "kind", "camera", "unit", "bounds", "dtype", "shape", "name"],
)
def test_what_the_arrays_are_decides_whether_a_policy_can_be_used(spec, change):
    changed = tuple(change(list(spec.streams)))
    assert replace(spec, streams=changed).hash() != spec.hash()


@pytest.mark.parametrize("max_age", [0.0, -1.0, math.nan, "1 s", True, None])
def test_a_server_that_sends_nonsense_as_an_age_is_refused(spec, max_age):
    welcome = spec.to_welcome(message_id=1, session="s", server="s", frame_size=0)
    welcome.metadata["streams"][0]["max_age"] = max_age
    with pytest.raises(RemoteProtocolError, match="max_age"):
        RobotSpec.from_welcome(welcome)


def test_a_learner_may_wish_for_other_ages(spec):
    declared = spec.max_ages()
    wished = spec.max_ages({"cam/image": np.float32(0.5), "joint_pos": math.inf})
    assert declared == {s.name: s.max_age for s in spec.streams}
    assert wished == {**declared, "cam/image": 0.5, "joint_pos": math.inf}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"cam": 1.0}, "Rig has no stream 'cam'; it offers 'joint_pos'"),
        ({"cam/extrinsics": 1.0}, "max_age of 'cam/extrinsics': extrinsics never goes stale"),
        ({"cam/image": 0.0}, "max_age of 'cam/image' must be positive, not 0.0; give seconds"),
        ({"cam/image": math.nan}, "must be positive, not nan"),
        ({"cam/image": "soon"}, "max_age of 'cam/image' is 'soon', not a number; give seconds"),
    ],
)
def test_a_wish_that_makes_no_sense_is_refused(spec, asked, message):
    with pytest.raises(ConfigurationError, match=message):
        spec.max_ages(asked)
