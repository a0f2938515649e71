"""One robot among several: what it is asked is looked for now and then, and never waited for.

All is done on the learner's thread, and nothing of it waits, but for what may take long: a link
that is lost, or a robot. That goes on on a thread of its own, which lives for as long as it takes,
and whose outcome is looked for like an answer.
"""

from __future__ import annotations

import enum
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any, Final, NamedTuple, TypeAlias

import gymnasium
from numpy.typing import NDArray

from remote_env.env import RemoteRobotEnv
from remote_env.errors import (
    ConnectionLostError,
    LeaseError,
    LocalProtocolError,
    RemoteEnvError,
    TransportError,
)
from remote_env.polled_client import PolledClient
from remote_env.protocol import ResetDone, StepDone, Value
from remote_env.resuming import RobotLostError
from remote_env.translation import Arrays

__all__ = ["Arrival", "Member", "PreparedAction", "Task"]

logger = logging.getLogger(__name__)

PreparedAction: TypeAlias = tuple[list[NDArray[Any]], tuple[str, ...]]

# How long to wait before a robot that is lost is looked for once more, in seconds.
_RETRY: Final = 1.0
# The least that is left for a reset that goes on elsewhere, in seconds.
_LEAST: Final = 0.001


class Task(enum.Enum):
    """What a robot was asked for, and has not done."""

    NONE = enum.auto()
    STEP = enum.auto()
    RESET = enum.auto()
    RECONNECT = enum.auto()


class Arrival(NamedTuple):
    """What came of a step or a reset.

    Attributes:
        task: Which of them.
        arrays: The observation, one array for each leaf.
        reward: 0 of a reset.
        terminated: False of a reset.
        truncated: False of a reset.
        info: As ``RemoteRobotEnv`` returns it.
    """

    task: Task
    arrays: Arrays
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]


class Member(RemoteRobotEnv):
    """A ``RemoteRobotEnv`` that is polled.

    Attributes:
        url: Of the robot.
        task: What it was asked for.
        deadline: Until when that is to be done, on ``time.monotonic``, in seconds.
    """

    _make_client = PolledClient
    _client: PolledClient

    def __init__(
        self, url: str | None, options: Mapping[str, Any], *, wake: Callable[[], None]
    ) -> None:
        """Connect.

        Args:
            url: As of ``RemoteRobotEnv``.
            options: More arguments of ``RemoteRobotEnv``.
            wake: Called from another thread when ``poll`` may have more.
        """
        self._closing = threading.Event()
        super().__init__(url, **options)
        self.url = self._client.url
        self.task = Task.NONE
        self.deadline = 0.0
        self._wake = wake
        self._job: Future[StepDone | ResetDone | None] | None = None
        self._is_given_up = False  # what the thread does
        self._given: dict[str, Any] = {}  # what the reset under way was given

    @property
    def is_connected(self) -> bool:
        """Whether there is a session."""
        return self._client.is_connected

    @property
    def has_unread(self) -> bool:
        """Whether ``poll`` may have something of which no selector knows."""
        return self._job is not None or self._client.has_unread

    def fileno(self) -> int:
        """Return what a selector waits for until ``poll`` may have more; -1 if nothing such."""
        return -1 if self._job is not None else self._client.fileno()

    @property
    def is_on_thread(self) -> bool:
        """Whether a thread of its own goes on with what the robot was asked for."""
        return self._job is not None

    def check_process(self) -> None:
        """Refuse to be used in a fork, which is no failure of the robot.

        Raises:
            LocalProtocolError: In a fork.
        """
        self._client.check_process()

    def prepare(self, action: Any) -> PreparedAction:
        """Take an action apart, for ``send_prepared``.

        Raises:
            ActionRefusedError: If its shape or dtype are wrong.
        """
        return self._translator.flatten(action)

    def send_prepared(self, action: PreparedAction) -> None:
        """Send an action; a robot that is lost is found by ``poll``."""
        self._send(*action)
        self.task = Task.STEP
        self.deadline = time.monotonic() + self._step_timeout

    def send_reset(
        self, *, seed: int | None = None, options: dict[str, Value] | None = None
    ) -> None:
        """Ask for a reset; a robot that is not connected is connected first.

        Raises:
            LocalProtocolError: If it is closed.
        """
        if self._is_closed:
            raise LocalProtocolError("reset after close; make a new environment")
        gymnasium.Env.reset(self, seed=seed)
        self._is_running, self._ended_by = False, ""
        self._given = {
            "seed": seed,
            "options": options,
            "take": self._take,
            "max_steps": self._max_steps,
        }
        self.deadline = time.monotonic() + self._reset_timeout
        if self._client.is_connected:
            self._client.begin_reset(
                **self._given,
                timeout=self._reset_timeout,
                reconnect_timeout=self._reconnect_timeout,
            )
            self.task = Task.RESET
        else:
            self.task = Task.RESET
            self._start(self._reset_in_full)

    def reconnect(self) -> None:
        """Look for a robot that was lost until it is found, on a thread of its own."""
        self.task = Task.RECONNECT
        self._start(self._look_for_it)

    def come(self) -> None:
        """Begin to poll; on a thread of its own if a heartbeat is stuck."""
        if self._job is None and not self._client.come():
            self._finish_on_thread()

    def leave(self) -> None:
        """Do something else before the robot is done; its lease is kept meanwhile."""
        if self._job is None and self.task is not Task.NONE:
            self._client.leave()

    def poll(self, timeout: float = 0.0) -> Arrival | None:
        """Return what came of what the robot was asked for, if it is here.

        Args:
            timeout: How long to wait for something to come in, in seconds; not for threads.

        Raises:
            RemoteEnvError: What became of it instead.
        """
        try:
            done = self._poll(timeout)
        except BaseException:
            self.task = Task.NONE
            self._client.stop_polling()  # Ctrl-C, between two lines
            raise
        return None if done is None else self._arrive(done)

    def _poll(self, timeout: float) -> StepDone | ResetDone | None:
        if self._job is not None:
            if not self._job.done():
                return None
            job, self._job = self._job, None
            done = None if self._is_given_up else job.result()  # None: it is for nobody
            if done is None:
                self.task = Task.NONE
            return done
        try:
            done = self._client.poll(timeout)
        except LeaseError as error:
            if self.task is not Task.RESET or not error.retryable:
                raise
            self._start(self._reset_in_full)  # of a learner that may be dead: waits for that
            return None
        if done is None and self._client.is_broken:
            self.deadline = self._client.hand_on()
            self._finish_on_thread()
        return done

    def _arrive(self, done: StepDone | ResetDone) -> Arrival:
        task, self.task = self.task, Task.NONE
        if isinstance(done, StepDone):
            self._note_step(done)
            return Arrival(
                task,
                *self._translator.step_flat(
                    done, self._sent, steps=self._steps, timing=self._timing()
                ),
            )
        self._note_reset(done)
        arrays, info = self._translator.begin_flat(done, timing=self._timing())
        return Arrival(task, arrays, 0.0, False, False, info)

    def give_up(self, error: RemoteEnvError) -> None:
        """Note that the robot failed: its episode is over.

        What a thread still does for it is for nobody. It goes on as looking for the robot does.
        """
        self._is_running, self._ended_by = False, str(error)
        if self._job is not None:
            self.task, self._is_given_up = Task.RECONNECT, True

    def settle(self) -> None:
        """Give up what nobody goes on with after Ctrl-C, as that does in a call.

        A thread goes on, but for a reset; and so does a step that was sent.
        """
        if self.task is Task.RESET:
            self.cancel_reset()  # of a thread
        is_sent = self.task is Task.STEP and self.is_stepping
        if self._job is None and not is_sent:
            self.task = Task.NONE
            self._client.stop_polling()

    # What may take long, on a thread of its own

    def _start(self, call: Callable[[], StepDone | ResetDone | None]) -> None:
        job: Future[StepDone | ResetDone | None] = Future()
        job.add_done_callback(lambda _: self._wake())
        try:
            self._job, self._is_given_up = job, False
            threading.Thread(
                target=_run, args=(call, job), name=f"remote-env member {self.url}", daemon=True
            ).start()
        except BaseException:
            if job.cancel():  # Ctrl-C, before it ran
                self._job = None
            raise

    def _finish_on_thread(self) -> None:
        finish = self._client.finish_step if self.task is Task.STEP else self._finish_reset

        def run() -> StepDone | ResetDone:
            try:
                return finish()
            finally:
                while self.is_stepping and not self._closing.is_set():  # a heartbeat is stuck
                    self._client.stop_polling()

        self._start(run)

    def _finish_reset(self) -> ResetDone:
        try:
            return self._client.finish_reset()
        except RobotLostError:
            raise  # it was looked for as long as was asked for
        except ConnectionLostError as error:
            logger.warning("%s; connecting again", error)
        except LeaseError as error:
            if not error.retryable:
                raise
        return self._reset_in_full()

    def _reset_in_full(self) -> ResetDone:
        left = max(self.deadline - time.monotonic(), _LEAST)
        return self._recovery.reset(**self._given, timeout=left)

    def _look_for_it(self) -> None:
        while not self._closing.is_set():
            try:
                self._recovery.reconnect()
                return
            except TransportError as error:
                logger.info("%s; looking for it again", error)
            self._closing.wait(_RETRY)

    def close(self) -> None:
        """See ``RemoteRobotEnv.close``."""
        self._closing.set()
        super().close()


def _run(
    call: Callable[[], StepDone | ResetDone | None], job: Future[StepDone | ResetDone | None]
) -> None:
    if not job.set_running_or_notify_cancel():
        return
    try:
        job.set_result(call())
    except BaseException as error:
        job.set_exception(error)
