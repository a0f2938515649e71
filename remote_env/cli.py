"""The command line: ``remote-env serve | info | ping``, also ``python -m remote_env``.

Dataclasses are the configuration; tyro makes options and help of them. Exit codes: 0 done,
1 something went wrong and standard error says what, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from remote_env.client import RobotClient
from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.spec import RobotSpec, StreamKind
from remote_env.version import __version__

if TYPE_CHECKING:
    from remote_env_server.robots import RobotRecipe

__all__ = ["main"]

_CONSOLE = Console()
_ERRORS = Console(stderr=True)
_TOKEN_VARIABLE = "REMOTE_ENV_TOKEN"  # noqa: S105 (the name of a variable)
_SERVE_USAGE = """usage: remote-env serve NAME [options]

Serve a robot. NAME is one of

  double-pendulum      a cart with a double inverted pendulum
  gymnasium:ENV_ID     any Gymnasium environment, such as gymnasium:CartPole-v1, or of
                       another package, such as gymnasium:gymnasium_robotics:FetchReach-v4
  FILE.py:CLASS        your own Robot class, in a file
  MODULE:CLASS         your own Robot class, in an installed package

remote-env serve NAME --help lists the options of that robot."""


@dataclass(frozen=True)
class ServeOptions:
    """How to serve.

    Attributes:
        host: To listen at. Beyond this machine only with a token.
        port: To listen at; 0 lets the system choose.
        mode: Who owns time; the robot's own default if not given.
        token_file: A file whose first line every client must show. The variable
            REMOTE_ENV_TOKEN does the same.
        allowed_host: Names by which clients may call this machine, beside its addresses
            and its own name.
        allowed_origin: Web pages that may connect.
        sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
        verbose: Say more about what happens.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    mode: Literal["lockstep", "realtime"] | None = None
    token_file: Path | None = None
    allowed_host: tuple[str, ...] = ()
    allowed_origin: tuple[str, ...] = ()
    sensor_timeout: float = 5.0
    verbose: bool = False


@dataclass(frozen=True)
class ClientOptions:
    """How to reach a robot.

    Attributes:
        url: Of the robot, such as ws://127.0.0.1:8765.
        token_file: A file whose first line is the token. The variable REMOTE_ENV_TOKEN
            does the same.
        timeout: For each answer, in seconds.
    """

    url: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="URL")]
    token_file: Path | None = None
    timeout: float = 5.0

    def connect(self) -> RobotClient:
        """Return a client that is connected."""
        client = RobotClient(
            self.url,
            role="observe",
            token=_read_token(self.token_file),
            connect_timeout=self.timeout,
        )
        client.connect()
        return client


@dataclass(frozen=True)
class Info(ClientOptions):
    """Show what a robot is: streams, shapes, units, rates. It does not move.

    Attributes:
        save: Write the description to this file; spaces can be built from it without a
            robot, with remote_env.RobotSpec.load.
    """

    save: Path | None = None


@dataclass(frozen=True)
class Ping(ClientOptions):
    """Measure round trips to a robot's server. It does not move.

    Attributes:
        count: How many.
    """

    count: int = 20


@dataclass(frozen=True)
class Serve:
    """Serve a robot; see remote-env serve --help.

    Attributes:
        name: Of the robot.
    """

    name: tyro.conf.Positional[str]


_Command = (
    Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Ping, tyro.conf.subcommand("ping")]
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: Without the program's name; those of the process if None.

    Returns:
        The exit code.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given in (["--version"], ["-V"]):
            print(f"remote-env {__version__}")
        elif given[:1] == ["serve"]:
            _serve(given[1:])
        else:
            _run(tyro.cli(_Command, prog="remote-env", args=given or ["--help"]))
    except RemoteEnvError as error:
        _complain(str(error))
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # the code of a robot's author, or its hardware
        if "--verbose" in given:
            traceback.print_exc()
        hint = "" if given[:1] != ["serve"] or "--verbose" in given else " (--verbose shows where)"
        _complain(f"{type(error).__name__}: {error}{hint}")
        return 1
    except SystemExit as leaving:  # tyro: help is 0, wrong usage 2
        if isinstance(leaving.code, str):  # an author's own
            _complain(leaving.code)
            return 1
        return leaving.code or 0
    return 0


def _complain(text: str) -> None:
    _ERRORS.print(f"[bold red]error:[/] {_plain(text)}", highlight=False, soft_wrap=True)


def _plain(text: str) -> str:
    return text.replace("[", "\\[")


def _run(command: Info | Ping | Serve) -> None:
    match command:
        case Info():
            _info(command)
        case Ping():
            _ping(command)
        case Serve():
            raise AssertionError("handled before")


def _read_token(path: Path | None) -> str | None:
    if path is None:
        return os.environ.get(_TOKEN_VARIABLE)
    try:
        lines = path.read_text().splitlines()
    except OSError as error:
        raise ConfigurationError(f"cannot read the token from {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the token file {path} is no text") from error
    if not lines or not lines[0].strip():
        raise ConfigurationError(f"the first line of the token file {path} is empty")
    return lines[0].strip()


def _serve(arguments: list[str]) -> None:
    from remote_env_server.robots import find_robot

    if not arguments or arguments[0].startswith("-"):
        print(_SERVE_USAGE)
        raise SystemExit(0 if arguments[:1] in (["-h"], ["--help"]) else 2)
    recipe = find_robot(arguments[0])
    options = _parse_serve(recipe, arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-8s %(message)s",
        datefmt="%H:%M:%S",
    )
    # One line for each connection of the library says nothing that ours do not.
    logging.getLogger("remote_env.websockets").setLevel(logging.ERROR)
    from remote_env_server import RobotServer

    RobotServer(
        recipe.make(getattr(options, "robot", None)),
        options.host,
        options.port,
        mode=options.mode,
        token=_read_token(options.token_file),
        allowed_hosts=options.allowed_host,
        allowed_origins=options.allowed_origin,
        sensor_timeout=options.sensor_timeout,
    ).run()


def _parse_serve(recipe: RobotRecipe, arguments: list[str]) -> Any:
    """Parse the options of the server and of this robot, side by side."""
    options: type[Any] = ServeOptions
    if recipe.config is not None:
        # tyro reads the annotation; it depends on the robot that was named.
        robot_type: Any = Annotated[type(recipe.config), tyro.conf.arg(name="")]
        options = make_dataclass(
            "ServeOptions",
            [("robot", robot_type, field(default=recipe.config))],
            bases=(ServeOptions,),
            frozen=True,
        )
        options.__doc__ = ServeOptions.__doc__
    return tyro.cli(options, prog=f"remote-env serve {arguments[0]}", args=arguments[1:])


def _ping(command: Ping) -> None:
    if command.count < 1:
        raise ConfigurationError(f"--count must be at least 1, not {command.count}")
    client = command.connect()
    try:
        trips = [client.ping(timeout=command.timeout)[0] for _ in range(command.count)]
    finally:
        client.close()
    milliseconds = [trip * 1e3 for trip in trips]
    _CONSOLE.print(
        f"{_plain(client.spec.name)} at {_plain(command.url)}: {len(trips)} round trips, "
        f"median {median(milliseconds):.2f} ms, p99 {np.percentile(milliseconds, 99):.2f} ms, "
        f"least {min(milliseconds):.2f} ms",
        highlight=False,
        soft_wrap=True,
    )


def _info(command: Info) -> None:
    client = command.connect()
    client.close()
    spec = client.spec
    if command.save is not None:
        try:
            spec.save(command.save)
        except OSError as error:
            raise ConfigurationError(f"cannot write {command.save}: {error.strerror}") from error
    for line in _facts(spec):
        _CONSOLE.print(line, highlight=False, soft_wrap=True)
    _CONSOLE.print(_table_of(spec))


def _facts(spec: RobotSpec) -> list[str]:
    rate = f", {spec.control_hz:g} Hz" if spec.control_hz else ""
    lines = [
        f"[bold]{_plain(spec.name)}[/]  {spec.mode.value}{rate}",
        f"action       {_plain(str(spec.action_space))}, out of bounds: {spec.out_of_bounds.value}",
        f"episode      {spec.max_episode_steps or 'no'} steps at most, "
        f"{'seedable' if spec.seedable else 'not seedable'}",
    ]
    if spec.action_lifetime:
        lines.append(f"holds        {spec.action_lifetime * 1e3:.0f} ms after the last action")
    if spec.reset_options:
        lines += [
            f"reset option {_plain(name)}: {_plain(text)}"
            for name, text in spec.reset_options.items()
        ]
    for key, value in spec.extra.items():
        lines.append(f"{_plain(key):12} {'' if isinstance(value, dict) else _plain(str(value))}")
        if isinstance(value, dict):
            lines += [f"  {_plain(str(name)):18} {_plain(str(v))}" for name, v in value.items()]
    return lines


def _table_of(spec: RobotSpec) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("stream", "shape", "dtype", "unit", "range", "rate", "sent"):
        table.add_column(heading, no_wrap=heading in ("stream", "shape", "dtype"))
    for stream in spec.streams:
        is_calibration = stream.kind in (StreamKind.INTRINSICS, StreamKind.EXTRINSICS)
        sent = "on request" if stream.on_request else "always"
        table.add_row(
            _plain(stream.name),
            "x".join(map(str, stream.array.shape)) or "scalar",
            str(stream.array.dtype),
            _plain(stream.unit),
            "" if is_calibration else _plain(_range_of(stream.space)),
            f"{stream.hz:g} Hz" if stream.hz else "",
            "with image" if is_calibration else sent,
        )
    return table


def _range_of(space: Any) -> str:
    low, high = getattr(space, "low", None), getattr(space, "high", None)
    if low is None or high is None:
        return str(space)
    lowest, highest = np.min(low), np.max(high)
    return f"{lowest:.4g} to {highest:.4g}" if np.isfinite([lowest, highest]).any() else ""
