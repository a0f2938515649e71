"""Which films there are of an evaluation: a line for each, beside them.

So the report shows them whenever it is written, also by who only looks.
"""

from __future__ import annotations

import contextlib
import json
import os
from typing import Any

from remote_env.errors import ConfigurationError
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.report import EvaluationFolder
from remote_env_agents.results import say_number
from remote_env_agents.video import Film, FilmedEpisode

__all__ = ["note_film", "read_films"]


def note_film(folder: EvaluationFolder, film: Film) -> None:
    """Write down that there is a film, in place of one with the same name.

    Raises:
        ConfigurationError: If that cannot be written.
    """
    films = [one for one in read_films(folder) if one.path.name != film.path.name]
    lines = [json.dumps(_to_json(one), allow_nan=False) + "\n" for one in (*films, film)]
    unfinished = folder.films.with_name(f"{folder.films.name}.part")
    try:
        unfinished.write_text("".join(lines), encoding="utf-8")
        os.replace(unfinished, folder.films)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder.films}: {error.strerror}") from error


def read_films(folder: EvaluationFolder) -> list[Film]:
    """Return the films that were written down and are there."""
    try:
        lines = folder.films.read_bytes().split(b"\n")
    except OSError:
        return []
    films = []
    for line in lines:
        with contextlib.suppress(ValueError, KeyError, TypeError, ConfigurationError):
            films.append(_from_json(folder, json.loads(line)))
    return [film for film in films if film.path.is_file()]


def _to_json(film: Film) -> dict[str, Any]:
    episodes = [
        {
            "seed": one.key.seed,
            "options": dict(one.key.options),
            "return": say_number(one.episode_return),
            "length": one.length,
            "success": one.is_success,
        }
        for one in film.episodes
    ]
    return {"file": film.path.name, "frames": film.frames, "episodes": episodes}


def _from_json(folder: EvaluationFolder, raw: dict[str, Any]) -> Film:
    episodes = tuple(
        FilmedEpisode(
            EpisodeKey(one["seed"], one["options"]),
            float(one["return"]),
            one["length"],
            one["success"],
        )
        for one in raw["episodes"]
    )
    return Film(folder.films.parent / os.path.basename(raw["file"]), raw["frames"], episodes)
