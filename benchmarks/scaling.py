"""How the cost of a step grows: with its bytes, with cameras, with observers; and pictures of it.

python benchmarks/scaling.py [--quick] [--only PART ...] [--json FILE] [--docs]

Ours, raw TCP and three peers in turns, as in contest.py; client and servers on two cores. Bytes:
one array of 100 B to 50 MB. Cameras: 1 to 16, of 84x84 and of 640x480. Observers: 1 to 63,
as many as a server has room for beside a learner, that take a picture of 128x128 thirty times a
second; nobody is pinned there. --docs draws the pictures into docs/ and writes the tables into
docs/performance.md.
--plot draws what the JSON file has, without measuring. Eight minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import numpy as np
from rich.console import Console

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks.contest import contest
from benchmarks.goals_table import put_into_page
from benchmarks.machine import describe, describe_in_words, enter_own_network, note_end
from benchmarks.observers import Cinema, watch
from benchmarks.observers import measure as round_trips
from benchmarks.payloads import Sizes, observation_of
from benchmarks.peers import OURS, PEERS, RAW, all_needs
from benchmarks.reliability_rig import Child, ServerProcess, quiet
from remote_env import RemoteRobotEnv

__all__ = ["bytes_of_steps", "cameras", "markdown", "observers"]

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results" / "scaling.json"
DOCS: Final = ROOT / "docs"
COMPARED: Final = ("openpi's way", "gRPC stream", "pyzmq")
# Height and width of one picture, for 84 B to 50 MB; None is for joints alone.
Shape: TypeAlias = tuple[int, int] | None
SHAPES: Final[tuple[Shape, ...]] = (
    None,
    (11, 28),
    (53, 63),
    (166, 201),
    (500, 667),
    (1500, 2222),
    (3334, 5000),
)
COUNTS: Final = (1, 2, 4, 8, 16)
WATCHERS: Final = (1, 2, 4, 8, 16, 32, 63)  # a server takes 64 connections
WATCH_HZ: Final = 30.0
Table: TypeAlias = dict[str, Any]


@dataclass(frozen=True)
class Scale:
    """How long to measure, and whom to tell.

    Attributes:
        seconds: For each way and round.
        rounds: Fresh ones.
        say: Shows a line.
    """

    seconds: float
    rounds: int
    say: Callable[[str], None]

    def compare(self, sizes: Sizes) -> Table:
        """Return the figures of all ways, in microseconds; those not installed are left out."""
        table: Table = {}
        for name in COMPARED:
            peer = PEERS[name]
            if peer.missing:
                self.say(f"{name} left out: {peer.missing} is not installed")
                continue
            found = contest(
                (RAW, OURS, peer), sizes, seconds=self.seconds, rounds=self.rounds, pinned=True
            ).values()
            table[name] = found[name]
            for other in (RAW.name, OURS.name):
                table.setdefault(other, []).append(found[other])
        if RAW.name not in table:
            found = contest(
                (RAW, OURS), sizes, seconds=self.seconds, rounds=self.rounds, pinned=True
            ).values()
            table |= {name: [figures] for name, figures in found.items()}
        for name in (RAW.name, OURS.name):  # they took part in each
            several = table[name]
            table[name] = {
                key: float(np.median([figures[key] for figures in several]))
                for key in ("p50_us", "p99_us", "cpu_us", "x_raw")
            }
        return table


def bytes_of_steps(scale: Scale, shapes: Sequence[Shape] = SHAPES) -> Table:
    """Measure steps of so many bytes."""
    found: Table = {}
    for shape in shapes:
        cameras_: Sizes = () if shape is None else ((*shape, False),)
        carried = sum(array.nbytes for array in observation_of(cameras_).values())
        found[str(carried)] = scale.compare(cameras_)
        scale.say(_line(f"{carried:>10,} B", found[str(carried)]))
    return found


def cameras(scale: Scale, counts: tuple[int, ...] = COUNTS) -> Table:
    """Measure steps with so many cameras."""
    found: Table = {}
    for name, size in (("84x84", (84, 84, False)), ("640x480", (480, 640, False))):
        found[name] = {}
        for count in counts:
            found[name][str(count)] = scale.compare((size,) * count)
            scale.say(_line(f"{count:>2} x {name}", found[name][str(count)]))
    return found


def observers(scale: Scale, counts: tuple[int, ...] = WATCHERS) -> Table:
    """Measure the learner's steps beside so many observers, in turns with none."""
    found: Table = {}
    with ServerProcess(Cinema, {"size": (128, 128)}, mode="lockstep") as server:
        env = RemoteRobotEnv(server.url)
        env.reset()
        round_trips(env, 100)
        for count in counts:
            blocks = [_beside(env, server, count, scale) for _ in range(scale.rounds)]
            found[str(count)] = {
                key: float(np.median([block[key] for block in blocks])) for key in blocks[0]
            }
            figures = found[str(count)]
            scale.say(
                f"{count:>2} observers: step p50 {figures['p50_us']:.0f} us (p99 "
                f"{figures['p99_us']:.0f}), alone {figures['alone_p50_us']:.0f} (p99 "
                f"{figures['alone_p99_us']:.0f}); each gets {figures['hz']:.1f} a second"
            )
        env.close()
    return found


def _beside(env: RemoteRobotEnv, server: ServerProcess, count: int, scale: Scale) -> Table:
    """Return what steps cost without and with observers, and how much those get."""
    seconds = 2 * scale.seconds
    alone = _steps_for(env, seconds)
    with Child(watch, server.url, count, WATCH_HZ) as crowd:
        while not crowd.pipe.poll():
            round_trips(env, 1)
        crowd.ask()
        before, began = _sent(server), time.perf_counter()
        beside = _steps_for(env, seconds)
        hz = (_sent(server) - before) / (time.perf_counter() - began) / count
    while server.ask("statistics")["observers"]["observers"]:
        round_trips(env, 1)
    figures = {"hz": hz}
    for name, times in (("alone_", alone), ("", beside)):
        for p in (50, 99):
            figures[f"{name}p{p}_us"] = float(np.percentile(times, p)) * 1e6
    return {**figures, "ratio": figures["p50_us"] / figures["alone_p50_us"]}


def _steps_for(env: RemoteRobotEnv, seconds: float) -> list[float]:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        times += round_trips(env, 20)
    return times


def _sent(server: ServerProcess) -> int:
    return int(server.ask("statistics")["observers"]["sent"])


def _line(what: str, table: Table) -> str:
    return f"{what}: " + ", ".join(
        f"{name} {figures['p50_us']:.0f} us" for name, figures in table.items()
    )


# Tables


def markdown(found: Table) -> str:
    """Return the tables of all parts that were measured."""
    parts = []
    if "bytes" in found:
        rows = {_amount(int(count)): table for count, table in found["bytes"].items()}
        parts.append(_ways("bytes", rows))
    for name, tables in found.get("cameras", {}).items():
        parts.append(_ways(f"cameras of {name}", tables))
    if "observers" in found:
        lines = [
            "| observers at 30 Hz | step, us: p50 (p99) | the same alone | x | each gets |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {count} | {f['p50_us']:.0f} ({f['p99_us']:.0f}) | {f['alone_p50_us']:.0f} "
            f"({f['alone_p99_us']:.0f}) | {f['ratio']:.2f} | {f['hz']:.1f} a second |"
            for count, f in found["observers"].items()
        ]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _ways(heading: str, tables: Table) -> str:
    names = _names(tables)
    lines = [
        f"| {heading} | " + " | ".join(f"{name}, us: p50 (p99)" for name in names) + " | x raw |",
        "| --- |" + " --- |" * (len(names) + 1),
    ]
    for what, table in tables.items():
        cells = [
            f"{table[name]['p50_us']:,.0f} ({table[name]['p99_us']:,.0f})" if name in table else ""
            for name in names
        ]
        ratio = f"{table[OURS.name]['x_raw']:.2f}"
        lines.append(f"| {what} | " + " | ".join(cells) + f" | {ratio} |")
    return "\n".join(lines)


def _names(tables: Table) -> list[str]:
    found = {name for table in tables.values() for name in table}
    return [name for name in (RAW.name, OURS.name, *COMPARED) if name in found]


def _amount(count: int) -> str:
    for size, unit in ((1_000_000, "MB"), (1_000, "kB")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"


PARTS: Final[dict[str, Callable[[Scale], Table]]] = {
    "bytes": bytes_of_steps,
    "cameras": cameras,
    "observers": observers,
}


def main() -> None:
    """Measure, write, draw."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="bad figures, in a minute or two")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="may come again")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where the figures are kept")
    parser.add_argument("--docs", action="store_true", help="write pictures and tables into docs/")
    parser.add_argument("--plot", action="store_true", help="measure nothing, draw the file again")
    options = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 150)
    if options.plot:
        found = json.loads(options.json.read_text())
    else:
        enter_own_network()
        quiet()
        found = {"machine": describe(all_needs())}
        console.print(describe_in_words(found["machine"]), highlight=False)
        seconds, rounds = (0.1, 1) if options.quick else (0.5, 3)
        scale = Scale(seconds, rounds, lambda line: console.print(line, highlight=False))
        for name in options.only or PARTS:
            found[name] = PARTS[name](scale)
        note_end(found["machine"])
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    if options.docs:
        from benchmarks.scaling_plots import draw

        for path in draw(found, DOCS):
            console.print(str(path), highlight=False)
        sections = {"scaling": f"{markdown(found)}\n\n{describe_in_words(found['machine'])}"}
        put_into_page(DOCS / "performance.md", sections)


if __name__ == "__main__":
    main()
