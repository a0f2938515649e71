"""The real session with all around it on one thread, on a clock that is moved by hand.

Real are ``RobotSession``, ``Visit``, ``Peer``, ``SessionCore`` and both ends' ``Connection``.
Made here is what they touch: ``Line``, a connection on which frames wait until somebody moves
them; the control thread (``session_control.py``); and ``World``, which notes what truly happens
and knows what must never happen, whatever the rules say.
"""

import collections
import contextlib
import functools
import itertools
import types
from dataclasses import dataclass
from typing import Any
from unittest import mock

from remote_env.protocol import Bye, Message
from remote_env.protocol.codec import SERVER_LIMITS
from remote_env.testing import HandClock
from remote_env.transport import join
from remote_env_server import Mode, answers, peer, session
from remote_env_server.core import PressedStop
from remote_env_server.requests import HoldRequest, ResetRequest
from tests.server.session_control import LIFETIME, SPECS, ModelControl
from tests.server.session_referee import Referee

__all__ = ["Asked", "Line", "World"]


@dataclass(eq=False)
class Asked:
    """What truly became of one request on the episode channel.

    Attributes:
        serial: Unique in the world; the robot is given it as the seed or the action.
        life: Of the client, from a connection that resumed nothing to the next such one.
        message: As it was sent first.
        frame: The same, in bytes.
        seen_at: When the observation was made that a step answers; None for an older one.
        is_resent: Whether it was sent again.
    """

    serial: int
    life: object
    message: Message
    frame: bytes = b""
    seen_at: float | None = None
    is_resent: bool = False
    submitted: int = 0
    executed: int = 0
    answers: int = 0


def kept(method):
    """Remember what fails here: a server that catches every exception must not hide it."""

    @functools.wraps(method)
    def call(world, *arguments):
        try:
            return method(world, *arguments)
        except Exception as error:
            world.failures.append(error)
            raise

    return call


class Line:
    """One connection: frames in order, both ways, until it is cut. The server's ``FrameSink``."""

    def __init__(self, world, learner, hello):
        self.world = world
        self.learner = learner
        self.hello = hello
        self.peer_name = learner.name
        self.peer = None  # its number, once greeted
        self.to_server = collections.deque()
        self.to_client = collections.deque()
        self.is_cut = False
        self.client_has_it = True
        self.server_has_it = True
        self.server_closed = False
        self.heard_bye = False
        self.visit = world.session.accept(self)

    def send(self, frame):
        self.world.note_sent(self)
        if self.server_has_it and not self.server_closed:
            self.to_client.append(join(frame))

    def close(self, code, reason):
        self.server_closed = True

    @property
    def is_quiet(self):
        """Whether nothing is on its way."""
        up = self.to_server and self.server_has_it
        down = (self.to_client or self.server_closed) and self.client_has_it
        return self.is_cut or not (up or down)

    @property
    def is_half_gone(self):
        """Whether one end has still to notice that the connection is gone."""
        is_gone = self.is_cut or not self.client_has_it or self.server_closed
        return is_gone and (self.server_has_it or self.client_has_it)

    def move_up(self):
        """Let the server have the next frame."""
        if self.is_cut or not self.server_has_it or not self.to_server:
            return False
        message, frame = self.to_server.popleft()
        self.heard_bye |= isinstance(message, Bye)
        with self.world.on(self):
            reset = self.world.referee.hear(self, message)
            self.visit.on_frame(bytearray(frame))
        assert reset is None or reset.cancelled.is_set()
        return True

    def move_down(self):
        """Let the client have the next frame, or the news that the server closed."""
        if self.is_cut or not self.client_has_it:
            return False
        if self.to_client:
            self.learner.hear(self.to_client.popleft())
            return True
        if self.server_closed:
            self.learner.lose()
            return True
        return False

    def end_at_server(self):
        """Let the server notice that the connection is gone, if it is."""
        if not (self.is_half_gone and self.server_has_it):
            return False
        self.server_has_it = False
        self.to_server.clear()
        is_missed = self.world.referee.is_present(self)
        with self.world.on(self):
            self.visit.on_close("gone")
        assert not (is_missed and self.world.referee.is_present(self))
        return True


class World:
    """Everything, and what must never happen in it."""

    def __init__(self, mode, *, was_pressed=False):
        self.clock = HandClock(1000.0)
        self.is_realtime = mode is not Mode.LOCKSTEP
        self.lifetime = LIFETIME
        self.tally = collections.Counter()
        self.failures = []
        self.lines = []
        self.asked = {}
        self.serials = itertools.count(1)
        # What the rules said that the control thread is to be told, and it was not told yet.
        self.to_tell = collections.deque()
        self.present_line = None
        self.commander = self.mover = None
        self.epochs = {}
        self.exits = contextlib.ExitStack()
        fake_time = types.SimpleNamespace(monotonic=self.clock)
        for module in (answers, peer, session):
            self.exits.enter_context(mock.patch.object(module, "time", fake_time))
        pressed = PressedStop("Eve", "yesterday") if was_pressed else None
        if pressed is not None:
            self.to_tell.append(("stop", str(pressed)))
        self.referee = Referee(self, pressed)
        self.control = ModelControl(self, SPECS[mode])
        self.session = session.RobotSession(
            self.control,
            limits=SERVER_LIMITS,
            token=None,
            version="test",
            latch=mock.Mock(pressed=pressed),
        )
        self.core = self.session._core
        self._decide = self.core.handle
        self.core.handle = self._judge

    def close(self):
        self.exits.close()

    @kept
    def _judge(self, now, event):
        effects = self._decide(now, event)
        self.referee.judge(now, event, effects)
        return effects

    @contextlib.contextmanager
    def on(self, line):
        """While the server's end of a line is at work."""
        self.present_line = line
        yield
        self.present_line = None
        self.raise_failure()
        assert not self.to_tell, "what the rules say is done"

    def raise_failure(self):
        if self.failures:
            raise self.failures[0]

    def asked_of(self, request: Any) -> Asked:
        is_reset = isinstance(request, ResetRequest)
        return self.asked[request.seed if is_reset else int(request.action[0])]

    # What must never happen

    @kept
    def note_told(self, told):
        assert told == self.to_tell.popleft()

    @kept
    def note_sent(self, line):
        assert line.peer not in self.referee.dropped, "who was dropped is sent nothing"

    @kept
    def note_submitted(self, request):
        if isinstance(request, HoldRequest):
            self.note_hold(request)
            return
        assert self.to_tell.popleft() is request
        asked = self.asked_of(request)
        asked.submitted += 1
        assert asked.submitted == 1, "a request goes to the robot once"
        if isinstance(request, ResetRequest):
            assert not self.control.is_pressed, "no reset while the stop is pressed"
            self.commander = asked.life
            return
        assert asked.life is self.commander, "only who has the lease commands"
        if self.is_realtime and asked.is_resent:
            assert asked.seen_at is not None
            assert self.clock() - asked.seen_at <= LIFETIME, "what is asked again counts shortly"

    def note_hold(self, request):
        assert self.to_tell.popleft() == ("hold", request.reason)
        if request.reason is not None:
            self.commander = None

    @kept
    def note_executed(self, request):
        asked = self.asked_of(request)
        asked.executed += 1
        assert asked.executed == 1, "a request is executed once"
        assert not self.control.is_pressed, "nothing moves while the stop is pressed"
        if isinstance(request, ResetRequest):
            self.mover = asked.life
        assert asked.life is self.mover, "an episode is of who began it"

    def check(self):
        """Check what is so at all times."""
        self.raise_failure()
        lease = self.core.lease
        holder = lease.holder.peer if lease.holder else None
        assert holder == self.referee.owner
        if holder is not None:
            assert self.epochs.setdefault(lease.epoch, holder) == holder
            assert lease.epoch == max(self.epochs), "an epoch never comes back"
            assert lease.sequence == self.referee.sequence
        for line in self.lines:
            if line.peer in self.referee.dropped and line.server_has_it:
                assert line.server_closed
        for learner in {line.learner for line in self.lines}:
            assert not learner.is_stuck, "who waits for nothing may ask"
        if self.control.is_idle and all(line.is_quiet for line in self.lines):
            for line in self.lines:
                if line.client_has_it and not line.is_cut:
                    assert not line.learner.is_waiting, "everybody gets an answer"
        self.lines = [line for line in self.lines if line.server_has_it or line.client_has_it]

    # What happens

    def settle(self, lines=None, *, seconds=0.01):
        """Let everything on these lines arrive, and the robot do what it is asked."""
        lines = self.lines if lines is None else lines
        is_moving = True
        while is_moving:
            is_moving = False
            for line in list(lines):
                while line.move_up() or line.move_down():
                    is_moving = True
            if not self.control.is_idle:
                self.clock.advance(seconds)
                self.control.turn()
                is_moving = True
