"""What tests wait for: a condition, or a call on a thread of its own."""

import threading
import time


def wait_for(condition, timeout=10.0):
    """Wait until a condition holds; return what it returned."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.001)
    return result


class Beside:
    """A call on a thread of its own, what it returned or raised, and when."""

    def __init__(self, call):
        self._call = call
        self.result = self.error = self.ended_at = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.result = self._call()
        except Exception as error:
            self.error = error
        self.ended_at = time.monotonic()

    def join(self, timeout=20):
        self._thread.join(timeout)
        assert not self._thread.is_alive()
        return self

    @property
    def is_running(self):
        return self._thread.is_alive()
