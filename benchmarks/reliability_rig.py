"""What the parts of ``reliability.py`` share: a robot that writes down what it did, and processes.

The journal is a file that every process appends to with single writes, so it survives a
``kill -9`` of whoever wrote it. Moments are ``time.monotonic``, which is one clock for all
processes of a machine.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from remote_env.spec import Mode
from remote_env_server import ProprioConfig, Robot, RobotServer

# Children are forked from a process that has imported everything: 50 ms in place of a second.
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["remote_env", "remote_env_server"])
_starting = threading.Lock()  # guards the starting of processes, from several threads


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the table.

    Attributes:
        goal: What is promised.
        measured: What was measured.
        is_met: Whether it is; None for a figure without a goal, or that was not measured.
    """

    goal: str
    measured: str
    is_met: bool | None = None


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to measure.

    Attributes:
        is_quick: Whether to take a few minutes only.
        steps: How many steps the memory is watched for; None for what fits.
        seed: Of everything that is drawn.
    """

    is_quick: bool
    steps: int | None = None
    seed: int = 1

    def pick(self, quick: int, full: int) -> int:
        """Return one of two counts."""
        return quick if self.is_quick else full


def say(text: str) -> None:
    """Print progress."""
    print(f"    {text}", flush=True)


def milliseconds(seconds: Sequence[float] | NDArray[np.float64]) -> str:
    """Return median, 99th percentile and maximum."""
    if not len(seconds):
        return "none"
    p50, p99, most = np.percentile(np.asarray(seconds), [50, 99, 100]) * 1e3
    return f"p50 {p50:.2f}, p99 {p99:.2f}, max {most:.2f} ms"


def wait_for(condition: Callable[[], object], timeout: float, every: float = 0.001) -> bool:
    """Wait until something is so; return whether it came to be."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(every)
    return True


# What the robot did


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that a robot did.

    Attributes:
        what: ``"reset"``, ``"apply"``, ``"hold"`` or ``"stop"``.
        number: The unique one that the learner sent with it; 0 if there was none.
        at: When it began, on the monotonic clock.
        process: Which process wrote it.
    """

    what: str
    number: int
    at: float
    process: int


class Journal:
    """What robots did, in a file."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def note(self, what: str, number: int = 0) -> None:
        """Write an entry, at once."""
        os.write(self._file, f"{what} {number} {time.monotonic()!r} {os.getpid()}\n".encode())

    def read(self) -> list[Entry]:
        """Return everything so far."""
        words = [line.split() for line in Path(self.path).read_text().splitlines()]
        return [Entry(what, int(n), float(at), int(process)) for what, n, at, process in words]

    def numbers(self, what: str) -> list[int]:
        """Return the numbers of one kind, in order."""
        return [entry.number for entry in self.read() if entry.what == what]

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@contextlib.contextmanager
def journal() -> Iterator[Journal]:
    """Keep a journal in a temporary file."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Journal(os.path.join(folder, "journal"))
        try:
            yield kept
        finally:
            kept.close()


class Recorder(Robot):
    """Writes down every reset, action and hold; each carries a number that is used once.

    The observation says which reset and action it comes from, and how many actions of this
    episode were executed: ``[reset, action, executed]``.
    """

    modes: ClassVar[tuple[Mode, ...]] = (Mode.LOCKSTEP, Mode.REALTIME)
    action_space = spaces.Box(0.0, 1e12, (1,), np.float64)

    def __init__(
        self, path: str, *, hz: float = 50.0, reset_takes: float = 0.0, step_takes: float = 0.0
    ) -> None:
        """Prepare.

        Args:
            path: Of the journal.
            hz: The control rate.
            reset_takes: Seconds that a reset takes.
            step_takes: Seconds that an action takes; for lockstep.
        """
        self.control_hz = hz
        self.reset_options = {"number": "used once"}
        self.journal = Journal(path)
        self._takes = reset_takes, step_takes
        self._seen = np.zeros(3)
        super().__init__()

    def proprio_configs(self) -> list[ProprioConfig]:
        """Declare what was seen last."""
        return [ProprioConfig("seen", 3, np.float64, low=0.0, high=1e12)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> None:
        """Take the time that it takes."""
        number = int((options or {}).get("number", 0))
        self.journal.note("reset", number)
        time.sleep(self._takes[0])
        self._seen = np.array([number, 0.0, 0.0])
        self.update_proprio("seen", self._seen)

    def apply_action(self, action: Any) -> None:
        """Take the time that it takes."""
        self.journal.note("apply", int(action[0]))
        time.sleep(self._takes[1])
        self._seen = np.array([self._seen[0], action[0], self._seen[2] + 1])
        self.update_proprio("seen", self._seen)

    def hold(self) -> None:
        """Write it down."""
        self.journal.note("hold")

    def stop(self) -> None:
        """Write it down."""
        self.journal.note("stop")

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()


# Processes


class Child:
    """A process of ours; a ``with`` block kills it at its end.

    Attributes:
        pipe: Our end; the process has the other one as its first argument.
        may_have_children: Whether it may start processes itself; it must end them itself.
    """

    may_have_children = False

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        self.pipe, there = multiprocessing.Pipe()
        with _starting:
            self._process: ForkServerProcess = _CONTEXT.Process(
                target=target, args=(there, *args), daemon=not self.may_have_children
            )
            self._process.start()
        there.close()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def ask(self, question: object = None, *, timeout: float = 30.0) -> Any:
        """Send something unless it is None, and return what comes back.

        Raises:
            TimeoutError: If nothing does.
        """
        if question is not None:
            self.pipe.send(question)
        if not self.pipe.poll(timeout):
            raise TimeoutError(f"process {self.pid} said nothing for {timeout:g} s")
        return self.pipe.recv()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power cut does, and wait for that. Idempotent."""
        self._process.kill()
        self._process.join(10)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.kill()
        self._process.close()
        self.pipe.close()


def serve(
    pipe: Pipe, make: Callable[..., Robot], arguments: dict[str, Any], options: dict[str, Any]
) -> None:
    """Serve a robot in this process until the pipe closes; answers questions on it."""
    quiet()
    with RobotServer(make(**arguments), **{"port": 0, **options}) as server:
        pipe.send(server.url)
        with contextlib.suppress(EOFError, OSError):
            while True:
                question = pipe.recv()
                pipe.send(server.statistics() if question == "statistics" else usage())


class ServerProcess(Child):
    """A server in a process of its own.

    Attributes:
        url: Where it listens.
    """

    def __init__(
        self, make: Callable[..., Robot], arguments: dict[str, Any] | None = None, **options: Any
    ) -> None:
        """Start it; ``options`` go to ``RobotServer``."""
        super().__init__(serve, make, arguments or {}, options)
        self.url: str = self.ask()


def quiet() -> None:
    """Let the logs of this process say nothing: the faults are ours."""
    import logging

    logging.disable(logging.CRITICAL)


# What a process has


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process has.

    Attributes:
        threads: How many.
        descriptors: How many files and sockets are open.
        resident: Memory, in bytes.
    """

    threads: int
    descriptors: int
    resident: int


def usage(pid: int | str = "self") -> Usage:
    """Look into ``/proc``."""
    root = Path("/proc") / str(pid)
    pages = int((root / "statm").read_text().split()[1])
    return Usage(
        len(list((root / "task").iterdir())),
        len(list((root / "fd").iterdir())),
        pages * os.sysconf("SC_PAGE_SIZE"),
    )
