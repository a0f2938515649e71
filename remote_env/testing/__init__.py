"""Tools for tests, ours and yours: ends without a network, and a network that breaks at will."""

from remote_env.testing.clock import HandClock
from remote_env.testing.fault_proxy import Direction, Ending, FaultProxy, FaultProxyStatistics
from remote_env.testing.pairs import ConnectionPair

__all__ = [
    "ConnectionPair",
    "Direction",
    "Ending",
    "FaultProxy",
    "FaultProxyStatistics",
    "HandClock",
]
