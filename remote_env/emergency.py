"""The emergency stop from anywhere: a connection of its own, which queues up behind nothing."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Final

from remote_env.arguments import check_timeout
from remote_env.channel import Channel
from remote_env.errors import RobotFaultError, TransportError
from remote_env.identity import default_owner, make_hello
from remote_env.protocol import (
    EmergencyStop,
    GetStatistics,
    ReleaseStop,
    Statistics,
    StopReleased,
)

__all__ = ["emergency_stop", "release_stop", "wait_until_obeyed"]

# Between two attempts, in seconds: a server that is full should not be made busier.
_PAUSE: Final = 0.05
# Between two looks at whether the robot has stopped, in seconds.
_LOOK_EVERY: Final = 0.02


def emergency_stop(
    url: str, reason: str = "", *, token: str | None = None, timeout: float = 2.0
) -> None:
    """Press the emergency stop of a robot, on a connection of its own; return once it stopped.

    It needs no lease, comes before everything else, and stays pressed until ``release_stop``,
    also if the server is started again.

    Args:
        url: Of the robot.
        reason: For people.
        token: What the server asks for, if it does.
        timeout: For connecting, and again for the answer, and for the robot, in seconds.
            Whatever the network or a full server does, it is tried again meanwhile: pressing
            twice does no harm.

    Raises:
        RobotFaultError: If it is pressed, and the robot's own ``stop`` has not returned in time.
        RemoteEnvError: If the server did not confirm it; of several attempts, why the last one
            failed. In both cases use the robot's own button.
    """
    check_timeout("timeout", timeout)
    deadline = time.monotonic() + timeout
    left = timeout
    while True:
        try:
            with _connected(url, "observe", token, timeout=left) as channel:
                channel.request(lambda id: EmergencyStop(id, reason=reason[:500]), timeout=timeout)
                wait_until_obeyed(channel, timeout=timeout)
            return
        except TransportError:
            left = deadline - time.monotonic() - _PAUSE
            if left <= 0:
                raise
        time.sleep(_PAUSE)


def wait_until_obeyed(channel: Channel, *, timeout: float) -> None:
    """Wait until the robot's own ``stop`` has returned, or somebody has released it.

    Raises:
        RobotFaultError: If that takes longer than ``timeout`` seconds.
        RemoteEnvError: As ``Channel.request``.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = channel.request(lambda id: GetStatistics(id), timeout=timeout).message
        assert isinstance(answer, Statistics)
        pressed = answer.values.get("emergency_stop")
        if not isinstance(pressed, dict) or pressed.get("obeyed"):
            return
        if time.monotonic() >= deadline:
            raise RobotFaultError(
                f"the emergency stop of {channel.url} is pressed and stays so, but the robot HAS "
                f"NOT CONFIRMED within {timeout:g} s that it stopped: its own code blocks, or its "
                "stop() fails. Use the robot's own button"
            )
        time.sleep(_LOOK_EVERY)


def release_stop(url: str, *, token: str | None = None, timeout: float = 2.0) -> bool:
    """Release the emergency stop of a robot, after somebody has looked at it.

    Nothing moves by that: the robot holds until the next ``reset``.

    Args:
        url: Of the robot.
        token: What the server asks for, if it does.
        timeout: For connecting, and again for the answer, in seconds.

    Returns:
        Whether it was pressed.
    """
    check_timeout("timeout", timeout)
    with _connected(url, "control", token, timeout=timeout) as channel:
        released = channel.request(lambda id: ReleaseStop(id), timeout=timeout).message
    assert isinstance(released, StopReleased)
    return released.was_pressed


@contextlib.contextmanager
def _connected(url: str, role: str, token: str | None, *, timeout: float) -> Iterator[Channel]:
    """Give a connection of its own, without building the robot's spaces, which takes long."""
    make = functools.partial(make_hello, role, token, default_owner()[:200])
    channel = Channel(url, make, is_brief=True)
    try:
        channel.open(timeout)
        yield channel
    finally:
        channel.close("asked all it wanted to know")
