"""The connection is cut at every byte of a small step's request and of its answer.

The bytes are counted where they pass: the WebSocket frames as they are. Each cut is resumed,
the step is executed once, and the observation counts on by one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from benchmarks.reliability_learner import STEP, Learner, find_problems
from benchmarks.reliability_rig import Line, Recorder, Scale, ServerProcess, journal, say
from remote_env.testing import Direction, Ending, FaultProxy


def size_of_step(learner: Learner, proxy: FaultProxy) -> dict[Direction, int]:
    """Return how many bytes a step has each way; the least of a few, which heartbeats add to."""
    sizes = []
    for _ in range(5):
        before = proxy.statistics()
        learner.step()
        after = proxy.statistics()
        sizes.append(
            (
                after.forwarded_to_server - before.forwarded_to_server,
                after.forwarded_to_client - before.forwarded_to_client,
            )
        )
    to_server, to_client = zip(*sizes, strict=True)
    return {Direction.TO_SERVER: min(to_server), Direction.TO_CLIENT: min(to_client)}


def cut(mode: str, how: Ending, every: int) -> tuple[int, int, list[str], float]:
    """Cut at one byte in so many; return cuts, valid steps, problems, the longest step."""
    with (
        journal() as kept,
        ServerProcess(Recorder, {"path": kept.path}, mode=mode) as server,
        FaultProxy(server.url) as proxy,
    ):
        learner = Learner(proxy.url, 1)
        learner.begin()
        valid = 0
        sizes = size_of_step(learner, proxy)
        offsets = [(way, at) for way, size in sizes.items() for at in range(0, size + 1, every)]
        # In real time a link that was lost for longer than an action lives ends the episode.
        for way, at in offsets:
            proxy.cut_after(at, way, how=how)
            if learner.step():
                valid += 1
            else:
                proxy.heal()
                learner.reset()
            proxy.heal()  # a cut behind the last byte may not have been reached
        longest = max(call.took for call in learner.calls)
        learner.close()
        problems = learner.problems + find_problems(learner.calls, kept)
        return len(offsets), valid, problems, longest


def cuts(scale: Scale) -> Iterator[Line]:
    """Cut both ways, in both modes."""
    plan = [
        ("lockstep", Ending.RST, scale.pick(5, 1)),
        ("lockstep", Ending.FIN, scale.pick(23, 1)),
        ("lockstep", Ending.BLACKHOLE, scale.pick(97, 17)),
        ("realtime", Ending.RST, scale.pick(23, 3)),
    ]
    for mode, how, every in plan:
        began = time.monotonic()
        count, valid, problems, longest = cut(mode, how, every)
        say(f"{mode}, {how}: {count} in {time.monotonic() - began:.0f} s {problems[:5]}")
        which = "each byte" if every == 1 else f"one byte in {every}"
        is_met = not problems and (mode == "realtime" or valid == count)
        yield Line(
            f"{mode}: a step cut at {which}, both ways, by {how} is executed once"
            + ("" if mode == "realtime" else " and resumed"),
            f"{count} cuts, {valid} steps valid, {len(problems)} problems, longest step "
            f"{longest:.2f} s (timeout {STEP:g})",
            is_met,
        )
