"""Which captures a client gets, and in which form; by itself, with captures made by hand."""

import threading

import numpy as np
import pytest
from gymnasium import spaces
from looking_robots import HEIGHT, WIDTH, K, capture

from remote_env import StreamRequest
from remote_env.pixels import grey, intrinsics_of, nearest, shrink
from remote_env.protocol.arrays import ArraySpec
from remote_env.protocol.compressing import decode_array
from remote_env.requesting import requested
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env_server import CameraConfig, ProprioConfig
from remote_env_server.buffers import CameraBuffer, Field
from remote_env_server.logs import wait_for_logs
from remote_env_server.streams import describe_streams, observation_space_of
from remote_env_server.views import View, derive

CAMERA = CameraConfig("cam", HEIGHT, WIDTH, has_depth=True, hz=30.0)
STREAMS = describe_streams([CAMERA], [ProprioConfig("joints", 2)])
SPEC = RobotSpec(
    "tester", Mode.REALTIME, observation_space_of(STREAMS), spaces.Box(-1, 1), STREAMS, 50.0
)
ALL = ("joints", "cam/image", "cam/depth", "cam/intrinsics", "cam/extrinsics")


def view_of(streams=ALL, **requests):
    named = {name.replace("_", "/"): StreamRequest(**given) for name, given in requests.items()}
    return View(streams, requested(SPEC, named, has_spaces=False))


class Camera:
    """Captures, one after the other, as ``take_snapshot`` returns them."""

    def __init__(self):
        self.buffer = CameraBuffer(CAMERA)
        self.count = 0
        self.joints = Field(np.zeros(2, np.float32))

    def shoot(self, stamp=None):
        self.count += 1
        self.buffer.publish(capture(self.count), self.count / 30 if stamp is None else stamp)
        return self.fields()

    def fields(self):
        record = self.buffer.read()
        return {"joints": self.joints} | {f"cam/{k}": f for k, f in record.fields().items()}


@pytest.fixture
def camera():
    return Camera()


# How often


def seen(view, fields, name="cam/image"):
    return view.choose(fields)[view.streams.index(name)].sequence


def test_who_asks_for_nothing_gets_the_newest(camera):
    view = View(ALL)
    for number in range(1, 5):
        fields = camera.shoot()
        assert view.choose(fields) == [fields[name] for name in ALL]
        assert view.arrays_of(view.choose(fields))[1] is fields["cam/image"].array
        assert seen(view, fields) == number


def test_every_third_capture_counted_from_the_first(camera):
    view = view_of(cam_image={"every_n": 3})
    assert [seen(view, camera.shoot()) for _ in range(8)] == [1, 1, 1, 4, 4, 4, 7, 7]


def test_captures_that_nobody_looked_at_count_too(camera):
    view = view_of(cam_image={"every_n": 3})
    camera.shoot()
    assert seen(view, camera.fields()) == 1
    for _ in range(4):
        camera.shoot()
    assert seen(view, camera.fields()) == 5
    assert [seen(view, camera.shoot()) for _ in range(3)] == [5, 5, 8]


def test_looking_twice_changes_nothing(camera):
    view = view_of(cam_image={"every_n": 2})
    fields = camera.shoot()
    assert [seen(view, fields) for _ in range(4)] == [1] * 4


def test_who_begins_anew_gets_the_newest(camera):
    view = view_of(cam_image={"every_n": 3})
    assert [seen(view, camera.shoot()) for _ in range(2)] == [1, 1]
    view.forget()
    assert [seen(view, camera.shoot()) for _ in range(4)] == [3, 3, 3, 6]


@pytest.mark.parametrize(("rate", "expected"), [(10.0, 10), (12.0, 12), (7.5, 7.5), (100.0, 30)])
def test_a_rate_is_held_on_average_also_by_a_camera_that_jitters(camera, rate, expected):
    view = view_of(cam_image={"max_rate": rate})
    jitter = np.random.default_rng(0).uniform(-0.002, 0.002, 900)
    chosen = {
        seen(view, camera.shoot(stamp=number / 30 + late)) for number, late in enumerate(jitter)
    }
    assert len(chosen) == pytest.approx(30 * expected, abs=2)


def test_a_capture_that_comes_a_little_early_is_not_left_out(camera):
    view = view_of(cam_image={"max_rate": 10.0})
    jitter = np.random.default_rng(0).uniform(-0.002, 0.002, 300)
    chosen = {
        seen(view, camera.shoot(stamp=number / 30 + late)) for number, late in enumerate(jitter)
    }
    assert set(np.diff(sorted(chosen))) == {3}


def test_a_rate_is_exact_in_simulated_time(camera):
    view = view_of(cam_image={"max_rate": 10.0})
    numbers = [seen(view, camera.shoot(stamp=i * 0.05)) for i in range(9)]
    assert numbers == [1, 1, 3, 3, 5, 5, 7, 7, 9]


def test_after_a_pause_captures_do_not_come_in_a_burst(camera):
    view = view_of(cam_image={"max_rate": 10.0})
    stamps = [0.0, 5.0, 5.03, 5.06, 5.1]
    assert [seen(view, camera.shoot(stamp=s)) for s in stamps] == [1, 2, 2, 2, 5]


@pytest.mark.parametrize("stamp", [-1.0, np.nan, -np.inf])
def test_a_clock_that_goes_back_stops_nothing(camera, stamp):
    view = view_of(cam_image={"max_rate": 10.0})
    camera.shoot(stamp=100.0)
    seen(view, camera.fields())
    assert seen(view, camera.shoot(stamp=stamp)) == 2


def test_both_limits_count(camera):
    view = view_of(cam_image={"every_n": 2, "max_rate": 10.0})
    assert [seen(view, camera.shoot()) for _ in range(7)] == [1, 1, 1, 4, 4, 4, 7]
    view = view_of(cam_image={"every_n": 5, "max_rate": 10.0})
    assert [seen(view, camera.shoot()) for _ in range(6)] == [8, 8, 8, 8, 8, 13]


def test_the_stamp_is_that_of_the_capture_that_is_held(camera):
    view = view_of(cam_image={"every_n": 3})
    camera.shoot()
    first = view.choose(camera.fields())[1]
    held = view.choose(camera.shoot())[1]
    assert held.stamp == first.stamp == 1 / 30


def test_calibration_is_that_of_the_picture_which_the_client_has(camera):
    view = view_of(cam_image={"every_n": 3})
    for number in range(1, 8):
        _, image, depth, _, extrinsics = view.choose(camera.shoot())
        assert extrinsics.array[0, 3] == image.sequence
        assert depth.sequence == number


def test_without_a_picture_it_is_that_of_the_depth(camera):
    view = view_of(("cam/depth", "cam/extrinsics"), cam_depth={"every_n": 2})
    for _ in range(5):
        depth, extrinsics = view.choose(camera.shoot())
        assert extrinsics.array[0, 3] == depth.sequence


def test_a_picture_without_a_limit_leads_although_depth_has_one(camera):
    view = view_of(cam_depth={"every_n": 2})
    camera.shoot()
    view.choose(camera.fields())
    _, image, depth, _, extrinsics = view.choose(camera.shoot())
    assert (image.sequence, depth.sequence, extrinsics.array[0, 3]) == (2, 1, 2)


def test_a_stream_that_never_came_is_not_held(camera):
    view = view_of(cam_image={"every_n": 100})
    assert seen(view, camera.fields()) == 0
    assert seen(view, camera.shoot()) == 1


def test_proprioception_can_be_had_less_often():
    view = view_of(("joints",), joints={"every_n": 2})
    field = Field(np.zeros(2))
    found = []
    for number in range(4):
        array = np.full(2, number)
        array.flags.writeable = False
        field = field.followed_by(array, float(number), now=0.0)
        found.append(view.choose({"joints": field})[0].array[0])
    assert found == [0, 0, 2, 2]


def test_what_its_author_may_write_to_is_copied_before_it_is_held():
    view = view_of(("joints",), joints={"every_n": 2})
    array = np.zeros(2)
    field = Field(array, sequence=1)
    view.choose({"joints": field})
    array[:] = 9
    assert view.choose({"joints": field})[0].array.tolist() == [0, 0]


# In which form


def test_crop_then_size_then_grey_then_codec(camera):
    view = view_of(
        cam_image={"crop": (8, 4, 40, 48), "size": (20, 12), "grayscale": True, "codec": "jpeg"}
    )
    fields = camera.shoot()
    _, image, depth, intrinsics, extrinsics = view.arrays_of(view.choose(fields))
    raw = capture(1)
    part = raw["image"][8:48, 4:52]
    spec = ArraySpec("cam/image", np.dtype(np.uint8), (20, 12, 1), "jpeg")
    decoded = np.empty(spec.shape, spec.dtype)
    decode_array(spec, image, decoded)
    assert np.abs(decoded.astype(int) - grey(shrink(part, (20, 12)))).max() < 12
    assert (depth == nearest(raw["depth"][8:48, 4:52], (20, 12))).all()
    assert (intrinsics == intrinsics_of(K, (8, 4, 40, 48), (20, 12))).all()
    assert (extrinsics == raw["extrinsics"]).all()


@pytest.mark.parametrize(
    ("name", "request_"),
    [("cam_image", {"crop": (1, 2, 30, 40)}), ("cam_depth", {"size": (8, 8)})],
)
def test_a_form_is_contiguous_read_only_and_nobody_elses_memory(camera, name, request_):
    view = view_of(**{name: request_})
    fields = camera.shoot()
    arrays = view.arrays_of(view.choose(fields))
    for array in arrays[1:3]:
        assert array.flags.c_contiguous
        assert not array.flags.writeable
    assert not np.shares_memory(arrays[1], fields["cam/image"].array)


@pytest.fixture
def made(monkeypatch):
    """Which forms were made, and on which thread."""
    from remote_env_server import views

    calls = []

    def counted(array, kind, request):
        calls.append((kind, threading.get_ident()))
        return derive(array, kind, request)

    monkeypatch.setattr(views, "derive", counted)
    return calls


def test_who_wants_the_same_gets_the_very_same_array(camera, made):
    views = [view_of(cam_image={"codec": "jpeg", "every_n": n}) for n in (1, 2, 3)]
    fields = camera.shoot()
    arrays = [view.arrays_of(view.choose(fields))[1] for view in views]
    assert arrays[0] is arrays[1]
    assert arrays[0] is arrays[2]
    assert len(made) == 1


def test_who_wants_something_else_gets_something_else(camera, made):
    fields = camera.shoot()
    sizes = [
        view.arrays_of(view.choose(fields))[1].nbytes
        for view in (view_of(cam_image={"codec": "jpeg", "quality": q}) for q in (50, 90))
    ]
    assert sizes[0] < sizes[1]
    assert len(made) == 2


def test_a_form_that_is_wanted_is_made_where_the_capture_is_published(camera, made):
    view = camera.buffer.view = view_of(cam_image={"codec": "jpeg"})
    thread = threading.Thread(target=camera.shoot)
    thread.start()
    thread.join(5)
    view.arrays_of(view.choose(camera.fields()))
    assert [kind for kind, _ in made] == [StreamKind.IMAGE]
    assert made[0][1] != threading.get_ident()


def test_what_is_left_out_is_not_made(camera, made):
    view = camera.buffer.view = view_of(cam_image={"codec": "jpeg", "every_n": 3})
    for _ in range(9):
        view.arrays_of(view.choose(camera.shoot()))
    assert len(made) == 3


def test_who_leaves_is_prepared_nothing(camera, made):
    camera.buffer.view = view_of(cam_image={"codec": "jpeg"})
    camera.shoot()
    camera.buffer.view = None
    camera.shoot()
    assert len(made) == 1


def test_an_encoder_that_fails_leaves_the_camera_alone(camera, monkeypatch, caplog):
    from remote_env_server import views

    view = camera.buffer.view = view_of(cam_image={"codec": "jpeg"})
    with monkeypatch.context() as patched:
        patched.setattr(views, "derive", lambda *_: 1 / 0)
        fields = camera.shoot()
        with pytest.raises(ZeroDivisionError):
            view.arrays_of(view.choose(fields))
    assert fields["cam/image"].sequence == 1
    wait_for_logs()
    assert "could not be prepared" in caplog.text
    assert view.arrays_of(view.choose(fields))[1].dtype == np.uint8


def test_an_array_that_was_replaced_has_no_old_form(camera, made):
    from dataclasses import replace

    view = view_of(("cam/image",), cam_image={"grayscale": True})
    field = camera.shoot()["cam/image"]
    before = view.arrays_of([field])[0]
    edited = np.zeros_like(field.array)
    edited.flags.writeable = False
    after = view.arrays_of([replace(field, array=edited)])[0]
    assert before.any()
    assert not after.any()


def test_an_array_that_is_written_to_has_its_form_made_anew(made):
    view = view_of(("cam/image",), cam_image={"grayscale": True})
    field = Field(np.zeros((HEIGHT, WIDTH, 3), np.uint8), sequence=1)
    assert not view.arrays_of([field])[0].any()
    field.array[:] = 200
    assert (view.arrays_of([field])[0] == 200).all()
