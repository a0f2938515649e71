"""A client that follows the protocol, whatever its connections do to it."""

import numpy as np

from remote_env.protocol import (
    REPLIES,
    Connection,
    Error,
    Hello,
    OnStale,
    Progress,
    Reset,
    ResetDone,
    Role,
    State,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    Welcome,
)
from remote_env.transport import join
from tests.server.session_world import Asked, Line

__all__ = ["Learner"]

# What is answered before the robot hears of it.
NEVER_EXECUTED = ("robot.lease", "robot.action", "robot.access", "robot.emergency_stop")


class Learner:
    """One request at a time on the episode channel; what is lost is sent again, byte by byte."""

    def __init__(self, world, name, *, process, role="control"):
        self.world = world
        self.name = name
        self.process = process
        self.role = role
        self.line = None
        self.connection = None
        self.past = None  # the connection that was lost and may be resumed
        self.token = None
        self.begin_life()

    def begin_life(self):
        """Know nothing of before."""
        self.life = object()
        self.past = None
        self.pending = None
        self.must_resend = False
        self.resends_at_once = True
        self.beside = {}
        self.is_greeted = False
        self.episode = self.steps = self.tick = 0
        self.seen_at = None

    @property
    def is_waiting(self):
        """Whether an answer is due."""
        is_pending = self.pending is not None and not self.must_resend
        return not self.is_greeted or is_pending or bool(self.beside)

    @property
    def may_ask(self):
        """Whether nothing is under way on the episode channel."""
        return self.is_greeted and self.pending is None

    @property
    def is_stuck(self):
        """Whether nothing is under way and nothing may be asked either."""
        return self.may_ask and self.connection.state not in (State.READY, State.RUNNING)

    # Connections

    def connect(self, *, resume=True, token=None, resends_at_once=True):
        """Say hello on a new line.

        Args:
            resume: Whether to go on with the connection that was lost.
            token: A token that is not one's own, instead.
            resends_at_once: Whether what is pending is sent again with the welcome.
        """
        assert self.line is None
        now = self.world.clock()
        self.connection = Connection(Role.CLIENT, now=now)
        asking = 0
        if resume and self.past is not None:
            token = self.token
            asking = self.pending.message.id if self.pending else 0
            self.connection.adopt(self.past, asking=asking)
        else:
            self.begin_life()
        self.is_greeted = False
        self.resends_at_once = resends_at_once
        hello = Hello(
            id=self.connection.next_id(),
            role=self.role,
            token=None,
            owner=self.name,
            process=self.process,
            client="model",
            resume=token,
            asking=asking,
        )
        self.line = Line(self.world, self, hello)
        self.world.lines.append(self.line)
        self.say(hello)

    def lose(self):
        """Give the connection up; what was asked beside the episode channel is forgotten."""
        line, self.line = self.line, None
        line.client_has_it = False
        line.to_client.clear()
        if self.is_greeted:
            self.past = self.connection
        self.must_resend = self.pending is not None
        self.is_greeted = False
        self.beside = {}

    # What it says

    def say(self, message):
        frame = join(self.connection.send(message))
        if type(message) in REPLIES and not isinstance(message, (Hello, Subscribe, Reset, Step)):
            self.beside[message.id] = type(message)
        self.line.to_server.append((message, frame))
        return frame

    def ask(self, message, serial, seen_at=None):
        """Ask on the episode channel."""
        asked = Asked(serial, self.life, message, seen_at=seen_at)
        self.world.asked[serial] = self.pending = asked
        asked.frame = self.say(message)

    def may_reset(self):
        return self.may_ask and self.connection.state in (State.READY, State.RUNNING)

    def ask_reset(self, *, take):
        serial = next(self.world.serials)
        message = Reset(self.next_id(), seed=serial, options=None, take=take, max_steps=None)
        self.ask(message, serial)

    def may_subscribe(self):
        return self.may_ask and self.connection.state is State.READY

    def ask_subscribe(self, streams):
        message = Subscribe(self.next_id(), streams, max_ages={}, on_stale=OnStale.TRUNCATE)
        self.ask(message, next(self.world.serials))

    def may_step(self):
        return self.may_ask and self.connection.state is State.RUNNING

    def ask_step(self, *, is_sane=True, is_on_newest=True):
        """Ask for a step.

        Args:
            is_sane: Whether the action is a number.
            is_on_newest: Whether it answers the newest observation.
        """
        serial = next(self.world.serials)
        action = np.array([serial if is_sane else np.nan], np.float64)
        message = Step(
            self.next_id(),
            episode=self.episode,
            step=self.steps + 1,
            tick=self.tick if is_on_newest else self.tick - 1,
            dtypes=(),
            action=(action,),
        )
        self.ask(message, serial, self.seen_at if is_on_newest else None)

    def resend(self):
        """Send what is pending again, as it was."""
        assert self.is_greeted
        self.must_resend = False
        self.pending.is_resent = True
        self.line.to_server.append((self.pending.message, self.pending.frame))

    def next_id(self):
        return self.connection.next_id()

    # What it hears

    def hear(self, frame):
        message = self.connection.receive(frame, self.world.clock())
        if message is None:
            return
        match message:
            case Welcome():
                self._be_greeted(message)
            case Progress():
                assert self.pending.message.id == message.id
            case Error() if message.id in self.beside:
                del self.beside[message.id]
            case Subscribed() | ResetDone() | StepDone() | Error():
                self._take_answer(message)
            case _:
                assert REPLIES[self.beside.pop(message.id)] is type(message)

    def _be_greeted(self, welcome):
        if welcome.resumed:
            assert self.past is not None
            assert welcome.session == self.token
        elif self.past is not None:
            self.begin_life()
        self.past = None
        self.token = welcome.session
        self.is_greeted = True
        if self.pending is not None and self.resends_at_once:
            self.resend()

    def _take_answer(self, message):
        asked, self.pending, self.must_resend = self.pending, None, False
        assert message.id == asked.message.id
        asked.answers += 1
        assert asked.answers == 1
        self.world.tally["answers to what was sent again"] += asked.is_resent
        match message:
            case Error():
                if message.code.startswith(NEVER_EXECUTED):
                    assert asked.submitted == asked.executed == 0
            case ResetDone():
                assert asked.executed == 1
                self.episode, self.steps = message.episode, 0
                self._see(message, asked)
            case StepDone():
                assert asked.executed == message.info["executed"]
                self.steps += asked.executed
                self._see(message, asked)
                self.world.tally["steps"] += asked.executed

    def _see(self, message, asked):
        assert message.info["serial"] == asked.serial, "the answer is of this very request"
        self.tick, self.seen_at = message.tick, message.info["made_at"]
