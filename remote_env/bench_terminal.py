"""``remote-env bench``: the cost of a step, as people, or programs, read it."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from remote_env.arguments import check_timeout
from remote_env.bench import ConnectionCost, StepCost, measure_connection, measure_steps
from remote_env.client import RobotClient
from remote_env.errors import ConfigurationError
from remote_env.spec import Mode, RobotSpec
from remote_env.terminal import plain

__all__ = ["bench_in_terminal", "print_costs"]

_MEANINGS: Final = {
    "serialize": "to encode the action",
    "network": "on the way, there and back, in both systems",
    "queued": "until the robot's control thread took it up",
    "worked": "in the robot's own code",
    "waited": "for the end of the control period",
    "deserialize": "to decode the observation",
    "server": "the rest of the server: to check, encode and send",
    "learner": "the rest of this side: checks, spaces, info",
}
_LOOKING: Final = 2.0  # seconds of round trips; the bandwidth comes on top


def bench_in_terminal(
    console: Console,
    errors: Console,
    url: str,
    *,
    token: str | None,
    seconds: float,
    timeout: float,
    may_move: bool,
    only_looks: bool,
    as_json: bool,
) -> None:
    """Measure a robot and print what comes of it.

    Args:
        console: Where to.
        errors: Where the progress is shown: what is piped elsewhere are the figures.
        url: Of the robot.
        token: What the server asks for, if it does.
        seconds: Of stepping.
        timeout: For each answer, in seconds.
        may_move: Whether a robot that is not in lockstep may be stepped.
        only_looks: Whether none may.
        as_json: Print JSON.

    Raises:
        ConfigurationError: If an argument makes no sense.
        RemoteEnvError: If the robot cannot be reached, or stepped.
    """
    check_timeout("--seconds", seconds)
    if may_move and only_looks:
        raise ConfigurationError("--step and --look contradict each other; give one of them")
    client = RobotClient(url, role="observe", token=token, connect_timeout=timeout)
    try:
        with Progress(console=errors, transient=True) as progress:
            task = progress.add_task("round trips", total=1.0)
            connection = measure_connection(
                client,
                seconds=min(_LOOKING, seconds),
                timeout=timeout,
                tell=lambda fraction: progress.update(task, completed=fraction),
            )
            spec = client.spec
            steps = None
            if not only_looks and (may_move or spec.mode is Mode.LOCKSTEP):
                stepping = progress.add_task("steps", total=1.0)
                steps = measure_steps(
                    url,
                    token=token,
                    seconds=seconds,
                    timeout=timeout,
                    tell=lambda fraction: progress.update(stepping, completed=fraction),
                )
    finally:
        client.close()
    if as_json:
        print(json.dumps(_values(url, spec, connection, steps), indent=2))
        return
    print_costs(console, url, spec, connection, steps)
    if steps is None and not only_looks:
        console.print(
            "no step was made, because it would move the robot. If its way is clear: --step, "
            "which resets it and sends zeros,\nor what is nearest to them within its bounds; to a "
            "robot that is told positions, zero is a position",
            highlight=False,
            soft_wrap=True,
        )


def print_costs(
    console: Console, url: str, spec: RobotSpec, connection: ConnectionCost, steps: StepCost | None
) -> None:
    """Show what was measured."""

    def say(line: str) -> None:
        console.print(line, highlight=False, soft_wrap=True)

    rate = f", {spec.control_hz:g} Hz" if spec.control_hz else ""
    ping, probe = connection.ping, connection.probe
    say(f"[bold]{plain(spec.name)}[/]  {spec.mode.value}{rate}, at {plain(url)}")
    say(
        f"connection   {_time(connection.connect)} to connect; small round trip p50 "
        f"{_time(ping.p50)}, p99 {_time(ping.p99)} of {ping.count}"
    )
    is_known = not math.isnan(connection.bandwidth)
    bandwidth = f"{connection.bandwidth / 1e6:.3g} MB/s" if is_known else "hidden by the round trip"
    say(
        f"             with an answer of {_size(connection.probed)} p50 {_time(probe.p50)}, p99 "
        f"{_time(probe.p99)} of {probe.count}; bandwidth {bandwidth}"
    )
    say(f"observation  {_size(connection.nbytes)} of arrays")
    if steps is None:
        return
    step = steps.step
    resets = "1 reset" if steps.resets == 1 else f"{steps.resets} resets"
    say(
        f"step         p50 {_time(step.p50)}, p99 {_time(step.p99)}, max {_time(step.max)} of "
        f"{step.count}, {steps.per_second:.4g} a second, {resets}"
    )
    if spec.mode is Mode.LOCKSTEP and not math.isnan(connection.floor):
        say(
            f"             {step.p50 / connection.floor:.3g} times a round trip with as many "
            f"bytes and nothing else ({_time(connection.floor)})"
        )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("part", "mean", "share", "p50", "p99", "what it is"):
        side: Any = "left" if heading in ("part", "what it is") else "right"
        table.add_column(heading, justify=side)
    for part in steps.parts:
        share = f"{part.mean / step.mean:.0%}"
        table.add_row(
            part.name,
            _time(part.mean),
            share,
            _time(part.p50),
            _time(part.p99),
            _MEANINGS[part.name],
        )
    console.print(table)


def _values(
    url: str, spec: RobotSpec, connection: ConnectionCost, steps: StepCost | None
) -> dict[str, Any]:
    values = {
        "url": url,
        "robot": spec.name,
        "mode": spec.mode.value,
        "control_hz": spec.control_hz,
        "connection": {**asdict(connection), "floor": connection.floor},
        "steps": None if steps is None else asdict(steps),
    }
    found: dict[str, Any] = _without_nan(values)
    return found


def _without_nan(value: Any) -> Any:
    """Return the same with None for NaN, of which JSON knows nothing."""
    if isinstance(value, dict):
        return {key: _without_nan(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _time(seconds: float) -> str:
    if math.isnan(seconds):
        return ""
    return f"{seconds * 1e6:.3g} us" if seconds < 1e-3 else f"{seconds * 1e3:.3g} ms"


def _size(nbytes: int) -> str:
    return f"{nbytes} B" if nbytes < 1000 else f"{nbytes / 1e3:.4g} kB"
