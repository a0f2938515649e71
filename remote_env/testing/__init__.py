"""Tools for tests, ours and yours: real ends joined by function calls, a clock moved by hand."""

from remote_env.testing.clock import HandClock
from remote_env.testing.pairs import ConnectionPair

__all__ = ["ConnectionPair", "HandClock"]
