"""What observers that do not read cost the learner, and what those cost that leave.

The measuring is done by ``benchmarks/observers.py``; here are the goals.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from benchmarks import observers as observing
from benchmarks.reliability_rig import Line, Scale

COUNT = 8
P50, P99 = 1.2, 2.0  # times what it takes alone
FRAMES = 1 << 20  # bytes in memory beyond one frame, for each observer


def observers(scale: Scale) -> Iterator[Line]:
    """Run the other benchmark."""
    for name, size in observing.SIZES.items():
        for is_healthy in (False, True):
            options = argparse.Namespace(
                observers=COUNT,
                hz=30.0,
                blocks=scale.pick(4, 20),
                steps=scale.pick(30, 50),
                healthy=is_healthy,
            )
            row = observing.run(size, options)
            observed = (
                f"p50 x {row['ratio p50']:.2f}, p99 x {row['ratio p99']:.2f} "
                f"({row['alone p99']:.0f} us alone); memory per observer "
                f"{row['most growth per observer'] / 1024:.0f} KiB at most, a frame is "
                f"{row['frame bytes'] / 1024:.0f}"
            )
            left = (
                f"p50 x {row['leaving ratio p50']:.2f}, p99 x {row['leaving ratio p99']:.2f} "
                f"({row['other p99']:.0f} us beside the other)"
            )
            if is_healthy:
                yield Line(f"{COUNT} observers that read, {name}", observed)
                yield Line(f"the {options.steps} round trips after their process is killed", left)
                continue
            is_small = row["most growth per observer"] <= row["frame bytes"] + FRAMES
            yield Line(
                f"{COUNT} observers that do not read, {name}: round trip p50 at most {P50:g} and "
                f"p99 at most {P99:g} times that alone, memory at most one frame and 1 MiB each",
                observed,
                row["ratio p50"] <= P50 and row["ratio p99"] <= P99 and is_small,
            )
            yield Line(
                f"the {options.steps} round trips after their process is killed: the same, "
                "times those after another process is killed",
                left,
                row["leaving ratio p50"] <= P50 and row["leaving ratio p99"] <= P99,
            )
