"""What the checks between the wire and the motors cost, in microseconds.

python benchmarks/guard.py [--rounds 200] [--against an/older/safety.py]

Times are those of one call, putting the action together included. Everything that is compared
takes turns in short bursts, so that a machine whose speed drifts favours nothing; of each burst
the mean is taken, and of the bursts the median and the 99th percentile.
"""

import argparse
import importlib.util
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from gymnasium import spaces

import remote_env_server.safety
from remote_env.spec import ActionLimit, OutOfBounds
from remote_env_server.motion import MotionLimiter

BURST = 200
PERIOD = 0.02


def load(path: Path) -> ModuleType:
    """Import a file under a name of its own."""
    module_spec = importlib.util.spec_from_file_location("safety_to_compare_with", path)
    assert module_spec is not None
    assert module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    sys.modules[module.__name__] = module
    module_spec.loader.exec_module(module)
    return module


def actions() -> dict[str, tuple[spaces.Space[Any], list[np.ndarray[Any, Any]]]]:
    """Return action spaces by name, each with an action as the wire brings it."""
    boxes = {n: spaces.Box(-1.0, 1.0, (n,), np.float32) for n in (7, 32)}
    found: dict[str, tuple[spaces.Space[Any], list[np.ndarray[Any, Any]]]] = {
        f"{n} floats": (box, [np.linspace(-0.9, 0.9, n, dtype=np.float32)])
        for n, box in boxes.items()
    }
    arm = spaces.Dict({"arm": boxes[7], "grip": spaces.Discrete(2)})
    found["7 floats and a choice"] = (arm, [np.zeros(7, np.float32), np.asarray(1)])
    found["7 floats sent as float64"] = (boxes[7], [np.linspace(-0.9, 0.9, 7)])
    return found


def guard_calls(module: ModuleType) -> dict[str, Callable[[], object]]:
    """Return a check by a guard for each action."""
    calls: dict[str, Callable[[], object]] = {}
    for name, (space, arrays) in actions().items():
        guard = module.ActionGuard(space, OutOfBounds.REFUSE)
        calls[name] = partial(guard.check, arrays)
    return calls


def limiter_calls() -> dict[str, Callable[[], object]]:
    """Return a check by a limiter for each number of floats: rate, and rate with step."""
    calls: dict[str, Callable[[], object]] = {}
    for n in (7, 32):
        space, action = spaces.Box(-1.0, 1.0, (n,), np.float32), np.zeros(n, np.float32)
        measured = {"joint_pos": np.full(n, 0.01, np.float32)}
        limits = {
            "rate": ActionLimit(max_rate=2.0),
            "rate and step": ActionLimit(max_rate=2.0, max_step=0.1, measured="joint_pos"),
        }
        for name, limit in limits.items():
            limiter = MotionLimiter(
                space, {"action": limit}, OutOfBounds.REFUSE, control_period=PERIOD
            )
            limiter.note_executed(action)
            calls[f"{n} floats, {name}"] = partial(
                limiter.check, action, measured=measured, seconds=PERIOD
            )
    return calls


def time_burst(call: Callable[[], object]) -> float:
    """Return the mean time of a call, in microseconds."""
    began = time.perf_counter()
    for _ in range(BURST):
        call()
    return (time.perf_counter() - began) / BURST * 1e6


def main() -> None:
    """Measure in turns, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--against", type=Path, help="another safety.py, measured in turns")
    options = parser.parse_args()

    calls = {f"guard: {name}": c for name, c in guard_calls(remote_env_server.safety).items()}
    if options.against is not None:
        others = guard_calls(load(options.against))
        calls |= {f"guard: {name} ({options.against.name})": c for name, c in others.items()}
    calls |= {f"limiter: {name}": call for name, call in limiter_calls().items()}

    bursts: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(options.rounds):
        for name, call in calls.items():
            bursts[name].append(time_burst(call))

    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}")
    print(f"{'microseconds per call':50} {'p50':>6} {'p99':>6}")
    for name in sorted(bursts):
        p50, p99 = np.percentile(bursts[name], [50, 99])
        print(f"{name:50} {p50:6.2f} {p99:6.2f}")


if __name__ == "__main__":
    main()
