"""Resets, steps, observations and the end of an episode."""

from __future__ import annotations

import math
import re
import time
import warnings
from typing import Any

import numpy as np
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env
from gymnasium.utils.passive_env_checker import (
    check_action_space,
    check_observation_space,
    env_reset_passive_checker,
    env_step_passive_checker,
)

from remote_env.errors import EpisodeOverError, UnknownOptionError
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, StreamKind
from remote_env_server.testing.bench import Bench
from remote_env_server.testing.check import CheckFailedError, CheckSkippedError, check

__all__ = [
    "every_stream_delivers_also_those_on_request",
    "observations_lie_in_the_observation_space",
    "reset_works_twice_in_a_row",
    "rewards_are_finite_numbers_and_flags_are_bools",
    "steps_follow_a_reset",
    "the_checker_of_gymnasium_passes",
    "the_episode_ends_at_its_limit_and_not_after",
    "unknown_reset_options_are_refused",
]

_OPENED = ("it_opens_and_describes_itself",)
_RESETS = (*_OPENED, "reset_works_twice_in_a_row")
_STEPS = (*_RESETS, "steps_follow_a_reset")
_LONGEST_EPISODE = 300  # steps
_LONGEST_WAIT = 6.0  # seconds
_UNKNOWN_OPTION = "no_such_option_of_remote_env_check"


@check(needs=_OPENED)
def reset_works_twice_in_a_row(bench: Bench) -> str:
    """A learner resets whenever it likes, also at the beginning of an episode."""
    env = bench.env()
    seconds = []
    for _ in range(2):
        began_at = time.monotonic()
        bench.reset(env)
        seconds.append(time.monotonic() - began_at)
    return f"{seconds[0]:.2f} s and {seconds[1]:.2f} s"


@check(needs=_RESETS)
def steps_follow_a_reset(bench: Bench) -> str:
    """A few steps, without an error."""
    for number, _ in enumerate(bench.drive(bench.env(), 3)):
        steps = number
    for message in bench.logged():
        bench.warn(message, "the robot's log says this once")
    return f"{steps} steps"


@check(needs=_STEPS)
def observations_lie_in_the_observation_space(bench: Bench) -> str:
    """Policies are scaled by the bounds, and Gymnasium's checkers ask for them."""
    env = bench.env()
    count = 0
    for moment in bench.drive(env, bench.window(seconds=0.2)):
        _check_inside(env.observation_space, moment.observation, "the first" if not count else "an")
        count += 1
    return f"{count} observations"


def _check_inside(space: spaces.Space[Any], observation: Any, which: str) -> None:
    if space.contains(observation):
        return
    codec = SpaceCodec(space, root="observation")
    for name, leaf, part in zip(
        codec.layout.names, codec.leaf_spaces, codec.parts(observation), strict=True
    ):
        if not leaf.contains(part):
            raise CheckFailedError(
                f"{name!r} of {which} observation is not in its space: {_what_is_out(leaf, part)}",
                "declare the bounds that the sensor really has, or clip what it delivers",
            )


def _what_is_out(space: spaces.Space[Any], part: Any) -> str:
    if not isinstance(space, spaces.Box):
        return f"{part!r:.60} is not in {space}"
    array = np.asarray(part)
    outside = ~((array >= space.low) & (array <= space.high))  # NaN is outside too
    index = tuple(int(i) for i in np.argwhere(outside)[0])
    return (
        f"number {list(index)} is {array[index]:.6g}, not within {space.low[index]:.6g} to "
        f"{space.high[index]:.6g}; {int(outside.sum())} of {array.size} are out"
    )


@check(needs=_STEPS)
def every_stream_delivers_also_those_on_request(bench: Bench) -> str:
    """A camera that nobody asked for today is asked for tomorrow."""
    spec = bench.spec
    calibration = (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
    names = [stream.name for stream in spec.streams if stream.kind not in calibration]
    on_request = [name for name in names if name not in spec.observed]
    if not on_request:
        raise CheckSkippedError("none is on request")
    env = bench.env(streams=names)
    for moment in bench.drive(env, 2):
        observation = {name: moment.observation[name] for name in on_request}
        _check_inside(spec.space_of(on_request), observation, "an")
    return ", ".join(on_request)


@check(needs=_STEPS)
def rewards_are_finite_numbers_and_flags_are_bools(bench: Bench) -> str:
    """One NaN in a reward ruins a policy for good."""
    rewards: list[float] = []
    for moment in bench.drive(bench.env(), bench.window(seconds=0.2)):
        if not math.isfinite(moment.reward):
            raise CheckFailedError(
                f"the reward was {moment.reward} after {len(rewards)} good ones",
                "look for a division by zero in outcome(); a sensor may deliver NaN",
            )
        if not (isinstance(moment.terminated, bool) and isinstance(moment.truncated, bool)):
            raise CheckFailedError(
                f"terminated is {moment.terminated!r} and truncated {moment.truncated!r}",
                "outcome() must return bools",
            )
        rewards.append(float(moment.reward))
    return f"rewards from {min(rewards):.4g} to {max(rewards):.4g}"


@check(needs=_STEPS)
def the_episode_ends_at_its_limit_and_not_after(bench: Bench) -> str:
    """Learners bootstrap on the limit that was declared."""
    limit = bench.spec.max_episode_steps
    if limit is None:
        raise CheckSkippedError("the robot declares no max_episode_steps")
    seconds = limit * bench.spec.control_period
    if seconds > _LONGEST_WAIT and bench.spec.mode is not Mode.LOCKSTEP:
        raise CheckSkippedError(f"{seconds:.0f} s are too long to wait for")
    env = bench.env()
    actions = bench.actions()
    moment = bench.reset(env, **bench.seeded())
    for step in range(1, limit + 1):
        moment = bench.step(env, actions.next(moment.observation))
        if moment.is_last or step == _LONGEST_EPISODE:
            break
    if not moment.is_last:
        if step < limit:
            return f"it still ran after {step} steps of at most {limit}"
        raise CheckFailedError(
            f"the episode goes on after {step} steps, and max_episode_steps is {limit}",
            "set max_episode_steps before or in open(), and do not change it later",
        )
    try:
        bench.step(env, actions.next(moment.observation))
    except EpisodeOverError:
        return f"it ended after {step} steps of at most {limit}: {moment.remote['end_reason']}"
    raise CheckFailedError(
        f"a step after the end of the episode, step {step + 1}, was executed",
        "the server must refuse it with EpisodeOverError",
    )


@check(needs=_RESETS)
def unknown_reset_options_are_refused(bench: Bench) -> str:
    """Whoever misspells an option must not get an episode without it."""
    if bench.spec.reset_options is None:
        raise CheckSkippedError("the robot hands every option on, and judges itself")
    env = bench.env()
    try:
        bench.reset(env, options={_UNKNOWN_OPTION: 1})
    except UnknownOptionError as error:
        return str(error)
    raise CheckFailedError(
        f"reset(options={{{_UNKNOWN_OPTION!r}: 1}}) was accepted",
        "the server must refuse names that reset_options does not declare",
    )


@check(
    needs=(
        *_STEPS,
        "observations_lie_in_the_observation_space",
        "rewards_are_finite_numbers_and_flags_are_bools",
        "the_same_seed_gives_the_same_trajectory",
    )
)
def the_checker_of_gymnasium_passes(bench: Bench) -> str:
    """What Gymnasium asks of every environment. In realtime without its repetitions."""
    env = bench.env()
    is_repeatable = bench.spec.mode is Mode.LOCKSTEP and bench.spec.seedable
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            if is_repeatable:
                check_env(env, skip_render_check=True, skip_close_check=True)
            else:
                check_action_space(env.action_space)
                check_observation_space(env.observation_space)
                observation, _ = env_reset_passive_checker(env)
                env_step_passive_checker(env, bench.actions().next(observation))
        except AssertionError as error:
            raise CheckFailedError(
                _without_colours(str(error)) or "an assertion without a message failed",
                "see gymnasium.utils.env_checker",
            ) from error
    for warning in caught:
        bench.warn(_without_colours(str(warning.message)), "see gymnasium.utils.env_checker")
    return "check_env" if is_repeatable else "the checks that need no repetition"


def _without_colours(text: str) -> str:
    return re.sub(r"\x1b\[\d*m", "", text).removeprefix("WARN: ").strip()
