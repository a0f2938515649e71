"""What may be asked of a stream, and what the stream then is: pure, and the same on both sides."""

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
from gymnasium import spaces
from hypothesis import event, given
from hypothesis import strategies as st

from remote_env import StreamRequest
from remote_env.agreeing import read_requests
from remote_env.codec_choice import check_codecs, choose_codecs, measure_bandwidth
from remote_env.errors import ConfigurationError
from remote_env.protocol import OnStale, Subscribe
from remote_env.requesting import Wishes, derived_arrays, requested, resolve
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env.stream_requests import read_request
from remote_env_server import CameraConfig, ProprioConfig
from remote_env_server.logs import wait_for_logs
from remote_env_server.streams import describe_streams, observation_space_of
from remote_env_server.views import derive
from tests.protocol.strategies import values

CAMERAS = [
    CameraConfig("cam", 480, 640, has_depth=True, hz=30.0, max_depth=4.9995),
    CameraConfig("mono", 100, 100, channels=1, hz=10.0),
    CameraConfig("hyper", 64, 64, channels=5),
    CameraConfig("thermal", 64, 64, channels=1, image_dtype=np.uint16),
    CameraConfig("tof", 64, 64, has_depth=True, depth_dtype=np.uint16),
]
STREAMS = describe_streams(CAMERAS, [ProprioConfig("joints", 6, low=-1, high=1, hz=500.0)])
SPEC = RobotSpec(
    "tester",
    Mode.REALTIME,
    observation_space_of(STREAMS),
    spaces.Box(-1, 1, (2,)),
    STREAMS,
    control_hz=50.0,
)
ALL = ("codec.jpeg", "codec.depth16")


def ask(**requests):
    return requested(SPEC, {k.replace("_", "/"): StreamRequest(**v) for k, v in requests.items()})


# What may be asked


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"size": 84}, "size must be"),
        ({"size": (84,)}, "size must be"),
        ({"size": (0, 84)}, "size must be"),
        ({"size": (84.0, 84)}, "size must be"),
        ({"size": (True, 84)}, "size must be"),
        ({"crop": (0, 0, 10)}, "crop must be"),
        ({"crop": (-1, 0, 10, 10)}, "crop must be"),
        ({"crop": (0, 0, 10, 0)}, "crop must be"),
        ({"crop": (0, 0, 10, 1 << 20)}, "crop must be"),
        ({"grayscale": 1}, "grayscale must be"),
        ({"codec": "png"}, "codec must be one of 'raw', 'jpeg', 'depth16', 'auto'"),
        ({"codec": ["jpeg"]}, "codec must be"),
        ({"codec": np.array(["jpeg", "raw"])}, "codec must be"),
        ({"quality": 0}, "quality must be"),
        ({"quality": 101}, "quality must be"),
        ({"quality": 85.0}, "quality must be"),
        ({"every_n": 0}, "every_n must be"),
        ({"every_n": 1.5}, "every_n must be"),
        ({"max_rate": 0.0}, "max_rate must be"),
        ({"max_rate": 1e-300}, "max_rate must be"),
        ({"max_rate": math.inf}, "max_rate must be"),
        ({"max_rate": math.nan}, "max_rate must be"),
        ({"max_rate": True}, "max_rate must be"),
    ],
)
def test_nonsense_is_refused_by_name(wrong, says):
    with pytest.raises(ConfigurationError, match=says):
        StreamRequest(**wrong)
    with pytest.raises(ConfigurationError):
        read_request(wrong)


REQUESTS = [
    StreamRequest(),
    StreamRequest(size=(84, 96), crop=(1, 2, 300, 400), grayscale=True, codec="jpeg", quality=50),
    StreamRequest(codec="raw", max_rate=12.5, every_n=3),
]


@pytest.mark.parametrize("request_", REQUESTS)
def test_a_request_survives_the_wire(request_):
    assert read_request(request_.to_wire()) == request_


def test_what_is_not_asked_has_no_bytes():
    assert StreamRequest().to_wire() == {}
    assert StreamRequest(size=[3, 4]).to_wire() == {"size": [3, 4]}


@pytest.mark.parametrize("raw", [None, [], "jpeg", {"colour": 1}, {"codec": "auto"}])
def test_what_is_no_request_is_refused(raw):
    with pytest.raises(ConfigurationError):
        read_request(raw)


# What it then is


def test_nothing_asked_is_the_robot_as_it_is():
    assert requested(SPEC, {}) is SPEC


def test_a_smaller_picture_has_a_smaller_space_and_so_has_its_depth():
    spec = ask(cam_image={"size": (84, 96)})
    assert spec.stream("cam/image").space == spaces.Box(0, 255, (84, 96, 3), np.uint8)
    assert spec.stream("cam/depth").space.shape == (84, 96)
    assert spec.observation_space["cam/image"] == spec.stream("cam/image").space
    assert spec.observation_space["cam/depth"].shape == (84, 96)
    assert spec.observation_space["joints"] == SPEC.observation_space["joints"]
    assert spec.stream("mono/image") is SPEC.stream("mono/image")
    assert SPEC.stream("cam/image").array.shape == (480, 640, 3)


def test_depth_decides_for_its_picture_too():
    spec = ask(cam_depth={"crop": (10, 20, 100, 200)})
    assert spec.stream("cam/image").array.shape == (100, 200, 3)
    assert spec.stream("cam/intrinsics").request.crop == (10, 20, 100, 200)


def test_a_grey_picture_has_one_channel():
    spec = ask(cam_image={"grayscale": True})
    assert spec.stream("cam/image").space == spaces.Box(0, 255, (480, 640, 1), np.uint8)
    assert spec.stream("cam/depth").request == StreamRequest()


def test_one_channel_is_grey_already():
    assert ask(mono_image={"grayscale": True}).stream("mono/image").array.shape == (100, 100, 1)


def test_what_asks_for_what_is_there_changes_nothing():
    spec = ask(cam_image={"size": (480, 640), "crop": (0, 0, 480, 640), "codec": "raw"})
    assert spec.stream("cam/image") == SPEC.stream("cam/image")
    assert derived_arrays(spec, ["cam/image", "cam/depth"]) == ()


def test_bounds_of_depth_follow_the_codec():
    space = ask(cam_depth={"codec": "depth16"}).stream("cam/depth").space
    assert space == spaces.Box(0, 5.0, (480, 640), np.float32)  # 4.9995 m is rounded up
    space = ask(tof_depth={"codec": "depth16"}).stream("tof/depth").space
    assert space == SPEC.stream("tof/depth").space


def test_rates_tell_how_often_a_stream_comes():
    assert ask(cam_image={"every_n": 3}).stream("cam/image").hz == 10.0
    assert ask(cam_image={"max_rate": 12.5}).stream("cam/image").hz == 12.5
    assert ask(cam_image={"max_rate": 50.0}).stream("cam/image").hz == 30.0
    assert ask(joints={"every_n": 5}).stream("joints").hz == 100.0


def test_streams_that_are_asked_for_less_often_are_kept():
    spec = ask(joints={"every_n": 5}, hyper_image={"max_rate": 1.0})
    assert spec.worth_keeping(["joints", "hyper/image"], 50.0) == ("joints", "hyper/image")


def test_both_sides_say_the_same_arrays():
    spec = ask(cam_depth={"codec": "depth16", "size": (48, 64)}, joints={"every_n": 2})
    names = ["joints", "cam/depth", "cam/intrinsics", "cam/image"]
    assert [(a.name, a.shape, a.codec) for a in derived_arrays(spec, names)] == [
        ("cam/depth", (48, 64), "depth16"),
        ("cam/image", (48, 64, 3), "raw"),
    ]


def test_without_spaces_all_else_is_the_same():
    requests = {"cam/image": StreamRequest(size=(84, 84), codec="jpeg")}
    with_spaces = requested(SPEC, requests)
    without = requested(SPEC, requests, has_spaces=False)
    for one, other in zip(with_spaces.streams, without.streams, strict=True):
        assert replace(one, space=other.space) == other


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"nothing": {"every_n": 2}}, "no stream 'nothing'"),
        ({"joints": {"size": (3, 4)}}, "only pictures and depth"),
        ({"cam_intrinsics": {"size": (3, 4)}}, "only pictures and depth"),
        ({"cam_extrinsics": {"every_n": 2}}, "no captures of its own"),
        ({"cam_image": {"size": (481, 84)}}, "nothing is enlarged"),
        ({"cam_image": {"crop": (0, 0, 10, 10), "size": (11, 10)}}, "nothing is enlarged"),
        ({"cam_image": {"crop": (400, 0, 81, 10)}}, "reaches beyond its 480 rows and 640 columns"),
        ({"cam_image": {"crop": (0, 600, 10, 41)}}, "reaches beyond"),
        ({"cam_image": {"size": (9, 9)}, "cam_depth": {"size": (8, 8)}}, "belong to one camera"),
        ({"cam_depth": {"codec": "jpeg"}}, "cannot be 'jpeg'"),
        ({"cam_image": {"codec": "depth16"}}, "cannot be 'depth16'"),
        ({"thermal_image": {"codec": "jpeg"}}, "cannot be 'jpeg'"),
        ({"hyper_image": {"codec": "jpeg"}}, "cannot be 'jpeg'"),
        ({"hyper_image": {"grayscale": True}}, "3 channels"),
        ({"cam_depth": {"grayscale": True}}, "3 channels"),
        ({"cam_image": {"codec": "auto"}}, "name one"),
    ],
)
def test_what_a_stream_cannot_be_is_refused_by_name(wrong, says):
    with pytest.raises(ConfigurationError, match=says):
        ask(**wrong)


# What a user says of all cameras


def test_shorthands_are_for_every_camera_that_is_observed():
    wishes = Wishes(["joints", "cam/image", "cam/depth"], (84, 84), True, ["jpeg", "depth16"], 70)
    found = resolve(SPEC, wishes)
    assert found == {
        "cam/image": StreamRequest((84, 84), grayscale=True, codec="jpeg", quality=70),
        "cam/depth": StreamRequest((84, 84), codec="depth16", quality=70),
    }


def test_what_is_said_of_one_stream_counts_more():
    streams = {"cam/image": StreamRequest(size=(48, 64), codec="raw"), "mono/image": None}
    found = resolve(SPEC, Wishes(streams, image_size=(84, 84), codec="jpeg"))
    assert found["cam/image"] == StreamRequest(size=(48, 64), codec="raw")
    assert found["mono/image"] == StreamRequest(size=(84, 84), codec="jpeg")


def test_a_mapping_chooses_the_streams_in_its_order():
    wishes = Wishes({"mono/image": None, "joints": StreamRequest(every_n=2)})
    assert wishes.names == ("mono/image", "joints")
    assert resolve(SPEC, wishes) == {"joints": StreamRequest(every_n=2)}


def test_nothing_said_is_nothing_asked():
    assert resolve(SPEC, Wishes()) == {}
    assert Wishes().names is None


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"streams": ["joints"], "image_size": (8, 8)}, "image_size is for cameras"),
        ({"streams": ["joints", "cam/depth"], "grayscale": True}, "grayscale is for pictures"),
        ({"streams": ["cam/depth"], "codec": "jpeg"}, "nothing that is observed can be that"),
        ({"streams": ["joints"], "codec": ["depth16"]}, "nothing that is observed can be that"),
        ({"streams": ["nothing"]}, "no stream 'nothing'"),
        ({"streams": "cam/image"}, "must be a list of names"),
        ({"streams": {"cam/image": (84, 84)}}, "must be a StreamRequest or None"),
        ({"codec": "png"}, "codec must be one of"),
        ({"image_size": 84}, "size must be"),
        ({"quality": 200}, "quality must be"),
    ],
)
def test_what_makes_no_sense_for_all_is_refused(wishes, says):
    with pytest.raises(ConfigurationError, match=says):
        resolve(SPEC, Wishes(**wishes))


# Codecs of two sides


def test_a_codec_that_the_robot_lacks_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"robot's side cannot encode.*\[image\]"):
        check_codecs({"cam/image": StreamRequest(codec="jpeg")}, ["codec.depth16"])
    check_codecs({"cam/image": StreamRequest(codec="jpeg")}, ALL)
    check_codecs({"cam/image": StreamRequest(size=(8, 8))}, [])


AUTO = {
    "cam/image": StreamRequest(codec="auto"),
    "cam/depth": StreamRequest(codec="auto"),
    "thermal/image": StreamRequest(codec="auto"),
    "mono/image": StreamRequest(codec="raw"),
}
RAW_RATE = 30.0 * (480 * 640 * 7) + 50.0 * 64 * 64 * 2


def choose(bandwidth, *, url="ws://10.0.0.7:8765", capabilities=ALL, requests=AUTO):
    def measure():
        measured.append(url)
        return bandwidth

    measured = []
    chosen = choose_codecs(
        SPEC, requests, hz=50.0, url=url, capabilities=capabilities, bandwidth=measure
    )
    return [chosen[name].codec for name in requests], measured


def test_auto_is_raw_where_that_is_carried_easily():
    assert choose(2.01 * RAW_RATE)[0] == ["raw"] * 4


def test_auto_is_encoded_where_it_is_not():
    assert choose(1.99 * RAW_RATE)[0] == ["jpeg", "depth16", "raw", "raw"]


def test_what_was_chosen_is_said(caplog):
    with caplog.at_level(logging.INFO):
        choose(1e6)
    wait_for_logs()
    assert "cam/image jpeg, cam/depth depth16, thermal/image raw" in caplog.text


@pytest.mark.parametrize(
    "url", ["ws://127.0.0.1:1", "ws://localhost:1", "ws://[::1]:1", "ws://127.8.9.1", "inproc://a"]
)
def test_auto_is_raw_on_this_machine_and_nothing_is_measured(url):
    assert choose(0.0, url=url) == (["raw"] * 4, [])


def test_auto_without_the_other_side_is_raw_and_says_so(caplog):
    assert choose(1e6, capabilities=["codec.depth16"])[0] == ["raw", "depth16", "raw", "raw"]
    wait_for_logs()
    assert "one side lacks" in caplog.text


def test_nothing_is_measured_for_those_who_decided():
    assert choose(0.0, requests={"cam/image": StreamRequest(codec="jpeg")}) == (["jpeg"], [])


def test_smaller_and_rarer_streams_need_less():
    small = {"cam/image": StreamRequest(codec="auto", size=(48, 64), every_n=3)}
    assert choose(2.01 * 48 * 64 * 3 * 10, requests=small)[0] == ["raw"]
    assert choose(1.99 * 48 * 64 * 3 * 10, requests=small)[0] == ["jpeg"]


def line(bytes_per_second, *, trips=0.01):
    """A line, and what was sent over it."""
    sizes = []

    def probe(size):
        sizes.append(size)
        return trips + size / bytes_per_second

    return probe, sizes


def test_the_bandwidth_is_measured_without_the_round_trip():
    probe, sizes = line(100e6)
    assert measure_bandwidth(probe) == pytest.approx(100e6)
    assert sum(sizes) < 1 << 20


def test_a_slow_line_is_not_measured_for_long():
    probe, sizes = line(200e3)
    assert measure_bandwidth(probe) == pytest.approx(200e3)
    assert sum(sizes) == 16 << 10


def test_one_answer_that_came_late_does_not_count():
    late = iter([0.0] * 6 + [0.02, 0.0, 0.0])
    probe, _ = line(100e6)
    assert measure_bandwidth(lambda size: probe(size) + next(late)) == pytest.approx(100e6)


def test_what_takes_no_time_is_infinitely_quick():
    assert measure_bandwidth(lambda size: 0.001) == math.inf


def test_kinds_that_cannot_be_paced_are_those_without_captures():
    assert {s.kind for s in STREAMS} == set(StreamKind) - {StreamKind.OBSERVATION}


# Whatever a peer says

PIXELS = st.integers(1, 100)
SENSIBLE = st.builds(
    StreamRequest,
    size=st.none() | st.tuples(PIXELS, PIXELS),
    crop=st.none() | st.tuples(PIXELS, PIXELS, PIXELS, PIXELS),
    grayscale=st.booleans(),
    codec=st.sampled_from(["raw", "jpeg", "depth16", None]),
    quality=st.none() | st.integers(1, 100),
    max_rate=st.none() | st.floats(0.1, 1000),
    every_n=st.integers(1, 9),
).map(StreamRequest.to_wire)
ANYTHING = st.fixed_dictionaries(
    {},
    optional={
        "size": st.none() | st.lists(st.integers(-1, 700), max_size=3),
        "crop": st.none() | st.lists(st.integers(-1, 700), max_size=5),
        "grayscale": st.booleans() | st.none(),
        "codec": st.sampled_from(["raw", "jpeg", "depth16", "auto", "png", None, 1, []]),
        "quality": st.none() | st.integers(-1, 200) | st.floats(),
        "max_rate": st.none() | st.floats() | st.integers(-1, 2**63),
        "every_n": st.integers(-1, 2**63) | st.floats(),
    },
)
NAMES = st.sampled_from([s.name for s in STREAMS])
WISHES = st.dictionaries(NAMES, SENSIBLE, max_size=2) | st.dictionaries(
    NAMES | st.text(max_size=5), ANYTHING | values, max_size=3
)


@given(WISHES)
def test_any_requests_are_understood_or_refused_and_never_grow_a_stream(wishes):
    wish = Subscribe(
        2,
        streams=tuple(s.name for s in STREAMS),
        max_ages={},
        on_stale=OnStale.FLAG,
        requests=wishes,
    )
    try:
        spec = read_requests(SPEC, wish)
    except ConfigurationError:
        event("refused")
        return
    event("understood")
    for stream, before in zip(spec.streams, SPEC.streams, strict=True):
        assert 0 < stream.array.nbytes <= before.array.nbytes
        assert stream.array.dtype == before.array.dtype
        if stream.kind in (StreamKind.IMAGE, StreamKind.DEPTH, StreamKind.INTRINSICS):
            array = np.ones(before.array.shape, before.array.dtype)
            made = derive(array, stream.kind, stream.request) if stream.request.changes else array
            if stream.array.codec == "raw":
                assert made.shape == stream.array.shape
                assert made.dtype == stream.array.dtype
            else:
                assert 0 < made.nbytes <= stream.array.most_encoded
