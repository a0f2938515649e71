"""The seam behind which episodes are done: by threads of this process, or by a cluster.

An ``Executor`` needs a ``Job``, which says how a robot is reached and an episode is done, and
the ``Desk``, from which it takes episodes and to which it hands them in. That is all that
something like Ray or SLURM would have to know.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import gymnasium

from remote_env.errors import (
    ActionRefusedError,
    ConfigurationError,
    LocalProtocolError,
    RemoteEnvError,
    UnknownOptionError,
)
from remote_env_agents.dispatch import Assignment, Desk
from remote_env_agents.episodes import Episode, Policy, policy_for_episode, run_episode
from remote_env_agents.robots import make_env
from remote_env_agents.wrapping import wrap_for

__all__ = ["Executor", "Job", "LostError"]

_RECONNECT: Final = 2.0  # others wait for the episode that a lost robot has in its hands, seconds
# What another robot would not do better.
_OURS: Final = (ActionRefusedError, ConfigurationError, LocalProtocolError, UnknownOptionError)


class LostError(Exception):
    """A robot failed with ``__cause__``; another one may do better.

    Attributes:
        spoiled: The episode that it had begun, if it had begun one.
    """

    def __init__(self, spoiled: Episode | None = None) -> None:
        super().__init__("a robot is lost")
        self.spoiled = spoiled


@dataclass(frozen=True, slots=True)
class Job:
    """How episodes are done.

    Attributes:
        policy: That acts.
        urls: Of the robots.
        streams: The policy wants; None for the robot's own observation space.
        token: What the servers ask for.
        max_steps: After which an episode is truncated; None if the robot does it.
        control_period: Of a robot in real time, in seconds; 0 in lockstep.
        spec_hash: What each robot must be.
        patience: For how long all robots together may be lost, in seconds.
    """

    policy: Policy
    urls: tuple[str, ...]
    streams: Sequence[str] | None
    token: str | None
    max_steps: int | None
    control_period: float
    spec_hash: str
    patience: float

    def connect(self, url: str) -> gymnasium.Env[Any, Any]:
        """Connect to a robot; it does not move.

        Raises:
            LostError: If it cannot be reached.
            ConfigurationError: If there is another robot now.
        """
        try:
            env = make_env(
                url,
                streams=self.streams,
                token=self.token,
                max_steps=self.max_steps,
                reconnect_timeout=_RECONNECT,
            )
        except _OURS:
            raise
        except RemoteEnvError as error:
            raise LostError from error
        unwrapped: Any = env.unwrapped
        if unwrapped.spec_of_robot.hash() != self.spec_hash:
            env.close()
            raise ConfigurationError(
                f"{url} has not the same spaces, streams and mode as before; what was evaluated "
                "until now is kept: serve the robot that was there, and go on"
            )
        return wrap_for(self.policy, env)

    def do(
        self,
        env: gymnasium.Env[Any, Any],
        assignment: Assignment,
        *,
        robot: str,
        policy: Policy | None = None,
        on_step: Callable[[int], object] = lambda step: None,
    ) -> Episode:
        """Do an episode.

        Args:
            env: As ``connect`` returned it.
            assignment: Which one.
            robot: Url, to be noted.
            policy: For this episode; ``policy`` of the job if None.
            on_step: See ``run_episode``.

        Raises:
            LostError: If the robot failed.
            RemoteEnvError: If any robot would.
        """
        steps = -1  # not even begun

        def note(step: int) -> None:
            nonlocal steps
            steps = step
            on_step(step)

        try:
            return run_episode(
                env,
                policy or policy_for_episode(self.policy, assignment.key.seed),
                key=assignment.key,
                robot=robot,
                attempt=assignment.attempt,
                control_period=self.control_period,
                on_step=note,
            )
        except _OURS:
            raise
        except RemoteEnvError as error:
            raise LostError(
                None if steps < 0 else _spoiled(assignment, robot, steps, error)
            ) from error


def _spoiled(assignment: Assignment, robot: str, steps: int, error: RemoteEnvError) -> Episode:
    return Episode(
        key=assignment.key,
        robot=robot,
        attempt=assignment.attempt,
        episode_return=float("nan"),
        length=steps,
        is_success=None,
        end_reason="",
        seed_applied=False,
        seconds=float("nan"),
        spoiled=str(error),
    )


class Executor(Protocol):
    """Has episodes done."""

    def run(self, job: Job, desk: Desk) -> None:
        """Have everything done that is at the desk, and return when ``desk.is_finished``.

        All calls of ``desk`` are made by the thread that calls this. An executor that gives a
        worker up hands its assignment back; what the worker hands in later is refused.

        Raises:
            RemoteEnvError: If it cannot go on. What was handed in until then is kept.
        """
