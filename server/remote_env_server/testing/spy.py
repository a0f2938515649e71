"""Watches the calls that the server makes of a robot's code, without changing the robot.

The robot's methods are wrapped on the instance, before it is served. Only calls from outside
are noted: a ``hold`` that calls ``self.apply_action`` is one call of ``hold``.
"""

from __future__ import annotations

import copy
import functools
import inspect
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from remote_env_server.robot import Robot

__all__ = ["Call", "InjectedFaultError", "Spy"]

_METHODS: Final = ("open", "close", "reset", "apply_action", "get_obs", "outcome", "hold")


class InjectedFaultError(OSError):
    """What a spied method raises when it was told to fail."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the robot's code.

    Attributes:
        method: Its name.
        began_at: Monotonic clock, in seconds.
        seconds: How long it took, awaiting included.
        argument: Of ``apply_action``, a copy; else None.
        error: What it raised, or None.
    """

    method: str
    began_at: float
    seconds: float
    argument: Any
    error: BaseException | None


class Spy:
    """The calls of one robot's code, in order. Safe from any thread."""

    def __init__(self, robot: Robot) -> None:
        """Wrap the methods of a robot that is not served yet."""
        self._calls: list[Call] = []
        self._inside = threading.local()
        self._blocks_actions = False
        self._fails_after_action = False
        for name in _METHODS:
            setattr(robot, name, self._wrapped(name, getattr(robot, name)))

    def calls(self, method: str, *, since: float = 0.0) -> list[Call]:
        """Return the calls of a method that began after a moment of the monotonic clock."""
        return [c for c in self._calls.copy() if c.method == method and c.began_at >= since]

    def wait_for(self, method: str, *, since: float, timeout: float) -> Call | None:
        """Wait until a method has been called, and return its first call; None if never."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            calls = self.calls(method, since=since)
            if calls:
                return calls[0]
            time.sleep(0.001)
        return None

    @contextmanager
    def actions_blocked(self) -> Iterator[None]:
        """Note actions, and keep them from the robot: whatever the guard lets through."""
        self._blocks_actions = True
        try:
            yield
        finally:
            self._blocks_actions = False

    def fail_after_next_action(self) -> None:
        """Raise ``InjectedFaultError`` once, after the next action has been applied."""
        self._fails_after_action = True

    def _wrapped(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)  # the server reads the signature of reset
        def call(*args: Any, **kwargs: Any) -> Any:
            if getattr(self._inside, "value", False):
                return method(*args, **kwargs)
            began_at = time.monotonic()
            argument = copy.deepcopy(args[0]) if name == "apply_action" and args else None
            self._inside.value = True
            try:
                if name == "apply_action" and self._blocks_actions:
                    result = None
                else:
                    result = method(*args, **kwargs)
                if not inspect.isawaitable(result):
                    self._fail_if_told(name)
            except BaseException as error:
                self._note(name, began_at, argument, error)
                raise
            finally:
                self._inside.value = False
            if inspect.isawaitable(result):
                return self._awaited(result, name, began_at, argument)
            self._note(name, began_at, argument, None)
            return result

        return call

    async def _awaited(
        self, result: Awaitable[Any], name: str, began_at: float, argument: Any
    ) -> Any:
        self._inside.value = True
        try:
            returned = await result
            self._fail_if_told(name)
        except BaseException as error:
            self._note(name, began_at, argument, error)
            raise
        finally:
            self._inside.value = False
        self._note(name, began_at, argument, None)
        return returned

    def _fail_if_told(self, name: str) -> None:
        if name == "apply_action" and self._fails_after_action:
            self._fails_after_action = False
            raise InjectedFaultError("a fault that the checker injected")

    def _note(self, name: str, began_at: float, argument: Any, error: BaseException | None) -> None:
        seconds = time.monotonic() - began_at
        self._calls.append(Call(name, began_at, seconds, argument, error))
