"""Tools for authors of robots: drivers and sensors that fail when told to, and a checker."""

from remote_env_server.testing.conformance import RobotConformance, check_robot
from remote_env_server.testing.faulty import Faults, inject
from remote_env_server.testing.report import ConformanceError, Report, Result, Status

__all__ = [
    "ConformanceError",
    "Faults",
    "Report",
    "Result",
    "RobotConformance",
    "Status",
    "check_robot",
    "inject",
]
