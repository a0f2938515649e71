"""What is promised when things go wrong, measured: one line for each promise, met or not.

python benchmarks/reliability.py [--only NAME ...] [--quick] [--markdown FILE]

Prints progress, then a table; exits with 1 if a goal is missed. Each part is in a module of
its own, ``reliability_*.py``, and one that fails does not stop the others. All children are
killed at the end. Only loopback is used, and no root. Meant for an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.reliability_rig import Line, Scale, quiet

# Name, module and function; in the order in which they run.
PARTS = {
    "matrix": ("reliability_matrix", "matrix"),
    "cuts": ("reliability_cuts", "cuts"),
    "holds": ("reliability_holds", "holds"),
    "outages": ("reliability_outages", "outages"),
    "observers": ("reliability_observers", "observers"),
    "actions": ("reliability_actions", "actions"),
    "sensors": ("reliability_sensors", "sensors"),
    "driver": ("reliability_driver", "driver"),
    "cycles": ("reliability_memory", "cycles"),
    "memory": ("reliability_memory", "memory"),
    "rate": ("reliability_rates", "rate"),
    "parity": ("reliability_parity", "parity"),
    "stop": ("reliability_stop", "stop"),
    "ticks": ("reliability_rates", "ticks"),
}
Part = Callable[[Scale], Iterable[Line]]


def run(name: str, scale: Scale) -> list[Line]:
    """Measure one part; what fails is a line that is not met."""
    module, function = PARTS[name]
    lines: list[Line] = []
    began = time.monotonic()
    print(f"{name}:", flush=True)
    try:
        part: Part = getattr(importlib.import_module(f"benchmarks.{module}"), function)
        for line in part(scale):
            print(f"  {verdict(line):4} {line.goal}: {line.measured}", flush=True)
            lines.append(line)
    except Exception as error:
        traceback.print_exc()
        lines.append(Line(f"{name}: to be measured", f"{type(error).__name__}: {error}", False))
    print(f"  ({time.monotonic() - began:.0f} s)", flush=True)
    return lines


def verdict(line: Line) -> str:
    """Return a word for the table."""
    return "" if line.is_met is None else "yes" if line.is_met else "NO"


def markdown(results: dict[str, list[Line]], scale: Scale) -> str:
    """Return the table, and what it was measured with."""
    rows = [
        "| Part | Goal | Measured | Met |",
        "| --- | --- | --- | --- |",
        *(
            f"| `{name}` | {line.goal} | {line.measured} | {verdict(line)} |"
            for name, lines in results.items()
            for line in lines
        ),
    ]
    how = "the quick run, with smaller counts" if scale.is_quick else "the full run"
    return "\n".join(rows) + f"\n\nMeasured with {machine()}; {how}.\n"


def machine() -> str:
    """Return what this runs on."""
    return (
        f"Python {platform.python_version()}, numpy {np.__version__}, {platform.system()} "
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
    )


def main() -> int:
    """Measure, print the table; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=list(PARTS), help="may come again")
    parser.add_argument("--quick", action="store_true", help="smaller counts, minutes in all")
    parser.add_argument("--markdown", type=Path, help="write the table to this file too")
    parser.add_argument("--steps", type=int, help="for which the memory is watched")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    scale = Scale(options.quick, options.steps, options.seed)
    quiet()
    print(machine())
    began = time.monotonic()
    results = {name: run(name, scale) for name in options.only or PARTS}
    table = markdown(results, scale)
    print(f"\n{table}\n{time.monotonic() - began:.0f} s")
    if options.markdown:
        options.markdown.write_text(table)
    return any(
        line.is_met is not None and not line.is_met for lines in results.values() for line in lines
    )


if __name__ == "__main__":
    sys.exit(main())
