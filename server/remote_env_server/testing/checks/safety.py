"""What reaches the motors, and what happens when nothing does."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import numpy as np

from remote_env.errors import ActionRefusedError, RobotError
from remote_env.spec import Mode, OutOfBounds
from remote_env_server.testing import actions
from remote_env_server.testing.bench import Bench
from remote_env_server.testing.check import CheckFailedError, CheckSkippedError, check

__all__ = [
    "a_second_learner_is_refused_while_the_first_commands",
    "after_a_fault_the_next_reset_works",
    "an_action_out_of_bounds_never_reaches_the_robot",
    "an_action_with_nan_never_reaches_the_robot",
    "hold_returns_at_once_and_may_be_called_twice",
    "the_robot_holds_when_its_learner_falls_silent",
]

_STEPS = ("it_opens_and_describes_itself", "reset_works_twice_in_a_row", "steps_follow_a_reset")
_HOLDS = (*_STEPS, "hold_is_implemented", "hold_returns_at_once_and_may_be_called_twice")
# Beyond an action's lifetime, in seconds: what an ordinary computer needs to wake up.
_SLACK: Final = 0.05
_LONGEST_HOLD: Final = 0.1
# A process of its own, because a learner may take its own process's robot over. It never
# moves the robot if it is refused, and gives the lease back if it is not.
_SECOND_LEARNER: Final = """
import os, sys
from remote_env import LeaseError, RobotClient
client = RobotClient(sys.argv[1], token=os.environ.get("REMOTE_ENV_TOKEN"), owner="a second")
client.connect()
try:
    client.reset(timeout=1.0)
except LeaseError as error:
    print("refused:", error)
else:
    print("accepted")
client.close()
"""


def _kept_from_the_robot(bench: Bench) -> AbstractContextManager[None]:
    """Where we see the robot's code, a broken guard must not move it while it is tested."""
    return bench.spy.actions_blocked() if bench.sees_code else nullcontext()


def _actions_seen(bench: Bench, since: float) -> list[Any]:
    calls = bench.spy.calls("apply_action", since=since) if bench.sees_code else []
    return [call.argument for call in calls]


@check(needs=_STEPS)
def an_action_out_of_bounds_never_reaches_the_robot(bench: Bench) -> str:
    """It is refused or clipped, as the robot declares."""
    spec = bench.spec
    if spec.out_of_bounds is OutOfBounds.PASS:
        raise CheckSkippedError('the robot says out_of_bounds = "pass"')
    clips = spec.out_of_bounds is OutOfBounds.CLIP
    if clips and spec.mode is not Mode.LOCKSTEP and not bench.sees_code:
        raise CheckSkippedError("a clipped action would move the robot at its limit")
    env = bench.env()
    source = bench.actions()
    moment = bench.reset(env)
    good = source.next(moment.observation)
    bad = actions.out_of_bounds(spec.action_space, good)
    if bad is None:
        raise CheckSkippedError("no number of the action space has a bound")
    since = time.monotonic()
    with _kept_from_the_robot(bench):
        try:
            executed = bench.step(env, bad).remote["action_executed"]
        except ActionRefusedError as error:
            executed, told = None, str(error)
    for action in [*_actions_seen(bench, since), *([] if executed is None else [executed])]:
        if not _is_inside(bench, action):
            raise CheckFailedError(
                f"the robot was told to execute {_shown(action)}",
                f"the server must {spec.out_of_bounds.value} it: {spec.action_space}",
            )
    if not clips and executed is not None:
        raise CheckFailedError(f"{_shown(bad)} was executed", "the server must refuse it")
    if executed is None:
        _check_that_the_episode_goes_on(bench, env, good)
        return told
    return f"{_shown(bad)} became {_shown(executed)}"


def _is_inside(bench: Bench, action: Any) -> bool:
    return bool(bench.spec.action_space.contains(action))


def _shown(action: Any) -> str:
    return np.array2string(action, precision=4, threshold=8) if _is_array(action) else repr(action)


def _is_array(action: Any) -> bool:
    return isinstance(action, np.ndarray)


def _check_that_the_episode_goes_on(bench: Bench, env: Any, good: Any) -> None:
    try:
        bench.step(env, good)
    except RobotError as error:
        raise CheckFailedError(
            f"after a refused action the episode is over: {error}",
            "a refused action must change nothing",
        ) from error


@check(needs=_STEPS)
def an_action_with_nan_never_reaches_the_robot(bench: Bench) -> str:
    """A clamp lets NaN through; three known stacks do."""
    env = bench.env()
    good = bench.actions().next(bench.reset(env).observation)
    bad = actions.not_finite(bench.spec.action_space, good)
    if bad is None:
        raise CheckSkippedError("the action space has no floating-point number")
    since = time.monotonic()
    with _kept_from_the_robot(bench):
        try:
            bench.step(env, bad)
        except ActionRefusedError as error:
            told = str(error)
        else:
            told = ""
    if not told or _actions_seen(bench, since):
        raise CheckFailedError(
            f"{_shown(bad)} was accepted", "the server must refuse it before anything moves"
        )
    _check_that_the_episode_goes_on(bench, env, good)
    return told


@check(mode=Mode.REALTIME, sees_code=True, needs=(*_STEPS, "hold_is_implemented"))
def hold_returns_at_once_and_may_be_called_twice(bench: Bench) -> str:
    """It is called when things go wrong, and again when they still do."""
    env = bench.env()
    moment = bench.reset(env)
    since = time.monotonic()
    bench.step(env, bench.actions().next(moment.observation))
    # Once because the learner is silent, and once more because it ends the episode.
    bench.spy.wait_for(
        "hold", since=since, timeout=bench.spec.action_lifetime + 2.0 * bench.patience
    )
    try:
        bench.reset(env)
    except RobotError as error:
        if not any(call.error for call in bench.spy.calls("hold", since=since)):
            raise CheckFailedError(
                f"after hold() the next reset fails: {error}", "reset must bring the robot back"
            ) from error
    calls = bench.spy.calls("hold", since=since)
    for number, call in enumerate(calls, 1):
        if call.error is not None:
            again = "" if number == 1 else ", called again while the robot held,"
            raise CheckFailedError(
                f"hold(){again} raised {type(call.error).__name__}: {call.error}",
                "hold() must work whatever state the robot is in, also a second time",
            )
        if call.seconds > _LONGEST_HOLD * bench.patience:
            raise CheckFailedError(
                f"hold() took {call.seconds * 1e3:.0f} ms",
                "command the stop and return; do not wait until the robot stands still",
            )
    if len(calls) < 2:
        raise CheckSkippedError(f"hold() was called {len(calls)} times, not twice")
    return f"{max(call.seconds for call in calls) * 1e3:.2f} ms at most"


@check(mode=Mode.REALTIME, needs=_HOLDS)
def the_robot_holds_when_its_learner_falls_silent(bench: Bench) -> str:
    """A learner trains, a cable is pulled, a host dies: here they look the same."""
    lifetime = bench.spec.action_lifetime
    env = bench.env()
    source = bench.actions()
    # From the first step of an episode; one that ends at once leaves nothing to watch.
    moment = bench.step(env, source.next(bench.reset(env).observation))
    if moment.is_last:
        raise CheckSkippedError("the episode ended with its first step")
    late = _SLACK * bench.patience + bench.spec.control_period
    told = ""
    if bench.sees_code:
        applied_at = bench.spy.calls("apply_action")[-1].began_at
        held = bench.spy.wait_for("hold", since=applied_at, timeout=lifetime + 2 * bench.patience)
        after = held.began_at - applied_at if held else float("inf")
        told = f"hold() {after * 1e3:.0f} ms after the last action, {lifetime * 1e3:.0f} declared; "
        if not lifetime * 0.9 <= after <= lifetime + late:
            raise CheckFailedError(
                f"hold() was called {after:.3f} s after the last action, whose lifetime is "
                f"{lifetime:.3f} s",
                "something blocks the control thread: get_obs, outcome, or C code that keeps "
                "Python's lock",
            )
    time.sleep(lifetime + 2 * late)
    moment = bench.step(env, source.next(moment.observation))
    if not moment.remote.get("held", 0.0) > 0.0:
        raise CheckFailedError(
            f"after {lifetime + 2 * late:.2f} s of silence the robot had not held",
            "the server must call hold() when an action's lifetime is over",
        )
    return f"{told}held for {moment.remote['held'] * 1e3:.0f} ms, and the next step worked"


@check(sees_code=True, needs=_STEPS)
def after_a_fault_the_next_reset_works(bench: Bench) -> str:
    """A driver fails sooner or later; a reset is what a learner does about it."""
    env = bench.env()
    source = bench.actions()
    moment = bench.reset(env)
    since = time.monotonic()
    bench.spy.fail_after_next_action()
    try:
        bench.step(env, source.next(moment.observation))
    except RobotError:
        pass
    else:
        raise CheckFailedError(
            "an exception in apply_action did not reach the learner",
            "let exceptions out of apply_action; the server tells the learner and holds",
        )
    if bench.spec.mode is not Mode.LOCKSTEP and not bench.spy.calls("hold", since=since):
        raise CheckFailedError("the robot did not hold after the fault", "the server must hold it")
    try:
        moment = bench.reset(env)
        bench.step(env, source.next(moment.observation))
    except RobotError as error:
        raise CheckFailedError(
            f"after a fault in apply_action a reset does not help: {error}",
            "reset() must work from whatever state a fault leaves behind",
        ) from error
    finally:
        bench.logged()  # the fault was ours
    return ""


@check(needs=_STEPS)
def a_second_learner_is_refused_while_the_first_commands(bench: Bench) -> str:
    """Two learners and one arm."""
    bench.reset(bench.env())
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    environment.pop("REMOTE_ENV_TOKEN", None)
    if bench.token is not None:
        environment["REMOTE_ENV_TOKEN"] = bench.token
    said = subprocess.run(  # noqa: S603 (our own interpreter and our own text)
        [sys.executable, "-c", _SECOND_LEARNER, bench.url],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30.0 * bench.patience,
    )
    if said.stdout.startswith("accepted"):
        raise CheckFailedError(
            "a second learner, from another process, reset the robot",
            "the server must refuse it while the lease of the first is alive",
        )
    if not said.stdout.startswith("refused"):
        raise CheckSkippedError(f"the second learner failed: {said.stderr.strip()[-200:]}")
    return said.stdout.strip()
