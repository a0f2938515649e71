"""Buffers: what is published is seen whole, and slots are re-used only when nobody looks."""

import itertools
import math
import sys
import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from remote_env.errors import ConfigurationError
from remote_env_server.buffers import CameraBuffer, ProprioBuffer, SlotPool
from remote_env_server.configs import CameraConfig, ProprioConfig
from remote_env_server.snapshot import take_snapshot

HEIGHT, WIDTH = 240, 320
SNAPSHOTS = 100_000
DISTINCT = 1_000


@pytest.fixture
def restless_threads():
    """Let threads take turns as often as Python can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def publish_whole(camera, image, depth, stamp):
    camera.publish({"image": image, "depth": depth, "extrinsics": np.full((4, 4), stamp)}, stamp)


def publish_in_parts(camera, image, depth, stamp):
    """As a driver with three locked updates does it: each is safe, the capture is not."""
    camera.publish({"image": image}, stamp)
    camera.publish({"depth": depth}, stamp)
    camera.publish({"extrinsics": np.full((4, 4), stamp)}, stamp)


def count_torn(publish, *, snapshots, distinct):
    """Take snapshots while a writer publishes at full speed; count those of two captures.

    Each capture is filled with its own number, and each pixel of a column of every picture
    is looked at, so that a slot that is written while it is read shows as well.
    """
    camera = CameraBuffer(CameraConfig("cam", HEIGHT, WIDTH, has_depth=True))
    stop = threading.Event()

    def write():
        number = 0
        image = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        depth = np.empty((HEIGHT, WIDTH), np.float32)
        while not stop.is_set():
            number += 1
            image.fill(number % 251)
            depth.fill(number)
            publish(camera, image, depth, float(number))

    writer = threading.Thread(target=write)
    writer.start()
    torn, seen, taken = 0, set(), 0
    try:
        while taken < snapshots or len(seen) < distinct:
            taken += 1
            snapshot = take_snapshot({"cam": camera}, {})
            depth = snapshot["cam/depth"]
            number = depth[0, 0]
            if number == 0:
                continue  # not every field was published yet
            seen.add(number)
            torn += not (
                (depth[:, 7] == number).all()
                and (snapshot["cam/image"][:, 7, 0] == number % 251).all()
                and snapshot["cam/extrinsics"][3, 3] == number
                and snapshot.fields["cam/image"].stamp == number
            )
    finally:
        stop.set()
        writer.join()
    return torn


def test_no_snapshot_is_torn_when_a_capture_is_published_at_once(restless_threads):
    assert count_torn(publish_whole, snapshots=SNAPSHOTS, distinct=DISTINCT) == 0


def test_the_same_test_finds_torn_snapshots_when_a_capture_comes_in_parts(restless_threads):
    assert count_torn(publish_in_parts, snapshots=2_000, distinct=200) > 0


def test_a_slot_is_not_reused_while_a_snapshot_refers_to_it():
    proprio = ProprioBuffer(ProprioConfig("q", 2))
    proprio.publish([1, 1], 1.0)
    kept = take_snapshot({}, {"q": proprio})
    for number in range(2, 20):
        proprio.publish([number, number], float(number))
    assert kept["q"].tolist() == [1, 1]
    assert take_snapshot({}, {"q": proprio})["q"].tolist() == [19, 19]


def test_a_slot_is_not_reused_while_a_view_of_it_lives():
    pool = SlotPool((4,), np.dtype(np.float32), size=1)
    slot = pool.take()
    view = memoryview(slot.reshape(2, 2))
    del slot
    assert not np.shares_memory(pool.take(), np.asarray(view))


def test_a_pool_does_not_grow_when_nobody_holds_on_to_anything():
    proprio = ProprioBuffer(ProprioConfig("q", 2))
    for number in range(1000):
        proprio.publish([number, number], float(number))
    assert len(proprio._pool) == 3


def test_what_a_snapshot_holds_cannot_be_written_to():
    proprio = ProprioBuffer(ProprioConfig("q", 2))
    proprio.publish([1, 1], 1.0)
    with pytest.raises(ValueError, match="read-only"):
        take_snapshot({}, {"q": proprio})["q"][0] = 5


def test_publishing_copies_so_a_driver_may_reuse_its_own_buffer():
    camera = CameraBuffer(CameraConfig("cam", 2, 2))
    image = np.full((2, 2, 3), 7, np.uint8)
    camera.publish({"image": image}, 1.0)
    image.fill(9)
    assert (camera.read().image.array == 7).all()


def test_a_camera_updated_in_parts_says_that_it_is_not_coherent():
    camera = CameraBuffer(CameraConfig("cam", 2, 2, has_depth=True))
    camera.publish({"image": np.zeros((2, 2, 3), np.uint8), "depth": np.zeros((2, 2))}, 1.0)
    assert camera.read().is_coherent
    camera.publish({"image": np.zeros((2, 2, 3), np.uint8)}, 2.0)
    assert not camera.read().is_coherent
    assert take_snapshot({"cam": camera}, {}).incoherent == ("cam",)


def test_each_field_keeps_its_own_stamp_and_sequence():
    camera = CameraBuffer(CameraConfig("cam", 2, 2, has_depth=True))
    camera.publish({"image": np.zeros((2, 2, 3), np.uint8)}, 1.0)
    camera.publish({"image": np.zeros((2, 2, 3), np.uint8)}, 2.0)
    camera.publish({"depth": np.zeros((2, 2), np.float32)}, 3.0)
    record = camera.read()
    assert (record.image.stamp, record.image.sequence) == (2.0, 2)
    assert (record.depth.stamp, record.depth.sequence) == (3.0, 1)
    assert record.extrinsics.sequence == 0


def test_a_grayscale_image_may_come_without_its_channel_axis():
    camera = CameraBuffer(CameraConfig("cam", 2, 2, channels=1))
    camera.publish({"image": np.full((2, 2), 5, np.uint8)}, 1.0)
    assert camera.read().image.array.shape == (2, 2, 1)


# What tells a live sensor from one that only seems so

SHAPE = (5, 7, 3)  # 105 bytes of image and 140 of depth: neither words nor bytes come out even


def capture(content, what):
    """Return one of four contents: they differ in one element, two of them by a bit of a NaN."""
    image = np.full(SHAPE, 7, np.uint8)
    image[-1, -1, -1] += content
    depth = np.full(SHAPE[:2], np.nan, np.float32)
    depth[3, content] = content
    return {key: {"image": image, "depth": depth}[key] for key in what}


PUBLICATION = st.tuples(
    st.integers(0, 3), st.sampled_from([("image",), ("depth",), ("image", "depth")])
)


@given(st.lists(PUBLICATION, min_size=1, max_size=30))
def test_changed_at_is_when_the_last_run_of_equal_contents_began(publications):
    camera = CameraBuffer(CameraConfig("cam", *SHAPE, has_depth=True))
    seen = {"image": [], "depth": []}
    for number, (content, what) in enumerate(publications):
        camera.publish(capture(content, what), float(number))
        fields = camera.read().fields()
        for key in what:
            seen[key].append((content, fields[key].arrived_at))
    fields = camera.read().fields()
    for key, captures in seen.items():
        runs = [list(run) for _, run in itertools.groupby(captures, key=lambda c: c[0])]
        expected = (runs[-1][0][1], len(runs[-1]) - 1) if runs else (math.inf, 0)
        assert (fields[key].changed_at, fields[key].repeats) == expected


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 3), (48, 64, 3), (33, 31, 1)])
@pytest.mark.parametrize("where", [0, 0.3, 0.5, 0.77, 1])
def test_one_byte_wherever_it_is_makes_another_picture(shape, where):
    camera = CameraBuffer(CameraConfig("cam", *shape))
    image = np.zeros(shape, np.uint8)
    camera.publish({"image": image}, 1.0)
    camera.publish({"image": image}, 2.0)
    assert camera.read().image.repeats == 1
    image.flat[round(where * (image.size - 1))] = 1
    camera.publish({"image": image}, 3.0)
    assert camera.read().image.repeats == 0


def test_the_first_publication_is_new_even_if_it_is_all_zeros():
    camera = CameraBuffer(CameraConfig("cam", 2, 2))
    camera.publish({"image": np.zeros((2, 2, 3), np.uint8)}, 1.0)
    image = camera.read().image
    assert (image.repeats, image.changed_at) == (0, image.arrived_at)


def test_calibration_and_cameras_that_may_repeat_are_not_compared():
    camera = CameraBuffer(CameraConfig("cam", 2, 2, may_repeat=True))
    strict = CameraBuffer(CameraConfig("cam", 2, 2))
    for stamp in (1.0, 2.0):
        camera.publish({"image": np.zeros((2, 2, 3), np.uint8)}, stamp)
        strict.publish({"extrinsics": np.eye(4)}, stamp)
    for field in (camera.read().image, strict.read().extrinsics):
        assert (field.repeats, field.changed_at) == (0, math.inf)


@pytest.mark.parametrize(("may_repeat", "repeats"), [(True, 0), (False, 2)])
def test_proprioception_is_compared_only_if_it_may_not_repeat(may_repeat, repeats):
    proprio = ProprioBuffer(ProprioConfig("q", 3, may_repeat=may_repeat))
    for stamp in (1.0, 2.0, 3.0):
        proprio.publish([1, 2, 3], stamp)
    assert proprio.read().repeats == repeats


def test_a_proprioception_stream_may_repeat_and_a_camera_may_not_unless_declared():
    assert ProprioConfig("q", 3).may_repeat
    assert not CameraConfig("cam", 2, 2).may_repeat


@pytest.mark.parametrize(
    ("stamps", "is_advanced"),
    [
        ((1.0, 2.0), True),
        ((1.0, 1.0), False),
        ((2.0, 1.0), False),
        ((2.0, 1.0, 1.5), True),
        ((1e9, 1.0, 1.1), True),
        ((math.nan, 1.0), True),
        ((math.inf, 1.0, 1.1), True),
    ],
)
def test_a_field_knows_when_its_stamp_last_advanced(stamps, is_advanced):
    proprio = ProprioBuffer(ProprioConfig("q", 1))
    for stamp in stamps:
        proprio.publish([stamp], stamp)
    field = proprio.read()
    assert (field.advanced_at == field.arrived_at) is is_advanced
    assert field.newest_stamp == max(stamp for stamp in stamps if not math.isnan(stamp))


@pytest.mark.parametrize("may_repeat", [True, False])
def test_no_publication_is_lost_when_threads_publish_the_same(restless_threads, may_repeat):
    camera = CameraBuffer(CameraConfig("cam", 2, 2, has_depth=True, may_repeat=may_repeat))
    proprio = ProprioBuffer(ProprioConfig("q", 1, may_repeat=may_repeat))

    def publish():
        for number in range(500):
            camera.publish({"image": np.ones((2, 2, 3), np.uint8)}, float(number))
            camera.publish({"depth": np.ones((2, 2)), "extrinsics": np.eye(4)}, float(number))
            proprio.publish([1.0], float(number))

    threads = [threading.Thread(target=publish) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    record = camera.read()
    fields = (record.image, record.depth, proprio.read())
    assert [field.sequence for field in (*fields, record.extrinsics)] == [1500] * 4
    assert [field.repeats for field in fields] == [0 if may_repeat else 1499] * 3


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": np.zeros((2, 3, 3), np.uint8)}, r"cam/image must have the shape \(2, 2, 3\)"),
        ({"image": np.zeros((2, 2, 3), np.float32)}, "cam/image must be uint8"),
        ({"depth": np.zeros((2, 2), np.float32)}, "declared without depth; set has_depth=True"),
    ],
)
def test_a_wrong_capture_is_refused_and_the_last_good_one_stays(arrays, message):
    camera = CameraBuffer(CameraConfig("cam", 2, 2))
    camera.publish({"image": np.ones((2, 2, 3), np.uint8)}, 1.0)
    with pytest.raises(ValueError, match=message):
        camera.publish(arrays, 2.0)
    assert (camera.read().image.array == 1).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CameraConfig("a.b", 2, 2), "dots"),
        (lambda: CameraConfig("", 2, 2), "needs a name"),
        (lambda: CameraConfig("cam", 0, 2), "height must be at least 1"),
        (lambda: CameraConfig("cam", 2, 2, intrinsics=np.eye(4)), r"intrinsics must be \(3, 3\)"),
        (lambda: CameraConfig("cam", 2, 2, image_dtype=object), "cannot have dtype object"),
        (lambda: ProprioConfig("keys", 2), "do not work as keys"),
        (lambda: ProprioConfig("q", 0), "size must be at least 1"),
        (lambda: ProprioConfig("q", 1, dtype="U3"), "cannot have dtype"),
    ],
)
def test_a_wrong_declaration_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()
