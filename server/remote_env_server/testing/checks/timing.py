"""Realtime: the control period, the age of what is seen, the rates of the sensors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import pairwise
from statistics import median
from typing import Any

import numpy as np

from remote_env.goals import DESIRED
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, StreamKind, StreamSpec
from remote_env_server.testing.bench import Bench, Moment
from remote_env_server.testing.check import CheckFailedError, CheckSkippedError, check

__all__ = [
    "apply_action_returns_at_once",
    "no_stream_is_frozen_and_its_values_are_plausible",
    "steps_keep_the_control_period",
    "streams_keep_their_declared_rates",
    "the_first_observation_is_younger_than_the_reset",
]

_STEPS = ("it_opens_and_describes_itself", "reset_works_twice_in_a_row", "steps_follow_a_reset")
_CALIBRATION = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
# Of the control period: what is above is not noise of the system.
_TOLERANCE = 0.1
# Of the declared rate of a stream.
_SLOW, _QUICK = 0.7, 1.5
# rad and m: no joint and no room is larger; degrees and millimetres are.
_LARGEST_ANGLE, _LARGEST_DEPTH = 60.0, 200.0


@check(mode=Mode.REALTIME, needs=_STEPS)
def the_first_observation_is_younger_than_the_reset(bench: Bench) -> str:
    """An episode must not begin with a picture of the last one."""
    env = bench.env()
    began_at = time.monotonic()
    moment = bench.reset(env)
    seconds = moment.arrived_at - began_at
    ages: Mapping[str, float] = moment.remote["ages"]
    for name, age in ages.items():
        if bench.spec.stream(name).kind in _CALIBRATION:
            continue
        if age < -0.001:
            raise CheckFailedError(
                f"{name!r} was measured {-age:.3g} s in the future",
                "its stamp is on another clock; pass stamp=self.now(), which is "
                "time.monotonic(), or no stamp",
            )
        if age > seconds:
            raise CheckFailedError(
                f"{name!r} is {age:.3g} s old after a reset that took {seconds:.3g} s",
                "stamp it when it is captured, and let the sensor run during reset",
            )
    return f"at most {max(ages.values(), default=0.0) * 1e3:.0f} ms old"


@check(mode=Mode.REALTIME, needs=_STEPS)
def steps_keep_the_control_period(bench: Bench) -> str:
    """Policies are trained for one control_hz."""
    period = bench.spec.control_period
    since = time.monotonic()
    moments = list(bench.drive(bench.env(), bench.window()))
    pairs = [(a, b) for a, b in pairwise(moments) if _follows(a, b)]
    if not pairs:
        raise CheckSkippedError("every episode ended after one step")
    mean = sum(b.arrived_at - a.arrived_at for a, b in pairs) / len(pairs)
    overruns = moments[-1].remote["overruns"] - moments[0].remote.get("overruns", 0)
    told = f"{len(pairs)} steps of {mean * 1e3:.1f} ms; control_hz says {period * 1e3:.1f} ms"
    if mean > period * (1 + _TOLERANCE * bench.patience):
        raise CheckFailedError(
            f"{told}{_where_time_goes(bench, since)}",
            "lower control_hz, or move what takes long to a sensor thread; over a slow network "
            "the round trip counts too",
        )
    if mean < period * (1 - _TOLERANCE * bench.patience):
        raise CheckFailedError(told, "the server must keep the control period, not the learner")
    if overruns > _TOLERANCE * bench.patience * len(moments):
        bench.warn(f"{overruns} of {len(moments)} periods were missed", "is the machine busy?")
    return told


def _follows(a: Moment, b: Moment) -> bool:
    """Whether both are steps of one episode, and not its last, which waits for hold()."""
    number: int = a.remote["step"]
    return number > 0 and b.remote["step"] == number + 1 and not b.is_last


def _where_time_goes(bench: Bench, since: float) -> str:
    if not bench.sees_code:
        return ""
    methods = ("apply_action", "get_obs", "outcome")
    longest = {m: _longest(bench, m, since) * 1e3 for m in methods}
    return " (" + ", ".join(f"{m} took up to {ms:.1f} ms" for m, ms in longest.items()) + ")"


def _longest(bench: Bench, method: str, since: float) -> float:
    return max((call.seconds for call in bench.spy.calls(method, since=since)), default=0.0)


@check(mode=Mode.REALTIME, sees_code=True, needs=_STEPS)
def apply_action_returns_at_once(bench: Bench) -> str:
    """While it waits nothing else happens in the thread that can hold the robot."""
    since = time.monotonic()
    for _ in bench.drive(bench.env(), bench.window(seconds=0.2)):
        pass
    typical = median(call.seconds for call in bench.spy.calls("apply_action", since=since))
    told = f"{typical * 1e3:.2f} ms of a period of {bench.spec.control_period * 1e3:.1f} ms"
    if typical > min(0.5 * bench.patience, 0.8) * bench.spec.control_period:
        raise CheckFailedError(
            f"apply_action takes {told}",
            "write the command and return; do not wait for the motion",
        )
    return told


@check(mode=Mode.REALTIME, needs=(*_STEPS, "the_first_observation_is_younger_than_the_reset"))
def streams_keep_their_declared_rates(bench: Bench) -> str:
    """A sensor that is slower than it says makes a learner act on the past."""
    env = bench.env()
    began = _sequences(bench)
    moments = list(bench.drive(env, bench.window()))
    ended = _sequences(bench)
    told = []
    for stream in _delivered(bench, moments):
        stamps = [m.remote["stamps"][stream.name] for m in moments]
        if any(b < a for a, b in pairwise(stamps)):
            raise CheckFailedError(
                f"the stamps of {stream.name!r} go back in time",
                "pass stamp=self.now() at the capture, and publish captures in their order",
            )
        if not stream.hz:
            continue
        rate, expected = _rate(stream, bench, moments, stamps, began, ended)
        told.append(f"{stream.name} {rate:.0f} of {expected:.0f} Hz")
        if rate < _SLOW * expected / bench.patience:
            raise CheckFailedError(
                f"{stream.name!r} came {rate:.3g} times a second, and should {expected:.3g} times",
                "declare the hz that the sensor has, or look why its thread is slow",
            )
        if rate > _QUICK * expected * bench.patience and bench.sees_code:
            bench.warn(f"{told[-1]}", "declare the hz that the sensor has")
    _check_fresh(bench, moments)
    incoherent = sorted({name for m in moments for name in m.remote.get("incoherent", ())})
    if incoherent:
        bench.warn(
            f"image and depth of {', '.join(incoherent)} come from different captures",
            "publish both with one update_camera(image=..., depth=...)",
        )
    return ", ".join(told) or "no stream declares a rate"


def _check_fresh(bench: Bench, moments: list[Moment]) -> None:
    """Refuse a robot whose streams are often stale: a learner's episodes would be cut short."""
    stale = [m.remote["stale"] for m in moments if "stale" in m.remote]
    if len(stale) > _TOLERANCE * bench.patience * len(moments):
        (told, *_) = stale[-1].values()
        raise CheckFailedError(
            f"in {len(stale)} of {len(moments)} observations something was stale",
            str(told["text"]),
        )


def _delivered(bench: Bench, moments: list[Moment]) -> list[StreamSpec]:
    names = set.intersection(*(set(m.remote.get("stamps", ())) for m in moments))
    streams = [s for s in bench.spec.streams if s.name in names and s.kind not in _CALIBRATION]
    if not streams:
        raise CheckSkippedError("the robot's observation has no streams with stamps")
    return streams


def _sequences(bench: Bench) -> tuple[float, dict[str, int]]:
    """How often each stream was published so far; only of a robot whose code runs here."""
    if not bench.sees_code:
        return time.monotonic(), {}
    fields = bench.robot.make_obs().fields
    return time.monotonic(), {name: field.sequence for name, field in fields.items()}


def _rate(
    stream: StreamSpec,
    bench: Bench,
    moments: list[Moment],
    stamps: list[float],
    began: tuple[float, dict[str, int]],
    ended: tuple[float, dict[str, int]],
) -> tuple[float, float]:
    """The measured and the expected rate: every capture if we see them, else one per step."""
    if bench.sees_code:
        count = ended[1].get(stream.name, 0) - began[1].get(stream.name, 0)
        return count / (ended[0] - began[0]), stream.hz
    seconds = moments[-1].arrived_at - moments[0].arrived_at
    return (len(set(stamps)) - 1) / seconds, min(stream.hz, (len(moments) - 1) / seconds)


@check(needs=_STEPS)
def no_stream_is_frozen_and_its_values_are_plausible(bench: Bench) -> str:
    """A covered lens, a frozen driver, degrees for radians: all look like data."""
    env = bench.env()
    moments = list(bench.drive(env, bench.window(seconds=0.2)))
    flat = [_flat(bench, moment) for moment in moments]
    for name in flat[0]:
        stream = bench.spec.stream(name)
        first, *later = (observation[name] for observation in flat)
        # A goal is given once for an episode.
        is_goal = bench.spec.goal_reward is not None and name == DESIRED
        if not is_goal and all(
            np.array_equal(first, value, equal_nan=first.dtype.kind == "f") for value in later
        ):
            bench.warn(
                f"{name!r} never changed in {len(flat)} observations",
                "is the sensor alive, and does it see anything?",
            )
        largest = float(np.max(np.abs(np.asarray(flat[-1][name], np.float64)), initial=0.0))
        if stream.unit == "rad" and largest > _LARGEST_ANGLE:
            bench.warn(f"{name!r} reaches {largest:.4g} rad", "is it in degrees?")
        is_depth = stream.kind is StreamKind.DEPTH and first.dtype.kind == "f"
        if is_depth and np.isfinite(largest) and largest > _LARGEST_DEPTH:
            bench.warn(f"{name!r} reaches {largest:.4g} m", "is it in millimetres?")
    for name, calibration in moments[0].remote.get("cameras", {}).items():
        _warn_of_calibration(bench, name, calibration)
    return f"{len(flat[0])} streams in {len(flat)} observations"


def _flat(bench: Bench, moment: Moment) -> dict[str, Any]:
    codec = SpaceCodec(bench.spec.observation_space, root="observation")
    return dict(zip(codec.layout.names, codec.flatten(moment.observation), strict=True))


def _warn_of_calibration(bench: Bench, camera: str, calibration: Mapping[str, Any]) -> None:
    intrinsics, extrinsics = calibration.get("intrinsics"), calibration.get("extrinsics")
    if intrinsics is not None and not (
        intrinsics[0, 0] > 0 and intrinsics[1, 1] > 0 and np.array_equal(intrinsics[2], (0, 0, 1))
    ):
        bench.warn(
            f"the intrinsics of {camera!r} are {intrinsics.tolist()}",
            "they must be [[fx, 0, cx], [0, fy, cy], [0, 0, 1]], in pixels",
        )
    if extrinsics is None:
        return
    rotation = extrinsics[:3, :3]
    if not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-3):
        bench.warn(
            f"the extrinsics of {camera!r} hold no rotation: {rotation.tolist()}",
            "they must be the (4, 4) camera-to-world matrix, translation in metres",
        )
