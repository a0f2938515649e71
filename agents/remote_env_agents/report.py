"""The folder of an evaluation: episodes.jsonl, summary.json, and report.html, one file to keep."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from remote_env.errors import ConfigurationError
from remote_env_agents.evaluation import Evaluation
from remote_env_agents.report_page import page_of
from remote_env_agents.summary import summarise

if TYPE_CHECKING:
    from remote_env_agents.video import Film

__all__ = ["EvaluationFolder", "write_report"]

_EVALUATIONS: Final = Path("evaluations")
_LONGEST: Final = 80  # of the readable part of a file's name, in characters


class EvaluationFolder:
    """The folder of one evaluation; not made before something is written.

    Args:
        path: Of the folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def choose(cls, path: Path | None, *, robot: str, policy: str) -> EvaluationFolder:
        """Return this one, or ``evaluations/ROBOT-POLICY-N`` with the first free number."""
        if path is not None:
            return cls(path)
        words = (robot.rpartition(":")[2], Path(policy).stem)
        stem = "-".join(re.sub(r"[^\w.-]+", "-", word).strip("-.") or "robot" for word in words)
        number = 1
        while (_EVALUATIONS / f"{stem}-{number}").exists():
            number += 1
        return cls(_EVALUATIONS / f"{stem}-{number}")

    @property
    def results(self) -> Path:
        """Every episode, a line each; what it is gone on from."""
        return self.path / "episodes.jsonl"

    @property
    def report(self) -> Path:
        """For people."""
        return self.path / "report.html"

    def video(self, name: str) -> Path:
        """The film of an episode: of different names in different files, however long they are."""
        short = re.sub(r"[^0-9A-Za-z.-]+", "-", name).strip("-")
        if short != name:
            short = f"{short[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"
        return self.path / "videos" / f"{short}.mp4"

    @property
    def films(self) -> Path:
        """Which videos there are, and what is on them; a line each."""
        return self.path / "videos" / "films.jsonl"


def write_report(folder: str | Path, evaluation: Evaluation, *, films: Sequence[Film] = ()) -> Path:
    """Write report.html and summary.json into a folder; what was there is replaced.

    Args:
        folder: Made if it does not exist.
        evaluation: Finished or not.
        films: Of episodes, beside the report: in the folder or below it.

    Returns:
        The report: one page that needs nothing but the films.

    Raises:
        ConfigurationError: If it cannot be written.
    """
    own = EvaluationFolder(Path(folder))
    summary = json.dumps(summarise(evaluation), indent=2, allow_nan=False) + "\n"
    page = page_of(evaluation, films=films, folder=own.path)
    try:
        own.path.mkdir(parents=True, exist_ok=True)
        for path, text in ((own.path / "summary.json", summary), (own.report, page)):
            unfinished = path.with_name(f"{path.name}.part")
            # A path may be no UTF-8; what is none is spelled out, as in a terminal.
            unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
            os.replace(unfinished, path)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {own.path}: {error.strerror}") from error
    return own.report
