"""Cameras and proprioception that freeze, fall silent or go mad when they are told to."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from remote_env.errors import ConfigurationError
from remote_env_server.buffers import Field
from remote_env_server.robot import Robot

__all__ = ["PublicationFaults"]

_MEASURED = ("image", "depth")


class PublicationFaults:
    """What is wrong with what a robot publishes. Safe to use from any thread."""

    def __init__(self, robot: Robot) -> None:
        self._robot = robot
        self._lock = threading.Lock()  # guards the four below, not the contents
        self._silent: set[str] = set()
        self._nan: set[str] = set()
        # What is published in place of the truth, by stream and by field; filled at the
        # first publication where there was none before.
        self._content: dict[str, dict[str, NDArray[Any]]] = {}
        self._stamp: dict[str, float | None] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The cameras and streams of the robot."""
        return (*self._robot.images, *self._robot.proprios)

    def silence(self, name: str) -> None:
        """Drop what is published."""
        self._check(name)
        with self._lock:
            self._silent.add(name)

    def freeze(self, name: str) -> None:
        """Publish what was published last, with new stamps."""
        fields = self._fields(name)
        old = {key: field.array for key, field in fields.items() if field.sequence > 0}
        with self._lock:
            self._content[name] = old

    def stop_clock(self, name: str) -> None:
        """Publish with the stamp that was published last."""
        stamps = [f.stamp for f in self._fields(name).values() if np.isfinite(f.stamp)]
        with self._lock:
            self._stamp[name] = max(stamps, default=None)

    def nan(self, name: str) -> None:
        """Publish NaN for all floating point that is measured.

        Raises:
            ConfigurationError: If there is none.
        """
        if not any(self._is_float(key, field) for key, field in self._fields(name).items()):
            raise ConfigurationError(f"{name!r} has no floating point that could be NaN")
        with self._lock:
            self._nan.add(name)

    def heal(self, name: str) -> None:
        """Publish the truth."""
        with self._lock:
            self._silent.discard(name)
            self._nan.discard(name)
            self._content.pop(name, None)
            self._stamp.pop(name, None)

    def wrap_camera(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """Return the robot's ``update_camera`` with these faults."""

        def publish(name: str, *, stamp: float | None = None, **given: Any) -> None:
            arrays = {key: array for key, array in given.items() if array is not None}
            update(name, **self._arrays(name, arrays), stamp=self._stamp_of(name, stamp))

        return self._wrap(update, publish)

    def wrap_proprio(self, update: Callable[..., Any]) -> Callable[..., Any]:
        """Return the robot's ``update_proprio`` with these faults."""

        def publish(name: str, data: ArrayLike, *, stamp: float | None = None) -> None:
            [data] = self._arrays(name, {"": data}).values()
            update(name, data, stamp=self._stamp_of(name, stamp))

        return self._wrap(update, publish)

    def _wrap(self, update: Callable[..., Any], publish: Callable[..., Any]) -> Callable[..., Any]:
        """Choose for each call: the robot's own ``update``, our ``publish``, or neither."""

        @functools.wraps(update)
        def choose(name: str, *args: Any, **kwargs: Any) -> Any:
            with self._lock:
                is_silent = name in self._silent
                is_faulty = name in self._nan or name in self._content or name in self._stamp
            if is_silent:
                return None
            return (publish if is_faulty else update)(name, *args, **kwargs)

        return choose

    def _arrays(self, name: str, arrays: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        with self._lock:
            content, is_nan = self._content.get(name), name in self._nan
        if content is None and not is_nan:
            return arrays
        published = dict(arrays)
        if content is not None:
            for key, array in arrays.items():
                if key not in content:
                    content[key] = np.array(array)
                published[key] = content[key]
        if is_nan:
            for key, field in self._fields(name).items():
                if key in published and self._is_float(key, field):
                    published[key] = np.full_like(field.array, np.nan)
        return published

    def _stamp_of(self, name: str, stamp: float | None) -> float | None:
        with self._lock:
            if name not in self._stamp:
                return stamp
            stopped = self._stamp[name]
            if stopped is None:
                stopped = self._stamp[name] = self._robot.now() if stamp is None else stamp
            return stopped

    def _fields(self, name: str) -> dict[str, Field]:
        """Return the newest fields of a camera by name, or of a stream under ``""``."""
        self._check(name)
        fields = Robot.make_obs(self._robot).fields
        if name in self._robot.proprios:
            return {"": fields[name]}
        start = f"{name}/"
        return {key[len(start) :]: f for key, f in fields.items() if key.startswith(start)}

    @staticmethod
    def _is_float(key: str, field: Field) -> bool:
        return key in ("", *_MEASURED) and field.array.dtype.kind == "f"

    def _check(self, name: str) -> None:
        if name not in self.names:
            there = ", ".join(map(repr, self.names)) or "none"
            raise ConfigurationError(
                f"{type(self._robot).__name__} declares no camera and no stream {name!r}; there "
                f"are: {there}"
            )
