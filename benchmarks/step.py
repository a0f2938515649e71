"""What a step costs through the wire, beside raw TCP with the same bytes, in one run.

python benchmarks/step.py [--seconds 1] [--rounds 3] [--free]

The short one; ``goals.py`` measures it beside the ways in which others build it, with everything
else. How it is measured stands in ``contest.py``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.contest import Result, contest
from benchmarks.machine import describe, describe_in_words, enter_own_network
from benchmarks.payloads import PAYLOADS, Sizes
from benchmarks.peers import OURS, RAW


def measure(sizes: Sizes, seconds: float, *, rounds: int = 1, pinned: bool = True) -> Result:
    """Measure ours beside raw TCP."""
    return contest((RAW, OURS), sizes, seconds=seconds, rounds=rounds, pinned=pinned)


def main() -> None:
    """Print a table, and the same as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--free", action="store_true", help="let the system choose the cores")
    options = parser.parse_args()
    enter_own_network()
    print(describe_in_words(describe()))
    results = {}
    for name, sizes in PAYLOADS.items():
        found = measure(
            sizes, options.seconds, rounds=options.rounds, pinned=not options.free
        ).values()
        raw, ours = found[RAW.name], found[OURS.name]
        print(
            f"{name}   raw {raw['p50_us']:6.0f} us (p99 {raw['p99_us']:6.0f})   step "
            f"{ours['p50_us']:6.0f} us (p99 {ours['p99_us']:6.0f})   x raw {ours['x_raw']:5.2f}   "
            f"CPU of both ends {ours['cpu_us']:6.0f} us, raw {raw['cpu_us']:6.0f}"
        )
        results[name] = found
    print(json.dumps(results))


if __name__ == "__main__":
    main()
