"""Several robots of one learner: who steps, who is reset, who is lost and on the way back.

A robot that fails is down: it is told once, its last observation stays, and it is connected again
on a thread of its own. It is back when it was reset. All others go on.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from remote_env.errors import (
    ConfigurationError,
    ConnectionLostError,
    DeadlineExceededError,
    EpisodeOverError,
    LocalProtocolError,
    RemoteEnvError,
    TransportError,
)
from remote_env.gathering import Gatherer, Outcome
from remote_env.joint import all_at_once, naming
from remote_env.member import Arrival, Member, PreparedAction, Task
from remote_env.protocol import EndReason
from remote_env.resuming import ServerStoppedError
from remote_env.translation import Arrays

__all__ = ["Fleet", "Keep", "Row", "Slot"]

logger = logging.getLogger(__name__)

# Takes the observation of a robot; None of one that was never reset.
Keep: TypeAlias = Callable[[int, Arrays | None], None]

# How long after a failed reset a robot is reset again, in seconds.
_RETRY: Final = 1.0
# How long after its deadline a robot that a thread deals with is given up, in seconds.
_GRACE: Final = 0.02


@dataclass(slots=True)
class Row:
    """What one robot contributes to a batch.

    Attributes:
        observation: One array for each leaf, not copied; None before the first.
        reward: Of the step.
        terminated: Whether its episode ended by its task.
        truncated: Whether it ended by something else.
        info: As ``RemoteRobotEnv`` returns it.
        is_valid: Whether the observation is what the action led to, or a reset.
        final: Of an episode that ended, in the autoreset mode of the same step: its last
            observation and ``info``.
    """

    observation: Arrays | None
    reward: float
    terminated: bool
    truncated: bool
    info: dict[str, Any]
    is_valid: bool
    final: tuple[Arrays, dict[str, Any]] | None = None


@dataclass(slots=True)
class Slot:
    """What is known of one robot.

    Attributes:
        index: Its number.
        member: Its environment.
        last: Its last observation, one array for each leaf; None before the first.
        row: What came of what it was asked for last; None until it came, or was taken.
        ended: In the autoreset mode of the same step, the end whose reset is under way.
        is_asked: Whether somebody waits for a row.
        is_over: Whether it needs a reset before it can step.
        is_down: Whether it failed and is not back.
        is_end_untold: Whether its last episode ended in a row that nobody got.
        wish: The seed and options of the reset with which it is to come back; None for no reset.
        granted: The wish that is being granted.
        retry_at: When that may be tried again, on ``time.monotonic``, in seconds.
        error: Why it is down.
        refusal: What the robot said instead of the last reset, if that was not the network's.
        is_patient: Whether the learner waits for its reset also when it was lost.
        news: A row that nobody had asked for: it is back.
        turn: How many answers had come from all robots when its last one came.
    """

    index: int
    member: Member
    last: Arrays | None = None
    row: Row | None = None
    ended: Arrival | None = None
    is_asked: bool = False
    is_over: bool = True
    is_down: bool = False
    is_end_untold: bool = False
    wish: dict[str, Any] | None = None
    retry_at: float = 0.0
    error: RemoteEnvError | None = None
    granted: dict[str, Any] | None = None
    refusal: RemoteEnvError | None = None
    is_patient: bool = False
    news: Row | None = None
    turn: int = 0


class Fleet:
    """The robots of one learner. Not safe from several threads, but for ``close``.

    Attributes:
        slots: One for each robot.
    """

    def __init__(
        self,
        urls: Sequence[str | None],
        options: Mapping[str, Any],
        *,
        mode: AutoresetMode,
    ) -> None:
        """Connect to all at once; none moves.

        Args:
            urls: Of the robots; None simulates one here.
            options: More arguments of every ``RemoteRobotEnv``.
            mode: What happens to a robot whose episode ended.

        Raises:
            RemoteEnvError: As ``RemoteRobotEnv``, naming the url.
        """
        self._mode = mode
        self._gatherer = Gatherer()
        self.slots: list[Slot] = []
        made: list[Member] = []

        def make(url: str | None) -> Member:
            with naming(url or "a simulated robot"):
                member = Member(url, options, wake=self._gatherer.wake)
            made.append(member)
            return member

        try:
            members = all_at_once([functools.partial(make, url) for url in urls])
        except BaseException:
            for member in made:
                member.close()
            self._gatherer.close()
            raise
        self.slots = [Slot(index, member) for index, member in enumerate(members)]
        self._is_closed = self._is_gathering = False
        self._turns = 0
        self._by_member = {slot.member: slot for slot in self.slots}
        self._keep: Keep = _keep_nothing

    @property
    def count_up(self) -> int:
        """How many robots are not down."""
        return sum(not slot.is_down for slot in self.slots)

    # What robots are asked for

    def check_may_step(self, slot: Slot, *, to_all: bool) -> None:
        """Refuse a step of a robot that the learner has to reset.

        Args:
            slot: The robot.
            to_all: Whether all robots step, where one that is down has a row all the same.

        Raises:
            EpisodeOverError: If it is one.
        """
        if self._mode is not AutoresetMode.DISABLED:
            return
        if slot.is_over and not (slot.is_down and to_all):
            raise EpisodeOverError(
                f"the episode of robot {slot.index} ({slot.member.url}) is over or did not begin, "
                "and autoreset is disabled; call "
                'env.reset(options={"reset_mask": ...}) with True for this robot'
            )

    def step(self, slots: Sequence[Slot], actions: Sequence[PreparedAction]) -> None:
        """Send an action to each, or what the autoreset mode says in its place.

        Who answered first last time is sent to first: in real time its period ends first, and
        who misses the end of it answers a whole one later.

        Raises:
            LocalProtocolError: In a fork.
        """
        pairs = sorted(zip(slots, actions, strict=True), key=_turn_of)
        try:
            for slot, action in pairs:
                self._step(slot, action)
        except BaseException:
            self.settle()
            raise

    def _step(self, slot: Slot, action: PreparedAction) -> None:
        slot.member.check_process()
        slot.is_asked, slot.is_patient, slot.row, slot.news = True, False, slot.news, None
        if slot.row is not None:
            return
        if slot.is_down:
            if self._mode is not AutoresetMode.DISABLED and slot.wish is None:
                slot.wish = {}
            self._bring_back(slot, time.monotonic())
        elif slot.is_over:
            self._send_reset(slot)
        else:
            try:
                slot.member.send_prepared(action)
            except RemoteEnvError as error:
                self._fall(slot, error)

    def reset(self, slot: Slot, *, seed: int | None, options: dict[str, Any] | None) -> None:
        """Begin an episode; of a robot that is down, as soon as it is connected.

        Raises:
            LocalProtocolError: In a fork.
        """
        slot.member.check_process()
        slot.is_asked, slot.is_patient, slot.row, slot.news = True, True, None, None
        slot.refusal, slot.is_end_untold = None, False
        given = {"seed": seed, "options": options}
        if slot.is_down:
            slot.wish, slot.retry_at = given, 0.0
            self._bring_back(slot, time.monotonic())
        else:
            slot.is_over = True
            self._send_reset(slot, **given)

    def _send_reset(self, slot: Slot, **given: Any) -> None:
        try:
            slot.member.send_reset(**given)
        except RemoteEnvError as error:
            self._fall(slot, error)

    def _bring_back(self, slot: Slot, now: float) -> None:
        """Do what is next for a robot that is down."""
        if slot.member.task is not Task.NONE or self._is_closed:
            return
        if not slot.member.is_connected:
            # One that has other spaces now is looked at now and then.
            if now >= slot.retry_at or not isinstance(slot.error, ConfigurationError):
                slot.member.reconnect()
        elif slot.wish is not None and now >= slot.retry_at:
            slot.granted = slot.wish
            self._send_reset(slot, **slot.wish)

    def drop(self, slot: Slot) -> None:
        """Let nobody get what the robot was asked for; after an end the next row is not valid."""
        slot.row, slot.is_asked, slot.is_end_untold = None, False, slot.is_over

    def stand_in(self, slot: Slot) -> None:
        """Give a robot that is down a row: its last observation."""
        told = {"invalid_transition": True}
        slot.row = Row(slot.last, 0.0, False, False, {"remote": told}, is_valid=False)
        if self._mode is AutoresetMode.DISABLED:
            slot.wish = None  # whoever resets it says so again

    def forgive(self, slot: Slot) -> None:
        """Note that a robot did not fail: the learner asked for something impossible."""
        slot.is_asked, slot.is_down, slot.row, slot.wish = False, False, None, None

    # What comes of it

    def gather(
        self, is_enough: Callable[[], bool], *, until: float | None = None, keep: Keep | None = None
    ) -> None:
        """Wait until it is enough, or too late.

        Args:
            is_enough: Looks at ``row`` of the slots.
            until: On ``time.monotonic``, in seconds; None for as long as it takes.
            keep: Takes observations when they come.

        Raises:
            LocalProtocolError: In the middle of itself.
            ConnectionLostError: If ``close`` is called meanwhile.
        """
        if self._is_gathering:
            raise LocalProtocolError(
                "a call in the middle of another one, from a signal handler: robots answer one "
                "call after the other. Use remote_env.emergency_stop(url) to stop one"
            )
        try:
            self._is_gathering, self._keep = True, keep or _keep_nothing
            self._gatherer.gather(
                [slot.member for slot in self.slots],
                self._take,
                is_enough=lambda: is_enough() or self._is_closed,
                on_tick=self._on_tick,
                until=until,
            )
        except BaseException as error:
            self.settle()
            if not (self._is_closed and isinstance(error, RemoteEnvError)):
                raise  # else it is only what close() did
        finally:
            self._is_gathering, self._keep = False, _keep_nothing
        if self._is_closed:
            raise ConnectionLostError("close() was called in the middle of this call")

    def settle(self) -> None:
        """Give up robots of which nobody knows what they do: Ctrl-C, between two lines."""
        for slot in self.slots:
            slot.member.settle()
            is_lost = slot.is_asked and slot.row is None and slot.member.task is Task.NONE
            if is_lost and not slot.is_down:
                self._fall(slot, ConnectionLostError("interrupted"))

    def _on_tick(self, now: float) -> None:
        for slot in self.slots:
            if slot.is_down:
                self._bring_back(slot, now)
            elif slot.member.is_on_thread and not slot.is_patient:
                self._judge_thread(slot, now)

    def _judge_thread(self, slot: Slot, now: float) -> None:
        """Do not wait for a robot any more that was lost, if it is in a reset or too late."""
        url, task = slot.member.url, slot.member.task
        if task is Task.RESET:
            lost = ConnectionLostError(f"{url} was lost in its reset, and is being looked for")
            self._fall(slot, lost, goes_on=True)
        elif now > slot.member.deadline + _GRACE:
            late = f"no reply from {url} in time, and it is being looked for"
            self._fall(slot, DeadlineExceededError(late, waited=now - slot.member.deadline))

    def _take(self, member: Member, outcome: Outcome) -> None:
        slot = self._by_member[member]
        self._turns = slot.turn = self._turns + 1
        if isinstance(outcome, RemoteEnvError):
            self._fall(slot, outcome)
        elif outcome is None:
            self._bring_back(slot, time.monotonic())
        elif outcome.task is Task.RESET:
            self._begin_episode(slot, outcome)
        else:
            self._end_step(slot, outcome)

    def _end_step(self, slot: Slot, came: Arrival) -> None:
        slot.last = came.arrays
        slot.is_over = came.terminated or came.truncated
        if slot.is_over and self._mode is AutoresetMode.SAME_STEP:
            slot.ended = came
            self._send_reset(slot)
            return
        is_valid = not came.info["remote"].get("invalid_transition")
        slot.row = Row(
            came.arrays, came.reward, came.terminated, came.truncated, came.info, is_valid=is_valid
        )
        self._keep(slot.index, came.arrays)

    def _begin_episode(self, slot: Slot, came: Arrival) -> None:
        was_down, ended = slot.is_down, slot.ended
        if was_down and slot.granted is not slot.wish:  # the learner wants another one by now
            self._bring_back(slot, time.monotonic())
            return
        slot.last, slot.is_over, slot.is_down = came.arrays, False, False
        slot.wish, slot.error, slot.ended = None, None, None
        if was_down:
            logger.warning("robot %d (%s) is back", slot.index, slot.member.url)
        is_valid = not (was_down or slot.is_end_untold)
        row = Row(came.arrays, 0.0, False, False, came.info, is_valid=is_valid)
        slot.is_end_untold = False
        if ended is not None:
            self._add_end(row, ended)
        if slot.is_asked and slot.row is None:
            slot.row = row
            self._keep(slot.index, came.arrays)
        else:  # nobody asked, or it fell in this very step, which is told first
            slot.news = row

    @staticmethod
    def _add_end(row: Row, ended: Arrival) -> None:
        row.reward, row.terminated, row.truncated = ended.reward, ended.terminated, ended.truncated
        row.final = ended.arrays, ended.info
        row.is_valid = not ended.info["remote"].get("invalid_transition")

    def _fall(self, slot: Slot, error: RemoteEnvError, *, goes_on: bool = False) -> None:
        """Note that a robot failed, and give it its row; its task may go on all the same."""
        was_down, had_episode, ended = slot.is_down, not slot.is_over, slot.ended
        logger.warning("robot %d (%s) failed: %s", slot.index, slot.member.url, error)
        if not goes_on:
            slot.member.give_up(error)
        else:
            slot.wish = slot.granted = slot.wish or {}
        slot.refusal = None if isinstance(error, TransportError) else error
        slot.error, slot.is_down, slot.is_over, slot.ended = error, True, True, None
        slot.retry_at = time.monotonic() + _RETRY
        if slot.is_asked and not was_down:
            self._fall_in_row(slot, error, ended, truncated=had_episode)
        self._bring_back(slot, time.monotonic())

    def _fall_in_row(
        self, slot: Slot, error: RemoteEnvError, ended: Arrival | None, *, truncated: bool
    ) -> None:
        was_stopped = isinstance(error, ServerStoppedError)
        reason = EndReason.SERVER_SHUTDOWN if was_stopped else EndReason.LINK_LOST
        if not isinstance(error, ConnectionError):
            reason = EndReason.ROBOT
        told = {"end_reason": reason.value, "end_cause": str(error), "invalid_transition": True}
        slot.row = Row(slot.last, 0.0, False, truncated, {"remote": told}, is_valid=False)
        if ended is not None:
            self._add_end(slot.row, ended)
        elif truncated and slot.last is not None and self._mode is AutoresetMode.SAME_STEP:
            slot.row.final = slot.last, {"remote": dict(told)}
        self._keep(slot.index, slot.last)

    def pop(self, slot: Slot) -> Row:
        """Return a row that came, once; nobody waits for it any more."""
        row, slot.row, slot.is_asked = slot.row, None, False
        assert row is not None
        return row

    def render(self) -> list[NDArray[np.uint8] | None]:
        """Return the newest pictures of each robot; of one that was never reset a black one.

        Raises:
            LocalProtocolError: If none was.
        """
        pictures = [slot.member.render() if slot.last is not None else None for slot in self.slots]
        like = next((picture for picture in pictures if picture is not None), None)
        if like is None:  # there was no reset, or there is no render_mode, which robots say
            return [slot.member.render() for slot in self.slots]
        return [np.zeros_like(like) if picture is None else picture for picture in pictures]

    def close(self) -> None:
        """Close all at once; takes about two seconds at most. Safe to call from any thread."""
        self._is_closed = True
        self._gatherer.wake()
        try:
            all_at_once([slot.member.close for slot in self.slots], timeout=5.0)
        except TimeoutError:
            logger.error("not all robots could be closed")
        self._gatherer.close()


def _turn_of(pair: tuple[Slot, PreparedAction]) -> int:
    return pair[0].turn


def _keep_nothing(index: int, arrays: Arrays | None) -> None:
    pass
