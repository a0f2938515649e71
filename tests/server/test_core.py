"""The rules that the clients of one robot share, one example each."""

import itertools

import pytest

from remote_env.errors import ActionRefusedError, EmergencyStopError, LeaseError
from remote_env.protocol import EmergencyStopped, EndReason, Released, StopReleased
from remote_env.testing import HandClock
from remote_env_server.core import (
    Answered,
    CancelAsked,
    CancelReset,
    Drop,
    Heard,
    Hold,
    Joined,
    Left,
    PressedStop,
    Refuse,
    ReleaseAsked,
    ReleaseRobot,
    ResetAsked,
    Resumed,
    Send,
    SessionCore,
    StepAsked,
    StopAsked,
    StopReleaseAsked,
    StopRobot,
    Submit,
)
from remote_env_server.requests import ResetRequest, StepRequest, Watch

LIFETIME = 0.1
ANN, BOB, EVE = 1, 2, 3
OWNERS = {ANN: "Ann", BOB: "Bob", EVE: "Eve"}


class Table:
    """A core with everybody around it, and a clock that is moved by hand."""

    def __init__(self, *, is_realtime=True, pressed=None):
        self.core = SessionCore(is_realtime=is_realtime, action_lifetime=LIFETIME, pressed=pressed)
        self.clock = HandClock(100.0)
        self._ids = itertools.count(2)
        self.join(ANN)
        self.join(BOB)

    def tell(self, event):
        return self.core.handle(self.clock(), event)

    def join(self, peer, *, process=None):
        process = process or f"process of {OWNERS[peer]}"
        return self.tell(Joined(peer, f"token {peer}", process, OWNERS[peer]))

    def ask_reset(self, peer, *, take=False):
        """Return the id, the request and the effects."""
        request = ResetRequest(
            seed=None,
            options=None,
            max_steps=None,
            watch=Watch(),
            received_at=self.clock(),
            is_wanted=lambda: True,
            tell=lambda fraction, text: None,
            finish=lambda result: None,
        )
        number = next(self._ids)
        return number, request, self.tell(ResetAsked(peer, number, request, take))

    def ask_step(self, peer, *, seen=0.0, is_again=False):
        """Ask for a step that answers what was seen so many seconds ago; None is older."""
        request = StepRequest(1, 1, None, self.clock(), finish=lambda result: None)
        number = next(self._ids)
        seen_at = None if seen is None else self.clock() - seen
        return number, request, self.tell(StepAsked(peer, number, request, seen_at, is_again))

    def begin(self, peer, **options):
        """Reset with success."""
        number, request, effects = self.ask_reset(peer, **options)
        assert Submit(request) in effects
        self.tell(Answered(peer, number))

    def live(self, peer, seconds):
        """Let time pass in which a client sends its heartbeats."""
        for _ in range(round(seconds / 0.5)):
            self.clock.advance(0.5)
            self.tell(Heard(peer))


@pytest.fixture
def table():
    return Table()


def refusal(effects, kind):
    """Return the one effect, which must be this refusal."""
    (effect,) = effects
    assert isinstance(effect, Refuse)
    assert type(effect.error) is kind
    return effect


# The lease


def test_who_resets_first_has_the_lease(table):
    _, request, effects = table.ask_reset(ANN)
    assert effects == [Submit(request)]
    assert table.core.has_lease(ANN)
    assert not table.core.has_lease(BOB)


def test_joining_gives_no_lease(table):
    assert table.join(EVE) == []
    assert not table.core.has_lease(EVE)


def test_who_has_the_lease_retains_it_at_each_reset(table):
    table.begin(ANN)
    table.begin(ANN)
    assert (table.core.lease.epoch, table.core.lease.sequence) == (1, 2)


def test_another_learner_is_refused_with_the_owners_name(table):
    table.begin(ANN)
    number, _, effects = table.ask_reset(BOB)
    refused = refusal(effects, LeaseError)
    assert (refused.peer, refused.id, refused.error.code) == (BOB, number, "robot.lease.taken")
    assert refused.error.retryable
    assert "Ann" in str(refused.error)
    assert table.core.has_lease(ANN)


def test_taking_it_is_explicit(table):
    table.begin(ANN)
    table.begin(BOB, take=True)
    assert table.core.has_lease(BOB)
    assert table.core.lease.epoch == 2


def test_the_step_of_a_loser_is_refused_with_the_takers_name(table):
    table.begin(ANN)
    table.begin(BOB, take=True)
    refused = refusal(table.ask_step(ANN)[2], LeaseError)
    assert refused.error.code == "robot.lease.lost"
    assert "Bob" in str(refused.error)


def test_the_step_of_the_holder_goes_to_the_robot(table):
    table.begin(ANN)
    _, request, effects = table.ask_step(ANN)
    assert effects == [Submit(request)]
    assert table.core.lease.sequence == 2


def test_what_a_process_has_its_next_environment_gets(table):
    table.join(EVE, process="process of Ann")
    table.begin(ANN)
    table.begin(EVE)
    refused = refusal(table.ask_step(ANN)[2], LeaseError)
    assert "another environment of this process" in str(refused.error)


def test_who_returns_the_lease_leaves_the_robot_holding(table):
    table.begin(ANN)
    assert table.tell(ReleaseAsked(ANN, 9)) == [Hold(EndReason.OPERATOR), Send(ANN, Released(9))]
    refused = refusal(table.ask_step(ANN)[2], LeaseError)
    assert refused.error.code == "robot.lease.none"
    table.begin(BOB)


def test_returning_what_one_does_not_have_changes_nothing(table):
    table.begin(ANN)
    assert table.tell(ReleaseAsked(BOB, 9)) == [Send(BOB, Released(9))]
    assert table.core.has_lease(ANN)


def test_a_silent_holder_keeps_the_lease_for_two_seconds(table):
    table.begin(ANN)
    table.clock.advance(2.0)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    table.clock.advance(0.001)
    table.begin(BOB)


def test_heartbeats_keep_the_lease(table):
    table.begin(ANN)
    table.live(ANN, 10.0)
    refusal(table.ask_reset(BOB)[2], LeaseError)


def test_who_waits_for_the_robot_is_not_silent(table):
    number, _, _ = table.ask_reset(ANN)
    table.clock.advance(60.0)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    table.tell(Answered(ANN, number))
    table.clock.advance(2.0)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    step, _, _ = table.ask_step(ANN)
    table.clock.advance(60.0)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    table.tell(Answered(ANN, step))
    table.clock.advance(2.001)
    table.begin(BOB)


def test_who_never_joined_is_stale(table):
    assert table.core.is_stale(EVE, table.clock())


def test_events_of_strangers_have_no_effect(table):
    assert table.tell(StopAsked(EVE, 2, "no")) == []
    assert table.tell(Answered(EVE, 2)) == []
    assert table.core.pressed is None


# Lost connections


def test_a_lost_connection_lets_the_robot_hold_and_the_episode_wait(table):
    table.begin(ANN)
    assert table.tell(Left(ANN, for_good=False)) == [Hold(None)]
    table.clock.advance(1.9)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    assert table.core.find(table.clock(), "token 1", "process of Ann") == ANN
    assert table.tell(Resumed(ANN)) == []
    _, request, effects = table.ask_step(ANN)
    assert effects == [Submit(request)]


def test_in_lockstep_nothing_holds():
    table = Table(is_realtime=False)
    table.begin(ANN)
    assert table.tell(Left(ANN, for_good=False)) == []
    assert table.core.has_lease(ANN)


@pytest.mark.parametrize(
    ("token", "process"), [("token 1", "process of Bob"), ("token 2", "process of Ann")]
)
def test_a_token_resumes_its_own_client_only(table, token, process):
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    assert table.core.find(table.clock(), token, process) is None


def test_after_thirty_seconds_a_token_resumes_nothing(table):
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(30.0)
    assert table.core.find(table.clock(), "token 1", "process of Ann") == ANN
    table.clock.advance(0.001)
    assert table.core.find(table.clock(), "token 1", "process of Ann") is None


def test_who_does_not_come_back_is_forgotten_after_thirty_seconds(table):
    table.begin(ANN)
    number, request, _ = table.ask_reset(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(30.0)
    assert table.tell(Heard(BOB)) == []
    table.clock.advance(0.001)
    assert table.tell(Heard(BOB)) == [
        Hold(EndReason.LINK_LOST),
        CancelReset(request),
        Drop(ANN),
    ]
    assert table.tell(Answered(ANN, number)) == []


def test_who_resumed_is_not_forgotten(table):
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(29.0)
    table.tell(Resumed(ANN))
    table.live(ANN, 10.0)
    assert table.core.has_lease(ANN)


def test_who_is_away_may_lose_the_lease_like_anybody_silent(table):
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(2.001)
    _, request, effects = table.ask_reset(BOB)
    assert effects == [Drop(ANN), Submit(request)]
    assert table.core.find(table.clock(), "token 1", "process of Ann") is None


@pytest.mark.parametrize("is_answered", [True, False], ids=["just answered", "waiting"])
def test_who_waited_for_the_robot_was_not_silent_when_the_connection_was_lost(table, is_answered):
    number, _, _ = table.ask_reset(ANN)
    table.clock.advance(60.0)
    if is_answered:
        table.tell(Answered(ANN, number))
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(1.9)
    refusal(table.ask_reset(BOB)[2], LeaseError)
    table.clock.advance(0.2)
    assert Drop(ANN) in table.ask_reset(BOB)[2]


def test_who_is_away_waits_for_nothing(table):
    table.ask_reset(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(2.001)
    _, request, effects = table.ask_reset(BOB)
    assert effects[-2:] == [Drop(ANN), Submit(request)]


def test_an_answer_to_who_is_away_is_no_sign_of_life(table):
    number, _, _ = table.ask_reset(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(1.5)
    table.tell(Answered(ANN, number))
    table.clock.advance(1.0)
    assert Drop(ANN) in table.ask_reset(BOB)[2]


def test_the_reset_of_who_loses_the_lease_is_cancelled(table):
    _, request, _ = table.ask_reset(ANN)
    _, other, effects = table.ask_reset(BOB, take=True)
    assert effects == [CancelReset(request), Submit(other)]


def test_a_loser_who_is_connected_may_take_it_back(table):
    table.begin(ANN)
    table.begin(BOB, take=True)
    table.begin(ANN, take=True)
    assert table.core.has_lease(ANN)
    assert table.core.lease.epoch == 3


@pytest.mark.parametrize("is_first", [True, False], ids=["with the lease", "without it"])
def test_who_says_goodbye_is_forgotten_at_once(table, is_first):
    table.begin(ANN if is_first else BOB)
    held = [Hold(EndReason.LINK_LOST)] if is_first else []
    assert table.tell(Left(ANN, for_good=True)) == [*held, Drop(ANN)]
    assert table.core.find(table.clock(), "token 1", "process of Ann") is None


def test_who_has_nothing_to_lose_is_forgotten_at_once(table):
    table.begin(ANN)
    assert table.tell(Left(BOB, for_good=False)) == [Drop(BOB)]
    assert table.core.has_lease(ANN)


# Cancelling


def test_a_reset_can_be_given_up_until_it_is_answered(table):
    number, request, _ = table.ask_reset(ANN)
    assert table.tell(CancelAsked(ANN, number + 1)) == []
    assert table.tell(CancelAsked(BOB, number)) == []
    assert table.tell(CancelAsked(ANN, number)) == [CancelReset(request)]
    table.tell(Answered(ANN, number))
    assert table.tell(CancelAsked(ANN, number)) == []


def test_a_refused_reset_cannot_be_given_up(table):
    table.begin(ANN)
    number, _, _ = table.ask_reset(BOB)
    assert table.tell(CancelAsked(BOB, number)) == []


# The emergency stop


def test_anybody_may_press_the_stop_and_it_cancels_every_reset(table):
    _, request, _ = table.ask_reset(ANN)
    pressed = PressedStop("Bob", "smoke")
    assert table.tell(StopAsked(BOB, 7, "smoke")) == [
        StopRobot(pressed),
        CancelReset(request),
        Send(BOB, EmergencyStopped(7)),
    ]
    assert table.core.pressed == pressed


def test_a_stop_that_is_pressed_again_stops_again_and_keeps_its_first_name(table):
    table.tell(StopAsked(BOB, 7, "smoke"))
    pressed = PressedStop("Bob", "smoke")
    assert table.tell(StopAsked(ANN, 8, "fire")) == [
        StopRobot(pressed),
        Send(ANN, EmergencyStopped(8)),
    ]
    assert table.core.pressed == pressed


@pytest.mark.parametrize(("reason", "said"), [("smoke", r"\(Bob: smoke\)"), ("", r"\(Bob\)")])
def test_no_reset_while_the_stop_is_pressed(table, reason, said):
    table.begin(ANN)
    table.tell(StopAsked(BOB, 7, reason))
    number, _, effects = table.ask_reset(ANN, take=True)
    refused = refusal(effects, EmergencyStopError)
    assert refused.id == number
    assert refused.error.retryable
    with pytest.raises(EmergencyStopError, match=said):
        raise refused.error


def test_taking_over_is_no_way_around_the_stop(table):
    table.begin(ANN)
    table.tell(StopAsked(ANN, 7, ""))
    refusal(table.ask_reset(BOB, take=True)[2], EmergencyStopError)
    assert table.core.has_lease(ANN)


def test_only_an_explicit_release_ends_the_stop(table):
    table.begin(ANN)
    table.tell(StopAsked(BOB, 7, ""))
    assert table.tell(StopReleaseAsked(ANN, 8)) == [
        ReleaseRobot(),
        Send(ANN, StopReleased(8, was_pressed=True)),
    ]
    assert table.core.pressed is None
    table.begin(ANN)


def test_releasing_what_is_not_pressed_says_so(table):
    assert table.tell(StopReleaseAsked(ANN, 8)) == [Send(ANN, StopReleased(8, was_pressed=False))]


def test_a_stop_outlives_the_server():
    table = Table(pressed=PressedStop("Eve", "yesterday"))
    refusal(table.ask_reset(ANN)[2], EmergencyStopError)


# Actions that come too late


def test_a_learner_that_thinks_for_long_is_not_late(table):
    table.begin(ANN)
    table.live(ANN, 30.0)
    _, request, effects = table.ask_step(ANN, seen=30.0)
    assert effects == [Submit(request)]


def test_after_a_silence_an_action_is_old(table):
    table.begin(ANN)
    table.clock.advance(1.001)
    number, _, effects = table.ask_step(ANN, seen=1.001)
    refused = refusal(effects, ActionRefusedError)
    assert (refused.id, refused.error.code) == (number, "robot.action.expired")
    assert refused.error.retryable
    assert "1 s old" in str(refused.error)
    assert table.core.lease.sequence == 1


def test_one_missed_heartbeat_is_no_silence(table):
    table.begin(ANN)
    table.clock.advance(1.0)
    _, request, effects = table.ask_step(ANN, seen=1.0)
    assert effects == [Submit(request)]


def test_what_comes_right_after_the_first_frame_is_old_too(table):
    table.begin(ANN)
    table.clock.advance(5.0)
    table.tell(Heard(ANN))
    table.clock.advance(LIFETIME / 2)
    refusal(table.ask_step(ANN, seen=5.05)[2], ActionRefusedError)


def test_what_comes_later_was_sent_later(table):
    table.begin(ANN)
    table.clock.advance(5.0)
    table.tell(Heard(ANN))
    table.clock.advance(LIFETIME * 1.01)
    _, request, effects = table.ask_step(ANN, seen=5.1)
    assert effects == [Submit(request)]


def test_the_action_after_a_refused_one_is_not_old(table):
    table.begin(ANN)
    table.clock.advance(5.0)
    table.ask_step(ANN, seen=5.0)
    _, request, effects = table.ask_step(ANN, seen=5.0)
    assert effects == [Submit(request)]


def test_an_action_that_lives_is_not_late_after_a_silence(table):
    table.begin(ANN)
    table.clock.advance(5.0)
    _, request, effects = table.ask_step(ANN, seen=LIFETIME)
    assert effects == [Submit(request)]


def test_an_action_on_an_older_observation_is_old_after_a_silence(table):
    table.begin(ANN)
    table.clock.advance(5.0)
    refusal(table.ask_step(ANN, seen=None)[2], ActionRefusedError)


def test_waiting_for_the_robot_is_no_silence(table):
    number, _, _ = table.ask_reset(ANN)
    table.clock.advance(60.0)
    table.tell(Answered(ANN, number))
    table.clock.advance(0.5)
    _, request, effects = table.ask_step(ANN, seen=0.5)
    assert effects == [Submit(request)]


@pytest.mark.parametrize(
    ("seen", "is_executed"), [(LIFETIME, True), (LIFETIME + 0.01, False), (None, False)]
)
def test_an_action_that_is_asked_again_counts_while_it_lives(table, seen, is_executed):
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(0.2)
    table.tell(Resumed(ANN))
    _, request, effects = table.ask_step(ANN, seen=seen, is_again=True)
    assert (effects == [Submit(request)]) is is_executed
    assert any(isinstance(effect, Refuse) for effect in effects) is not is_executed


def test_in_lockstep_no_action_is_late():
    table = Table(is_realtime=False)
    table.begin(ANN)
    table.tell(Left(ANN, for_good=False))
    table.clock.advance(25.0)
    table.tell(Resumed(ANN))
    _, request, effects = table.ask_step(ANN, seen=25.0, is_again=True)
    assert effects == [Submit(request)]
