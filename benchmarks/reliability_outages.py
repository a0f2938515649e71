"""How soon after an outage the first good step comes, in lockstep and in real time.

The network swallows everything both ways and then heals. In lockstep the step that was under
way is resumed. In real time its action has expired meanwhile: the step is cut short with
``link_lost``, the learner resets, and that counts too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

import remote_env
from benchmarks.reliability_rig import Line, Recorder, Scale, ServerProcess, journal, say
from remote_env.testing import FaultProxy

GOAL = 0.5


def outage(env: remote_env.RemoteRobotEnv, proxy: FaultProxy, seconds: float) -> float:
    """Return how long after the end of an outage the first good step came, in seconds."""
    action = np.ones(1)
    env.step(action)
    healed = []

    def break_and_heal() -> None:
        proxy.blackhole()
        time.sleep(seconds)
        proxy.heal()
        healed.append(time.monotonic())

    thread = threading.Thread(target=break_and_heal)
    thread.start()
    time.sleep(0.05)  # so that no step gets through any more
    while True:
        try:
            _, _, terminated, truncated, info = env.step(action)
        except remote_env.RemoteEnvError:
            env.reset()
            continue
        now = time.monotonic()
        if terminated or truncated or info["remote"].get("invalid_transition"):
            env.reset()
        elif healed:
            thread.join()
            return now - healed[0]


def repeat(mode: str, seconds: float, count: int, seed: int) -> list[float]:
    """Return the figures of so many outages, each up to a quarter second longer.

    Where in the learner's attempts an outage ends makes most of the difference.
    """
    rng = np.random.default_rng(seed)
    with (
        journal() as kept,
        ServerProcess(Recorder, {"path": kept.path}, mode=mode) as server,
        FaultProxy(server.url) as proxy,
    ):
        env = remote_env.RemoteRobotEnv(proxy.url, step_timeout=30.0)
        try:
            env.reset()
            return [outage(env, proxy, seconds + rng.uniform(0, 0.25)) for _ in range(count)]
        finally:
            env.close()


def outages(scale: Scale) -> Iterator[Line]:
    """Measure every length in both modes, all at once: it is mostly waiting."""
    cases = [
        (mode, seconds) for mode in ("lockstep", "realtime") for seconds in (0.5, 1.5, 3.0, 8.0)
    ]
    rounds = scale.pick(2, 5)
    with ThreadPoolExecutor(len(cases)) as pool:
        figures = [
            # The short ones more often, at the same cost.
            pool.submit(repeat, mode, s, max(rounds, int(4 * rounds / s)), scale.seed + i)
            for i, (mode, s) in enumerate(cases)
        ]
        found = {case: future.result() for case, future in zip(cases, figures, strict=True)}
    for (mode, seconds), values in found.items():
        say(f"{mode} {seconds:g} s: {', '.join(f'{v * 1e3:.0f}' for v in values)} ms")
    for mode in ("lockstep", "realtime"):
        measured = "; ".join(
            f"{seconds:g} s: {np.median(values):.2f}, {max(values):.2f} ({len(values)})"
            for (m, seconds), values in found.items()
            if m == mode
        )
        worst = max(max(values) for (m, _), values in found.items() if m == mode)
        yield Line(
            f"{mode}: first good step at most {GOAL} s after outages of 0.5, 1.5, 3 and 8 s",
            f"median, max in s (count): {measured}",
            worst <= GOAL,
        )
