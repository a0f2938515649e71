"""Judges what the rules decide, from what truly happened to the frames.

The numbers are those that were promised, not those of the code.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from remote_env.protocol import Cancel, EmergencyStopped, EndReason, Released, StopReleased
from remote_env_server import core

__all__ = ["Referee"]

STALE_AFTER = 2.0
SILENCE = 1.0
RESUME_WITHIN = 30.0


@dataclass(eq=False)
class Known:
    """One client, as a witness would describe it."""

    line: Any
    token: str
    heard_at: float
    answered_at: float = -math.inf
    woke_at: float = -math.inf
    left_at: float | None = None
    resets: dict[int, Any] = field(default_factory=dict)
    steps: set[int] = field(default_factory=set)

    @property
    def process(self):
        return self.line.hello.process

    @property
    def may_control(self):
        return self.line.hello.role == "control"

    def alive_at(self, now):
        """When it gave its last sign of life; who waits for an answer need not give any."""
        if self.left_at is not None:
            return self.heard_at
        return now if self.resets or self.steps else max(self.heard_at, self.answered_at)

    def hear(self, now):
        if now - self.alive_at(now) > SILENCE:
            self.woke_at = now
        self.heard_at = now

    def may_resume(self, now):
        return self.left_at is None or now - self.left_at <= RESUME_WITHIN


class Referee:
    """See the module.

    Attributes:
        owner: The number of the client that has the lease, or None.
        taker: The number of the client that took it last.
        sequence: Commands that were accepted since then.
        dropped: The numbers of the clients that are forgotten.
    """

    def __init__(self, world, pressed):
        self.world = world
        self.owner = self.taker = None
        self.sequence = 0
        self.clients = {}
        self.dropped = set()
        self.pressed = pressed

    def is_present(self, line):
        """Whether a client is connected by this line now."""
        known = self.clients.get(line.peer)
        return known is not None and known.line is line and known.left_at is None

    def hear(self, line, message):
        """Note a frame that comes to the server; return the reset that it must cancel."""
        if not self.is_present(line):
            return None
        known = self.clients[line.peer]
        known.hear(self.world.clock())
        return known.resets.get(message.request) if isinstance(message, Cancel) else None

    def judge(self, now, event, effects):
        """Check the effects of an event, and that the control thread is told of them."""
        expected = self._expire(now)
        known = self.clients.get(event.peer)
        if isinstance(event, core.Joined):
            self._join(now, event)
        elif known is None:
            assert isinstance(event, core.Answered), "only its requests outlive a client"
        else:
            is_frame = not isinstance(event, core.Answered | core.Resumed)
            assert not is_frame or self.world.present_line is known.line, "of its present line"
            expected += getattr(self, f"_{type(event).__name__}")(now, known, event)
        told = [_plain(effect) for effect in effects]
        assert _cancelled(told) == _cancelled(expected)
        assert _others(told) == _others(expected)
        for effect in _others(told):
            if effect[0] in ("hold", "stop", "release"):
                self.world.to_tell.append(effect)
            elif effect[0] == "submit":
                self.world.to_tell.append(effect[1])
            elif effect[0] == "drop":
                self.dropped.add(effect[1])

    # What each event must lead to

    def _join(self, now, event):
        line = self.world.present_line
        line.peer = event.peer
        asked_for = [k for k in self.clients.values() if k.token == line.hello.resume]
        for known in asked_for:
            assert known.process != event.process, "a token resumes, in time"
        assert event.peer not in self.clients
        assert event.peer not in self.dropped
        self.clients[event.peer] = Known(line, event.token, now)
        self.world.tally["joined"] += 1

    def _Resumed(self, now, known, event):
        line = self.world.present_line
        assert line.hello.resume == known.token, "a token resumes its own client"
        assert line.hello.process == known.process
        assert known.may_resume(now)
        known.hear(now)
        self.world.tally["resumed"] += 1
        known.line, line.peer, known.left_at = line, event.peer, None
        return []

    def _Heard(self, now, known, event):
        return []

    def _Left(self, now, known, event):
        assert event.for_good == known.line.heard_bye
        if event.for_good or self.owner != event.peer:
            return self._forget(event.peer)
        known.heard_at = known.alive_at(now)
        known.left_at = now
        self.world.tally["detached"] += 1
        return [("hold", None)] if self.world.is_realtime else []

    def _Answered(self, now, known, event):
        known.answered_at = now
        known.resets.pop(event.id, None)
        known.steps.discard(event.id)
        return []

    def _ResetAsked(self, now, known, event):
        assert known.may_control
        owner = self.clients.get(self.owner)
        if self.pressed is not None:
            return self._refused(event, "robot.emergency_stop")
        effects = []
        if owner is not None and owner is not known:
            is_stale = now - owner.alive_at(now) > STALE_AFTER
            if not (event.take or is_stale or owner.process == known.process):
                return self._refused(event, "robot.lease.taken")
            self.world.tally["stale" if is_stale else "taken"] += 1
            effects += [("cancel", reset) for reset in owner.resets.values()]
            if owner.left_at is not None:
                loser, self.owner = self.owner, None
                effects += self._forget(loser)
        self.sequence = 1 + (self.sequence if self.owner == event.peer else 0)
        self.owner = self.taker = event.peer
        known.resets[event.id] = event.request
        return [*effects, ("submit", event.request)]

    def _StepAsked(self, now, known, event):
        if self.owner != event.peer:
            is_returned = self.taker == event.peer
            return self._refused(event, f"robot.lease.{'none' if is_returned else 'lost'}")
        asked = self.world.asked_of(event.request)
        age = math.inf if asked.seen_at is None else now - asked.seen_at
        may_be_old = asked.is_resent or now - known.woke_at <= self.world.lifetime
        if self.world.is_realtime and age > self.world.lifetime and may_be_old:
            known.woke_at = -math.inf
            return self._refused(event, "robot.action.expired")
        self.sequence += 1
        known.steps.add(event.id)
        return [("submit", event.request)]

    def _ReleaseAsked(self, now, known, event):
        effects = self._free(event.peer, EndReason.OPERATOR)
        effects += [("cancel", reset) for reset in known.resets.values()]
        return [*effects, ("send", event.peer, Released(event.id))]

    def _CancelAsked(self, now, known, event):
        reset = known.resets.get(event.id)
        return [] if reset is None else [("cancel", reset)]

    def _StopAsked(self, now, known, event):
        if self.pressed is None:
            self.pressed = core.PressedStop(known.line.hello.owner, event.reason)
            self.world.tally["stopped"] += 1
        effects = [("stop", str(self.pressed))]
        resets = [reset for other in self.clients.values() for reset in other.resets.values()]
        effects += [("cancel", reset) for reset in resets]
        return [*effects, ("send", event.peer, EmergencyStopped(event.id))]

    def _StopReleaseAsked(self, now, known, event):
        assert known.may_control, "an observer may stop the robot, and not let it go"
        was_pressed, self.pressed = self.pressed is not None, None
        effects = [("release",)] if was_pressed else []
        return [*effects, ("send", event.peer, StopReleased(event.id, was_pressed=was_pressed))]

    # Parts of these

    def _expire(self, now):
        gone = [number for number, known in self.clients.items() if not known.may_resume(now)]
        self.world.tally["forgotten"] += len(gone)
        return [effect for number in gone for effect in self._forget(number)]

    def _forget(self, number):
        known = self.clients.pop(number)
        effects = self._free(number, EndReason.LINK_LOST)
        effects += [("cancel", reset) for reset in known.resets.values()]
        return [*effects, ("drop", number)]

    def _free(self, number, reason):
        if self.owner != number:
            return []
        self.owner = None
        return [("hold", reason)]

    def _refused(self, event, code):
        self.world.tally[code] += 1
        return [("refuse", event.peer, event.id, code)]


def _plain(effect):
    match effect:
        case core.Submit():
            return "submit", effect.request
        case core.Send():
            return "send", effect.peer, effect.message
        case core.Refuse():
            return "refuse", effect.peer, effect.id, effect.error.code
        case core.Hold():
            return "hold", effect.reason
        case core.CancelReset():
            return "cancel", effect.request
        case core.StopRobot():
            return "stop", str(effect.pressed)
        case core.ReleaseRobot():
            return ("release",)
        case core.Drop():
            return "drop", effect.peer
    raise AssertionError(effect)


def _cancelled(effects):
    return {effect[1] for effect in effects if effect[0] == "cancel"}


def _others(effects):
    return [effect for effect in effects if effect[0] != "cancel"]
