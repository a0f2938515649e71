"""All checks, in the order in which they are run: what needs least comes first."""

from __future__ import annotations

from typing import Final

from remote_env_server.testing.check import Check
from remote_env_server.testing.checks import (
    declaration,
    determinism,
    episodes,
    lifecycle,
    safety,
    timing,
)

__all__ = ["CHECKS"]

CHECKS: Final[tuple[Check, ...]] = (
    declaration.it_opens_and_describes_itself,
    declaration.the_description_is_complete,
    declaration.hold_is_implemented,
    declaration.an_observer_may_connect,
    episodes.reset_works_twice_in_a_row,
    episodes.steps_follow_a_reset,
    episodes.observations_lie_in_the_observation_space,
    episodes.every_stream_delivers_also_those_on_request,
    episodes.rewards_are_finite_numbers_and_flags_are_bools,
    timing.no_stream_is_frozen_and_its_values_are_plausible,
    timing.the_first_observation_is_younger_than_the_reset,
    timing.steps_keep_the_control_period,
    timing.apply_action_returns_at_once,
    timing.streams_keep_their_declared_rates,
    safety.an_action_out_of_bounds_never_reaches_the_robot,
    safety.an_action_with_nan_never_reaches_the_robot,
    safety.hold_returns_at_once_and_may_be_called_twice,
    safety.the_robot_holds_when_its_learner_falls_silent,
    safety.after_a_fault_the_next_reset_works,
    safety.a_second_learner_is_refused_while_the_first_commands,
    determinism.the_same_seed_gives_the_same_trajectory,
    determinism.lockstep_does_not_depend_on_the_clock,
    determinism.another_seed_gives_another_trajectory,
    episodes.unknown_reset_options_are_refused,
    episodes.the_episode_ends_at_its_limit_and_not_after,
    episodes.the_checker_of_gymnasium_passes,
    lifecycle.close_leaves_no_thread_behind,
    lifecycle.it_opens_again_after_close,
    lifecycle.close_works_and_may_be_called_twice,
)
