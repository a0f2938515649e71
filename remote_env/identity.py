"""Who we are, as a server is told."""

from __future__ import annotations

import functools
import getpass
import os
import socket
import uuid

from remote_env.protocol import Hello
from remote_env.version import __version__

__all__ = ["default_owner", "make_hello"]


def default_owner() -> str:
    """Return ``user@host (process id)``: whom others should ask for the robot."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container without a passwd entry
        user = "somebody"
    return f"{user}@{socket.gethostname()} (process {os.getpid()})"


@functools.cache
def _unique_to(pid: int) -> str:
    return f"{socket.gethostname()}/{pid}/{uuid.uuid4().hex}"


def make_hello(
    role: str, token: str | None, owner: str, *, id: int, resume: str | None, asking: int
) -> Hello:
    """Return the first message of a connection; see ``Hello`` for what it says."""
    return Hello(
        id=id,
        role=role,
        token=token,
        owner=owner,
        process=_unique_to(os.getpid()),
        client=f"remote-env {__version__}",
        resume=resume,
        asking=asking,
    )
