"""What a reset may be asked for, and the first observation of its episode.

That is one of which every stream was captured after the robot's own reset.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence

from remote_env.errors import SensorError, UnknownOptionError
from remote_env.protocol.values import Value
from remote_env.spec import Mode, RobotSpec, StreamKind
from remote_env_server.driver import Driver
from remote_env_server.requests import Captured

__all__ = ["check_options", "wait_for_first_observation"]

_CALIBRATION = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
_LOOK_EVERY = 0.001  # seconds


def check_options(spec: RobotSpec, options: Mapping[str, Value] | None) -> None:
    """Refuse options of a reset that the robot does not know.

    Raises:
        UnknownOptionError: Naming the first.
    """
    known = spec.reset_options
    unknown = sorted((options or {}).keys() - known.keys()) if known is not None else []
    if unknown:
        raise UnknownOptionError(
            f"reset option {unknown[0]!r} is not known; this robot knows "
            f"{', '.join(map(repr, known or {})) or 'none'}"
        )


def wait_for_first_observation(
    driver: Driver,
    streams: Sequence[str],
    *,
    began_at: float,
    ready_at: float,
    timeout: float,
    tick_of: Callable[[], int],
    check: Callable[[], None],
) -> Captured:
    """Take the first observation that shows the robot as the reset left it.

    Args:
        driver: The robot's code.
        streams: Which must have delivered.
        began_at: When the reset began, on the robot's clock.
        ready_at: When the robot's own reset returned, on the robot's clock.
        timeout: How long to wait for a stream, in seconds; lockstep does not wait.
        tick_of: Returns the number of the present tick.
        check: Raises if nobody wants this reset any more; called while waiting.

    Raises:
        SensorError: Naming a stream that does not deliver.
    """
    is_lockstep = driver.spec.mode is Mode.LOCKSTEP
    deadline = time.monotonic() + timeout
    while True:
        captured = driver.observe(tick_of())
        missing = [
            name
            for name in streams
            if not _is_fresh(driver, captured, name, began_at=began_at, ready_at=ready_at)
        ]
        if not missing:
            return captured
        if is_lockstep or time.monotonic() > deadline:
            raise _silent(captured, missing, within="" if is_lockstep else f" within {timeout:g} s")
        time.sleep(_LOOK_EVERY)
        check()


def _is_fresh(
    driver: Driver, captured: Captured, name: str, *, began_at: float, ready_at: float
) -> bool:
    published = captured.fields[name]
    if driver.spec.stream(name).kind in _CALIBRATION:
        return True
    if driver.spec.mode is Mode.LOCKSTEP:
        return published.sequence > 0
    # What the robot's own reset published is fresh, also if it did so before returning.
    is_ours = published.thread == threading.get_ident()
    return published.stamp >= (began_at if is_ours else ready_at)


def _silent(captured: Captured, missing: Sequence[str], *, within: str) -> SensorError:
    name = missing[0]
    published = captured.fields[name]
    others = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
    if published.sequence == 0:
        what = f"did not deliver once{within} after the reset; check the cable and the thread"
    else:
        age = captured.time - published.stamp
        what = (
            f"did not deliver again{within} after the reset, its newest is {age:.3g} s old by "
            "its stamp, which must be on the clock of now(); check the cable and the thread"
        )
    return SensorError(
        f"{name!r}{others} {what} that publishes it, or choose other streams with streams=[...]",
        code="robot.sensor.silent",
    )
