"""What a robot says of itself."""

from __future__ import annotations

import time

import numpy as np
from gymnasium import spaces

from remote_env.errors import RemoteEnvError
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, OutOfBounds, RobotSpec, StreamKind
from remote_env_server.robot import Robot
from remote_env_server.testing.bench import Bench
from remote_env_server.testing.check import CheckFailedError, check

__all__ = [
    "an_observer_may_connect",
    "hold_is_implemented",
    "it_opens_and_describes_itself",
    "the_description_is_complete",
]

_OPENED = ("it_opens_and_describes_itself",)
_SLOWEST, _FASTEST = 0.5, 1000.0
_CALIBRATION = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)


@check(moves=False, opens=True)
def it_opens_and_describes_itself(bench: Bench) -> str:
    """Make it, open it, connect to it. Everything else needs this."""
    began_at = time.monotonic()
    try:
        bench.open()
    except RemoteEnvError:
        raise
    except Exception as error:
        raise CheckFailedError(
            f"it raised {type(error).__name__}: {error}",
            "open() runs once, before anything else; __init__ must not touch the hardware",
        ) from error
    for message in bench.logged():
        if "has no hold()" not in message:  # a check of its own
            bench.warn(message, "the server logs this at each start")
    spec = bench.spec
    rate = f" at {spec.control_hz:g} Hz" if spec.control_hz else ""
    return f"{spec.name}, {spec.mode.value}{rate}, in {time.monotonic() - began_at:.1f} s"


@check(moves=False, needs=_OPENED)
def the_description_is_complete(bench: Bench) -> str:
    """Learners configure nothing: what is not declared here, nobody knows."""
    spec = bench.spec
    if spec.mode is not Mode.LOCKSTEP:
        _check_actions(spec)
        if not _SLOWEST <= spec.control_hz <= _FASTEST:
            raise CheckFailedError(
                f"control_hz is {spec.control_hz:g}",
                f"declare actions per second, from {_SLOWEST:g} to {_FASTEST:g}; faster loops "
                "belong below apply_action",
            )
        if spec.out_of_bounds is OutOfBounds.PASS:
            bench.warn(
                'out_of_bounds is "pass": any finite number reaches the motors',
                'choose "refuse" or "clip"',
            )
        _warn_of_streams(bench)
    for name, text in (spec.reset_options or {}).items():
        if not str(text).strip():
            bench.warn(f"reset option {name!r} has no help", "say in one line what it does")
    return f"{len(spec.streams)} streams, actions {spec.action_space}"


def _check_actions(spec: RobotSpec) -> None:
    codec = SpaceCodec(spec.action_space, root="action")
    for name, leaf in zip(codec.layout.names, codec.leaf_spaces, strict=True):
        if not isinstance(leaf, spaces.Box):
            continue
        if not (np.isfinite(leaf.low).all() and np.isfinite(leaf.high).all()):
            raise CheckFailedError(
                f"{name!r} of the action space goes from {leaf.low.min():g} to {leaf.high.max():g}",
                "declare the robot's real limits; without them no action is ever out of bounds",
            )
        if (leaf.low >= leaf.high).any():
            raise CheckFailedError(
                f"{name!r} of the action space has a number that can have one value only",
                "declare low < high, or leave the number out of the action",
            )


def _warn_of_streams(bench: Bench) -> None:
    streams = bench.spec.streams
    proprioception = [s for s in streams if s.kind is StreamKind.PROPRIOCEPTION]
    without_unit = [s.name for s in proprioception if not s.unit]
    without_rate = [s.name for s in streams if not s.hz and s.kind not in _CALIBRATION]
    without_bounds = [s.name for s in proprioception if not _is_bounded(s.space)]
    for names, what, advice in (
        (without_unit, "no unit", 'declare unit="rad" or the like'),
        (without_rate, "no rate", "declare hz=; the rate is then checked"),
        (without_bounds, "no bounds", "declare low= and high=; learners scale by them"),
    ):
        if names:
            bench.warn(f"{', '.join(map(repr, names))}: {what}", advice)


def _is_bounded(space: spaces.Space[object]) -> bool:
    return isinstance(space, spaces.Box) and space.is_bounded()


@check(moves=False, mode=Mode.REALTIME, sees_code=True, needs=_OPENED)
def hold_is_implemented(bench: Bench) -> str:
    """Without it nothing stops the robot when its learner falls silent."""
    if type(bench.robot).hold is Robot.hold:
        raise CheckFailedError(
            f"{type(bench.robot).__name__} has no hold(): nothing stops it when the learner falls "
            "silent",
            "implement hold(), with an explicit 'pass' if this robot cannot move",
        )
    return ""


@check(moves=False, needs=_OPENED)
def an_observer_may_connect(bench: Bench) -> str:
    """Looking needs no lease."""
    client = bench.client()
    client.connect()
    try:
        trip, _ = client.ping()
    finally:
        client.close()
    return f"round trip {trip * 1e3:.1f} ms"
