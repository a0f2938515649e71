"""What client and robot agree on when streams are asked for otherwise than the robot has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from remote_env.codec_choice import CAPABILITY, check_codecs
from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.protocol import Subscribe, Subscribed, Value
from remote_env.protocol.arrays import RAW
from remote_env.protocol.compressing import available_codecs, check_codec
from remote_env.requesting import derived_arrays, requested
from remote_env.spec import RobotSpec
from remote_env.stream_requests import StreamRequest, read_request

__all__ = ["begin_requests", "capabilities", "check_derived", "read_requests"]


def capabilities() -> tuple[str, ...]:
    """Return what this server says in its ``Welcome``: the codecs that it has, but raw."""
    return tuple(CAPABILITY + codec for codec in available_codecs() if codec != RAW)


def read_requests(spec: RobotSpec, message: Subscribe) -> RobotSpec:
    """Return what the robot's streams are for the client that says this; without their spaces.

    Raises:
        ConfigurationError: If a stream cannot be that, or we lack a codec.
    """
    requests = {name: read_request(raw) for name, raw in message.requests.items()}
    unobserved = sorted(requests.keys() - set(message.streams))
    if unobserved:
        raise ConfigurationError(f"{unobserved[0]!r:.200} is asked for and not subscribed to")
    for request in requests.values():
        check_codec(request.codec or RAW)
    return requested(spec, requests, has_spaces=False)


def begin_requests(
    spec: RobotSpec, requests: Mapping[str, StreamRequest], capabilities: Collection[str]
) -> tuple[RobotSpec, dict[str, Value]]:
    """Return what the robot's streams will be, and what to say in ``Subscribe.requests``.

    Raises:
        ConfigurationError: If a stream cannot be that, or a side lacks a codec.
    """
    check_codecs(requests, capabilities)
    becomes = requested(spec, requests)
    return becomes, {name: request.to_wire() for name, request in requests.items()}


def check_derived(spec: RobotSpec, answer: Subscribed) -> None:
    """Refuse an answer in which the streams are otherwise than both sides must compute.

    Args:
        spec: As ``begin_requests`` returned it.
        answer: From the robot's side.

    Raises:
        RemoteProtocolError: Naming what differs.
    """
    expected = derived_arrays(spec, answer.streams)
    if answer.derived != expected:
        raise RemoteProtocolError(
            f"the robot's side would send {answer.derived!r:.300}, and what was asked for is "
            f"{expected!r:.300}; install the same release on both machines"
        )
