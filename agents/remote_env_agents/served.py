"""Robots served on this machine, each by a process of its own, for demonstrations."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Sequence
from typing import IO, Final

from remote_env.errors import ConfigurationError

__all__ = ["ServedRobots"]

_URL: Final = re.compile(r"ws://\S+:\d+")
_STOPS_WITHIN: Final = 5.0  # seconds
_TAIL: Final = 2000  # characters of a log that are shown


class ServedRobots:
    """Several robots of one kind, each behind its own url, while a ``with`` block lasts.

    ::

        with ServedRobots("arm", count=4) as urls:
            evaluate("random", urls)
    """

    def __init__(
        self, name: str, *, count: int = 1, options: Sequence[str] = (), timeout: float = 60.0
    ) -> None:
        """Start them; ``urls`` waits until they are there.

        Args:
            name: As in ``remote-env serve NAME``.
            count: How many.
            options: As in ``remote-env serve NAME OPTIONS``.
            timeout: For all of them to be there, in seconds.
        """
        self._deadline = time.monotonic() + timeout
        self._urls: tuple[str, ...] = ()
        self._servers: list[_Server] = []
        # Whoever forgets to stop them leaves nothing behind, when this is collected or at exit.
        weakref.finalize(self, _stop_in, os.getpid(), self._servers)
        try:
            for _ in range(count):
                self._servers.append(_Server(name, options))
        except BaseException:
            self.stop()
            raise

    @property
    def urls(self) -> tuple[str, ...]:
        """Where they are. Blocks until all of them can be reached.

        Raises:
            ConfigurationError: If one does not start; says why.
        """
        if not self._urls:
            self._urls = tuple(server.url(self._deadline) for server in self._servers)
        return self._urls

    def stop(self) -> None:
        """Stop all of them. Idempotent."""
        _stop_in(os.getpid(), self._servers)

    def __enter__(self) -> tuple[str, ...]:
        try:
            return self.urls
        except BaseException:
            self.stop()
            raise

    def __exit__(self, *exception: object) -> None:
        self.stop()


def _stop_in(pid: int, servers: list[_Server]) -> None:
    """Stop these, unless this process was forked from the one that started them."""
    if os.getpid() != pid:
        return
    for server in servers:
        server.ask_to_stop()
    for server in servers:
        server.stop()
    servers.clear()


class _Server:
    """One ``remote-env serve``."""

    def __init__(self, name: str, options: Sequence[str]) -> None:
        self._name = name
        self._log: IO[str] = tempfile.TemporaryFile("w+")  # noqa: SIM115 (stop closes it)
        self._lines: queue.Queue[str] = queue.Queue()
        command = [sys.executable, "-u", "-m", "remote_env", "serve", name, "--port", "0", *options]
        self._process = subprocess.Popen(  # noqa: S603 (this program)
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self._reader = threading.Thread(
            target=self._read, name=f"output of a served {name}", daemon=True
        )
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def url(self, deadline: float) -> str:
        """Return where it is, once it is there."""
        while True:
            try:
                line = self._lines.get(timeout=max(deadline - time.monotonic(), 0.001))
            except queue.Empty:
                raise ConfigurationError(
                    f"{self._name} was not served in time{self._said()}"
                ) from None
            if not line:
                raise ConfigurationError(f"{self._name} cannot be served{self._said()}")
            if found := _URL.search(line):
                return found[0]

    def _said(self) -> str:
        self._log.seek(0)
        said = self._log.read()[-_TAIL:].strip()
        return f": {said}" if said else ""

    def ask_to_stop(self) -> None:
        """Let the robot hold and the process end."""
        self._process.terminate()

    def stop(self) -> None:
        """Wait for its end."""
        try:
            self._process.wait(_STOPS_WITHIN)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(_STOPS_WITHIN)
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._log.close()
