"""Which codecs both sides have, and what ``"auto"`` is between the two of them."""

from __future__ import annotations

import ipaddress
import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import urlsplit

from remote_env.errors import ConfigurationError
from remote_env.protocol.arrays import CODECS, RAW
from remote_env.protocol.compressing import available_codecs, check_codec
from remote_env.requesting import fits, requested
from remote_env.spec import RobotSpec
from remote_env.stream_requests import AUTO, StreamRequest

__all__ = ["CAPABILITY", "check_codecs", "choose_codecs", "measure_bandwidth"]

logger = logging.getLogger(__name__)

# Of the capabilities in a Welcome, those that name a codec begin so.
CAPABILITY: Final = "codec."
# Of what the network carries, so much may be raw streams: the rest is for what varies.
_EASY: Final = 0.5
_ROUND_TRIPS: Final = 4
_PROBES: Final = (16 << 10, 64 << 10, 256 << 10, 256 << 10, 256 << 10)  # bytes
_LONG: Final = 0.05  # seconds: after an answer that took so long the next would take longer
# An observation is taken so often where nothing says how often, in Hz.
_USUAL_HZ: Final = 20.0


def check_codecs(requests: Mapping[str, StreamRequest], capabilities: Collection[str]) -> None:
    """Refuse codecs that one side lacks.

    Raises:
        ConfigurationError: Saying which side, and what to install.
    """
    for name, request in requests.items():
        codec = request.codec or RAW
        check_codec(codec)
        if codec != RAW and CAPABILITY + codec not in capabilities:
            raise ConfigurationError(
                f"{name!r} was asked for as {codec!r}, which the robot's side cannot encode; "
                "install it there with pip install 'remote-robot-env[image]', or choose "
                "codec='raw'"
            )


def choose_codecs(
    spec: RobotSpec,
    requests: Mapping[str, StreamRequest],
    *,
    hz: float,
    url: str,
    capabilities: Collection[str],
    bandwidth: Callable[[], float],
) -> dict[str, StreamRequest]:
    """Decide what ``"auto"`` is, and say so in the log: raw where that is carried easily.

    Args:
        spec: As the robot has it.
        requests: By stream name.
        hz: How often an observation is taken, in Hz; 0 if nothing says.
        url: Of the robot; on this machine it is always raw.
        capabilities: Of the robot's side.
        bandwidth: Measures, in bytes per second; called if that matters.
    """
    undecided = [name for name, request in requests.items() if request.codec == AUTO]
    raw = {n: replace(r, codec=RAW) if n in undecided else r for n, r in requests.items()}
    if not undecided:
        return raw
    if _is_here(url):
        logger.info("%s is on this machine: %s raw", url, ", ".join(undecided))
        return raw
    becomes = requested(spec, raw)
    hz = hz or _USUAL_HZ
    needed = sum(
        (stream := becomes.stream(name)).array.nbytes * (min(stream.hz, hz) if stream.hz else hz)
        for name in undecided
    )
    measured = bandwidth()
    fits = needed <= _EASY * measured
    chosen = raw if fits else {**raw, **_encoded(becomes, undecided, raw, capabilities)}
    logger.info(
        "raw, %s need %.3g MB/s, and %s gives %.3g MB/s: %s",
        ", ".join(undecided),
        needed / 1e6,
        url,
        measured / 1e6,
        ", ".join(f"{name} {chosen[name].codec}" for name in undecided),
    )
    return chosen


def _encoded(
    becomes: RobotSpec,
    names: Sequence[str],
    raw: Mapping[str, StreamRequest],
    capabilities: Collection[str],
) -> dict[str, StreamRequest]:
    able = [c for c in available_codecs() if c == RAW or CAPABILITY + c in capabilities]
    found = {}
    for name in names:
        codec = next((c for c in CODECS[1:] if fits(c, becomes.stream(name))), RAW)
        if codec not in able:
            logger.warning(
                "%r would be %r, and one side lacks what that needs; install it on both with "
                "pip install 'remote-robot-env[image]'",
                name,
                codec,
            )
            codec = RAW
        found[name] = replace(raw[name], codec=codec)
    return found


def _is_here(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if url.startswith("inproc:") or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def measure_bandwidth(probe: Callable[[int], float]) -> float:
    """Return bytes per second from the robot to us: the best of a few answers.

    Takes some milliseconds on a quick line and about a fifth of a second on a slow one, more only
    if 16 KiB take longer.

    Args:
        probe: Lets the server send so many bytes, and returns the seconds that took.
    """
    least = min(probe(0) for _ in range(_ROUND_TRIPS))
    best = 0.0
    for size in _PROBES:
        took = probe(size) - least
        best = max(best, size / took if took > 0 else math.inf)
        if took > _LONG:
            break
    return best
