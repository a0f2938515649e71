"""The command line, ``remote-env``; also ``python -m remote_env``.

Dataclasses are the configuration; tyro makes options and help of them. Exit codes: 0 done,
1 something went wrong and standard error says what, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from remote_env.bench_terminal import bench_in_terminal
from remote_env.client import RobotClient
from remote_env.emergency import emergency_stop, release_stop
from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.terminal import examine_in_terminal, plain, print_spec
from remote_env.tokens import read_token
from remote_env.version import __version__
from remote_env.watch_terminal import watch_in_terminal

if TYPE_CHECKING:
    from remote_env_server.robots import RobotRecipe

__all__ = ["main"]

_CONSOLE = Console()
_ERRORS = Console(stderr=True)
_SERVE_USAGE = """usage: remote-env serve NAME [options]

Serve a robot. NAME is one of

  double-pendulum      a cart with a double inverted pendulum
  arm                  a six-joint arm with a gripper and cameras that is to reach a goal
  mujoco:MODEL.xml     any MuJoCo model
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
        unix: A path to listen at in place of host and port, for this user's processes alone:
            clients connect to ws+unix://PATH.
        mode: Who owns time; the robot's own default if not given.
        token_file: A file whose first line every client must show. The variable
            REMOTE_ENV_TOKEN does the same.
        allowed_host: Names by which clients may call this machine, beside its addresses
            and its own name.
        allowed_origin: Web pages that may connect.
        sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
        latch_file: Remembers a pressed emergency stop across restarts; a file of this user's
            for this port and robot if not given.
        realtime_priority: Of the control thread, 1 to 99, where the system allows it.
        verbose: Say more about what happens.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    unix: Path | None = None
    mode: Literal["lockstep", "realtime", "delayed"] | None = None
    token_file: Path | None = None
    allowed_host: tuple[str, ...] = ()
    allowed_origin: tuple[str, ...] = ()
    sensor_timeout: float = 5.0
    latch_file: Path | None = None
    realtime_priority: int | None = None
    verbose: bool = False


@dataclass(frozen=True)
class ClientOptions:
    """How to reach a robot.

    Attributes:
        url: Of the robot, such as ws://127.0.0.1:8765 or ws+unix:///run/robot.sock.
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
            token=read_token(self.token_file),
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
        watch: Show instead, once a second until Ctrl-C, what the robot does: the rate and age
            of each stream, who commands, whether it moves.
        streams: With --watch: only these. Simulated cameras run while they are watched.
        count: With --watch: end after so many tables. A rate is judged after some seconds.
    """

    save: Path | None = None
    watch: bool = False
    streams: tuple[str, ...] = ()
    count: int | None = None


@dataclass(frozen=True)
class Ping(ClientOptions):
    """Measure round trips to a robot's server. It does not move.

    Attributes:
        count: How many.
    """

    count: int = 20


@dataclass(frozen=True)
class Doctor(ClientOptions):
    """Measure what a robot and the network to it do, and say what is wrong. It does not move.

    The exit code is 1 if something is wrong.

    Attributes:
        seconds: For how long to measure round trips.
    """

    seconds: float = 3.0


@dataclass(frozen=True)
class Bench(ClientOptions):
    """Measure what a step costs and where its time goes, beside what the connection costs.

    A robot in lockstep, which is simulated, is reset and stepped, unless somebody commands it. A
    robot in real time does not move, unless --step says so.

    Attributes:
        step: Reset and step a robot in real time too: it MOVES. Actions are zeros where the
            bounds allow that; to a robot that is told positions, zero is a position.
        look: Only measure the connection, in lockstep too.
        seconds: Of stepping; the connection takes 3 more.
        json: Print the figures as JSON, in seconds.
    """

    step: bool = False
    look: bool = False
    seconds: float = 5.0
    json: bool = False


@dataclass(frozen=True)
class EmergencyStop(ClientOptions):
    """Press a robot's emergency stop. It stays pressed until remote-env release.

    Attributes:
        reason: For people.
    """

    reason: str = ""


@dataclass(frozen=True)
class ReleaseStop(ClientOptions):
    """Release a robot's emergency stop. Nothing moves by that; the next reset does."""


@dataclass(frozen=True)
class Serve:
    """Serve a robot; see remote-env serve --help.

    Attributes:
        name: Of the robot.
    """

    name: tyro.conf.Positional[str]


@dataclass(frozen=True)
class Train:
    """Train a policy on robots; see remote-env train --help."""


@dataclass(frozen=True)
class Evaluate:
    """Evaluate a policy on robots; see remote-env eval --help."""


@dataclass(frozen=True)
class Demonstrate:
    """Watch simulated arms learn to reach, in a minute; see remote-env demo --help."""


@dataclass(frozen=True)
class CheckRobot:
    """Check whether a robot behaves as every robot must. It moves, with small actions.

    Attributes:
        target: A url, or a name as in remote-env serve NAME; what has a name is served here
            for the time of the check.
        token_file: A file whose first line is the token. The variable REMOTE_ENV_TOKEN
            does the same.
        mode: In which what has a name is served; its own default if not given.
        moves: Whether the robot may be moved. --no-moves only looks.
        yes: Do not ask before moving what may be hardware: a robot not in lockstep, behind a
            url or of your own class.
        json: Print the report as JSON.
        max_steps: How many actions may be sent in all.
        patience: Bounds on real time are multiplied by this; for busy machines.
        verbose: Show the robot's log.
    """

    target: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="NAME_OR_URL")]
    token_file: Path | None = None
    mode: Literal["lockstep", "realtime", "delayed"] | None = None
    moves: bool = True
    yes: bool = False
    json: bool = False
    max_steps: int = 2000
    patience: float = 1.0
    verbose: bool = False


_Command = (
    Annotated[Serve, tyro.conf.subcommand("serve")]
    | Annotated[Info, tyro.conf.subcommand("info")]
    | Annotated[Ping, tyro.conf.subcommand("ping")]
    | Annotated[Doctor, tyro.conf.subcommand("doctor")]
    | Annotated[Bench, tyro.conf.subcommand("bench")]
    | Annotated[EmergencyStop, tyro.conf.subcommand("estop")]
    | Annotated[ReleaseStop, tyro.conf.subcommand("release")]
    | Annotated[CheckRobot, tyro.conf.subcommand("check")]
    | Annotated[Train, tyro.conf.subcommand("train")]
    | Annotated[Evaluate, tyro.conf.subcommand("eval")]
    | Annotated[Demonstrate, tyro.conf.subcommand("demo")]
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
        elif given[:1] in (["train"], ["eval"], ["demo"]):
            from remote_env_agents.cli import run

            return run(given, console=_CONSOLE, errors=_ERRORS)
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


def _say(text: str) -> None:
    _CONSOLE.print(plain(text), highlight=False, soft_wrap=True)


def _complain(text: str) -> None:
    _ERRORS.print(f"[bold red]error:[/] {plain(text)}", highlight=False, soft_wrap=True)


def _run(
    command: Info
    | Ping
    | Doctor
    | Bench
    | EmergencyStop
    | ReleaseStop
    | Serve
    | CheckRobot
    | Train
    | Evaluate
    | Demonstrate,
) -> None:
    match command:
        case Doctor():
            is_well = examine_in_terminal(
                _CONSOLE,
                _ERRORS,
                command.url,
                token=read_token(command.token_file),
                seconds=command.seconds,
                timeout=command.timeout,
            )
            if not is_well:
                raise SystemExit(1)
        case Bench():
            bench_in_terminal(
                _CONSOLE,
                _ERRORS,
                command.url,
                token=read_token(command.token_file),
                seconds=command.seconds,
                timeout=command.timeout,
                may_move=command.step,
                only_looks=command.look,
                as_json=command.json,
            )
        case EmergencyStop():
            token = read_token(command.token_file)
            emergency_stop(command.url, command.reason, token=token, timeout=command.timeout)
            _say(f"{command.url} is stopped, until 'remote-env release {command.url}'")
        case ReleaseStop():
            token = read_token(command.token_file)
            was_pressed = release_stop(command.url, token=token, timeout=command.timeout)
            _say(
                f"{command.url} is released; it holds until the next reset"
                if was_pressed
                else f"the emergency stop of {command.url} was not pressed"
            )
        case Info():
            _info(command)
        case Ping():
            _ping(command)
        case CheckRobot():
            _check(command)
        case Serve() | Train() | Evaluate() | Demonstrate():
            raise AssertionError("handled before")


def _serve(arguments: list[str]) -> None:
    from remote_env_server.logs import PatientHandler
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
        handlers=[PatientHandler()],
    )
    # One line for each connection of the library says nothing that ours do not.
    logging.getLogger("remote_env.websockets").setLevel(logging.ERROR)
    from remote_env_server import RobotServer
    from remote_env_server.latch import default_latch_file

    RobotServer(
        recipe.make(getattr(options, "robot", None)),
        options.host,
        options.port,
        unix_path=options.unix,
        mode=options.mode,
        token=read_token(options.token_file),
        allowed_hosts=options.allowed_host,
        allowed_origins=options.allowed_origin,
        sensor_timeout=options.sensor_timeout,
        latch_file=options.latch_file
        or default_latch_file(options.port if options.unix is None else options.unix, arguments[0]),
        realtime_priority=options.realtime_priority,
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


def _check(command: CheckRobot) -> None:
    from remote_env_server.testing.terminal import check_in_terminal

    if command.verbose:
        logging.basicConfig(level=logging.INFO, format="%(levelname)-8s %(message)s")
    report = check_in_terminal(
        _CONSOLE,
        command.target,
        token=read_token(command.token_file),
        mode=command.mode,
        moves=command.moves,
        is_agreed=command.yes,
        as_json=command.json,
        max_steps=command.max_steps,
        patience=command.patience,
    )
    if not report.is_ok:
        raise SystemExit(1)


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
        f"{plain(client.spec.name)} at {plain(command.url)}: {len(trips)} round trips, "
        f"median {median(milliseconds):.2f} ms, p99 {np.percentile(milliseconds, 99):.2f} ms, "
        f"least {min(milliseconds):.2f} ms",
        highlight=False,
        soft_wrap=True,
    )


def _info(command: Info) -> None:
    if not command.watch and (command.streams or command.count is not None):
        raise ConfigurationError("--streams and --count are for --watch; add it")
    if command.count is not None and command.count < 1:
        raise ConfigurationError(f"--count must be at least 1, not {command.count}")
    client = command.connect()
    carrier = client.carrier
    client.close()
    spec = client.spec
    if command.save is not None:
        try:
            spec.save(command.save)
        except OSError as error:
            raise ConfigurationError(f"cannot write {command.save}: {error.strerror}") from error
    if not command.watch:
        print_spec(_CONSOLE, spec, carrier=carrier)
        return
    watch_in_terminal(
        _CONSOLE,
        command.url,
        streams=command.streams,
        count=command.count,
        token=read_token(command.token_file),
        timeout=command.timeout,
    )
