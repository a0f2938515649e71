"""What a collector and its background learner share: transitions one way, weights the other.

Both lie in memory that the two processes have together, so nothing is pickled for each step and
nothing grows. The collector never waits: where it would have to, it is told so instead. What it
reads is whole, also when the other process is killed in the middle of a write.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from multiprocessing.context import SpawnContext
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env_agents.buffers import is_transition

__all__ = ["TransitionRing", "WeightSlot", "transition_dtype"]

_ALIGNED: Final = 64  # bytes; where each tensor begins
_OBSERVED: Final = "observation "  # before the stream's name
_NEXT: Final = "next "


def transition_dtype(
    observation_space: spaces.Space[Any], action_space: spaces.Space[Any], robots: int
) -> np.dtype[Any]:
    """Return the layout of one step of all robots, as ``ReplayBuffer.add`` is given it."""
    fields: list[tuple[str, Any, tuple[int, ...]]] = []
    for name, space in _parts(observation_space).items():
        shape = (robots, *(space.shape or ()))
        fields += [(_OBSERVED + name, space.dtype, shape), (_NEXT + name, space.dtype, shape)]
    action = (robots, *(action_space.shape or ()))
    fields += [("action", np.float32, action), ("executed", action_space.dtype, action)]
    fields += [("reward", np.float32, (robots,))]
    flags = ("done", "truncated", "invalid", "is_executed_known")
    fields += [(name, np.bool_, (robots,)) for name in flags]
    return np.dtype([*fields, ("begins_anew", np.bool_, ())])


def _parts(space: spaces.Space[Any]) -> Mapping[str, spaces.Space[Any]]:
    return space.spaces if isinstance(space, spaces.Dict) else {"": space}


class TransitionRing:
    """Transitions on their way, from one process that puts them to one that takes them.

    Two semaphores count the rows, filled and free, so each row belongs to one side at a time.

    Args:
        context: Of the processes.
        dtype: Of one row, by ``transition_dtype``.
        rows: How many there are.
    """

    def __init__(self, context: SpawnContext, dtype: np.dtype[Any], rows: int) -> None:
        self._memory = context.RawArray("b", rows * dtype.itemsize)
        self._filled = context.Semaphore(0)
        self._free = context.Semaphore(rows)
        self._dtype = dtype
        self._count = rows
        self._put_at = self._taken_at = 0
        self._is_cut = False
        self._rows: NDArray[Any] | None = None
        self.dropped = 0

    def __getstate__(self) -> dict[str, Any]:
        """Return what goes to the other process."""
        return {**self.__dict__, "_rows": None}

    def _row(self, at: int) -> Any:
        if self._rows is None:
            self._rows = np.frombuffer(self._memory, self._dtype)
        return self._rows[at]

    def cut(self) -> None:
        """Note that the next transition does not follow the last one."""
        self._is_cut = True

    def put_nowait(
        self,
        observation: Any,
        next_observation: Any,
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> bool:
        """Copy one step of all robots in; False if there is no room, and it is dropped."""
        if not self._free.acquire(block=False):
            self.dropped += 1
            self._is_cut = True
            return False
        row = self._row(self._put_at)
        for name in self._names():
            row[_OBSERVED + name] = observation[name] if name else observation
            row[_NEXT + name] = next_observation[name] if name else next_observation
        row["action"], row["reward"], row["done"] = action, reward, done
        row["begins_anew"], self._is_cut = self._is_cut, False
        for index, info in enumerate(infos):
            remote = info.get("remote", {})
            row["truncated"][index] = info.get("TimeLimit.truncated", False)
            row["invalid"][index] = not is_transition(info)
            executed = remote.get("action_executed")
            row["is_executed_known"][index] = executed is not None
            if executed is not None:
                row["executed"][index] = executed
        self._put_at = (self._put_at + 1) % self._count
        self._filled.release()
        return True

    def _names(self) -> list[str]:
        assert self._dtype.names is not None
        return [name[len(_NEXT) :] for name in self._dtype.names if name.startswith(_NEXT)]

    def take(self, timeout: float) -> tuple[bool, tuple[Any, ...]] | None:
        """Return the oldest transition, or None if none comes within ``timeout`` seconds.

        Returns:
            Whether it begins anew, which is to say does not follow the one before; and the six
            arguments of ``ReplayBuffer.add``. Copies.
        """
        if not self._filled.acquire(timeout=timeout):
            return None
        row = self._row(self._taken_at).copy()
        self._taken_at = (self._taken_at + 1) % self._count
        self._free.release()
        names = self._names()
        if names == [""]:
            observed, following = row[_OBSERVED], row[_NEXT]
        else:
            observed = {name: row[_OBSERVED + name] for name in names}
            following = {name: row[_NEXT + name] for name in names}
        infos = [_info(row, index) for index in range(len(row["done"]))]
        given = (observed, following, row["action"], row["reward"], row["done"], infos)
        return bool(row["begins_anew"]), given


def _info(row: Any, index: int) -> dict[str, Any]:
    """Return what a replay buffer asks an ``info`` for."""
    remote: dict[str, Any] = {}
    if row["is_executed_known"][index]:
        remote["action_executed"] = row["executed"][index]
    if row["invalid"][index]:
        remote["invalid_transition"] = True
    return {"TimeLimit.truncated": bool(row["truncated"][index]), "remote": remote}


class WeightSlot:
    """The newest weights, from one process that publishes them to one that takes them.

    A lock is held for the copy, on either side. Who is killed meanwhile leaves it locked for
    ever, so what was half written is never read.

    Args:
        context: Of the processes.
        tensors: Such as a ``state_dict``; which ones, and their shapes and dtypes.
    """

    def __init__(self, context: SpawnContext, tensors: Mapping[str, torch.Tensor]) -> None:
        self._layout: dict[str, tuple[int, tuple[int, ...], torch.dtype]] = {}
        size = 0
        for name, tensor in tensors.items():
            self._layout[name] = size, tuple(tensor.shape), tensor.dtype
            size += math.ceil(tensor.numel() * tensor.element_size() / _ALIGNED) * _ALIGNED
        self._memory = context.RawArray("b", size)
        self._version = context.RawValue("q", 0)
        self._lock = context.Lock()
        self._taken = 0

    def publish(self, tensors: Mapping[str, torch.Tensor], timeout: float) -> bool:
        """Copy weights in. Waits while the other side copies; False if that takes too long."""
        if not self._lock.acquire(timeout=timeout):
            return False
        # Not with "finally": what raises in here has left something half written.
        for name, slot in self._slots():
            slot.copy_(tensors[name].detach())
        self._version.value += 1
        self._lock.release()
        return True

    def take_nowait(self, tensors: Mapping[str, torch.Tensor]) -> bool:
        """Copy the newest weights into these tensors; False if there are none to be had now."""
        if not self._lock.acquire(block=False):
            return False
        try:
            if self._version.value == self._taken:
                return False
            self._taken = self._version.value
            for name, slot in self._slots():
                tensors[name].copy_(slot)
            return True
        finally:
            self._lock.release()

    def _slots(self) -> list[tuple[str, torch.Tensor]]:
        slots = []
        for name, (offset, shape, dtype) in self._layout.items():
            count = math.prod(shape)
            if count:
                flat = torch.frombuffer(self._memory, dtype=dtype, count=count, offset=offset)
                slots.append((name, flat.view(shape)))
        return slots
