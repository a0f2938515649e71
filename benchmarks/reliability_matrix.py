"""Every fault in every phase: nothing is executed twice, and no call outlives its deadline.

A cell is a mode, a phase, a fault, and whether it heals while the call waits. The fault strikes
in the very phase: during the handshake, while the robot resets, between an action and its
answer. When the call has ended everything is healed, and the learner, or its successor, must
command the robot again. The server is always a process of its own; in two rows the learner is.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection as Pipe
from typing import Any, Final

import remote_env
from benchmarks.reliability_learner import CLOSE, SLACK, Call, Learner, find_problems
from benchmarks.reliability_rig import (
    Child,
    Journal,
    Line,
    Scale,
    journal,
    quiet,
    say,
    wait_for,
)
from benchmarks.reliability_stage import (
    BACK_WITHIN,
    FAULTS,
    HEALS_AFTER,
    LINGER,
    OF_LEARNER,
    PHASES,
    Cell,
    Stage,
    start,
)
from remote_env.testing import Direction, FaultProxy

AT_ONCE: Final = 8  # cells; they mostly wait
RETRY: Final = 0.05


def play(cell: Cell) -> list[str]:
    """Return what went wrong."""
    with journal() as kept:
        server = start(kept, cell)
        stage = None
        try:
            with FaultProxy(server.url) as proxy:
                stage = Stage(cell, server, proxy, kept)
                if cell.fault in OF_LEARNER:
                    return strike_learner(stage)
                return observe(stage) if cell.phase == "observe" else call(stage)
        finally:
            (stage.server if stage else server).kill()


def prepare(learner: Learner, phase: str) -> None:
    """Do what comes before a phase."""
    if phase not in ("connect", "hello"):
        learner.begin()


def enter(learner: Learner, phase: str) -> bool:
    """Make the call of a phase; return whether it did what it should."""
    return {
        "connect": learner.connect,
        "hello": learner.connect,
        "reset": learner.reset,
        "step": learner.step,
        "close": learner.close,
    }[phase]()


def in_thread(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    """Start a thread."""
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def call(stage: Stage) -> list[str]:
    """Play a cell whose phase is a call of the learner."""
    cell = stage.cell
    learner = Learner(stage.proxy.url, 1)
    prepare(learner, cell.phase)
    is_ready = threading.Event()
    fault = in_thread(stage.play_fault, is_ready)
    is_ready.wait(5.0)
    is_good = enter(learner, cell.phase)
    fault.join()
    problems = []
    result = learner.calls[-1].result
    # A server that was killed knows nothing of a step; the learner is told.
    is_known = cell.phase == "reset" or (cell.phase == "step" and cell.fault != "kill -9")
    if cell.heals and cell.mode == "lockstep" and is_known and not is_good:
        problems.append(f"{cell.phase} was not resumed: {result}")
    if not cell.heals:
        stage.heal()
    learner, calls = come_back(learner, cell.phase, problems)
    return problems + learner.problems + find_problems(calls, stage.journal)


def come_back(learner: Learner, phase: str, problems: list[str]) -> tuple[Learner, list[Call]]:
    """Command the robot again, with a new environment if need be; return all calls."""
    before: list[Call] = []
    began = time.monotonic()
    if phase in ("connect", "hello", "close"):
        learner.close()
        before = learner.calls
        learner = Learner(learner.url, 1000, problems=learner.problems)
        while not learner.connect() and time.monotonic() - began < BACK_WITHIN:
            time.sleep(RETRY)
    while not (learner.reset() and all(learner.step() for _ in range(3))):
        if time.monotonic() - began > BACK_WITHIN:
            problems.append(f"could not come back: {learner.calls[-1].result}")
            break
        time.sleep(RETRY)
    learner.close()
    return learner, [*before, *learner.calls]


def drive(learner: Learner, enough: threading.Event) -> None:
    """Step until it is enough, whatever happens: who watches sees what changes."""
    while not enough.is_set():
        if not (learner.step() or learner.reset()):
            time.sleep(RETRY)


def observe(stage: Stage) -> list[str]:
    """Play a cell in which an observer watches while a learner steps past the fault."""
    learner = Learner(stage.server.url, 1)
    learner.begin()
    enough = threading.Event()
    driving = in_thread(drive, learner, enough)
    try:
        problems = watch(stage)
        if not stage.cell.heals:
            stage.heal()
    finally:
        enough.set()
        driving.join(10.0)
    learner, calls = come_back(learner, "step", problems)
    return problems + learner.problems + find_problems(calls, stage.journal)


def watch(stage: Stage) -> list[str]:
    """Observe while the fault strikes, and stop; return what went wrong."""
    problems: list[str] = []
    seen_at = [0.0]
    ended = threading.Event()
    observer: Any = remote_env.observe(stage.proxy.url, hz=20)

    def iterate() -> None:
        for _ in observer:
            seen_at.append(time.monotonic())
            stage.observed += 1
        ended.set()

    in_thread(iterate)
    stage.play_fault(threading.Event())
    if stage.cell.heals:
        healed = time.monotonic()
        if not wait_for(lambda: seen_at[-1] > healed, BACK_WITHIN):
            problems.append(f"nothing was observed for {BACK_WITHIN:g} s after it healed")
    else:
        time.sleep(0.3)
    began = time.monotonic()
    observer.stop()
    if not ended.wait(CLOSE) or time.monotonic() - began > SLACK:
        problems.append(f"the iteration ended {time.monotonic() - began:.2f} s after stop()")
    observer.close()
    if time.monotonic() - began > CLOSE + SLACK:
        problems.append(f"close() took {time.monotonic() - began:.2f} s")
    return problems


# The learner is a process, and something happens to it


def learn(pipe: Pipe, url: str, phase: str) -> None:
    """Be a learner that is killed or stopped in some phase; tells what it did if it lives."""
    quiet()
    learner = Learner(url, 1)
    prepare(learner, phase)
    observer: Any = None
    if phase == "observe":
        observer = remote_env.observe(url, hz=20)
    pipe.send(None)
    pipe.recv()
    if observer is not None:
        in_thread(drive_alone, learner)
        for count, _ in enumerate(observer):
            pipe.send(count)
    else:
        enter(learner, phase)
        if phase in ("reset", "step"):
            learner.step()
    pipe.send((learner.calls, learner.problems))
    time.sleep(60)


def drive_alone(learner: Learner) -> None:
    """Step until somebody else has the robot."""
    while learner.step():
        pass


def strike_learner(stage: Stage) -> list[str]:
    """Play a cell in which the learner's process is killed or stopped."""
    cell = stage.cell
    problems: list[str] = []
    with Child(learn, stage.proxy.url, cell.phase) as child:
        child.ask()
        if cell.phase in ("hello", "close"):
            stage.proxy.set_latency(LINGER, Direction.TO_SERVER)
        signs = in_thread(stage.wait_for_phase)
        time.sleep(0.005)
        child.pipe.send(None)
        if cell.phase == "observe":
            while child.ask() < 3:
                stage.observed += 1
            stage.observed = 3
        signs.join()
        if cell.fault == OF_LEARNER[0]:
            child.kill()
        else:
            child.signal(signal.SIGSTOP)
        stage.proxy.set_latency(0.0)
        goes_on = cell.heals and cell.fault == OF_LEARNER[1]
        if goes_on:
            time.sleep(HEALS_AFTER)
            child.signal(signal.SIGCONT)
        successor = Learner(stage.proxy.url, 1000, problems=problems)
        if goes_on and cell.phase != "observe":
            calls, found = child.ask()
            problems += found
            if cell.mode == "lockstep" and calls[-1].result != "done":
                problems.append(f"after SIGCONT: {calls[-1]}")
            problems += [p for p in find_problems(calls, stage.journal) if "took" not in p]
            child.kill()
            taken_at = 0
        elif goes_on:
            before = len(stage.journal.read())
            if not wait_for(lambda: len(stage.journal.read()) > before + 3, BACK_WITHIN):
                problems.append("after SIGCONT the learner did not go on")
            child.kill()
            taken_at = 0
        else:
            taken_at = len(stage.journal.read())
        began = time.monotonic()
        if not successor.connect():
            problems.append(f"the successor: {successor.calls[-1].result}")
            return problems
        while not (successor.reset() and all(successor.step() for _ in range(3))):
            if time.monotonic() - began > BACK_WITHIN:
                problems.append(f"the successor: {successor.calls[-1].result}")
                break
            time.sleep(RETRY)
        if cell.fault == OF_LEARNER[1] and not goes_on:
            child.signal(signal.SIGCONT)  # it finds that it lost the robot
            for _ in range(5):
                successor.step()
        successor.close()
        if cell.mode == "realtime" and not has_held(stage.journal):
            problems.append("the robot did not hold")
        late = [e for e in stage.journal.read()[taken_at:] if 0 < e.number < 1000]
        # What the old learner had sent before may be executed until its successor's reset.
        begun = [e.at for e in stage.journal.read() if e.number == 1000]
        if begun and not goes_on:
            problems += [f"{e.what} {e.number} of the old learner" for e in late if e.at > begun[0]]
    executed = [(e.what, e.number) for e in stage.journal.read() if e.number]
    if len(executed) != len(set(executed)):
        problems.append("something was executed twice")
    return problems


def has_held(kept: Journal) -> bool:
    """Whether each action of the old learner was followed by a hold before its successor's."""
    entries = kept.read()
    old = [i for i, e in enumerate(entries) if e.what == "apply" and e.number < 1000]
    new = [i for i, e in enumerate(entries) if e.what == "apply" and e.number >= 1000]
    if not old or not new:
        return True
    return any(e.what == "hold" for e in entries[old[-1] : new[0]])


# All of them


def cells(scale: Scale) -> list[Cell]:
    """Return what is to be played."""
    every = [
        Cell(mode, phase, fault, heals)
        for phase in PHASES
        for fault in (*FAULTS, *OF_LEARNER)
        for mode in ("lockstep", "realtime")
        for heals in (True, False)
        if not (fault == OF_LEARNER[0] and heals)
    ]
    if scale.is_quick:
        every = [c for c in every if c.heals == (c.mode == "lockstep") or c.fault == OF_LEARNER[0]]
    return every


def matrix(scale: Scale) -> Iterator[Line]:
    """Play all cells, several at once."""
    planned = cells(scale)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        failures = {}
        for cell, problems in zip(planned, pool.map(attempt, planned), strict=True):
            if problems:
                failures[cell] = problems
                say(f"{cell}: {'; '.join(problems)}")
    too_late = sum(any("took" in p for p in found) for found in failures.values())
    wrong = sum(any("took" not in p for p in found) for found in failures.values())
    count = len(planned)
    yield Line(
        "phase x fault: executions equal unique ids, counters agree, the learner comes back",
        f"{count - wrong} of {count} cells",
        wrong == 0,
    )
    yield Line(
        f"phase x fault: no call outlives its deadline by more than {SLACK * 1e3:.0f} ms",
        f"{count - too_late} of {count} cells",
        too_late == 0,
    )


def attempt(cell: Cell) -> list[str]:
    """Play a cell; what it raises is what went wrong."""
    try:
        return play(cell)
    except Exception as error:
        return [f"{type(error).__name__}: {error}"]
