"""What observers may see of the observations that the control thread takes.

An environment may hand out the very array that it writes to in the next step. What is sent by
the control thread has left by then; what another thread sends must be a copy, made here, on the
control thread, and only of what somebody watches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from remote_env.spec import RobotSpec, StreamKind
from remote_env_server.buffers import Field
from remote_env_server.episode import Episode
from remote_env_server.requests import Captured

__all__ = ["Showcase", "Shown"]


@dataclass(frozen=True, slots=True)
class Shown:
    """An observation that any thread may read at any time.

    Attributes:
        episode: In which it was taken.
        step: After how many steps of it.
        time: The robot's clock, in seconds.
        fields: By stream name; of those that only the control thread can make, the watched.
        watched: Names of streams.
    """

    episode: int
    step: int
    time: float
    fields: Mapping[str, Field]
    watched: frozenset[str]


class Showcase:
    """What observers watch, and what they may see of it. Of the control thread, but for two.

    Attributes:
        wanted: What observers watch; written by any thread.
        watched: The same, as far as the control thread has taken note of it.
        shown: What they may see; read by any thread. None if there is nothing.
    """

    def __init__(self) -> None:
        self.wanted: frozenset[str] = frozenset()
        self.watched: frozenset[str] = frozenset()
        self.shown: Shown | None = None

    def has_changed(self) -> bool:
        """Take note of what observers watch now; return whether that is something else."""
        wanted = self.wanted
        if wanted == self.watched:
            return False
        self.watched = wanted
        return True

    def show(self, captured: Captured | None, episode: Episode, spec: RobotSpec) -> None:
        """Let observers see an observation; copies the watched arrays that are the robot's own.

        Args:
            captured: What the control thread has taken; nothing may write to it now.
            episode: In which.
            spec: What the robot is.
        """
        if captured is None or not self.watched:
            self.shown = None
            return
        fields = dict(captured.fields)
        for stream in spec.streams:
            if stream.kind is StreamKind.OBSERVATION:
                field = fields.pop(stream.name)
                if stream.name in self.watched:
                    fields[stream.name] = replace(field, array=field.array.copy())
        self.shown = Shown(episode.number, episode.steps, captured.time, fields, self.watched)
