"""How late the robot holds when actions stop coming, whatever the cause.

The server runs in this process, the learner in one of its own, behind a network that can break.
An action lives for ``action_lifetime``; lateness is the hold minus the moment when the last
action was applied minus that. A connection that ends in a way that the system can tell (RST, a
killed learner) makes the robot hold at once, before the action expires: those are early.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection as Pipe
from typing import Final

import numpy as np

import remote_env
from benchmarks.reliability_rig import (
    Child,
    Entry,
    Journal,
    Line,
    Recorder,
    Scale,
    journal,
    milliseconds,
    quiet,
    say,
    wait_for,
)
from remote_env.testing import FaultProxy
from remote_env_server import RobotServer

P99: Final = 0.010
MOST: Final = 0.050
# The robot's own code notes the action some microseconds after the watchdog did.
AT_ONCE: Final = 0.001


def drive(pipe: Pipe, url: str, pause: float) -> None:
    """Step for ever; with a pause, be silent for so long after every fifth step."""
    quiet()
    action = np.ones(1)
    env = remote_env.RemoteRobotEnv(url)
    while True:
        try:
            env.reset()
            pipe.send(None)
            while True:
                for _ in range(5):
                    *_, truncated, info = env.step(action)
                    if truncated:
                        raise remote_env.ConnectionLostError(info["remote"]["end_cause"])
                if pause:
                    time.sleep(pause)
        except remote_env.RemoteEnvError:
            continue


class Watch:
    """Tells holds from the journal of a robot.

    Attributes:
        late: How late each hold was, in seconds.
        early: How long after the fault each hold was that came before the action expired.
        missed: How often the robot did not hold at all.
    """

    def __init__(self, kept: Journal, lifetime: float) -> None:
        self.late: list[float] = []
        self.early: list[float] = []
        self.missed = 0
        self._journal = kept
        self._lifetime = lifetime

    def note(self, after: float) -> None:
        """Wait for the first hold after a fault, and judge it."""
        found: list[tuple[Entry, Entry]] = []

        def look() -> bool:
            found.extend(pairs(self._journal.read(), after)[:1])
            return bool(found)

        if not wait_for(look, self._lifetime + 1.0, every=0.01):
            self.missed += 1
            return
        applied, held = found[0]
        late = held.at - applied.at - self._lifetime
        if late < -AT_ONCE:
            self.early.append(held.at - after)
        else:
            self.late.append(late)

    def note_all(self) -> None:
        """Judge all holds of the journal; no fault but silence."""
        for applied, held in pairs(self._journal.read(), 0.0):
            self.late.append(held.at - applied.at - self._lifetime)


def pairs(entries: list[Entry], after: float) -> list[tuple[Entry, Entry]]:
    """Return each hold after a moment with the action that was in force."""
    found = []
    applied = None
    for entry in entries:
        if entry.what == "apply":
            applied = entry
        elif entry.what == "hold":
            if applied is not None and entry.at > after:
                found.append((applied, entry))
            applied = None
        elif entry.what == "reset":
            applied = None
    return found


def silent(scale: Scale) -> Watch:
    """A learner that says nothing for a while, again and again."""
    count = scale.pick(30, 120)
    with journal() as kept, RobotServer(make(kept), port=0, mode="realtime") as server:
        watch = Watch(kept, server.spec.action_lifetime)
        with Child(drive, server.url, 0.15) as child:
            child.ask()
            wait_for(lambda: len(kept.numbers("hold")) > count, 60.0, every=0.1)
        watch.note_all()
        return watch


def wait_for_steps(kept: Journal) -> None:
    """Wait until some more steps were executed.

    Raises:
        RuntimeError: If that does not happen.
    """
    enough = len(kept.numbers("apply")) + 3
    if not wait_for(lambda: len(kept.numbers("apply")) > enough, 10.0):
        raise RuntimeError("the learner did not come back")


def make(kept: Journal) -> Recorder:
    """Return the robot; not to be asked for its journal, which we have."""
    return Recorder(kept.path, hz=50.0)


def breaking(
    count: int,
    strike: Callable[[FaultProxy, Child], None],
    heal: Callable[[FaultProxy, Child], None],
) -> Watch:
    """A learner that steps, and a fault that comes and goes so many times."""
    with (
        journal() as kept,
        RobotServer(make(kept), port=0, mode="realtime") as server,
        FaultProxy(server.url) as proxy,
        Child(drive, proxy.url, 0.0) as child,
    ):
        watch = Watch(kept, server.spec.action_lifetime)
        child.ask()
        for _ in range(count):
            wait_for_steps(kept)
            struck_at = time.monotonic()
            strike(proxy, child)
            watch.note(struck_at)
            heal(proxy, child)
        return watch


def killed(scale: Scale) -> Watch:
    """A learner that is killed with -9, and the next one."""
    with journal() as kept, RobotServer(make(kept), port=0, mode="realtime") as server:
        watch = Watch(kept, server.spec.action_lifetime)
        for _ in range(scale.pick(3, 15)):
            with Child(drive, server.url, 0.0) as child:
                child.ask()
                wait_for_steps(kept)
                struck_at = time.monotonic()
                child.kill()
                watch.note(struck_at)
        return watch


def stopped(scale: Scale) -> Watch:
    """A learner that is stopped, and goes on later."""
    return breaking(
        scale.pick(20, 80),
        lambda _, child: child.signal(signal.SIGSTOP),
        lambda _, child: child.signal(signal.SIGCONT),
    )


def blackholed(scale: Scale) -> Watch:
    """A network that swallows everything for a while."""
    return breaking(
        scale.pick(8, 25), lambda proxy, _: proxy.blackhole(), lambda proxy, _: proxy.heal()
    )


def reset(scale: Scale) -> Watch:
    """A connection that is reset."""
    return breaking(scale.pick(10, 30), lambda proxy, _: proxy.reset_connections(), lambda *_: None)


def holds(scale: Scale) -> Iterator[Line]:
    """Measure every cause."""
    causes = {
        "silence": silent,
        "SIGSTOP": stopped,
        "blackhole": blackholed,
        "kill -9": killed,
        "RST": reset,
    }
    late: list[float] = []
    early: list[float] = []
    missed = 0
    for name, measure in causes.items():
        watch = measure(scale)
        say(
            f"{name}: {len(watch.late)} late by {milliseconds(watch.late)}; {len(watch.early)} "
            f"early, after {milliseconds(watch.early)}; {watch.missed} missed"
        )
        late += watch.late
        early += watch.early
        missed += watch.missed
    p99, most = np.percentile(late, [99, 100])
    count = len(late) + len(early)
    yield Line(
        f"the robot holds when its last action expires: p99 at most +{P99 * 1e3:.0f} ms, at most "
        f"+{MOST * 1e3:.0f} ms, in at least 200 cases of {len(causes)} causes",
        f"{milliseconds(late)} in {len(late)} of {count} cases, {missed} missed",
        p99 <= P99 and most <= MOST and not missed and (count >= 200 or scale.is_quick),
    )
    yield Line(
        "early, because the connection ended (RST, kill -9): after the fault",
        f"{milliseconds(early)} in {len(early)} cases",
    )
