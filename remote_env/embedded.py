"""A robot server inside this process, for when no url is given.

One of the two places that import the robot's side, inside a function: a learner's machine
needs no more than the base install, and neither does this.
"""

from __future__ import annotations

import logging
from typing import Protocol

__all__ = ["EmbeddedServer", "start_embedded"]

logger = logging.getLogger(__name__)


class EmbeddedServer(Protocol):
    """What the environment needs of the server that it owns."""

    @property
    def url(self) -> str:
        """Where clients connect."""

    def stop(self) -> None:
        """Close the robot and stop. Idempotent."""


def start_embedded(robot: str) -> EmbeddedServer:
    """Serve a robot on threads of this process, behind a real loopback socket.

    Args:
        robot: A name as in ``remote-env serve NAME``.

    Returns:
        The server, started; its owner stops it.

    Raises:
        ConfigurationError: If there is no such robot.
    """
    from remote_env_server import RobotServer
    from remote_env_server.robots import make_robot

    server = RobotServer(make_robot(robot), port=0)
    logger.warning(
        "no url was given: simulating %r in this process. Pass url='ws://robot:8765' for a robot "
        "elsewhere",
        robot,
    )
    server.start()
    return server
