"""Where an episode stands, and why it ended. Pure."""

from __future__ import annotations

from remote_env.errors import EpisodeOverError
from remote_env.protocol.wiretypes import EndReason
from remote_env_server.robot import Outcome

__all__ = ["Episode"]


class Episode:
    """One episode.

    Attributes:
        number: Unique in the server's life; steps name it.
        steps: Executed so far.
        end_reason: Why it ended, or None while it runs.
        cause: Why, in words, if there is more to say.
        is_told: Whether the learner was told by an answer that it ended.
    """

    def __init__(self, number: int, *, max_steps: int | None) -> None:
        self.number = number
        self.steps = 0
        self.end_reason: EndReason | None = None
        self.is_told = False
        self.cause = ""
        self._max_steps = max_steps

    def check(self, *, number: int, step: int) -> None:
        """Refuse a step that does not follow.

        An episode that ended behind the learner's back lets one more step pass, which is not
        executed and which is told the end.

        Raises:
            EpisodeOverError: If the episode ended and that was told, or it is not this one.
        """
        if number != self.number:
            raise EpisodeOverError(
                f"episode {number} is over, the robot is in episode {self.number}; call env.reset()"
            )
        if self.end_reason is not None and self.is_told:
            cause = f": {self.cause}" if self.cause else ""
            raise EpisodeOverError(
                f"the episode ended after {self.steps} steps ({self.end_reason.value}{cause}); "
                "call env.reset() to begin the next one"
            )
        if step != self.steps + 1:
            raise EpisodeOverError(
                f"step {step} does not follow step {self.steps}; call env.reset()",
                code="robot.episode_over.order",
            )

    def advance(self, outcome: Outcome) -> tuple[bool, bool]:
        """Count a step that was executed.

        Returns:
            ``terminated`` and ``truncated``. The robot's limit truncates also the step
            that terminates, as Gymnasium's ``TimeLimit`` does.
        """
        self.steps += 1
        is_at_limit = self._max_steps is not None and self.steps >= self._max_steps
        terminated, truncated = bool(outcome.terminated), bool(outcome.truncated) or is_at_limit
        if terminated:
            self.end(EndReason.TASK)
        elif is_at_limit:
            self.end(EndReason.TIME_LIMIT)
        elif truncated:
            self.end(outcome.end_reason)
        self.is_told = self.end_reason is not None
        return terminated, truncated

    def end(self, reason: EndReason, *, cause: str = "") -> None:
        """End the episode; the first reason stays.

        Args:
            reason: As the learner is told.
            cause: In words, if there is more to say.
        """
        if self.end_reason is None:
            self.end_reason = reason
            self.cause = cause
