"""Where an episode stands, and why it ended."""

import pytest

from remote_env.errors import EpisodeOverError
from remote_env_server import EndReason, Outcome
from remote_env_server.episode import Episode


@pytest.mark.parametrize(
    ("outcome", "limit", "flags", "reason"),
    [
        (Outcome(), None, (False, False), None),
        (Outcome(), 1, (False, True), EndReason.TIME_LIMIT),
        (Outcome(terminated=True), None, (True, False), EndReason.TASK),
        (Outcome(terminated=True), 1, (True, True), EndReason.TASK),
        (Outcome(truncated=True), None, (False, True), EndReason.ROBOT),
        (
            Outcome(truncated=True, end_reason=EndReason.OPERATOR),
            5,
            (False, True),
            EndReason.OPERATOR,
        ),
    ],
)
def test_a_step_ends_the_episode_for_the_right_reason(outcome, limit, flags, reason):
    episode = Episode(1, max_steps=limit)
    assert episode.advance(outcome) == flags
    assert episode.end_reason is reason


@pytest.mark.parametrize(
    ("number", "step", "message"),
    [
        (6, 3, "episode 6 is over, the robot is in episode 7"),
        (7, 2, "step 2 does not follow step 2"),
        (7, 4, "step 4 does not follow step 2"),
    ],
)
def test_a_step_that_does_not_follow_is_refused(number, step, message):
    episode = Episode(7, max_steps=None)
    episode.advance(Outcome())
    episode.advance(Outcome())
    with pytest.raises(EpisodeOverError, match=message):
        episode.check(number=number, step=step)
    episode.check(number=7, step=3)


def test_the_first_reason_stays():
    episode = Episode(1, max_steps=None)
    episode.end(EndReason.LINK_LOST, cause="a cable")
    episode.end(EndReason.OPERATOR, cause="a person")
    assert episode.end_reason is EndReason.LINK_LOST
    episode.is_told = True
    with pytest.raises(EpisodeOverError, match="after 0 steps .link_lost: a cable."):
        episode.check(number=1, step=1)


def test_an_end_behind_the_learners_back_lets_one_more_step_pass_that_is_told():
    episode = Episode(1, max_steps=None)
    episode.advance(Outcome())
    episode.end(EndReason.EMERGENCY_STOP)
    episode.check(number=1, step=2)
    with pytest.raises(EpisodeOverError, match="step 3 does not follow step 1"):
        episode.check(number=1, step=3)
    episode.is_told = True
    with pytest.raises(EpisodeOverError, match="after 1 steps .emergency_stop.; call env.reset"):
        episode.check(number=1, step=2)


@pytest.mark.parametrize(
    "outcome", [Outcome(terminated=True), Outcome(truncated=True)], ids=["terminated", "truncated"]
)
def test_a_step_that_ends_the_episode_has_told_it(outcome):
    episode = Episode(1, max_steps=None)
    assert not episode.is_told
    episode.advance(outcome)
    with pytest.raises(EpisodeOverError, match="after 1 steps"):
        episode.check(number=1, step=2)
