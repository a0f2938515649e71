"""The control thread: it owns the hardware, and every call of the robot's code is made here.

Requests come in through a mailbox; what came of them goes out through the request's own
``finish``, called on this thread, which also encodes the reply. What the thread does with a
request, and when, is in ``loop.py``.
"""

from __future__ import annotations

import logging
import math
import sys
import threading
import time
from typing import Final

from remote_env.errors import (
    RobotFaultError,
)
from remote_env.protocol.values import Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec
from remote_env.transport import FrameSink
from remote_env_server.loop import Loop
from remote_env_server.mailbox import LARGEST_STEP, Mailbox
from remote_env_server.requests import (
    Captured,
    HoldRequest,
    Request,
)
from remote_env_server.robot import Robot
from remote_env_server.showcase import Shown
from remote_env_server.timing import sharpen_timers, try_realtime_priority

__all__ = ["ControlLoop"]

logger = logging.getLogger(__name__)

# Python's own 5 ms is as long as a control period. Compare benchmarks/lateness.py.
_SWITCH_INTERVAL: Final = 0.0005
# While the robot's code blocks, a stop that is thread-safe is called again, in seconds.
_STOP_AGAIN: Final = 0.1
_TELL_EVERY: Final = 5.0
# How often start() looks whether it is to stop, in seconds.
_LOOK_EVERY: Final = 0.05


class ControlLoop:
    """Runs one robot on one thread.

    Attributes:
        robot: The robot.
    """

    def __init__(
        self,
        robot: Robot,
        mode: Mode,
        *,
        sensor_timeout: float,
        realtime_priority: int | None = None,
    ) -> None:
        """Prepare; ``start`` starts the thread.

        Args:
            robot: Constructed, not opened.
            mode: Who owns time.
            sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
            realtime_priority: Of this thread, 1 to 99, if the system allows it; None is an
                ordinary thread.
        """
        self.robot = robot
        self._mode = mode
        self._is_realtime = mode is not Mode.LOCKSTEP
        self._realtime_priority = realtime_priority
        self._mailbox = Mailbox(is_realtime=self._is_realtime)
        self._may_follow = True
        self._thread = threading.Thread(target=self._run, name="remote-env control", daemon=True)
        self._ready = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._failure: BaseException | None = None
        self._beside: threading.Thread | None = None
        self._beside_lock = threading.Lock()
        self._loop = Loop(
            robot, mode, sensor_timeout=sensor_timeout, is_stopping=self._stopping.is_set
        )

    # Called from other threads

    @property
    def spec(self) -> RobotSpec:
        """What the robot is; known once started."""
        return self._loop.driver.spec

    @property
    def latest(self) -> Captured | None:
        """The newest observation that was taken on the thread."""
        return self._loop.latest

    @property
    def shown(self) -> Shown | None:
        """What observers may see of it; None if there are none."""
        return self._loop.showcase.shown

    @property
    def position(self) -> tuple[int, int]:
        """The number of the episode, and how many steps of it were executed."""
        episode = self._loop.episode
        return episode.number, episode.steps

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Open the robot; returns when it is open and described.

        Raises:
            RemoteEnvError: If the robot cannot be described, or ``ask_to_stop`` was called: a
                robot that is still being opened is closed when that is done.
            Exception: Whatever the robot's ``open`` raised.
        """
        if not self._stopping.is_set():
            self._thread.start()
            while not self._ready.wait(_LOOK_EVERY) and not self._stopping.is_set():
                pass
        if self._failure is None and self._stopping.is_set():
            raise RobotFaultError("the robot's server was stopped before the robot was open")
        if self._failure is not None:
            self._thread.join()
            if isinstance(self._failure, Exception):
                raise self._failure
            raise RobotFaultError(f"the robot's open() raised {self._failure!r}")

    def ask_to_stop(self) -> None:
        """Ask the thread to hold and close the robot, and to end; does not wait."""
        self._stopping.set()
        self._mailbox.put(None)

    def stop(self, timeout: float = 5.0) -> None:
        """Hold and close the robot, and end the thread. Idempotent.

        Args:
            timeout: How long to wait for the robot's code, in seconds.
        """
        self.ask_to_stop()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            # No join: up to Python 3.12 one that a signal interrupts takes the thread for dead.
            if self._ended.wait(timeout):
                self._thread.join()
            else:
                logger.error("the robot's code still blocks %.1f s after the stop", timeout)
                if self.robot.stop_is_thread_safe:
                    self._loop.driver.stop_beside()

    def submit(self, request: Request) -> None:
        """Hand a request over; never blocks. Safe from any thread."""
        if self._ended.is_set():
            if not isinstance(request, HoldRequest):
                request.finish(RobotFaultError("the robot's server is stopping"))
            return
        self._mailbox.put(request)

    def follow(self, sink: FrameSink) -> None:
        """Read what a peer sends next on the control thread, if its transport can; never blocks.

        In real time that is for steps that are small.
        """
        if self._may_follow:
            sink.lend(self._mailbox)

    def emergency_stop(self, by: str) -> None:
        """Stop the robot ahead of everything that waits; never blocks. Safe from any thread.

        Args:
            by: Who pressed it, and why; for people.
        """
        self._loop.presses += 1
        self._loop.pressed_by = self._loop.to_obey = by
        self._mailbox.put(None)
        if not self.robot.stop_is_thread_safe:
            return
        with self._beside_lock:
            if self._beside is None:
                self._beside = threading.Thread(
                    target=self._stop_beside, name="remote-env emergency stop", daemon=True
                )
                self._beside.start()

    def _stop_beside(self) -> None:
        """Stop the robot, again and again until its code returns and the control thread does it.

        Once is not enough: it may fail, and that code may command the motors again.
        """
        told_at = -math.inf
        while True:
            press = self._loop.presses
            error = self._loop.driver.stop_beside()
            if error is None:
                self._loop.stopped_at_press = press
            now = time.monotonic()
            if error is not None and now - told_at >= _TELL_EVERY:
                told_at = now
                logger.critical("stop() FAILED, the robot may move", exc_info=error)
            time.sleep(_STOP_AGAIN)
            with self._beside_lock:  # or who presses now would rely on this thread
                if self._loop.to_obey is None or not self._thread.is_alive():
                    self._beside = None
                    return

    @property
    def has_obeyed(self) -> bool:
        """Whether the robot's ``stop`` returned since the emergency stop was pressed last."""
        return self._loop.stopped_at_press == self._loop.presses

    def release_stop(self) -> None:
        """Allow resets again; the robot goes on holding. Never blocks."""
        self._loop.pressed_by = None
        self._mailbox.put(None)

    def set_observed(self, names: frozenset[str]) -> None:
        """Say which streams others than the learner watch; never blocks. For any thread."""
        self._loop.showcase.wanted = names
        self._mailbox.put(None)

    def statistics(self) -> dict[str, Value]:
        """Return how the loop is doing, in plain values; also while the robot's code blocks."""
        latest, episode = self._loop.latest, self._loop.episode
        # Not the author's own make_obs: that is for the control thread.
        fields = {**(latest.fields if latest else {}), **Robot.make_obs(self.robot).fields}
        reason = episode.end_reason
        return {
            "mode": self._mode.value,
            "control_hz": self.spec.control_hz,
            "episode": episode.number,
            "steps": episode.steps,
            "end_reason": None if reason is None else reason.value,
            "overruns": self._loop.ticks.overruns,
            "motion": self._loop.mover.limiter.statistics().to_info(),
            **self._loop.statistics.to_values(
                fields, self.robot.sensors, now=float(self.robot.now())
            ),
        }

    # The thread

    def _run(self) -> None:
        try:
            self._open_and_serve()
        finally:
            self._ended.set()

    def _open_and_serve(self) -> None:
        try:
            if self._is_realtime:
                sharpen_timers()
            sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL))
            self._loop.open()
            size = SpaceCodec(self.spec.action_space, root="action").layout.nbytes
            self._may_follow = not self._is_realtime or size <= LARGEST_STEP // 2
            self._try_priority()
        except BaseException as error:
            self._failure = error
            self._loop.driver.close()
            return
        finally:
            self._ready.set()
        try:
            while not self._stopping.is_set():
                self._serve_next()
        finally:
            self._mailbox.close()
            self._loop.close()

    def _try_priority(self) -> None:
        if self._realtime_priority is not None:
            refusal = try_realtime_priority(self._realtime_priority)
            if refusal is not None:
                logger.warning("%s", refusal)

    def _serve_next(self) -> None:
        try:
            self._loop.serve_next(self._mailbox)
        except Exception:  # a bug of ours; the thread that can hold must live
            logger.critical("the control loop failed and goes on", exc_info=True)
            self._loop.fail()
