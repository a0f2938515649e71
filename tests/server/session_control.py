"""A model of the control thread: it does one thing when it is told to."""

import collections
import itertools

import numpy as np
from gymnasium import spaces

from remote_env.errors import EpisodeOverError, ResetCancelledError
from remote_env_server import EndReason, Mode, Outcome, ProprioConfig, Robot
from remote_env_server.buffers import Field
from remote_env_server.describe import describe_robot
from remote_env_server.episode import Episode
from remote_env_server.requests import (
    Breakdown,
    Captured,
    HoldRequest,
    ResetRequest,
    ResetResult,
    StepRequest,
    StepResult,
)

__all__ = ["LIFETIME", "SPECS", "ModelControl"]


class Tiny(Robot):
    """Only its description is used."""

    modes = (Mode.REALTIME, Mode.LOCKSTEP)
    action_space = spaces.Box(-np.inf, np.inf, (1,), np.float64)
    control_hz = 50.0

    def proprio_configs(self):
        return [ProprioConfig("here", 1, np.float64)]


SPECS = {mode: describe_robot(Tiny(), mode, None) for mode in Tiny.modes}
LIFETIME = SPECS[Mode.REALTIME].action_lifetime


class ModelControl:
    """The control thread: takes requests in their order, and does one thing in each turn."""

    def __init__(self, world, spec):
        self.world = world
        self.spec = spec
        self.mailbox = collections.deque()
        self.under_way = None
        self.is_pressed = False
        self.ticks = itertools.count(1)
        self.episode = Episode(0, max_steps=None)
        self.episode.end(EndReason.SERVER_SHUTDOWN)
        self.executed = set()

    # Called by the session

    def submit(self, request):
        self.world.note_submitted(request)
        self.mailbox.append(request)

    def follow(self, sink):
        """Frames of these connections come when the test says so."""

    def emergency_stop(self, by):
        self.world.note_told(("stop", by))
        self.is_pressed = True
        self.episode.end(EndReason.EMERGENCY_STOP, cause=by)

    def release_stop(self):
        self.world.note_told(("release",))
        self.is_pressed = False

    def statistics(self):
        return {}

    # Called by the test

    @property
    def is_idle(self):
        return not self.mailbox and self.under_way is None

    def turn(self, *, interrupts=False):
        """Take up a request, or finish the one under way.

        Args:
            interrupts: Whether the next request is taken up before the end of a step.
        """
        doing = self.under_way
        if isinstance(doing, ResetRequest):
            self._end_reset()
        elif doing is not None and not (interrupts and self.mailbox):
            self._end_step()
        elif self.mailbox:
            match request := self.mailbox.popleft():
                case HoldRequest():
                    if request.reason is not None:
                        self._end_episode(request.reason)
                case ResetRequest():
                    self._begin_reset(request)
                case StepRequest():
                    self._begin_step(request)

    def _end_episode(self, reason):
        self.episode.end(reason)
        doing, self.under_way = self.under_way, None
        if doing is not None:
            doing.finish(EpisodeOverError("the episode ended during this step"))

    def _begin_reset(self, request):
        if request.cancelled.is_set() or not request.is_wanted():
            request.finish(ResetCancelledError("nobody wants this reset"))
            return
        self._end_episode(EndReason.OPERATOR)
        self.world.note_executed(request)
        request.tell(0.5, "moving")
        self.under_way = request

    def _end_reset(self):
        request, self.under_way = self.under_way, None
        if request.cancelled.is_set():
            request.finish(ResetCancelledError("the reset was given up"))
            return
        self.episode = Episode(self.episode.number + 1, max_steps=None)
        info = {"serial": request.seed, "made_at": self.world.clock()}
        captured = self._capture()
        request.finish(ResetResult(self.episode.number, captured, info, 0.0, Breakdown()))

    def _begin_step(self, request):
        if self.under_way is not None:
            self._end_step()  # of another client
        try:
            self.episode.check(number=request.episode, step=request.step)
        except EpisodeOverError as error:
            request.finish(error)
            return
        if self.episode.end_reason is None:
            self.world.note_executed(request)
            self.executed.add(request)
        self.under_way = request

    def _end_step(self):
        request, self.under_way = self.under_way, None
        was_executed = request in self.executed
        if was_executed:
            self.episode.advance(Outcome())
        reason = self.episode.end_reason
        self.episode.is_told = reason is not None
        serial = int(request.action[0])
        info = {"serial": serial, "made_at": self.world.clock(), "executed": was_executed}
        is_over = reason is not None
        request.finish(
            StepResult(
                self._capture(), Outcome(info=info), False, is_over, reason, 0.0, Breakdown()
            )
        )

    def _capture(self):
        now = self.world.clock()
        here = Field(np.array([now]), stamp=now, sequence=1)
        return Captured({}, {"here": here}, next(self.ticks), now, now, {})
