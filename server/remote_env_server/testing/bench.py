"""The bench that a robot is checked on: serves it, or connects to it; lends environments."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from remote_env.client import RobotClient
from remote_env.env import RemoteRobotEnv
from remote_env.errors import ConfigurationError
from remote_env.protocol import OnStale
from remote_env.spec import Mode, RobotSpec
from remote_env_server.app import RobotServer
from remote_env_server.logs import wait_for_logs
from remote_env_server.robot import Robot
from remote_env_server.robots import make_robot
from remote_env_server.testing.actions import ActionSource
from remote_env_server.testing.spy import Spy

__all__ = ["Bench", "Moment", "StepsUsedUpError", "Target"]

Target: TypeAlias = str | Callable[[], Robot]

OWNER: Final = "remote-env check"
_SEED: Final = 7


class StepsUsedUpError(Exception):
    """The checks have sent as many actions as they were allowed to."""


@dataclass(frozen=True, slots=True)
class Moment:
    """One step, or a reset, as a learner sees it.

    Attributes:
        observation: As the environment returned it.
        reward: 0 at a reset.
        terminated: As the environment returned it.
        truncated: As the environment returned it.
        info: As the environment returned it.
        arrived_at: Monotonic clock, in seconds.
    """

    observation: Any
    reward: Any
    terminated: Any
    truncated: Any
    info: dict[str, Any]
    arrived_at: float

    @property
    def is_last(self) -> bool:
        """Whether the episode is over."""
        return bool(self.terminated or self.truncated)

    @property
    def remote(self) -> dict[str, Any]:
        """What we added to ``info``."""
        remote: dict[str, Any] = self.info["remote"]
        return remote


class _LogCollector(logging.Handler):
    """Keeps what the robot's side warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


@dataclass(slots=True)
class Bench:
    """One robot under check.

    Attributes:
        target: A name as in ``remote-env serve NAME``, a factory, or a url.
        token: What the server behind a url asks for.
        mode: In which a robot is served; its own default if None.
        moves: Whether the robot may be moved.
        max_steps: How many actions may be sent in all.
        patience: Bounds on real time are multiplied by this.
        reset_timeout: In seconds.
        choose: Chooses the actions, from the observation; None for small ones.
        warnings: What the running check warns of: what happened, and what to do.
    """

    target: Target
    token: str | None = None
    mode: Mode | None = None
    moves: bool = True
    max_steps: int = 2000
    patience: float = 1.0
    reset_timeout: float = 60.0
    choose: Callable[[Any], Any] | None = None
    warnings: list[tuple[str, str]] = field(default_factory=list)
    _spec: RobotSpec | None = None
    _robot: Robot | None = None
    _spy: Spy | None = None
    _server: RobotServer | None = None
    _environments: list[RemoteRobotEnv] = field(default_factory=list)
    _threads_before: frozenset[threading.Thread] = frozenset()
    _log: _LogCollector = field(default_factory=_LogCollector)

    @property
    def sees_code(self) -> bool:
        """Whether the robot's own code runs here, under a spy."""
        return not (isinstance(self.target, str) and "://" in self.target)

    @property
    def is_open(self) -> bool:
        """Whether the robot could be described."""
        return self._spec is not None

    @property
    def spec(self) -> RobotSpec:
        """What the robot is.

        Raises:
            ConfigurationError: Before ``open``.
        """
        if self._spec is None:
            raise ConfigurationError("the robot is not described before it is opened")
        return self._spec

    @property
    def robot(self) -> Robot:
        """The robot itself; only for checks that see its code."""
        assert self._robot is not None
        return self._robot

    @property
    def spy(self) -> Spy:
        """The calls of the robot's code; only for checks that see its code."""
        assert self._spy is not None
        return self._spy

    @property
    def url(self) -> str:
        """Where the robot can be reached, while it is open."""
        if self._server is not None:
            return self._server.url
        assert isinstance(self.target, str)
        return self.target

    # Life

    def make_robot(self) -> Robot:
        """Make a fresh robot, not opened.

        Raises:
            ConfigurationError: If that is no robot.
            Exception: Whatever its constructor raised.
        """
        made: object = make_robot(self.target) if isinstance(self.target, str) else self.target()
        if not isinstance(made, Robot) or made is self._robot:
            what = "the same robot again" if made is self._robot else type(made).__name__
            raise ConfigurationError(f"the factory returned {what}; it must return a new Robot")
        return made

    def open(self) -> None:
        """Serve the robot, if it is not behind a url, and learn what it is. Idempotent.

        Raises:
            RemoteEnvError: If it cannot be reached or described.
            Exception: Whatever its ``open`` raised.
        """
        if self._spec is not None and (self._server is not None or not self.sees_code):
            return
        if self.sees_code:
            logging.getLogger("remote_env_server").addHandler(self._log)
            self._threads_before = frozenset(threading.enumerate())
            self._robot = self.make_robot()
            self._spy = Spy(self._robot)
            server = RobotServer(self._robot, port=0, mode=self.mode)
            server.start()
            self._server = server
        client = self.client()
        self._spec = client.connect()
        client.close()

    def shut(self) -> None:
        """Close all environments and stop serving. Idempotent."""
        server, self._server = self._server, None
        try:
            self.close_environments()
        finally:  # whatever the learner's side says, the robot holds and is closed
            if server is not None:
                server.stop()
            logging.getLogger("remote_env_server").removeHandler(self._log)

    def wait_for_threads(self, *, timeout: float) -> list[threading.Thread]:
        """Return the threads that were started since ``open`` and do not end in time."""
        deadline = time.monotonic() + timeout
        while True:
            left = [
                thread
                for thread in set(threading.enumerate()) - self._threads_before
                if not _is_ours(thread)
            ]
            if not left or time.monotonic() > deadline:
                return left
            time.sleep(0.01)

    def logged(self) -> list[str]:
        """Return what the robot's side has warned of since the last time this was asked."""
        wait_for_logs()
        messages, self._log.messages = self._log.messages, []
        return messages

    # For checks

    def client(self) -> RobotClient:
        """Return a client that only observes, not connected."""
        return RobotClient(self.url, role="observe", token=self.token, owner=OWNER)

    def env(self, **options: Any) -> RemoteRobotEnv:
        """Make an environment; it is closed when the check ends.

        Stale streams are only flagged: a check says itself what it thinks of them.
        """
        options.setdefault("on_stale", OnStale.FLAG)
        env = _CheckedEnv(
            self,
            self.url,
            token=self.token,
            owner=OWNER,
            reset_timeout=self.reset_timeout,
            **options,
        )
        self._environments.append(env)
        return env

    def close_environments(self) -> None:
        """Close all environments that were made; what they cannot say does not matter."""
        for env in self._environments:
            env.close()
        self._environments.clear()

    def reset(self, env: RemoteRobotEnv, **arguments: Any) -> Moment:
        """Reset, and note when."""
        observation, info = env.reset(**arguments)
        return Moment(observation, 0.0, False, False, info, time.monotonic())

    def step(self, env: RemoteRobotEnv, action: Any) -> Moment:
        """Step, and note when.

        Raises:
            StepsUsedUpError: If no action may be sent any more.
        """
        return Moment(*env.step(action), time.monotonic())

    def count_step(self) -> None:
        """Note that an action is about to be sent.

        Raises:
            StepsUsedUpError: If none may be sent any more.
        """
        if self.max_steps < 1:
            raise StepsUsedUpError("as many actions were sent as max_steps allows")
        self.max_steps -= 1

    def actions(self, *, seed: int = _SEED) -> ActionSource:
        """Return a source of actions that this robot can bear."""
        return ActionSource(self.spec, seed, choose=self.choose)

    def drive(self, env: RemoteRobotEnv, count: int) -> Iterator[Moment]:
        """Step so many times, beginning with a reset and resetting where episodes end.

        Yields:
            Resets and steps.
        """
        actions = self.actions()
        moment = self.reset(env, **self.seeded())
        yield moment
        for _ in range(count):
            if moment.is_last:
                moment = self.reset(env)
                yield moment
            moment = self.step(env, actions.next(moment.observation))
            yield moment

    def seeded(self, *, seed: int = _SEED) -> dict[str, Any]:
        """Return the arguments of a reset that repeats itself, if the robot can do that."""
        return {"seed": seed} if self.spec.seedable else {}

    def window(self, *, seconds: float = 0.4) -> int:
        """Return how many steps to take to look at a robot for so long; 10 to 60."""
        if self.spec.mode is Mode.LOCKSTEP:
            return 20
        return max(10, min(60, round(seconds * self.spec.control_hz)))

    def warn(self, what: str, advice: str) -> None:
        """Warn of something that a person must judge."""
        self.warnings.append((what, advice))


class _CheckedEnv(RemoteRobotEnv):
    """Counts the actions that are sent, also those that Gymnasium's checker sends.

    Says also when each stream was measured, ``info["remote"]["stamps"]``: in place of ages on
    this side of the network, which are estimates.
    """

    def __init__(self, bench: Bench, url: str, **options: Any) -> None:
        super().__init__(url, **options)
        self._bench = bench
        self._translator.tells_stamps = True

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self._bench.count_step()
        return super().step(action)


def _is_ours(thread: threading.Thread) -> bool:
    """Whether a thread is of the learner's side or the network's, and no robot's code."""
    return thread.name.startswith("remote-env") and thread.name != "remote-env control"
