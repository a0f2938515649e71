"""The file of an evaluation: one line of JSON for what it is, and one for each episode.

A line is appended by one write and is on the disk before the episode counts, so a ``kill -9``
loses what was in flight and nothing else. What it may leave is a part of a line without an end,
which is cut off when somebody goes on. Only one process at a time may write; any may read.

::

    {"evaluation": {...}, "keys": [...]}       what it is, and of which episodes
    {"session": {"began": ..., "urls": [...]}}   each time that it is begun or gone on with
    {"episode": {...}, "at": 1.5}                done or spoiled, seconds after the session began
    {"robot": {...}, "at": 2.5}                  a robot was lost or returned
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from remote_env.errors import ConfigurationError
from remote_env_agents.about import About
from remote_env_agents.dispatch import RobotEvent
from remote_env_agents.episodes import Episode
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.step_times import StepTimes

__all__ = ["Recorded", "ResultsFile", "begun_before", "read_results", "say_number"]

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
_FIRST: Final = b'{"evaluation":'
_NEXT: Final = "give another folder or file, or delete this one"


@dataclass(frozen=True, slots=True)
class Recorded:
    """What stands in a file of results.

    Attributes:
        about: What was evaluated.
        keys: All episodes that are to be counted.
        episodes: Those that count, in the order in which they ended.
        spoiled: Those that do not.
        events: What happened to robots.
        robots: Urls of all sessions.
        sessions: How often it was begun or gone on with.
        seconds: Of all sessions; of one that was killed, until its last line.
    """

    about: About
    keys: tuple[EpisodeKey, ...]
    episodes: tuple[Episode, ...] = ()
    spoiled: tuple[Episode, ...] = ()
    events: tuple[RobotEvent, ...] = ()
    robots: tuple[str, ...] = ()
    sessions: int = 0
    seconds: float = 0.0

    @property
    def missing(self) -> tuple[EpisodeKey, ...]:
        """What was not done, in the order of the keys."""
        counted = {episode.key for episode in self.episodes}
        return tuple(key for key in self.keys if key not in counted)


def read_results(path: Path) -> Recorded | None:
    """Return what stands in a file of results; None if there is none, or nothing in it yet.

    A line that is being written is left out.

    Raises:
        ConfigurationError: If it cannot be read, or is something else.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from error
    return _parse(path, data)[0]


class ResultsFile:
    """A file of results that is written to. A context manager; see the top of this module.

    Attributes:
        earlier: What stood in it.

    Args:
        path: Of the file; made if it does not exist.
        about: What is evaluated.
        keys: All episodes.
        urls: Of the robots of this session.

    Raises:
        ConfigurationError: If it is of another evaluation, or something else; if another process
            writes to it; or if it cannot be written.
    """

    def __init__(
        self, path: Path, about: About, keys: Sequence[EpisodeKey], urls: Sequence[str]
    ) -> None:
        self._path = path
        self._began_at = time.monotonic()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(path, _FLAGS, 0o666)
        except OSError as error:
            raise ConfigurationError(f"cannot write {path}: {error.strerror}") from error
        try:
            _lock(self._fd, path)
            self.earlier = self._take_up(about, keys)
            self._append({"session": {"began": _now(), "urls": list(urls)}})
        except BaseException:
            os.close(self._fd)
            raise

    def _take_up(self, about: About, keys: Sequence[EpisodeKey]) -> Recorded:
        """Cut off what was not finished, and return what is there."""
        found, size = _parse(self._path, self._path.read_bytes())
        if found is not None and (differences := found.about.differences(about)):
            raise ConfigurationError(
                f"{self._path} is of another evaluation: {'; '.join(differences)}; {_NEXT}"
            )
        os.ftruncate(self._fd, size)
        if found is None:
            listed = [{"seed": key.seed, "options": key.options} for key in keys]
            self._append({"evaluation": about.to_json(), "keys": listed})
            _sync_folder(self._path.parent)
            return Recorded(about, tuple(keys))
        return found

    def add(self, episode: Episode) -> None:
        """Write down an episode; it is on the disk when this returns.

        Raises:
            ConfigurationError: If it cannot be written.
        """
        self._append({"episode": _say_episode(episode), "at": self.seconds})

    def note(self, event: RobotEvent) -> None:
        """Write down what happened to a robot.

        Raises:
            ConfigurationError: If it cannot be written.
        """
        self._append({"robot": dataclasses.asdict(event), "at": self.seconds})

    @property
    def seconds(self) -> float:
        """Since this session began."""
        return time.monotonic() - self._began_at

    def _append(self, record: dict[str, Any]) -> None:
        line = (json.dumps(record, separators=(",", ":"), allow_nan=False) + "\n").encode()
        try:
            written = os.write(self._fd, line)
            if written < len(line):  # the disk is full: what follows must begin a line
                os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
                raise OSError(0, "the disk is full")
            os.fsync(self._fd)
        except OSError as error:
            raise ConfigurationError(
                f"cannot write {self._path}: {error.strerror}; what is in it is good: make room, "
                "and go on with the same command"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._fd)  # and with it the lock


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _lock(fd: int, path: Path) -> None:
    """Keep others from writing; the system unlocks when this process ends, however it does."""
    if sys.platform == "win32":
        return  # which has no such lock
    import fcntl

    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        raise ConfigurationError(
            f"{path} is being written by another evaluation; wait for its end, or give another "
            "folder or file"
        ) from error


def _sync_folder(folder: Path) -> None:
    """Make the name of a new file last, as well as what is in it."""
    if sys.platform == "win32":
        return
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _parse(path: Path, data: bytes) -> tuple[Recorded | None, int]:
    """Return what stands in a file, and how many bytes of it are good.

    Raises:
        ConfigurationError: If it is no such file.
    """
    whole, _, rest = data.rpartition(b"\n")
    lines = whole.split(b"\n") if whole else []
    first = lines[0] if lines else rest
    if not first.startswith(_FIRST[: len(first)]):
        raise ConfigurationError(f"{path} is no file of results of an evaluation; {_NEXT}")
    if not lines:
        return None, 0
    size = len(whole) + 1
    try:
        header = json.loads(lines[0])
        keys = tuple(EpisodeKey(key["seed"], key["options"]) for key in header["keys"])
        reader = _Reader(About.from_json(header["evaluation"]), keys)
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"{path} was written by another version, or is damaged ({error!r}); {_NEXT}"
        ) from error
    for number, line in enumerate(lines[1:], start=2):
        if number == len(lines) and not _is_json(line):
            # The power failed: the length was written, the bytes were not.
            return reader.recorded(), size - len(line) - 1
        try:
            reader.read(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"line {number} of {path} is damaged: {error!r}") from error
    return reader.recorded(), size


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except ValueError:
        return False
    return True


class _Reader:
    """Puts together what the lines after the first one say."""

    def __init__(self, about: About, keys: tuple[EpisodeKey, ...]) -> None:
        self._about = about
        self._keys = keys
        self._known = set(keys)
        self._counted: set[EpisodeKey] = set()
        self._episodes: list[Episode] = []
        self._spoiled: list[Episode] = []
        self._events: list[RobotEvent] = []
        self._robots: dict[str, None] = {}
        self._until: list[float] = []

    def read(self, line: Any) -> None:
        if "session" in line:
            self._until.append(0.0)
            self._robots.update(dict.fromkeys(line["session"]["urls"]))
            return
        self._until[-1:] = [float(line["at"])]
        if "robot" in line:
            self._events.append(RobotEvent(**line["robot"]))
            return
        episode = _hear_episode(line["episode"])
        if episode.key not in self._known:
            raise ValueError(f"the episode {episode.key.name} is none of this evaluation")
        if episode.spoiled:
            self._spoiled.append(episode)
            return
        if episode.key in self._counted:
            raise ValueError(f"the episode {episode.key.name} is counted twice")
        self._counted.add(episode.key)
        self._episodes.append(episode)

    def recorded(self) -> Recorded:
        return Recorded(
            about=self._about,
            keys=self._keys,
            episodes=tuple(self._episodes),
            spoiled=tuple(self._spoiled),
            events=tuple(self._events),
            robots=tuple(self._robots),
            sessions=len(self._until),
            seconds=sum(self._until),
        )


def begun_before(spoiled: Sequence[Episode]) -> Counter[EpisodeKey]:
    """Return how often each episode was begun in vain."""
    return Counter(episode.key for episode in spoiled)


def say_number(number: float) -> float | str:
    """Return it for JSON, which has no NaN and no infinity: such a number is a text."""
    return number if math.isfinite(number) else str(number)


def _say_episode(episode: Episode) -> dict[str, Any]:
    said = {each.name: getattr(episode, each.name) for each in dataclasses.fields(episode)}
    del said["key"]
    return {
        "seed": episode.key.seed,
        "options": episode.key.options,
        **said,
        "episode_return": say_number(episode.episode_return),
        "seconds": say_number(episode.seconds),
        "step_times": episode.step_times.to_json(),
        "period_errors": episode.period_errors.to_json(),
    }


def _hear_episode(said: Any) -> Episode:
    said = dict(said)
    key = EpisodeKey(said.pop("seed"), said.pop("options"))
    said["episode_return"] = float(said["episode_return"])
    said["seconds"] = float(said["seconds"])
    said["step_times"] = StepTimes.from_json(said["step_times"])
    said["period_errors"] = StepTimes.from_json(said["period_errors"])
    return Episode(key=key, **said)
