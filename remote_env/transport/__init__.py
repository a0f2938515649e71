"""Transports carry frames and know nothing else; chosen by the scheme of the url."""

from __future__ import annotations

from typing import Any

from remote_env.errors import ConfigurationError
from remote_env.transport import connecting, fast_frames, inprocess
from remote_env.transport.base import Frame, FrameHandler, FrameSink, Link, Listener, join
from remote_env.transport.fast_listener import FastListener
from remote_env.transport.listening import WebSocketListener

__all__ = [
    "Frame",
    "FrameHandler",
    "FrameSink",
    "Link",
    "Listener",
    "connect",
    "join",
    "websocket_listener",
]


def websocket_listener(host: str, port: int, **options: Any) -> WebSocketListener:
    """Return what listens for WebSockets, with the options of ``WebSocketListener``.

    In the fast lane, unless ``REMOTE_ENV_FAST=0``.
    """
    if fast_frames.is_available():
        return FastListener(host, port, **options)
    from remote_env.transport.websocket_server import PlainListener

    return PlainListener(host, port, **options)


def connect(url: str, *, timeout: float, max_frame_size: int, is_brief: bool = False) -> Link:
    """Connect to a robot server.

    Args:
        url: ``ws://host:port``, ``wss://host:port``, ``ws+unix:///path`` or ``inproc://name``.
        timeout: For everything until frames can be exchanged, in seconds.
        max_frame_size: The largest frame to accept, in bytes.
        is_brief: Whether it is for a few seconds only: then a server that is full lets it in.

    Raises:
        ConfigurationError: If the url is malformed or its scheme is not known.
        ConnectFailedError: If no robot server answers there.
        AccessDeniedError: If the server refuses this client.
    """
    # Not text: somebody's slip, such as a list for the urls of a vector environment.
    scheme, separator, rest = url.partition("://") if isinstance(url, str) else ("", "", "")
    scheme = scheme.lower()
    if separator and rest and scheme in connecting.SCHEMES:
        return connecting.connect(
            url, timeout=timeout, max_frame_size=max_frame_size, is_brief=is_brief
        )
    if separator and rest and scheme == inprocess.SCHEME:
        return inprocess.connect(url, timeout=timeout, max_frame_size=max_frame_size)
    raise ConfigurationError(
        f"{url!r} is no address of a robot; expected something like 'ws://robot.local:8765'"
    )
