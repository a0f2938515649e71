"""Transports carry frames and know nothing else; chosen by the scheme of the url."""

from __future__ import annotations

from remote_env.errors import ConfigurationError
from remote_env.transport import inprocess, websocket
from remote_env.transport.base import Frame, FrameHandler, FrameSink, Link, Listener, join

__all__ = ["Frame", "FrameHandler", "FrameSink", "Link", "Listener", "connect", "join"]


def connect(url: str, *, timeout: float, max_frame_size: int, is_brief: bool = False) -> Link:
    """Connect to a robot server.

    Args:
        url: ``ws://host:port``, ``wss://host:port`` or ``inproc://name``.
        timeout: For everything until frames can be exchanged, in seconds.
        max_frame_size: The largest frame to accept, in bytes.
        is_brief: Whether it is for a few seconds only: then a server that is full lets it in.

    Raises:
        ConfigurationError: If the url is malformed or its scheme is not known.
        ConnectFailedError: If no robot server answers there.
        AccessDeniedError: If the server refuses this client.
    """
    scheme, separator, rest = url.partition("://")
    scheme = scheme.lower()
    if separator and rest and scheme in websocket.SCHEMES:
        return websocket.connect(
            url, timeout=timeout, max_frame_size=max_frame_size, is_brief=is_brief
        )
    if separator and rest and scheme == inprocess.SCHEME:
        return inprocess.connect(url, timeout=timeout, max_frame_size=max_frame_size)
    raise ConfigurationError(
        f"{url!r} is no address of a robot; expected something like 'ws://robot.local:8765'"
    )
