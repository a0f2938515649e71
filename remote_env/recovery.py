"""The beginning of an episode, also with a robot that was lost since."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Final

from remote_env.client import RobotClient
from remote_env.errors import (
    ConfigurationError,
    ConnectionLostError,
    LocalProtocolError,
    TransportError,
)
from remote_env.protocol import OnStale, ResetDone, Value
from remote_env.resuming import RobotLostError
from remote_env.stream_requests import StreamRequest

__all__ = ["Recovery"]

logger = logging.getLogger(__name__)

# How long to wait before connecting once more, and the least that is left for the last attempt,
# in seconds.
_RETRY: Final = 0.1
_LEAST: Final = 0.01


class Recovery:
    """Resets one robot, and connects to it again first if need be."""

    def __init__(
        self,
        client: RobotClient,
        subscribed: Sequence[str],
        *,
        max_ages: Mapping[str, float],
        on_stale: OnStale,
        requests: Mapping[str, StreamRequest],
        reconnect_timeout: float,
    ) -> None:
        """Prepare.

        Args:
            client: Connected.
            subscribed: The streams to observe, by name.
            max_ages: See ``RobotClient.subscribe``.
            on_stale: See ``RobotClient.subscribe``.
            requests: See ``RobotClient.subscribe``.
            reconnect_timeout: How long to look for a robot that was lost, in seconds.
        """
        self._client = client
        self._subscribed = tuple(subscribed)
        self._max_ages = dict(max_ages)
        self._on_stale = on_stale
        self._requests = dict(requests)
        self._reconnect_timeout = reconnect_timeout
        self._spec_hash = client.spec_hash
        self._goal_reward = client.spec.goal_reward
        self._is_given_up = False

    def give_up(self) -> None:
        """Connect no more. Safe to call from any thread."""
        self._is_given_up = True

    def subscribe(self, deadline: float) -> None:
        """Choose the streams of every later observation.

        Raises:
            TransportError: If that cannot be done by the deadline.
        """
        self._client.subscribe(
            self._subscribed,
            max_ages=self._max_ages,
            on_stale=self._on_stale,
            requests=self._requests,
            timeout=max(deadline - time.monotonic(), _LEAST),
        )

    def reset(
        self,
        *,
        seed: int | None,
        options: Mapping[str, Value] | None,
        take: bool,
        max_steps: int | None,
        timeout: float,
    ) -> ResetDone:
        """Reset the robot, also one that was lost since; once more if it is lost meanwhile.

        Args:
            seed: See ``RobotClient.reset``.
            options: See ``RobotClient.reset``.
            take: See ``RobotClient.reset``.
            max_steps: See ``RobotClient.reset``.
            timeout: For all that it takes, in seconds.

        Raises:
            RemoteEnvError: As ``RobotClient.reset``.
            ConfigurationError: If it is not the same robot any more.
        """
        deadline = time.monotonic() + timeout
        was_lost = False
        while True:
            if not self._client.is_connected:
                self._reconnect(min(deadline, time.monotonic() + self._reconnect_timeout))
            try:
                return self._client.reset(
                    seed=seed,
                    options=options,
                    take=take,
                    max_steps=max_steps,
                    timeout=max(deadline - time.monotonic(), 0.001),
                    reconnect_timeout=self._reconnect_timeout,
                )
            except RobotLostError:
                raise  # it was looked for as long as was asked for
            except ConnectionLostError as error:
                # The server, if it is there at all, gave that reset up with the session.
                if was_lost or self._is_given_up or time.monotonic() >= deadline:
                    raise
                was_lost = True
                logger.warning("%s; connecting again", error)

    def reconnect(self) -> None:
        """Connect, if there is no session; a robot that is lost is looked for with patience.

        Raises:
            TransportError: If the robot cannot be reached within ``reconnect_timeout``.
            ConfigurationError: If it is not the same robot any more.
        """
        if not self._client.is_connected:
            self._reconnect(time.monotonic() + self._reconnect_timeout)

    def _reconnect(self, deadline: float) -> None:
        """Connect, with patience.

        Raises:
            TransportError: If the robot cannot be reached by the deadline.
            ConfigurationError: If it is not the same robot any more.
        """
        while True:
            if self._is_given_up:
                raise LocalProtocolError("close() was called in the middle of reset()")
            left = deadline - time.monotonic()
            self._client.connect(timeout=max(left, _LEAST), wait=True)
            if self._client.spec_hash != self._spec_hash:
                what = "has other spaces"
                break
            if self._client.spec.goal_reward != self._goal_reward:
                what = "rewards goals otherwise"
                break
            try:
                self.subscribe(deadline)
                return
            except TransportError as error:
                if time.monotonic() + _RETRY >= deadline:
                    raise
                logger.warning("%s; connecting again", error)
            time.sleep(_RETRY)
        self._client.close()
        raise ConfigurationError(
            f"the robot at {self._client.url} {what} than before; make a new environment"
        )
