"""An observer by hand, and waiting for something with a bound."""

import contextlib
import threading
import time

from remote_env.errors import DeadlineExceededError
from remote_env.protocol import (
    Connection,
    Error,
    Hello,
    Observation,
    Observe,
    OnStale,
    Role,
    Subscribe,
    error_of,
)
from remote_env.transport import connect


def threads(name):
    return [thread for thread in threading.enumerate() if thread.name == name]


class RawObserver:
    """One connection that does what it is told, and does not read unless it is told to."""

    def __init__(self, url, *, role="observe", streams=None):
        self.link = connect(url, timeout=5, max_frame_size=1 << 28)
        self.connection = Connection(Role.CLIENT, now=time.monotonic())
        self.welcome = self.ask(
            Hello(1, role=role, token=None, owner="raw", process="raw", client="raw", resume=None,
                  asking=0)
        )  # fmt: skip
        if streams is not None:
            self.ask(Subscribe(2, streams=tuple(streams), max_ages={}, on_stale=OnStale.FLAG))

    @classmethod
    @contextlib.contextmanager
    def keeping(cls, url, streams, kept):
        """One that keeps the newest arrays of some streams."""
        observer = cls(url)
        wish = {"max_ages": {}, "on_stale": OnStale.FLAG, "kept": tuple(kept)}
        observer.ask(Subscribe(2, streams=tuple(streams), **wish))
        yield observer
        observer.close()

    @classmethod
    def resuming(cls, before, url):
        """One that goes on with the session of another one, whose link is lost unnoticed."""
        observer = cls.__new__(cls)
        observer.link = connect(url, timeout=5, max_frame_size=1 << 28)
        observer.connection = Connection(Role.CLIENT, now=time.monotonic())
        observer.connection.adopt(before.connection, asking=0)
        hello = Hello(
            observer.connection.next_id(), role="observe", token=None, owner="raw", process="raw",
            client="raw", resume=before.welcome.session, asking=0,
        )  # fmt: skip
        observer.welcome = observer.ask(hello)
        assert observer.welcome.resumed
        before.link.abort()
        return observer

    def ask(self, message):
        """Send a request and return its answer; raise what the server refuses."""
        self.send(message)
        while True:
            answer = self.receive(timeout=5)
            assert answer is not None, "no answer"
            if isinstance(answer, Error):
                raise error_of(answer)
            if not isinstance(answer, Observation):
                return answer

    def observe(self, *, hz=50.0):
        return self.ask(Observe(self.connection.next_id(), hz=hz))

    def send(self, message):
        self.link.send(self.connection.send(message))

    def receive(self, *, timeout=5.0):
        """Return the next message, or None if none came in time."""
        with contextlib.suppress(DeadlineExceededError):
            return self.connection.receive(self.link.receive(timeout), time.monotonic())

    def close(self):
        self.link.close()
