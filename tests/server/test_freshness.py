"""Which streams are stale and why, told with times that the tests make up; and once for real."""

import math
import threading
import time

import numpy as np
import pytest
from sample_robots import Rig

from remote_env.spec import Mode
from remote_env_server import CameraConfig, ProprioConfig
from remote_env_server.buffers import Field
from remote_env_server.describe import describe_robot
from remote_env_server.freshness import FreshnessJudge, Stale, StaleCause
from remote_env_server.sensors import failed_threads
from remote_env_server.streams import describe_streams

CAM = "cam/image"
MAX_AGE = 3 / 30 + 0.05  # of a camera at 30 Hz


def published(*captures, may_repeat=False):
    """Return what a stream holds after ``(content, stamp, monotonic)``, one after the other."""
    field = Field(np.zeros(4, np.uint8))
    for content, stamp, now in captures:
        array = np.full(4, content, np.uint8)
        field = field.followed_by(array, stamp, now=now, may_repeat=may_repeat)
    return field


def judged(field, *, now, monotonic=None, **options):
    judge = FreshnessJudge(describe_streams([CameraConfig("cam", 2, 2, hz=30)], []))
    monotonic = now if monotonic is None else monotonic
    return judge.judge({CAM: field}, [CAM], now=now, monotonic=monotonic, **options)


def test_a_stream_within_its_age_is_fresh():
    assert judged(published((1, 10.0, 10.0)), now=10.0 + MAX_AGE - 0.001) == ()


def test_a_stream_that_stops_is_silent():
    (stale,) = judged(published((1, 10.0, 10.0)), now=10.2)
    assert (stale.name, stale.cause, stale.max_age) == (CAM, StaleCause.SILENT, MAX_AGE)
    assert stale.age == pytest.approx(0.2)


def test_a_stream_that_came_with_some_delay_and_stops_is_silent_not_late():
    (stale,) = judged(published((1, 9.9, 10.0)), now=10.06)
    assert stale.cause is StaleCause.SILENT
    assert stale.age == pytest.approx(0.16)


def test_a_stream_that_never_delivered_is_silent_for_ever():
    assert judged(published(), now=10.0) == (Stale(CAM, math.inf, MAX_AGE, StaleCause.SILENT),)


def test_a_silent_stream_whose_thread_ended_by_an_exception_has_failed():
    field = published((1, 10.0, 10.0))
    assert field.thread == threading.get_ident()
    (stale,) = judged(field, now=11.0, failed_threads={field.thread})
    assert stale.cause is StaleCause.FAILED
    assert judged(field, now=10.1, failed_threads={field.thread}) == ()


def test_the_same_content_for_too_long_is_frozen_although_stamps_are_fresh():
    field = published((1, 10.0, 10.0), (1, 10.1, 10.1), (1, 10.2, 10.2))
    (stale,) = judged(field, now=10.2)
    assert stale.cause is StaleCause.FROZEN
    assert stale.age == pytest.approx(0.2)


def test_a_repetition_within_the_age_is_fresh_and_a_change_ends_it():
    repeated = [(1, 10.0, 10.0), (1, 10.1, 10.1)]
    assert judged(published(*repeated), now=10.14) == ()
    assert judged(published(*repeated, (1, 10.2, 10.2)), now=10.2) != ()
    assert judged(published(*repeated, (1, 10.2, 10.2), (2, 10.3, 10.3)), now=10.3) == ()


def test_a_stream_that_may_repeat_is_never_frozen():
    field = published((1, 10.0, 10.0), (1, 10.2, 10.2), may_repeat=True)
    assert judged(field, now=10.2) == ()


def test_stamps_that_stand_still_are_a_clock():
    field = published((1, 10.0, 10.0), (2, 10.0, 10.1), (3, 10.0, 10.16))
    (stale,) = judged(field, now=10.16)
    assert stale.cause is StaleCause.CLOCK
    assert stale.age == pytest.approx(0.16)


def test_a_robot_whose_whole_clock_stands_still_is_found_out():
    field = published((1, 10.0, 50.0), (2, 10.0, 50.1), (3, 10.0, 50.2))
    (stale,) = judged(field, now=10.0, monotonic=50.2)
    assert stale.cause is StaleCause.CLOCK


def test_a_stream_that_stops_together_with_the_robots_clock_is_silent():
    (stale,) = judged(published((1, 10.0, 50.0)), now=10.0, monotonic=50.2)
    assert stale.cause is StaleCause.SILENT
    assert stale.age == pytest.approx(0.2)


@pytest.mark.parametrize("stamps", [(9.9, 9.8, 9.7), (5.0, 5.1, 5.2)], ids=["always", "once"])
def test_stamps_that_went_back_are_a_clock(stamps):
    captures = [(2 + n, stamp, 10.1 + n / 10) for n, stamp in enumerate(stamps)]
    (stale,) = judged(published((1, 10.0, 10.0), *captures), now=10.3)
    assert stale.cause is StaleCause.CLOCK


@pytest.mark.parametrize("stamp", [1e9, math.inf, 10.06])
def test_a_stamp_in_the_future_is_a_clock(stamp):
    (stale,) = judged(published((1, stamp, 10.0)), now=10.0)
    assert (stale.cause, stale.age) == (StaleCause.CLOCK, 10.0 - stamp)


def test_a_stamp_that_is_a_little_in_the_future_is_fresh():
    assert judged(published((1, 10.04, 10.0)), now=10.0) == ()


def test_a_stamp_that_is_no_number_is_a_clock():
    (stale,) = judged(published((1, math.nan, 10.0)), now=10.0)
    assert stale.cause is StaleCause.CLOCK


@pytest.mark.parametrize("stamp", [1e9, math.inf, math.nan])
def test_one_bad_stamp_does_not_spoil_the_stream_for_ever(stamp):
    field = published((1, stamp, 10.0), (2, 10.1, 10.1), (3, 10.2, 10.2))
    assert judged(field, now=10.3) == ()


def test_a_dead_stream_does_not_become_young_when_the_clock_reaches_its_stamp():
    (stale,) = judged(published((1, 1000.0, 10.0)), now=1000.0)
    assert stale.cause is StaleCause.SILENT
    assert stale.age == pytest.approx(990.0)


def test_captures_that_come_too_late_are_late():
    field = published((1, 9.5, 10.0), (2, 9.6, 10.1))
    (stale,) = judged(field, now=10.1)
    assert stale.cause is StaleCause.LATE
    assert stale.age == pytest.approx(0.5)


def test_a_learner_may_want_it_fresher_or_not_care():
    field = published((1, 10.0, 10.0))
    assert judged(field, now=10.1) == ()
    assert judged(field, now=10.1, max_ages={CAM: 0.05}) != ()
    assert judged(field, now=99.0, max_ages={CAM: math.inf}) == ()


def test_only_the_streams_that_are_asked_for_are_judged_in_their_order():
    judge = FreshnessJudge(describe_streams([], [ProprioConfig(n, 4, hz=30) for n in "abc"]))
    fields = {name: published((1, 10.0, 10.0)) for name in "abc"}
    stale = judge.judge(fields, ["c", "a"], now=11.0, monotonic=11.0)
    assert [s.name for s in stale] == ["c", "a"]


@pytest.mark.parametrize(
    "field", [published((1, 10.0, 10.0)), published((1, 1e9, 10.0)), published()]
)
def test_a_stream_without_a_rate_and_calibration_never_go_stale(field):
    streams = describe_streams(
        [CameraConfig("cam", 2, 2, hz=30, intrinsics=np.eye(3))], [ProprioConfig("q", 4)]
    )
    names = ["cam/intrinsics", "cam/extrinsics", "q"]
    fields = dict.fromkeys(names, field)
    assert FreshnessJudge(streams).judge(fields, names, now=1e6, monotonic=1e6) == ()


def test_what_a_robots_own_code_made_is_judged_by_its_stamp_alone():
    assert judged(Field(np.zeros(4), 10.0, 1), now=10.1) == ()
    (stale,) = judged(Field(np.zeros(4), 10.0, 1), now=10.2)
    assert stale.cause is StaleCause.LATE


@pytest.mark.parametrize(
    ("field", "now", "text"),
    [
        (published((1, 10.0, 10.0)), 10.2, "has not delivered for 0.2 s; look at its cable"),
        (published(), 10.0, "has never delivered; look at its cable and its thread"),
        (
            published((1, 10.0, 10.0), (1, 10.2, 10.2)),
            10.2,
            "the same content for 0.2 s; restart its device, or declare may_repeat=True",
        ),
        (published((1, 1e9, 10.0)), 10.0, "stamps that lie 1e+09 s in the future; stamps must be"),
        (published((1, math.nan, 10.0)), 10.0, "has a stamp that is not a number"),
        (published((1, 1.0, 1.0), (2, 1.0, 1.2)), 1.2, "have not advanced for 0.2 s; stamps must"),
        (published((1, 9.5, 10.0)), 10.0, "measured 0.5 s before; stamp it on the clock of now"),
    ],
)
def test_what_is_said_names_the_stream_the_fault_and_the_remedy(field, now, text):
    (stale,) = judged(field, now=now)
    assert str(stale).startswith("'cam/image' ")
    assert str(stale).endswith("(max_age 0.15 s)")
    assert text in str(stale)


def test_a_failed_thread_is_said_to_have_failed():
    field = published((1, 10.0, 10.0))
    (stale,) = judged(field, now=11.0, failed_threads={field.thread})
    assert "its thread failed, the robot's log has the traceback" in str(stale)


# For real: sensor threads, buffers, snapshots


class Faulty(Rig):
    """Goes on as it should until something is done to it before each publication."""

    def __init__(self):
        super().__init__()
        self.fault = lambda robot: None
        self.is_released = threading.Event()

    def read_camera(self):
        image = np.random.default_rng().integers(0, 256, (24, 32, 3), np.uint8)
        self.newest = {"image": image, "depth": image[..., 0].astype(np.float32)}
        self.fault(self)
        self.update_camera("cam", **self.newest)


def freeze(robot):
    robot.newest = {"image": np.ones((24, 32, 3), np.uint8), "depth": np.ones((24, 32))}


def stop_the_clock(robot):
    robot.newest["stamp"] = 1.0


def fail(robot):
    raise OSError("the cable is out")


def hang(robot):
    robot.is_released.wait(60)


@pytest.fixture
def faulty():
    robot = Faulty()
    robot.open()
    yield robot
    robot.is_released.set()
    robot.stop_sensors()


def until(condition, slowdown, timeout=10):
    deadline = time.monotonic() + timeout * slowdown
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    return found


@pytest.mark.realtime
@pytest.mark.parametrize(
    ("fault", "cause"),
    [
        (freeze, StaleCause.FROZEN),
        (stop_the_clock, StaleCause.CLOCK),
        (fail, StaleCause.FAILED),
        (hang, StaleCause.SILENT),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_real_sensor_that_goes_wrong_is_found_in_time(faulty, slowdown, fault, cause):
    spec = describe_robot(faulty, Mode.REALTIME, {})
    judge = FreshnessJudge(spec.streams)
    names = [CAM, "cam/depth", "joint_pos"]

    def stale():
        fields = faulty.make_obs().fields
        return judge.judge(
            fields,
            names,
            now=faulty.now(),
            monotonic=time.monotonic(),
            failed_threads=failed_threads(faulty.sensors),
        )

    until(lambda: not stale(), slowdown)
    faulty.fault = fault
    began = time.monotonic()
    # Of this cause: a busy machine may keep a sensor silent at any time.
    until(lambda: (CAM, cause) in [(s.name, s.cause) for s in stale()], slowdown)
    assert time.monotonic() - began < (0.08 + 0.01 + 0.4) * slowdown
