"""The folder of a training run, and what is written into it."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import remote_env.version
from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec
from remote_env_agents.checkpoints import write_whole
from remote_env_agents.config_files import to_toml

__all__ = ["ProgressRow", "RunFolder", "read_progress"]

_RUNS: Final = Path("runs")
_PACKAGES: Final = ("stable-baselines3", "sb3-contrib", "torch", "gymnasium", "numpy")


@dataclass(frozen=True, slots=True)
class ProgressRow:
    """One row of progress.csv. What is not known is left empty.

    Attributes:
        step: Of all robots together.
        seconds: Since the training began.
        episodes: That have ended.
        episode_return: Mean of the last 100 episodes; so are the next two.
        episode_length: In steps.
        success_rate: As the robot says it.
        evaluation_return: Mean of the evaluation at this step; so are the others.
        evaluation_success_rate: As the robot says it.
        evaluation_low: Lower end of its 95 % interval.
        evaluation_high: Upper end of it.
    """

    step: int
    seconds: float
    episodes: int
    episode_return: float | None = None
    episode_length: float | None = None
    success_rate: float | None = None
    evaluation_return: float | None = None
    evaluation_success_rate: float | None = None
    evaluation_low: float | None = None
    evaluation_high: float | None = None


class RunFolder:
    """The folder of one training run.

    Args:
        path: Of the folder; made, and must be empty if it exists.

    Raises:
        ConfigurationError: If there is something in it, or it cannot be made.
    """

    def __init__(self, path: Path) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            is_used = any(path.iterdir())
        except OSError as error:
            raise ConfigurationError(
                f"cannot make the folder {path}: {error.strerror}; choose another with --folder"
            ) from error
        if is_used:
            raise ConfigurationError(
                f"the folder {path} is not empty; choose another with --folder, or delete it"
            )
        self.path = path
        self._write_row(list(_FIELDS))

    @classmethod
    def reopen(cls, path: Path, *, step: int) -> RunFolder:
        """Return the folder of a run that goes on at this step.

        What the table says of later steps is taken out: they are done again.
        """
        folder = cls.__new__(cls)
        folder.path = path
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(_FIELDS)
        for row in read_progress(folder.progress, until=step):
            writer.writerow(_cells(row))
        write_whole(folder.progress, lambda file: file.write(text.getvalue().encode()))
        return folder

    @classmethod
    def make(cls, path: Path | None, *, robot: str, algo: str) -> RunFolder:
        """Return a new folder: this one, or ``runs/ROBOT-ALGO-N`` with the first free number."""
        if path is not None:
            return cls(path)
        stem = re.sub(r"[^\w.-]+", "-", robot.rpartition(":")[2]).strip("-.") or "robot"
        number = 1
        while (_RUNS / f"{stem}-{algo}-{number}").exists():
            number += 1
        return cls(_RUNS / f"{stem}-{algo}-{number}")

    @property
    def policy(self) -> Path:
        """The policy as it is at the end."""
        return self.path / "policy.zip"

    @property
    def progress(self) -> Path:
        """A table of how it went; ``ProgressRow`` has its columns."""
        return self.path / "progress.csv"

    @property
    def learning_curve(self) -> Path:
        """A picture of that table."""
        return self.path / "learning_curve.png"

    @property
    def tensorboard(self) -> Path:
        """Events for TensorBoard."""
        return self.path / "tensorboard"

    def checkpoint(self, step: int) -> Path:
        """The policy as it was at this step."""
        return self.path / "checkpoints" / f"step-{step:09d}.zip"

    def add(self, row: ProgressRow) -> None:
        """Add a row to the table."""
        self._write_row(_cells(row))

    def _write_row(self, cells: list[str]) -> None:
        with self.progress.open("a", newline="") as file:
            csv.writer(file).writerow(cells)

    @property
    def config(self) -> Path:
        """What made this run what it is: ``remote-env train --config`` repeats it."""
        return self.path / "config.toml"

    def write_config(self, config: Mapping[str, Any], spec: RobotSpec, observed: str) -> None:
        """Write everything that made this run what it is.

        Args:
            config: What was chosen, as ``config_files`` reads it back.
            spec: What the robot is.
            observed: What is observed of it.
        """
        run = {
            "robot": spec.name,
            "mode": spec.mode.value,
            "control_hz": spec.control_hz,
            "hash": spec.hash(),
            "action_space": str(spec.action_space),
            "observation_space": observed,
        }
        versions = {"remote-robot-env": remote_env.version.__version__, **_versions()}
        text = to_toml({**config, "run": {**run, "versions": versions}})
        head = (
            "# Once more: remote-env train --config FILE. What stands under [run] is not read.\n\n"
        )
        write_whole(self.config, lambda file: file.write((head + text).encode()))


_FIELDS: Final = tuple(field.name for field in fields(ProgressRow))


def _cells(row: ProgressRow) -> list[str]:
    return [_cell(getattr(row, name)) for name in _FIELDS]


def _cell(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.6g}"


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def read_progress(path: Path, *, until: float = math.inf) -> list[ProgressRow]:
    """Return the rows of a progress.csv.

    The last line is left out if it is not whole: the training was killed while writing it.

    Args:
        path: Of the file.
        until: The last step of which rows are returned.

    Raises:
        ConfigurationError: If it is none.
    """
    try:
        with path.open(newline="") as file:
            lines = file.readlines()
        if lines and not lines[-1].endswith("\n"):
            lines.pop()
        rows = [_read_row(cells) for cells in csv.DictReader(lines)]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path} is no progress.csv of a training run: {error}") from error
    return [row for row in rows if row.step <= until]


def _read_row(cells: dict[str, str]) -> ProgressRow:
    numbers = {name: float(cells[name]) if cells[name] else None for name in _FIELDS[3:]}
    return ProgressRow(
        int(cells["step"]), float(cells["seconds"]), int(cells["episodes"]), **numbers
    )
