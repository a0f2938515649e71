"""The robots of a training or an evaluation: what they are, and how they are reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import gymnasium
from gymnasium import spaces

import remote_env  # noqa: F401 (registers RemoteRobot-v0)
from remote_env.client import RobotClient
from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

__all__ = [
    "derived_from_goal",
    "limit_for",
    "look_at",
    "make_env",
    "make_vec_env",
    "streams_to_learn",
]

# How long training waits for the robot that it cannot do without, in seconds.
RECONNECT_TIMEOUT = 30.0
# Of an episode, on a robot that sets no limit itself: it might never end.
_MOST_STEPS: Final = 1000


def look_at(urls: Sequence[str], *, token: str | None = None) -> RobotSpec:
    """Return what these robots are. None of them moves.

    Raises:
        ConfigurationError: If they are not all of one kind.
        TransportError: If one of them cannot be reached.
    """
    specs, hashes = [], []
    for url in urls:
        client = RobotClient(url, role="observe", token=token)
        try:
            specs.append(client.connect())
            hashes.append(client.spec_hash)
        finally:
            client.close()
    for url, spec, its_hash in zip(urls, specs, hashes, strict=True):
        if its_hash != hashes[0]:
            raise ConfigurationError(
                f"{spec.name} at {url} has not the same spaces, streams and mode as "
                f"{specs[0].name} at {urls[0]}; use robots of one kind"
            )
    return specs[0]


def limit_for(spec: RobotSpec) -> int | None:
    """Return after how many steps to truncate an episode: 1000, or None if the robot does it."""
    return None if spec.max_episode_steps else _MOST_STEPS


def streams_to_learn(
    spec: RobotSpec, streams: Sequence[str], *, her: bool = False
) -> tuple[str, ...] | None:
    """Return which streams to ask for; None for the robot's own observation space as it is.

    Args:
        spec: What the robot is.
        streams: What the user named; empty for the robot's own observation space.
        her: Whether goals will be exchanged afterwards. Streams that the robot derives from
            its goal would then be wrong, and are left out.

    Raises:
        ConfigurationError: If a stream does not exist, or contradicts ``her``.
    """
    for name in streams:
        spec.stream(name)
    if len(set(streams)) < len(streams):
        raise ConfigurationError(f"name each stream once, not {list(streams)}")
    if her:
        return _streams_for_goals(spec, streams)
    if not streams and _is_flat(spec.observation_space):
        return None
    return tuple(streams or spec.observed)


def _streams_for_goals(spec: RobotSpec, streams: Sequence[str]) -> tuple[str, ...]:
    if spec.goal_reward is None:
        raise ConfigurationError(
            f"her needs a goal reward, and {spec.name} declares none; train without --her"
        )
    derived = derived_from_goal(spec)
    wrong = sorted(derived & set(streams))
    if wrong:
        raise ConfigurationError(
            f"the stream {wrong[0]!r} is derived from the goal, and would be wrong once her has "
            "exchanged it; leave it out of --streams"
        )
    chosen = [name for name in streams or spec.observed if name not in derived]
    missing = sorted({"achieved_goal", "desired_goal"} - set(chosen))
    if missing:
        raise ConfigurationError(f"her needs the stream {missing[0]!r}; add it to --streams")
    return tuple(chosen)


def derived_from_goal(spec: RobotSpec) -> set[str]:
    """Return the streams that the robot computes from its goal, the goal itself aside."""
    return set() if spec.goal_reward is None else set(spec.goal_reward.derived)


def _is_flat(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict):
        return not any(isinstance(s, (spaces.Dict, spaces.Tuple)) for s in space.values())
    return not isinstance(space, spaces.Tuple)


def make_env(
    url: str,
    *,
    streams: Sequence[str] | None = None,
    token: str | None = None,
    max_steps: int | None = None,
    reconnect_timeout: float = 30.0,
) -> gymnasium.Env[Any, Any]:
    """Connect to one robot; it does not move before ``reset``.

    Args:
        url: Of the robot.
        streams: To observe, as a flat Dict; None for its own observation space.
        token: What its server asks for, if it does.
        max_steps: After which to truncate an episode; ``limit_for`` tells how many.
        reconnect_timeout: How long a ``reset`` tries to reach a robot that was lost, in seconds.

    Raises:
        ConfigurationError: If there is no such stream.
        TransportError: If the robot cannot be reached.
    """
    return gymnasium.make(
        "RemoteRobot-v0",
        url=url,
        streams=None if streams is None else list(streams),
        token=token,
        max_steps=max_steps,
        reconnect_timeout=reconnect_timeout,
        disable_env_checker=True,
    )


def make_vec_env(
    urls: Sequence[str],
    *,
    streams: Sequence[str] | None = None,
    token: str | None = None,
    max_steps: int | None = None,
) -> VecEnv:
    """Connect to robots, as one vectorised environment for Stable-Baselines3."""
    from remote_env.sb3 import RemoteRobotVecEnv

    chosen = None if streams is None else list(streams)
    env_kwargs = {
        "streams": chosen,
        "token": token,
        "max_steps": max_steps,
        "reconnect_timeout": RECONNECT_TIMEOUT,
    }
    return RemoteRobotVecEnv(urls, env_kwargs=env_kwargs)
