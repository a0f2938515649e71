"""Videos: pictures into a file, and a policy on a robot as people see it."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.pictures import tile
from remote_env.spec import RobotSpec, StreamKind
from remote_env_agents.episodes import Policy, policy_for_episode
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.policies import as_policy
from remote_env_agents.robots import limit_for, look_at, make_env
from remote_env_agents.wrapping import wrap_for

__all__ = ["Film", "FilmedEpisode", "VideoWriter", "check_video", "record_episodes"]

_CAMERAS: Final = 2  # that are shown if none are named
_LEAST_WIDTH: Final = 320  # smaller pictures are magnified, or the caption is not readable
_LINGER: Final = 0.7  # the last picture of an episode stays, in seconds
_BAR: Final = 26  # height of the caption, in pixels
_BAR_COLOUR: Final = "#181b20"
_DEFAULT_FPS: Final = 30.0


class VideoWriter:
    """Writes pictures of one size into an MP4 file: H.264, as every browser plays it.

    A context manager. H.264 has even sizes only: a picture of odd height or width gets its last
    row or column twice.

    Attributes:
        frames: How many were added.

    Args:
        path: Of the file.
        fps: Pictures per second.

    Raises:
        ConfigurationError: If PyAV is not installed, or the file cannot be written.
    """

    def __init__(self, path: Path, fps: float) -> None:
        av = _import_av()
        if not 0 < fps <= 1000:
            raise ConfigurationError(f"fps must be above 0 and at most 1000, not {fps}")
        self.path = path
        self.frames = 0
        self.fps = Fraction(fps).limit_denominator(1000)
        self._make_frame: Callable[..., Any] = av.VideoFrame.from_ndarray
        self._stream: Any = None
        self._size = (0, 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("ab").close()  # PyAV would find out with the first picture, and name no file
            self._container: Any = av.open(
                str(path), "w", format="mp4", options={"movflags": "faststart"}
            )
        except OSError as error:
            raise ConfigurationError(f"cannot write the video {path}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def add(self, picture: NDArray[np.uint8], *, times: int = 1) -> None:
        """Add a picture.

        Args:
            picture: ``(height, width, 3)`` uint8 RGB, always of the same size.
            times: For how many frames it is shown.

        Raises:
            ValueError: If it is no such picture.
        """
        if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8:
            raise ValueError(
                f"a picture is (height, width, 3) uint8, not {picture.shape} {picture.dtype}"
            )
        size = picture.shape[:2]
        if self._stream is None:
            self._begin(size)
        if size != self._size:
            raise ValueError(f"a picture of {size} in a video of {self._size}")
        even = np.pad(picture, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
        for _ in range(times):
            frame = self._make_frame(np.ascontiguousarray(even), format="rgb24")
            self._container.mux(self._stream.encode(frame))
            self.frames += 1

    def _begin(self, size: tuple[int, ...]) -> None:
        self._stream = self._container.add_stream("libx264", rate=self.fps)
        self._size = (size[0], size[1])
        self._stream.height, self._stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
        self._stream.pix_fmt = "yuv420p"
        self._stream.options = {"crf": "20", "preset": "fast"}

    def close(self) -> None:
        """Finish the file. Idempotent."""
        if self._container is None:
            return
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))
        self._container.close()
        self._container = None


def check_video(path: Path, spec: RobotSpec, cameras: Sequence[str] = ()) -> None:
    """Check what can be checked before a robot is filmed. Writes nothing.

    Args:
        path: Of the file.
        spec: Of the robot.
        cameras: Image streams, by name; the first two if empty.

    Raises:
        ConfigurationError: If the robot has no such camera, PyAV is not installed, or the file
            can never be written.
    """
    _import_av()
    _cameras(spec, cameras)
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if path.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK):
        raise ConfigurationError(f"cannot write the video {path}; choose another file")


@dataclass(frozen=True, slots=True)
class FilmedEpisode:
    """What came of an episode on film.

    Attributes:
        key: What it was begun with.
        episode_return: Sum of rewards.
        length: In steps.
        is_success: What the robot said at the last step; None if it says nothing.
    """

    key: EpisodeKey
    episode_return: float
    length: int
    is_success: bool | None


@dataclass(frozen=True, slots=True)
class Film:
    """What ``record_episodes`` made.

    Attributes:
        path: Of the file.
        frames: How many it has.
        episodes: That are on it.
    """

    path: Path
    frames: int
    episodes: tuple[FilmedEpisode, ...]


def record_episodes(
    path: Path,
    policy: Any,
    url: str,
    *,
    seeds: Sequence[int | EpisodeKey],
    cameras: Sequence[str] = (),
    token: str | None = None,
    fps: float | None = None,
    on_step: Callable[[int, int], object] = lambda episode, step: None,
) -> Film:
    """Run a policy on a robot and film it, cameras side by side, with a caption. It moves.

    The film is there as a whole or not at all: one that breaks off leaves what was there.

    Args:
        path: Of the file, .mp4.
        policy: As for ``evaluate``.
        url: Of the robot.
        seeds: One for each episode; or the key of it, with options.
        cameras: Image streams, by name; the first two if empty.
        token: What the robot's server asks for, if it does.
        fps: Pictures per second; one for each step, as fast as the robot's own time, if None.
        on_step: Called after each step with the number of the episode, from 0, and of the step.

    Raises:
        ConfigurationError: If the robot has no such camera, PyAV is not installed, or the file
            cannot be written.
        RemoteEnvError: If the robot fails.
    """
    spec = look_at([url], token=token)
    check_video(path, spec, cameras)
    shown = _cameras(spec, cameras)
    acting = as_policy(policy, spec)
    wanted = getattr(acting, "streams", None)
    own = tuple(spec.observed if wanted is None else wanted)
    unpack = _unpacker(spec, wanted)
    streams = [*own, *(name for name in shown if name not in own)]
    rate = fps or spec.control_hz or _DEFAULT_FPS
    with _as_a_whole(path) as part, VideoWriter(part, rate) as video:
        robot = make_env(url, streams=streams, token=token, max_steps=limit_for(spec))
        eyes = _Eyes(robot, spec.space_of(wanted), unpack)
        env = wrap_for(acting, eyes)
        try:
            filmed = []
            for number, seed in enumerate(seeds):
                key = seed if isinstance(seed, EpisodeKey) else EpisodeKey(seed)
                camera = _Camera(video, shown, number, eyes)
                filmed.append(camera.shoot(env, policy_for_episode(acting, key.seed), key, on_step))
        finally:
            env.close()
    return Film(path, video.frames, tuple(filmed))


@contextlib.contextmanager
def _as_a_whole(path: Path) -> Iterator[Path]:
    """Give a file beside this one, which takes its place at the end or else is removed."""
    part = path.with_name(f"{path.name}.part")
    try:
        yield part
        try:
            os.replace(part, path)
        except OSError as error:
            raise ConfigurationError(f"cannot write the video {path}: {error.strerror}") from error
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


class _Eyes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A robot that shows a policy what it wants, and the film more.

    Attributes:
        seen: The newest observation, with all that is filmed.
    """

    def __init__(
        self,
        env: gymnasium.Env[Any, Any],
        space: spaces.Space[Any],
        unpack: Callable[[Mapping[str, Any]], Any],
    ) -> None:
        super().__init__(env)
        self.observation_space = space
        self.seen: Mapping[str, Any] = {}
        self._unpack = unpack

    def reset(self, **given: Any) -> tuple[Any, dict[str, Any]]:
        self.seen, info = self.env.reset(**given)
        return self._unpack(self.seen), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.seen, *rest = self.env.step(action)
        return self._unpack(self.seen), *rest


def _cameras(spec: RobotSpec, named: Sequence[str]) -> list[str]:
    images = [stream.name for stream in spec.streams if stream.kind is StreamKind.IMAGE]
    for name in named:
        if name not in images:
            raise ConfigurationError(
                f"{spec.name} has no camera stream {name!r}; it has {', '.join(images) or 'none'}"
            )
    if not images:
        reason = str(spec.extra.get("no_camera", ""))
        raise ConfigurationError(
            f"a video needs a camera, and {spec.name} offers none{f' ({reason})' if reason else ''}"
        )
    return list(named) or images[:_CAMERAS]


def _unpacker(spec: RobotSpec, wanted: Sequence[str] | None) -> Callable[[Mapping[str, Any]], Any]:
    """Return what makes the policy's observation of one that holds the pictures too."""
    if wanted is not None:
        names = tuple(wanted)
        return lambda seen: {name: seen[name] for name in names}
    own = spec.observation_space
    if not isinstance(own, (spaces.Dict, spaces.Tuple)):
        return lambda seen: seen[spec.observed[0]]
    if not isinstance(own, spaces.Dict) or tuple(own) != tuple(spec.observed):
        raise ConfigurationError(
            f"the observation of {spec.name} is nested; a policy to be filmed must say which "
            "streams it wants, in its attribute 'streams'"
        )
    return lambda seen: {name: seen[name] for name in own}


class _Camera:
    """Films one episode."""

    def __init__(
        self, video: VideoWriter, cameras: Sequence[str], number: int, eyes: _Eyes
    ) -> None:
        self._video = video
        self._cameras = cameras
        self._number = number
        self._eyes = eyes
        self._caption: _Caption | None = None

    def shoot(
        self,
        env: Any,
        policy: Policy,
        key: EpisodeKey,
        on_step: Callable[[int, int], object],
    ) -> FilmedEpisode:
        observation, info = env.reset(seed=key.seed, options=dict(key.options) or None)
        self._take(self._text(0, None))
        step, total, is_over, picture = 0, 0.0, False, None
        while not is_over:
            observation, reward, terminated, truncated, info = env.step(policy(observation))
            step, is_over = step + 1, terminated or truncated
            total += float(reward)
            if info["remote"].get("invalid_transition"):
                raise RemoteEnvError(
                    f"the episode on film was spoiled: {info['remote'].get('end_reason')}"
                )
            text = self._text(step, float(reward))
            if info.get("is_success"):
                text += "   success"
            picture = self._take(text)
            on_step(self._number, step)
        if picture is not None:
            self._video.add(picture, times=math.ceil(_LINGER * float(self._video.fps)))
        success = info.get("is_success")
        return FilmedEpisode(key, total, step, None if success is None else bool(success))

    def _text(self, step: int, reward: float | None) -> str:
        observation = self._eyes.seen
        text = f"episode {self._number + 1}   step {step:3d}"
        achieved, desired = observation.get("achieved_goal"), observation.get("desired_goal")
        if achieved is not None and desired is not None:
            distance = float(np.linalg.norm(np.asarray(achieved) - np.asarray(desired)))
            return f"{text}   distance {distance:.3f}"
        return text if reward is None else f"{text}   reward {reward:.3f}"

    def _take(self, text: str) -> NDArray[np.uint8]:
        picture = tile([self._eyes.seen[name] for name in self._cameras])
        factor = math.ceil(_LEAST_WIDTH / picture.shape[1])
        picture = picture.repeat(factor, axis=0).repeat(factor, axis=1)
        if self._caption is None:
            self._caption = _Caption(picture.shape[1])
        captioned = np.concatenate([picture, self._caption.draw(text)])
        self._video.add(captioned)
        return captioned


def _import_av() -> Any:
    try:
        import av
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "videos need PyAV: pip install 'remote-robot-env[video]'"
        ) from error
    return av


class _Caption:
    """A bar with a line of text, as wide as the picture."""

    def __init__(self, width: int) -> None:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        self._width = width
        figure = Figure(figsize=(width / 100, _BAR / 100), dpi=100)
        figure.patch.set_facecolor(_BAR_COLOUR)
        self._canvas: Any = FigureCanvasAgg(figure)
        self._line = figure.text(
            8 / width,
            0.5,
            "",
            color="#f2f4f7",
            va="center_baseline",
            size=min(9.5, width / 40),  # points of 1/72 inch; all of the text in 320 pixels
            family="monospace",
        )

    def draw(self, text: str) -> NDArray[np.uint8]:
        """Return the bar, ``(height, width, 3)`` uint8 RGB. Copies."""
        self._line.set_text(text)
        self._canvas.draw()
        drawn = np.asarray(self._canvas.buffer_rgba())[:_BAR, : self._width, :3]
        return np.ascontiguousarray(drawn)
