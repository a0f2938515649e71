"""What an episode of an evaluation is: a seed, and what ``reset`` is given beside it.

Two evaluations are of the same episodes if and only if their keys are equal, and a key is equal
to another one if and only if its text is.
"""

from __future__ import annotations

import hashlib
import json
import operator
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from remote_env.errors import ConfigurationError

__all__ = ["EpisodeKey", "check_different", "cross", "hash_of_keys", "read_options"]

_SEEDS: Final = 1 << 64  # more does not fit on the wire


@dataclass(frozen=True, slots=True, eq=False)
class EpisodeKey:
    """An episode, as it is counted; equal and hashed by ``text``.

    Attributes:
        seed: It is begun with.
        options: What ``reset(options=...)`` is given; empty for none. Do not write: it is
            shared.
        text: Canonical: the same for the same episode, in every process and for ever.

    Raises:
        ConfigurationError: If the seed is no number from 0 to 2**64 - 1, or the options are not
            what JSON can hold exactly.
    """

    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    text: str = field(init=False)

    def __post_init__(self) -> None:
        """Check both, and keep a copy of the options."""
        try:
            seed = operator.index(self.seed)
        except TypeError as error:
            raise ConfigurationError(f"a seed is a whole number, not {self.seed!r:.40}") from error
        if not 0 <= seed < _SEEDS:
            raise ConfigurationError(f"a seed is from 0 to 2**64 - 1, not {seed}")
        if not isinstance(self.options, Mapping):
            raise ConfigurationError(f"options of an episode are a dict, not {self.options!r:.40}")
        options = json.loads(_canonical(dict(self.options)))
        object.__setattr__(self, "seed", seed)
        text = _canonical({"seed": seed, **({"options": options} if options else {})})
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "text", text)

    @property
    def name(self) -> str:
        """For people: ``7``, or ``7 {"goal":"left"}``."""
        return f"{self.seed} {self.text_of_options}" if self.options else str(self.seed)

    @property
    def text_of_options(self) -> str:
        """Canonical; ``{}`` for none."""
        return _canonical(self.options)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EpisodeKey) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)


def _canonical(value: Any) -> str:
    """Return JSON with sorted keys and without spaces.

    Raises:
        ConfigurationError: If JSON would not give back the same.
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
        is_same = json.loads(text) == value
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"options of an episode must be JSON: {error}") from error
    if not is_same:
        raise ConfigurationError(
            f"options of an episode must be JSON, and {value!r:.80} would come back as another "
            "value; use dicts with texts as keys, lists, texts, numbers, true, false and null"
        )
    return text


def cross(
    seeds: Iterable[int], options: Sequence[Mapping[str, Any]] = ()
) -> tuple[EpisodeKey, ...]:
    """Return the keys of each seed with each of the options, seed by seed.

    Args:
        seeds: Of the episodes.
        options: What ``reset`` is given; without any, each seed is one episode without options.
    """
    return tuple(EpisodeKey(seed, each) for seed in seeds for each in options or ({},))


def check_different(keys: Iterable[EpisodeKey]) -> None:
    """Refuse keys of which two are the same: one of them could not be counted.

    Raises:
        ConfigurationError: Naming one.
    """
    key, times = Counter(keys).most_common(1)[0]
    if times > 1:
        raise ConfigurationError(
            f"the episode {key.name} is given {times} times; each counts once, so give it once"
        )


def hash_of_keys(keys: Sequence[EpisodeKey]) -> str:
    """Return the SHA-256 of a list of keys, whatever their order."""
    lines = "".join(f"{text}\n" for text in sorted(key.text for key in keys))
    return hashlib.sha256(lines.encode()).hexdigest()


def read_options(path: Path) -> tuple[dict[str, Any], ...]:
    """Return the options that stand in a file: a JSON list of objects, or one object a line.

    Raises:
        ConfigurationError: If it cannot be read, or holds something else.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read the options {path}: {error}") from error
    found = _read_json(path, text)
    if not found or not all(isinstance(each, dict) for each in found):
        raise ConfigurationError(
            f'{path} must hold options of reset, such as {{"goal": "left"}}: one JSON object '
            "a line, or a list of them"
        )
    return tuple(found)


def _read_json(path: Path, text: str) -> list[Any]:
    if text.lstrip().startswith("["):
        try:
            found: list[Any] = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"{path} is no JSON: {error}") from error
        return found
    found = []
    # Not splitlines(), which also splits at characters that may stand in a text of JSON.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ConfigurationError(f"line {number} of {path} is no JSON: {error}") from error
    return found
