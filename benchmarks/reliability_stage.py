"""Where a cell of the matrix of faults is played: a server, a network, and what strikes when."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from typing import Final

from benchmarks.reliability_rig import Journal, Recorder, ServerProcess, wait_for
from remote_env.testing import Direction, FaultProxy

PHASES: Final = ("connect", "hello", "reset", "step", "observe", "close")
FAULTS: Final = ("kill -9", "SIGSTOP", "RST", "blackhole", "stall", "slow drip")
OF_LEARNER: Final = ("kill -9 of the learner", "SIGSTOP of the learner")
LINGER: Final = 0.05  # how long what is sent to the server is under way where we need the time
HEALS_AFTER: Final = 0.7
DRIP: Final = 20.0  # bytes per second
BACK_WITHIN: Final = 4.0  # a lease of a dead learner takes 2 s


@dataclass(frozen=True, slots=True)
class Cell:
    """One of the matrix."""

    mode: str
    phase: str
    fault: str
    heals: bool

    def __str__(self) -> str:
        how = "heals" if self.heals else "stays"
        return f"{self.mode}, {self.phase}, {self.fault}, {how}"


@dataclass
class Stage:
    """Where a cell is played."""

    cell: Cell
    server: ServerProcess
    proxy: FaultProxy
    journal: Journal
    observed: int = 0

    def wait_for_phase(self) -> None:
        """Wait until the call is where the fault is to strike; call it before the call begins."""
        phase = self.cell.phase
        if phase == "hello":
            before = self.proxy.statistics().forwarded_to_client
            wait_for(lambda: self.proxy.statistics().forwarded_to_client > before, 2.0)
        elif phase in ("reset", "step"):
            kind = "reset" if phase == "reset" else "apply"
            before = len(self.journal.numbers(kind))
            wait_for(lambda: len(self.journal.numbers(kind)) > before, 2.0)
        elif phase == "close":
            time.sleep(LINGER / 2)
        elif phase == "observe":
            wait_for(lambda: self.observed >= 3, 5.0)

    def strike(self) -> None:
        """Let it happen."""
        match self.cell.fault:
            case "kill -9":
                self.server.kill()
            case "SIGSTOP":
                self.server.signal(signal.SIGSTOP)
            case "RST":
                self.proxy.refuse()
                self.proxy.reset_connections()
            case "blackhole":
                self.proxy.blackhole()
            case "stall":
                self.proxy.freeze()
            case "slow drip":
                self.proxy.set_rate(DRIP)

    def heal(self) -> None:
        """Make it good again."""
        if self.cell.fault == "kill -9":
            before, self.server = self.server, start(self.journal, self.cell, self.server)
            before.pipe.close()
        elif self.cell.fault == "SIGSTOP":
            self.server.signal(signal.SIGCONT)
        self.proxy.heal()

    def play_fault(self, is_ready: threading.Event) -> None:
        """Wait for the phase, strike, and heal if that is what the cell says."""
        if self.cell.phase in ("hello", "close"):
            self.proxy.set_latency(LINGER, Direction.TO_SERVER)
        if self.cell.phase == "connect":
            self.strike()
            is_ready.set()
        else:
            is_ready.set()
            self.wait_for_phase()
            self.strike()
        if self.cell.heals:
            time.sleep(HEALS_AFTER)
            self.heal()


def start(kept: Journal, cell: Cell, before: ServerProcess | None = None) -> ServerProcess:
    """Start the robot's server; again at the same port if there was one before."""
    port = int(before.url.rpartition(":")[2]) if before else 0
    is_lockstep = cell.mode == "lockstep"
    robot = {
        "path": kept.path,
        "hz": 10.0,  # a step's answer comes later than the fault
        "reset_takes": 0.3,
        "step_takes": 0.1 if is_lockstep else 0.0,
    }
    return ServerProcess(Recorder, robot, mode=cell.mode, port=port)
