"""Checkpoints: everything that a training needs to go on, whole at any moment.

A checkpoint is two files: ``step-N.state`` has the replay buffer, the state of all generators of
chance and what the watcher counted; ``step-N.zip`` is the model with its optimisers, as
Stable-Baselines3 writes it. Each is written beside its place, forced to the disk and renamed,
the model last: whoever finds it finds the state too. Only then older states are deleted, so the
newest checkpoint goes on as if nothing had happened, and older ones are policies.
"""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import random
import time
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from numpy.typing import NDArray

from remote_env.errors import ConfigurationError, RemoteEnvError

__all__ = [
    "CheckpointError",
    "Saved",
    "find_checkpoint",
    "has_buffer",
    "load_state",
    "load_watched",
    "restore_chance",
    "save_checkpoint",
    "save_model",
    "saved_line",
    "truncate",
    "write_whole",
]

_FORMAT: Final = 2
_LARGE: Final = 1 << 16  # bytes; arrays from here on are written without the zeros at their end
_BLOCK: Final = 1 << 20  # elements that are looked through at once for that


class CheckpointError(RemoteEnvError, OSError):
    """A checkpoint could not be written; the one before is still there."""

    code = "checkpoint"


@dataclass(frozen=True, slots=True)
class Saved:
    """What a checkpoint took.

    Attributes:
        path: Of the model.
        size: Of both files, in bytes.
        seconds: That it took.
    """

    path: Path
    size: int
    seconds: float


def write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> int:
    """Write a file that is there as a whole or not at all, also if the machine stops meanwhile.

    Returns:
        Its size, in bytes.

    Raises:
        CheckpointError: If it cannot be written, as on a full disk. What was there is there.
    """
    unfinished = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with unfinished.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        os.replace(unfinished, path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise CheckpointError(
            f"{path} cannot be written: {error.strerror or error}; what was saved before is still "
            "there. Make room on the disk, and go on with --resume"
        ) from error
    return size


def _sync_folder(folder: Path) -> None:
    """Make a renaming last."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def save_checkpoint(
    path: Path, model: Any, *, watched: dict[str, Any], with_buffer: bool = True
) -> Saved:
    """Write a checkpoint, and then delete the states of older ones.

    Args:
        path: Of the model: ``step-N.zip``.
        model: Of Stable-Baselines3.
        watched: What the watcher counted.
        with_buffer: Whether to save the replay buffer, if there is one.

    Raises:
        CheckpointError: If it cannot be written.
    """
    began = time.monotonic()
    buffer = getattr(model, "replay_buffer", None) if with_buffer else None
    head = {"format": _FORMAT, "watched": watched, "has_buffer": buffer is not None}
    state = {"chance": _chance(model), "buffer": buffer}

    def write(file: IO[bytes]) -> None:
        pickle.dump(head, file)  # on its own: whoever goes on needs it, without the buffer
        _StatePickler(file).dump(state)

    size = write_whole(_state_of(path), write)
    size += save_model(path, model)
    for other in path.parent.glob("*.state"):
        if other != _state_of(path):
            other.unlink(missing_ok=True)
    return Saved(path, size, time.monotonic() - began)


def save_model(path: Path, model: Any) -> int:
    """Write a model of Stable-Baselines3 as a whole; return its size in bytes."""
    buffer = io.BytesIO()
    model.save(buffer)
    return write_whole(path, lambda file: file.write(buffer.getbuffer()))


def saved_line(step: int, size: int, seconds: float) -> str:
    """Return what to tell people of a checkpoint that was saved."""
    return f"checkpoint at step {step:,}: {size / 1e6:,.1f} MB in {seconds:.1f} s"


def _state_of(path: Path) -> Path:
    return path.with_suffix(".state")


def find_checkpoint(folder: Path) -> Path:
    """Return the newest complete checkpoint of a run's folder.

    Raises:
        ConfigurationError: If there is none.
    """
    found = [
        path
        for path in sorted((folder / "checkpoints").glob("step-*.zip"), reverse=True)
        if _state_of(path).exists() and zipfile.is_zipfile(path)
    ]
    if not found:
        raise ConfigurationError(
            f"there is no complete checkpoint in {folder / 'checkpoints'}: the run ended before "
            "its first one (--checkpoint-every). Train anew, with another --folder"
        )
    return found[0]


def load_watched(path: Path) -> dict[str, Any]:
    """Return what the watcher had counted at a checkpoint. **The file is code** (pickle).

    Raises:
        ConfigurationError: If it cannot be read.
    """
    head, _ = _load(path, parts=1)
    watched: dict[str, Any] = head["watched"]
    return watched


def has_buffer(path: Path) -> bool:
    """Whether a replay buffer stands beside a model. **The file is code** (pickle).

    Raises:
        ConfigurationError: If it cannot be read.
    """
    return _state_of(path).exists() and bool(_load(path, parts=1)[0]["has_buffer"])


def load_state(path: Path) -> dict[str, Any] | None:
    """Return what stands beside a model, or None if it has no state. **It is code** (pickle).

    Returns:
        ``chance`` and ``buffer``, as ``save_checkpoint`` had them.

    Raises:
        ConfigurationError: If it cannot be read.
    """
    return _load(path, parts=2)[1] if _state_of(path).exists() else None


def _load(path: Path, *, parts: int) -> tuple[dict[str, Any], dict[str, Any]]:
    state = _state_of(path)
    try:
        with state.open("rb") as file:
            head = pickle.load(file)  # noqa: S301 (the user named it)
            if head["format"] != _FORMAT:
                raise ValueError(f"it has the format {head['format']}, not {_FORMAT}")
            return head, pickle.load(file) if parts == 2 else {}  # noqa: S301
    except Exception as error:  # whatever unpickling comes to
        raise ConfigurationError(
            f"{state} cannot be read: {type(error).__name__}: {error}"
        ) from error


def truncate(replay: Any) -> None:
    """End the episodes in a replay buffer for hindsight; others know of no episodes."""
    if not hasattr(replay, "truncate_last_trajectory"):
        return
    with warnings.catch_warnings():  # that this is what happens
        warnings.simplefilter("ignore", UserWarning)
        replay.truncate_last_trajectory()


# Chance


def _chance(model: Any) -> dict[str, Any]:
    import torch

    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),  # Stable-Baselines3 draws from it
        "torch": torch.get_rng_state(),
        "actions": model.action_space.np_random.bit_generator.state,
    }


def restore_chance(chance: dict[str, Any], model: Any) -> None:
    """Go on with the numbers that would have come next."""
    import torch

    random.setstate(chance["python"])
    np.random.set_state(chance["numpy"])
    torch.set_rng_state(chance["torch"])
    model.action_space.np_random.bit_generator.state = chance["actions"]


# Buffers are made as large as they may become, and are mostly zeros for long.


class _StatePickler(pickle.Pickler):
    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file, protocol=5)

    def reducer_override(self, obj: Any) -> Any:
        is_large = isinstance(obj, np.ndarray) and obj.nbytes >= _LARGE and not obj.dtype.hasobject
        if not is_large or not obj.flags.c_contiguous:
            return NotImplemented
        flat = obj.reshape(-1).view(np.uint8)
        used = _used(flat)
        if used == flat.size:
            return NotImplemented
        # Numbered, so that it is not an array that comes here again.
        return _padded, (pickle.PickleBuffer(flat[:used]), obj.shape, obj.dtype)


def _used(flat: NDArray[np.uint8]) -> int:
    """Return how many elements there are up to the last one that is not zero."""
    end = flat.size
    while end:
        begin = max(0, end - _BLOCK)
        if flat[begin:end].any():
            return begin + int(np.flatnonzero(flat[begin:end])[-1]) + 1
        end = begin
    return 0


def _padded(used: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return the array of which this is the beginning, and zeros follow."""
    whole = np.zeros(shape, dtype)
    whole.reshape(-1).view(np.uint8)[: len(used)] = np.frombuffer(used, np.uint8)
    return whole
