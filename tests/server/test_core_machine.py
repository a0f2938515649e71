"""Whatever clients, connections and the robot do: one commands, and everything happens once.

The real session, driven by random events on a clock that is moved by hand. What must never
happen stands in ``session_world.py``, and what each rule must decide in ``session_referee.py``.
``HYPOTHESIS_PROFILE=fuzz`` runs more than a hundred thousand rules.
"""

import collections
import logging
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from remote_env.protocol import (
    Bye,
    Cancel,
    EmergencyStop,
    GetStatistics,
    Heartbeat,
    Ping,
    Release,
    ReleaseStop,
)
from remote_env_server import Mode
from tests.server.session_learner import Learner
from tests.server.session_world import World

# Two environments of one process, two learners elsewhere, and one that only looks.
PROCESSES = {"ann": "p", "ann too": "p", "bob": "q", "cat": "r", "eye": "s"}
# Of those who can do something, one; the first more often.
PICK = st.sampled_from([0, 0, 0, 1, 1, 2, 3, 4])
SWIFT = st.sampled_from([True, True, False])
RARELY = st.sampled_from([False, False, False, True])
USUALLY = st.sampled_from([True, True, True, False])
PAUSES = st.sampled_from([0.01, 0.05, 0.09, 0.11, 0.3, 0.9, 1.05, 2.1, 7.0, 29.0, 31.0])
ENDS = st.sampled_from(["up", "down", "both"])
BESIDE = st.sampled_from(
    ["heartbeat", "ping", "statistics", "cancel", "cancel another", "stop", "unstop", "unstop"]
)


def if_any(condition):
    """Let a rule apply only if a learner is so."""
    return precondition(lambda self: any(map(condition, self.learners.values())))


def is_away(learner):
    return learner.line is None


def is_here(learner):
    return learner.line is not None


def may_speak(learner):
    return learner.is_greeted


def has_to_send_again(learner):
    return learner.is_greeted and learner.must_resend


class SharedRobot(RuleBasedStateMachine):
    """See the module."""

    # Of all examples: rules that did something, and situations that came up.
    tally: ClassVar = collections.Counter()

    @initialize(mode=st.sampled_from([Mode.REALTIME, Mode.REALTIME, Mode.LOCKSTEP]), pressed=RARELY)
    def open(self, mode, pressed):
        self.world = World(mode, was_pressed=pressed)
        self.learners = {
            name: Learner(
                self.world, name, process=process, role="observe" if name == "eye" else "control"
            )
            for name, process in PROCESSES.items()
        }

    def pick(self, pick, condition):
        able = [learner for learner in self.learners.values() if condition(learner)]
        return able[pick % len(able)]

    def settle(self, learner):
        """Let what a learner began come to its end."""
        if learner.line is not None:
            self.world.settle([learner.line])

    # What learners do

    @if_any(is_away)
    @rule(pick=PICK, resume=USUALLY, at_once=USUALLY, swift=SWIFT)
    def connect(self, pick, resume, at_once, swift):
        """Connect, for the first time or again."""
        learner = self.pick(pick, is_away)
        learner.connect(resume=resume, resends_at_once=at_once)
        if swift:
            self.settle(learner)

    @if_any(is_away)
    @rule(pick=PICK, of=PICK)
    def steal(self, pick, of):
        """Try to resume what is another process's, or nobody's."""
        learner, other = self.pick(pick, is_away), self.pick(of, lambda other: True)
        token = other.token if other.process != learner.process else ""
        learner.connect(resume=False, token=token)
        self.settle(learner)

    @if_any(Learner.may_reset)
    @rule(pick=PICK, take=RARELY, swift=SWIFT)
    def reset(self, pick, take, swift):
        learner = self.pick(pick, Learner.may_reset)
        learner.ask_reset(take=take)
        if swift:
            self.settle(learner)

    @if_any(Learner.may_step)
    @rule(pick=PICK, sane=USUALLY, newest=USUALLY, swift=SWIFT)
    def step(self, pick, sane, newest, swift):
        learner = self.pick(pick, Learner.may_step)
        learner.ask_step(is_sane=sane, is_on_newest=newest)
        if swift:
            self.settle(learner)

    @if_any(Learner.may_subscribe)
    @rule(pick=PICK, streams=st.sampled_from([(), ("here",), ("where",)]), swift=SWIFT)
    def subscribe(self, pick, streams, swift):
        learner = self.pick(pick, Learner.may_subscribe)
        learner.ask_subscribe(streams)
        if swift:
            self.settle(learner)

    @if_any(may_speak)
    @rule(pick=PICK, what=BESIDE, swift=SWIFT)
    def say_beside(self, pick, what, swift):
        """Say what may be said at any time."""
        learner = self.pick(pick, may_speak)
        number = learner.next_id()
        match what:
            case "heartbeat":
                learner.say(Heartbeat())
            case "ping":
                learner.say(Ping(number))
            case "statistics":
                learner.say(GetStatistics(number))
            case "cancel":
                learner.say(Cancel(learner.pending.message.id if learner.pending else number))
            case "cancel another":
                learner.say(Cancel(number))
            case "stop":
                learner.say(EmergencyStop(number, reason="smoke"))
            case "unstop":
                learner.say(ReleaseStop(number))
        if swift:
            self.settle(learner)

    @if_any(Learner.may_step)
    @rule(pick=PICK, swift=SWIFT)
    def return_the_lease(self, pick, swift):
        learner = self.pick(pick, Learner.may_step)
        learner.say(Release(learner.next_id()))
        if swift:
            self.settle(learner)

    @if_any(may_speak)
    @rule(pick=PICK, swift=SWIFT)
    def say_goodbye(self, pick, swift):
        learner = self.pick(pick, may_speak)
        line = learner.line
        learner.say(Bye(reason=""))
        learner.lose()
        learner.begin_life()
        while swift and line.move_up():
            pass

    @if_any(has_to_send_again)
    @rule(pick=PICK)
    def send_again(self, pick):
        self.pick(pick, has_to_send_again).resend()

    @rule(pick=PICK, count=st.integers(1, 3), take=RARELY)
    def play(self, pick, count, take):
        """Get somewhere: connected, with an episode, some steps further."""
        learner = self.pick(pick, lambda learner: True)
        self.settle(learner)
        if is_away(learner):
            learner.connect()
            self.settle(learner)
        if learner.may_reset() and not learner.may_step():
            learner.ask_reset(take=take)
            self.settle(learner)
        for _ in range(count):
            if learner.may_step():
                learner.ask_step()
                self.settle(learner)

    @if_any(Learner.may_step)
    @rule(
        pick=PICK, thinks=st.booleans(), up=st.booleans(), turns=st.integers(0, 2), hears=RARELY,
        pause=PAUSES, newest=USUALLY, then=st.sampled_from(["resends", "pings first", "waits"]),
    )  # fmt: skip
    def lose_a_step(self, pick, thinks, up, turns, hears, pause, newest, then):
        """Lose the connection somewhere between asking and hearing; come back, and ask again."""
        learner = self.pick(pick, Learner.may_step)
        if not thinks:
            learner.ask_step()
            self.settle(learner)
        if not learner.may_step():
            return
        learner.ask_step(is_on_newest=newest)
        self.lose(learner, up=up, turns=turns, hears=hears)
        self.world.clock.advance(pause)
        if is_away(learner):
            learner.connect(resends_at_once=then == "resends")
        while learner.line.move_up() or learner.line.move_down():
            pass
        if then == "pings first" and learner.is_greeted:
            learner.say(Ping(learner.next_id()))
            if learner.must_resend:
                learner.resend()
            self.settle(learner)

    def lose(self, learner, *, up, turns, hears):
        """Let some of the way of a request happen; then its line is cut."""
        line = learner.line
        while up and line.move_up():
            pass
        for _ in range(turns):
            self.world.control.turn()
        if hears:
            line.move_down()
        line.is_cut = True
        line.end_at_server()
        if learner.line is line:
            learner.lose()

    @if_any(Learner.may_step)
    @rule(
        pick=PICK, other=PICK, what=st.sampled_from(["reset", "step", "nonsense"]), idle=PAUSES,
        works=PAUSES, turns=st.integers(0, 1), is_lost=st.booleans(), pause=PAUSES,
    )  # fmt: skip
    def compete(self, pick, other, what, idle, works, turns, is_lost, pause):
        """Let another learner ask for the robot while it works for long, or just after that."""
        learner = self.pick(pick, Learner.may_step)
        line = learner.line
        self.world.clock.advance(idle)
        if what == "reset":
            learner.ask_reset(take=False)
        else:
            learner.ask_step(is_sane=what == "step")
        while line.move_up():
            pass
        self.world.control.turn()
        self.world.clock.advance(works)
        if is_lost:
            self.lose(learner, up=False, turns=turns, hears=False)
        self.world.clock.advance(pause)
        if any(map(Learner.may_reset, self.learners.values())):
            rival = self.pick(other, Learner.may_reset)
            rival.ask_reset(take=False)
            while rival.line.move_up():
                pass

    # What happens to frames, connections and the robot

    @precondition(lambda self: not all(line.is_quiet for line in self.world.lines))
    @rule(pick=PICK, count=st.integers(1, 3))
    def move(self, pick, count):
        """Let frames arrive; also on a line that its client has given up."""
        busy = [line for line in self.world.lines if not line.is_quiet]
        line = busy[pick % len(busy)]
        for _ in range(count):
            if not line.move_up():
                line.move_down()

    @precondition(lambda self: not self.world.control.is_idle)
    @rule(interrupts=st.booleans())
    def take_turn(self, interrupts):
        """Let the control thread do one thing."""
        self.world.control.turn(interrupts=interrupts)

    @if_any(is_here)
    @rule(pick=PICK, noticed=ENDS, after=st.integers(0, 2))
    def sever(self, pick, noticed, after):
        """Cut a line; its ends notice now or later."""
        learner = self.pick(pick, is_here)
        line = learner.line
        for _ in range(after):
            line.move_up()
        line.is_cut = True
        if noticed != "down":
            line.end_at_server()
        if noticed != "up" and learner.line is line:
            learner.lose()

    @if_any(is_here)
    @rule(pick=PICK)
    def hang_up(self, pick):
        """Let a client give up a line, on which frames may still arrive at the server."""
        self.pick(pick, is_here).lose()

    @precondition(lambda self: any(line.is_half_gone for line in self.world.lines))
    @rule(pick=PICK)
    def notice(self, pick):
        """Let the end that has not noticed yet notice that a line is gone."""
        half_gone = [line for line in self.world.lines if line.is_half_gone]
        line = half_gone[pick % len(half_gone)]
        if not line.end_at_server():
            line.learner.lose()

    @rule(seconds=PAUSES)
    def wait(self, seconds):
        self.world.clock.advance(seconds)

    @if_any(may_speak)
    @rule(seconds=st.sampled_from([0.6, 2.4, 8.0]))
    def think(self, seconds):
        """Let time pass in which whoever is connected sends heartbeats."""
        for _ in range(round(seconds / 0.4)):
            self.world.clock.advance(0.4)
            for learner in self.learners.values():
                if learner.may_ask:
                    learner.say(Heartbeat())
                    learner.line.move_up()

    # What is always so

    @invariant()
    def nothing_happened_that_must_not(self):
        self.world.check()
        self.world.tally["rules"] += 1

    def teardown(self):
        if not hasattr(self, "world"):
            return
        try:
            self.world.raise_failure()  # what follows from it is of no interest
            self.world.settle()
            self.world.check()
            self.world.tally["rules"] -= 1  # opening is none
        finally:
            self.world.close()
            self.tally.update(self.world.tally)


# What a long run must have seen, or it proves nothing; a short one may miss the rare ones.
SITUATIONS = (
    "steps",
    "detached",
    "resumed",
    "taken",
    "stale",
    "forgotten",
    "stopped",
    "answers to what was sent again",
    "robot.action.expired",
    "robot.emergency_stop",
    "robot.lease.lost",
    "robot.lease.none",
    "robot.lease.taken",
)
LONG = 100_000


@pytest.mark.timeout(3600)  # a failure is made small before it is told, which takes minutes
def test_one_commands_and_everything_happens_once(caplog, record_property):
    caplog.set_level(logging.CRITICAL + 1, "remote_env_server")
    SharedRobot.tally.clear()
    run_state_machine_as_test(
        SharedRobot,
        settings=settings(stateful_step_count=100, suppress_health_check=list(HealthCheck)),
    )
    seen = SharedRobot.tally
    for name in ("rules", *SITUATIONS):
        record_property(name, seen[name])
    is_long = settings().max_examples >= LONG // 50
    assert seen["rules"] >= LONG or not is_long
    assert all(seen[name] for name in (SITUATIONS if is_long else ("steps", "resumed")))
