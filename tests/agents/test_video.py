"""Videos are what they should be, frame by frame."""

import sys

import numpy as np
import pytest
from reaching import Reach, straight_to_the_goal

from remote_env import ConfigurationError
from remote_env_agents import EpisodeKey, VideoWriter, record_episodes

av = pytest.importorskip("av", reason="needs the extra [video]")


def frames_of(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


@pytest.mark.parametrize(("height", "width"), [(48, 64), (47, 63)])
def test_a_video_has_the_pictures_that_were_added(tmp_path, height, width):
    path = tmp_path / "new" / "colours.mp4"
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200)]
    with VideoWriter(path, 10) as video:
        for colour in colours:
            video.add(np.full((height, width, 3), colour, np.uint8))
        video.add(np.full((height, width, 3), 90, np.uint8), times=4)
    frames = frames_of(path)
    assert video.frames == len(frames) == 7
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    for frame, colour in zip(frames, [*colours, (90, 90, 90)], strict=False):
        np.testing.assert_allclose(frame.mean(axis=(0, 1)), colour, atol=8)
        np.testing.assert_allclose(frame[-1, -1], colour, atol=20)


def test_a_video_can_be_shown_while_it_is_loaded(tmp_path):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(np.zeros((32, 32, 3), np.uint8), times=3)
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((8, 4, 3), np.uint8)]
)
def test_another_picture_is_refused(tmp_path, picture):
    with VideoWriter(tmp_path / "a.mp4", 10) as video:
        video.add(np.zeros((4, 4, 3), np.uint8))
        with pytest.raises(ValueError, match="a picture"):
            video.add(picture)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'remote-robot-env\[video\]'"):
        VideoWriter(tmp_path / "a.mp4", 10)


def test_a_place_that_cannot_be_written_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot write the video"):
        VideoWriter(tmp_path / "file" / "a.mp4", 10)
    (tmp_path / "folder.mp4").mkdir()
    with pytest.raises(ConfigurationError, match="cannot write the video"):
        VideoWriter(tmp_path / "folder.mp4", 10)


def test_a_policy_is_filmed_with_both_cameras_side_by_side_and_a_caption(serve, tmp_path):
    path = tmp_path / "reach.mp4"
    url = serve(Reach()).url
    film = record_episodes(path, straight_to_the_goal, url, seeds=[1, EpisodeKey(2)])
    frames = frames_of(path)
    # One for each observation, and 0.7 s at 20 Hz that the last one stays.
    assert film.frames == len(frames) == 2 * (1 + 10 + 14)
    assert frames[0].shape == (158, 376, 3)  # 33x94 four times as large, and 26 of caption
    np.testing.assert_allclose(frames[0][:130, :180].mean(), 200, atol=6)
    np.testing.assert_allclose(frames[0][:130, 196:].mean(), 100, atol=6)
    captions = [frame[134:] for frame in frames]
    assert all(caption.max() > 120 and np.median(caption) < 50 for caption in captions)
    assert np.abs(captions[0].astype(int) - captions[10]).max() > 60


def test_a_film_that_breaks_off_leaves_the_one_that_was_there(serve, tmp_path):
    path = tmp_path / "reach.mp4"
    url = serve(Reach()).url
    record_episodes(path, straight_to_the_goal, url, seeds=[1])
    before = path.read_bytes()

    def interrupt(episode, step):
        if episode == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_episodes(path, straight_to_the_goal, url, seeds=[1, 2], on_step=interrupt)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_in_the_way_of_a_film_is_refused_before_anything_moves(serve, tmp_path):
    robot = Reach()
    with pytest.raises(ConfigurationError, match="cannot write the video"):
        record_episodes(tmp_path, straight_to_the_goal, serve(robot).url, seeds=[1])
    assert robot.seeds == []


def test_one_camera_can_be_chosen(serve, tmp_path):
    path = tmp_path / "reach.mp4"
    record_episodes(
        path, straight_to_the_goal, serve(Reach()).url, seeds=[1], cameras=["side/image"]
    )
    assert frames_of(path)[0].shape == (258, 330, 3)  # seven times as large, made even


def test_a_camera_that_is_not_there_is_refused(serve, tmp_path):
    with pytest.raises(ConfigurationError, match="no camera stream 'x'; it has top/image, side/im"):
        record_episodes(
            tmp_path / "a.mp4", straight_to_the_goal, serve(Reach()).url, seeds=[1], cameras=["x"]
        )
