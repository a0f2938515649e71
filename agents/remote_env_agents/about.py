"""What was evaluated: the policy, the robots, the episodes, the versions, the date."""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, Self

import remote_env.version
from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec

__all__ = ["About", "PolicyIdentity"]

_BLOCK: Final = 1 << 20
# What acting depends on.
_PACKAGES: Final = ("gymnasium", "numpy", "stable-baselines3", "torch")


@dataclass(frozen=True, slots=True)
class PolicyIdentity:
    """Which policy was evaluated.

    Attributes:
        name: For people: a path, or the name of a class or a function.
        sha256: Of its file, or of a model's parameters; "" for what can only be named.
    """

    name: str
    sha256: str = ""

    @property
    def mark(self) -> str:
        """By what it is told from others: the hash if there is one, wherever its file lies."""
        return self.sha256 or self.name

    @classmethod
    def of(cls, policy: Any) -> Self:
        """Return what can be said of a policy.

        Raises:
            ConfigurationError: If its file cannot be read.
        """
        if str(policy) == "random":
            return cls("random")
        if isinstance(policy, (str, Path)):
            return cls(str(policy), _hash_of_file(Path(policy)))
        parameters = getattr(getattr(policy, "policy", None), "state_dict", None)
        if hasattr(policy, "predict") and parameters is not None:
            return cls(type(policy).__qualname__, _hash_of_parameters(parameters()))
        named = policy if hasattr(policy, "__qualname__") else type(policy)
        module = "" if named.__module__ == "__main__" else f"{named.__module__}."
        return cls(f"{module}{named.__qualname__}")


def _hash_of_file(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise ConfigurationError(f"cannot read the policy {path}: {error.strerror}") from error
    return digest.hexdigest()


def _hash_of_parameters(parameters: Mapping[str, Any]) -> str:
    digest = hashlib.sha256()
    for name in sorted(parameters):
        digest.update(name.encode() + parameters[name].detach().cpu().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class About:
    """What was evaluated, as it is written down before the first episode.

    Attributes:
        policy: Which one.
        robot: The first robot's name.
        mode: Who owns time; see ``remote_env.spec.Mode``.
        control_hz: Actions per second; 0 if time means nothing to these robots.
        spec_hash: Of the spaces, streams and mode of all robots.
        streams: That the policy was given; None for the robot's own observation.
        max_steps: After which an episode was truncated by us; None if the robot does it.
        episodes: How many.
        keys_hash: SHA-256 of the list of episodes.
        version: Of this package.
        versions: Of others.
        began: Date and time, ISO 8601, UTC.
    """

    policy: PolicyIdentity
    robot: str
    mode: str
    control_hz: float
    spec_hash: str
    streams: tuple[str, ...] | None
    max_steps: int | None
    episodes: int
    keys_hash: str
    version: str = remote_env.version.__version__
    versions: Mapping[str, str] = field(default_factory=dict)
    began: str = ""

    @classmethod
    def now(cls, policy: PolicyIdentity, spec: RobotSpec, **more: Any) -> Self:
        """Return it for an evaluation that begins now; ``more`` has what neither says."""
        return cls(
            policy,
            robot=spec.name,
            mode=spec.mode.value,
            control_hz=spec.control_hz,
            spec_hash=spec.hash(),
            versions=_versions(),
            began=datetime.now(UTC).isoformat(timespec="seconds"),
            **more,
        )

    def to_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Any) -> Self:
        """Return what ``to_json`` gave; raises KeyError or TypeError if it is something else."""
        streams = said["streams"]
        return cls(
            **{
                **said,
                "policy": PolicyIdentity(**said["policy"]),
                "streams": None if streams is None else tuple(streams),
            }
        )

    def differences(self, other: About) -> list[str]:
        """Return in what another evaluation is another one; episodes of both never mix."""
        return [
            f"{name} was {_short(before)} and is {_short(now)}"
            for name, before, now in (
                ("the policy", self.policy.mark, other.policy.mark),
                ("the list of episodes", self._list, other._list),
                ("the robots' spec hash", self.spec_hash, other.spec_hash),
                ("the robots' control_hz", self.control_hz, other.control_hz),
                ("streams", self.streams, other.streams),
                ("the limit of steps", self.max_steps, other.max_steps),
                ("remote-robot-env", self.version, other.version),
            )
            if before != now
        ]

    @property
    def _list(self) -> str:
        return f"{self.episodes} with the hash {self.keys_hash[:12]}"


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _short(value: object) -> str:
    text = str(value)
    return f"{text[:60]}..." if len(text) > 63 else text or "unknown"
