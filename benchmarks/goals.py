"""Every goal of speed that can be measured now, beside raw TCP and the peers, in one run.

python benchmarks/goals.py [--quick] [--only PART ...] [--json FILE] [--docs] [--strict]

Prints two tables and writes them as JSON: the goals, met or missed, and what a step costs in the
ways in which others build it. A peer that is not installed is named and left out. Goals that were
missed are reported, and do not fail; the exit code is 1 if something could not be measured that
should be, or with --strict if a goal was missed. --docs writes the tables into
docs/performance.md. Only loopback is used. A quarter of an hour; --quick takes two minutes and
is good for finding out whether all of it runs. Meant for an otherwise idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

sys.path.append(str(Path(__file__).resolve().parent.parent))

from benchmarks import (
    codecs,
    head_of_line,
    inside,
    observers,
    reliability_memory,
    reliability_rates,
    streaming,
    unchanged,
)
from benchmarks.contest import Result, contest, versus
from benchmarks.goals_table import (
    GOALS,
    NOT_HERE,
    Row,
    markdown,
    markdown_of_peers,
    put_into_page,
    row,
)
from benchmarks.machine import (
    describe,
    describe_in_words,
    enter_own_network,
    has_own_network,
    note_end,
)
from benchmarks.payloads import PAYLOADS
from benchmarks.peers import OURS, PEERS, RAW, SHARED, Peer, all_needs
from benchmarks.reliability_rig import ServerProcess, quiet

ROOT: Final = Path(__file__).resolve().parent.parent
RESULTS: Final = ROOT / "benchmarks" / "results" / "latest.json"
PAGE: Final = ROOT / "docs" / "performance.md"
EIGHT: Final = ((480, 640, True),) * 8
COMPARED: Final = {
    "openpi's way": {"P2": "5 P2", "P1": "5 P1", "P3": "5 P3", "P0": "5 P0"},
    "openpi's way, mallopt": {"P2": "6 P2", "P1": "6 P1"},
    "gRPC unary": {"P2": "7 P2", "P0": "7 P0"},
    "gRPC stream": {"P2": "7s P2", "P0": "7s P0"},
}
SENSING: Final = Peer("ours, sensors", "ours", "", options={"beside": "sensing"})
BUSY: Final = Peer("ours, busy thread", "ours", "", options={"beside": "busy"})


@dataclass
class Run:
    """What is measured, for how long, and what came of it.

    Attributes:
        pace: By which every time of measuring is multiplied.
        rounds: Fresh ones, of each thing.
        steps: For which the growth of memory is watched; it is judged from 50,000 on.
        say: Shows how far it is.
        tables: By payload and way; see ``markdown_of_peers``.
        alone: Ours beside raw TCP alone, by payload and whether pinned.
        missing: Peers that are not installed, or failed, and what the matter is.
        failures: Parts that could not be measured.
    """

    pace: float = 1.0
    rounds: int = 3
    steps: int = 60_000
    say: Callable[[str], None] = print
    tables: dict[str, dict[str, Any]] = field(default_factory=dict)
    alone: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)

    @property
    def is_quick(self) -> bool:
        """Whether the figures are bad."""
        return self.pace < 1.0

    def seconds(self, full: float) -> float:
        """Return for how long to measure."""
        return full * self.pace


def step_goals(run: Run) -> Iterator[Row]:
    """Ours beside raw TCP, pinned, and as the system pleases; CPU; paced."""
    for payload, key in (("P0", "3 P0"), ("P3", "3 P3"), ("P1", "2 P1"), ("P2", "1 P2")):
        for pinned in (True, False):
            run.say(f"{payload}, {'pinned' if pinned else 'free'}")
            found = _alone(run, payload, seconds=1.0, pinned=pinned)
            how = "pinned" if pinned else "free"
            run.alone[f"{payload}, {how}"] = found.values()
            if pinned:
                yield _ratio(key, found, OURS, RAW)
            if pinned and payload == "P2":
                value = found.ratio(OURS.name, RAW.name, "cpu")
                ours, raw = (f"{found.figure(p.name, 'cpu') * 1e6:.0f}" for p in (OURS, RAW))
                yield row("10 P2", value, note=f"{ours} and {raw} us of both ends")
    run.say("P2, shared memory")
    found = contest(
        (RAW, SHARED), PAYLOADS["P2"], seconds=run.seconds(1.0), rounds=run.rounds, pinned=True
    )
    value = found.ratio(SHARED.name, RAW.name)
    yield row("9 P2", value, found.pair(SHARED.name), found.pair(RAW.name))
    run.say("P0, paced at 100 Hz")
    found = _alone(run, "P0", seconds=3.0, pinned=True, period=0.01)
    run.alone["P0, pinned, paced at 100 Hz"] = found.values()
    yield _ratio("4 P0", found, OURS, RAW)


def _alone(run: Run, payload: str, *, seconds: float, **options: Any) -> Result:
    return contest(
        (RAW, OURS), PAYLOADS[payload], seconds=run.seconds(seconds), rounds=run.rounds, **options
    )


def _ratio(key: str, found: Result, one: Peer, other: Peer) -> Row:
    """Return the row of a goal that is a ratio, ours first in the table."""
    theirs = other if one is OURS else one
    value, rounds = found.ratio(one.name, other.name), found.ratios(one.name, other.name)
    return row(key, value, found.pair(OURS.name), found.pair(theirs.name), rounds=rounds)


def peer_goals(run: Run) -> Iterator[Row]:
    """Every peer that is installed, beside ours and raw TCP."""
    chosen = COMPARED if run.is_quick else PEERS
    for payload, sizes in PAYLOADS.items():
        table: dict[str, Any] = {}
        ours = run.alone.get(f"{payload}, pinned", {})
        for name in (RAW.name, OURS.name):
            if name in ours:
                table[name] = {**ours[name], "x_ours": ours[name]["x_raw"] / _x_raw(ours)}
        for name in chosen:
            peer = PEERS[name]
            if peer.missing:
                run.missing[name] = f"{peer.missing} is not installed (`make bench` does that)"
                continue
            run.say(f"{payload}, {name}")
            try:
                found = versus(
                    peer, sizes, seconds=run.seconds(0.5), rounds=run.rounds, pinned=True
                )
            except (RuntimeError, TimeoutError, EOFError) as error:
                run.missing[f"{name}, {payload}"] = str(error) or type(error).__name__
                run.failures.append(f"{name}, {payload}: {error!r}")
                continue
            ratio = found.ratio(name, OURS.name)
            table[name] = {**found.values()[name], "x_ours": ratio}
            if payload in COMPARED.get(name, ()):
                yield _ratio(COMPARED[name][payload], found, peer, OURS)
        run.tables[payload] = table


def _x_raw(rows: dict[str, Any]) -> float:
    return float(rows[OURS.name]["x_raw"])


def stream_goals(run: Run) -> Iterator[Row]:
    """One way: what an observer gets."""
    for payload in ("P1", "P2"):
        run.say(f"{payload}, one way")
        found = streaming.fractions(PAYLOADS[payload], seconds=run.seconds(2.0), rounds=run.rounds)
        value = float(np.median([rates["ours"] / rates["raw"] for rates in found]))
        ours, raw = (float(np.median([r[who] for r in found])) / 1e9 for who in ("ours", "raw"))
        note = f"{ours:.2f} and {raw:.2f} GB/s; an observer gets {streaming.HZ:.0f} Hz at most"
        yield row(f"8 {payload}", value, note=note)


def inside_goals(run: Run) -> Iterator[Row]:
    """Parts, without a network; and what runs beside the steps."""
    run.say("snapshots, locks, encoding")
    p50, p99 = np.percentile(inside.snapshots(run.seconds(2.0)), [50, 99])
    yield row("17", p50 * 1e6, (p50, p99))
    p50, p99 = np.percentile(inside.waits(run.seconds(4.0)), [50, 99])
    yield row("18", p99 * 1e6, (p50, p99))
    for payload in ("P0", "P2"):
        p50, p99 = np.percentile(inside.coding(PAYLOADS[payload], run.seconds(2.0)), [50, 99])
        yield row(f"25 {payload}", p50 * 1e6, (p50, p99))
    for key, beside in (("19", SENSING), ("20", BUSY)):
        run.say(f"P0, {beside.name}")
        pair = contest((beside, OURS), (), seconds=run.seconds(1.5), rounds=run.rounds)
        times = pair.pair(beside.name)
        value = pair.ratio(beside.name, OURS.name) if key == "19" else times[0] * 1e3
        yield row(key, value, times, pair.pair(OURS.name))


def rate_goals(run: Run) -> Iterator[Row]:
    """What happens at a rate: unchanged pictures, a thin line, eight cameras, lateness."""
    seconds = run.seconds(4.0)
    run.say("P2 at 100 Hz")
    with ServerProcess(unchanged.Rig, mode="realtime") as server:
        rounds = [
            [unchanged.measure(server.url, seconds, keeps=keeps) for keeps in (True, False)]
            for _ in range(run.rounds)
        ]
    for part, name in (("bytes", "bytes"), ("time", "network")):
        value = float(np.median([news[name] / full[name] for news, full in rounds]))
        yield row(f"21 {part}", value)
    run.say("P2 flat out")
    with ServerProcess(unchanged.Rig, {"is_flat_out": True}, mode="lockstep") as server:
        rates = [unchanged.measure(server.url, seconds, keeps=True) for _ in range(run.rounds)]
    yield row("22", float(np.median([one["hz"] for one in rates])))
    yield from _thin_line(run, seconds)
    run.say("8 VGA RGB-D cameras")
    for key, peer in (("26", OURS), ("26 host", SHARED)):
        found = contest((RAW, peer), EIGHT, seconds=run.seconds(1.5), rounds=run.rounds)
        ours = found.pair(peer.name)
        yield row(key, ours[0] * 1e3, ours, found.pair(RAW.name))
    run.say("actions beside that stream")
    beside = head_of_line.measure_ours(seconds)["beside the stream"]
    note = f"an observer takes {beside['observations_per_s']:.1f} of it a second"
    yield row("27", beside["actions_of_100"], note=note)
    run.say("lateness")
    _, late = reliability_rates.periods(
        "realtime", reliability_rates.never, seconds, hz=100.0, busy=0.0
    )
    for p in ("p50", "p99"):
        yield row(f"24 {p}", late[p] * 1e3)


def _thin_line(run: Run, seconds: float) -> Iterator[Row]:
    tc = shutil.which("tc")
    shape = [tc or "", "qdisc", "replace", "dev", "lo", "root", "tbf", "rate", "1gbit"]
    why = "" if tc and has_own_network() else "needs `tc` and a network namespace of its own"
    if not why:
        run.say("P2 over 1 Gb/s")
        done = subprocess.run(
            [*shape, "burst", "256kb", "latency", "50ms"], capture_output=True, check=False
        )
        why = done.stderr.decode().strip()
    if why:
        yield from (row(f"23 {part}", None, note=why) for part in ("rate", "time"))
        return
    try:
        with ServerProcess(codecs.Rig, mode="realtime") as server:
            asked = {how: codecs.ASKED[how] for how in ("raw", "jpeg, depth16")}
            found = {how: codecs.measure(server.url, seconds, a) for how, a in asked.items()}
    finally:
        subprocess.run([shape[0], "qdisc", "del", "dev", "lo", "root"], check=True)
    raw, encoded = found.values()
    yield row("23 rate", encoded["hz"], note=f"JPEG and depth16; raw {raw['hz']:.1f} Hz")
    note = f"with decoding ({encoded['decoding ms']:.2f} ms); raw {raw['mean ms']:.1f} ms"
    yield row("23 time", encoded["mean ms"], note=note)


def memory_goals(run: Run) -> Iterator[Row]:
    """What grows."""
    run.say(f"memory in {run.steps} steps")
    grown = max(reliability_memory.growth(run.steps).values())  # bytes per step: MB per million
    note = f"from {run.steps} steps; `make soak` makes a million"
    yield row("28 steps", grown if run.steps >= 50_000 else None, note=note)
    run.say("memory of observers that stall")
    blocks = Namespace(observers=8, hz=30.0, blocks=1 if run.is_quick else 3, steps=20)
    blocks.healthy = False
    found = observers.run((480, 640), blocks)
    yield row("28 peers", found["most growth per observer"] / (1 << 20))


PARTS: Final[dict[str, Callable[[Run], Iterator[Row]]]] = {
    "step": step_goals,
    "peers": peer_goals,
    "streams": stream_goals,
    "inside": inside_goals,
    "rates": rate_goals,
    "memory": memory_goals,
}


def measure(run: Run, parts: list[str]) -> list[Row]:
    """Measure these parts; one that fails does not stop the others."""
    rows: list[Row] = []
    for name in parts:
        try:
            rows += PARTS[name](run)
        except Exception as error:
            traceback.print_exc()
            run.failures.append(f"{name}: {type(error).__name__}: {error}")
    order = list(GOALS)
    return sorted(rows, key=lambda one: order.index(one.goal.key))


def show(console: Console, rows: list[Row]) -> None:
    """Print the goals."""
    table = Table(title="goals of speed", title_justify="left")
    for heading in ("#", "what", "must", "reach", "measured", "ours us", "other us", ""):
        table.add_column(heading, overflow="fold")
    colours = {"missed": "red", "met": "green", "reached": "bold green", "not measured": "dim"}
    for one in rows:
        table.add_row(*one.cells, f"[{colours[one.verdict]}]{one.verdict}[/]")
    console.print(table)
    for key, why in NOT_HERE.items():
        console.print(f"{key}: not measured here: {why}", highlight=False)


def write(path: Path, run: Run, rows: list[Row], facts: dict[str, Any]) -> None:
    """Write all of it as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": facts,
        "is_quick": run.is_quick,
        "goals": [one.values() for one in rows],
        "not_measured_here": NOT_HERE,
        "ours": run.alone,
        "peers": run.tables,
        "missing": run.missing,
        "failures": run.failures,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")


def write_page(run: Run, rows: list[Row], facts: dict[str, Any]) -> None:
    """Put the tables into the page."""
    how = [f"- **{p.name}**: {p.how}." for p in (RAW, OURS, *PEERS.values())]
    sections = {
        "machine": describe_in_words(facts),
        "goals": markdown(rows),
        "peers": markdown_of_peers(run.tables, run.missing),
        "alone": _markdown_of_alone(run),
        "how": "\n".join(how),
    }
    put_into_page(PAGE, sections)


def _markdown_of_alone(run: Run) -> str:
    lines = [
        "| | raw TCP, us: p50 (p99) | ours | x raw (each round) | CPU of both ends: raw, ours |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, found in run.alone.items():
        raw, ours = found[RAW.name], found[OURS.name]
        rounds = ", ".join(f"{ratio:.2f}" for ratio in ours["x_raw_rounds"])
        lines.append(
            f"| {name} | {raw['p50_us']:.0f} ({raw['p99_us']:.0f}) | {ours['p50_us']:.0f} "
            f"({ours['p99_us']:.0f}) | **{ours['x_raw']:.2f}** ({rounds}) | "
            f"{raw['cpu_us']:.0f}, {ours['cpu_us']:.0f} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Measure, print, write; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="bad figures, in two minutes")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="may come again")
    parser.add_argument("--json", type=Path, default=RESULTS, help="where to write the figures")
    parser.add_argument("--docs", action="store_true", help=f"write the tables into {PAGE.name}")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a goal is missed")
    options = parser.parse_args()
    enter_own_network()
    os.environ["REMOTE_ENV_SHARED_MEMORY"] = "0"  # but for what is measured with it
    quiet()
    console, began = Console(width=None if sys.stdout.isatty() else 150), time.monotonic()
    facts = describe(all_needs())
    console.print(describe_in_words(facts), highlight=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("")
        quick: dict[str, Any] = {"pace": 0.2, "rounds": 1, "steps": 10_000}
        run = Run(say=lambda text: progress.update(task, description=text))
        if options.quick:
            run = replace(run, **quick)
        rows = measure(run, options.only or list(PARTS))
    note_end(facts)
    show(console, rows)
    console.print(markdown_of_peers(run.tables, run.missing), highlight=False, markup=False)
    console.print(_markdown_of_alone(run), highlight=False, markup=False)
    write(options.json, run, rows, facts)
    console.print(f"{options.json}; {time.monotonic() - began:.0f} s", highlight=False)
    if options.docs:
        write_page(run, rows, facts)
    for failure in run.failures:
        console.print(f"failed: {failure}", highlight=False, markup=False)
    missed = [one for one in rows if one.verdict == "missed"]
    return int(bool(run.failures) or (options.strict and bool(missed)))


if __name__ == "__main__":
    sys.exit(main())
