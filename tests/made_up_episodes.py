"""Episodes that nobody ran, for what is done with them afterwards."""

from remote_env_agents import About, Episode, EpisodeKey, PolicyIdentity
from remote_env_agents.keys import hash_of_keys
from remote_env_agents.step_times import StepTimes

ROBOTS = ("ws://one:1", "ws://two:2")


def episode(seed, *, options=None, robot=ROBOTS[0], spoiled="", attempt=1, **more):
    said = {
        "episode_return": float("nan") if spoiled else -0.1 * seed,
        "length": 10,
        "is_success": None if spoiled else seed % 2 == 0,
        "end_reason": "" if spoiled else "time_limit",
        "seed_applied": not spoiled,
        "seconds": float("nan") if spoiled else 0.5,
        "step_times": StepTimes.of([0.001] * 9 + [0.02]),
        **more,
    }
    key = EpisodeKey(seed, options or {})
    return Episode(key=key, robot=robot, attempt=attempt, spoiled=spoiled, **said)


def about(keys, **more):
    said = {
        "policy": PolicyIdentity("policy.zip", "5eed"),
        "robot": "arm",
        "mode": "lockstep",
        "control_hz": 20.0,
        "spec_hash": "cafe",
        "streams": ("joint_pos",),
        "max_steps": None,
        "episodes": len(keys),
        "keys_hash": hash_of_keys(keys),
        "began": "2026-01-01T00:00:00+00:00",
        **more,
    }
    return About(**said)
