"""The end: nothing moves, nothing runs on, and it can begin again."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time

from remote_env_server.testing.bench import Bench
from remote_env_server.testing.check import CheckFailedError, check

__all__ = [
    "close_leaves_no_thread_behind",
    "close_works_and_may_be_called_twice",
    "it_opens_again_after_close",
]

_OPENED = ("it_opens_and_describes_itself",)
_RESETS = (*_OPENED, "reset_works_twice_in_a_row")


@check(moves=False, sees_code=True, needs=_OPENED)
def close_leaves_no_thread_behind(bench: Bench) -> str:
    """A thread that still reads a closed device crashes the process, or the next robot."""
    began_at = time.monotonic()
    bench.shut()
    seconds = time.monotonic() - began_at
    left = bench.wait_for_threads(timeout=bench.patience)
    if left:
        names = ", ".join(repr(thread.name) for thread in left)
        raise CheckFailedError(
            f"{len(left)} threads still run after close: {names}",
            "stop and join them in close(); those of start_sensor are stopped for you, unless "
            "their function blocks for seconds",
        )
    return f"closed in {seconds:.2f} s"


@check(moves=False, sees_code=True, opens=True, needs=_RESETS)
def it_opens_again_after_close(bench: Bench) -> str:
    """A server that is restarted finds the device free."""
    for _ in range(2):
        try:
            bench.open()
        except Exception as error:
            with contextlib.suppress(Exception):
                bench.shut()
            raise CheckFailedError(
                f"after close, a new robot does not open: {type(error).__name__}: {error}",
                "give back in close() whatever open() took: ports, locks, shared memory",
            ) from error
        if bench.moves:
            bench.reset(bench.env())
        bench.shut()
    return "twice"


@check(moves=False, sees_code=True, needs=(*_OPENED, "it_opens_again_after_close"))
def close_works_and_may_be_called_twice(bench: Bench) -> str:
    """It is also called when open() has failed half-way."""
    robot, spy = bench.robot, bench.spy
    bench.shut()
    for call in spy.calls("close"):
        if call.error is not None:
            raise CheckFailedError(
                f"close() raised {type(call.error).__name__}: {call.error}",
                "close() must work whatever state the robot is in",
            )
    try:
        closing = robot.close()
        if inspect.isawaitable(closing):
            asyncio.run(_wait(closing))
    except Exception as error:
        raise CheckFailedError(
            f"close() raised {type(error).__name__} when it was called again: {error}",
            "set what you have closed to None, and close only what is there",
        ) from error
    return ""


async def _wait(closing: object) -> None:
    assert inspect.isawaitable(closing)
    await closing
