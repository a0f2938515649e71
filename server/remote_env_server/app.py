"""``RobotServer``: one robot, its control thread, and the transports that reach it."""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Final, Literal, Self

from remote_env.errors import ConfigurationError
from remote_env.protocol import Limits, Value
from remote_env.spaces import SpaceCodec
from remote_env.spec import Mode, RobotSpec
from remote_env.transport import Listener, websocket_listener
from remote_env.transport.listening import is_loopback
from remote_env.version import __version__
from remote_env_server.control import ControlLoop
from remote_env_server.describe import modes_of, read_mode
from remote_env_server.latch import Latch, default_latch_file, name_of
from remote_env_server.logs import relay_logs, stop_relaying_logs, wait_for_logs
from remote_env_server.robot import Robot
from remote_env_server.session import RobotSession

__all__ = ["DEFAULT_PORT", "RobotServer"]

logger = logging.getLogger(__name__)

DEFAULT_PORT: Final = 8765
_SHORTEST_TOKEN: Final = 16
_HEADER_SIZE: Final = 64 << 10
# An end of the process, and an ssh that was lost; nohup wants the latter ignored.
_ENDING: Final = (signal.SIGTERM, signal.SIGHUP)
# How long stop() waits for a start() beside it that does not come back, in seconds.
_STARTING_TIMEOUT: Final = 10.0
# How long stop() waits for the robot's code, in seconds.
_CODE_TIMEOUT: Final = 5.0
# How long the robot's code may take after a second signal, in seconds: that is for a hand that
# presses Ctrl-C twice, and not for code that hangs.
_LAST_CHANCE: Final = 0.5


class RobotServer:
    """Serves one robot.

    ``run()`` blocks until SIGINT or SIGTERM; ``await serve()`` does not return either;
    ``start()`` and ``stop()``, or a ``with`` block, are for programs of your own. Those leave
    signals to the program: one that SIGTERM kills without a handler does not hold the robot.
    """

    def __init__(
        self,
        robot: Robot,
        host: str = "127.0.0.1",
        port: int = DEFAULT_PORT,
        *,
        unix_path: str | os.PathLike[str] | None = None,
        mode: Mode | str | None = None,
        token: str | None = None,
        allowed_hosts: Iterable[str] = (),
        allowed_origins: Iterable[str] = (),
        sensor_timeout: float = 5.0,
        latch_file: str | os.PathLike[str] | Literal[False] | None = None,
        realtime_priority: int | None = None,
        listeners: Sequence[Listener] | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            robot: What to serve.
            host: To listen at. Beyond this machine only with a token.
            port: To listen at; 0 lets the system choose, see ``url``.
            unix_path: Of a Unix socket to listen at in place of host and port. Only processes of
                this user can connect to it.
            mode: ``"lockstep"``, ``"realtime"`` or ``"delayed"``, which every robot can that
                can be served in realtime; the robot's first mode if None.
            token: What every client must show; at least 16 characters.
            allowed_hosts: Names by which clients may call this machine, beside its
                addresses and its own name.
            allowed_origins: Web pages that may connect; none by default.
            sensor_timeout: How long a reset waits for a stream to deliver, in seconds.
            latch_file: Remembers a pressed emergency stop, so that a restart does not release
                it; made and removed by the server. None is a file of this user's own, by port
                and robot (none for port 0), or by path and robot; False remembers nothing.
            realtime_priority: Of the control thread, 1 to 99 (``SCHED_FIFO``; stay below 50),
                where the system allows it; None is an ordinary thread. Best effort.
            listeners: Transports to use in place of a WebSocket at host and port.

        Raises:
            ConfigurationError: If any of this makes no sense, or is not safe.
        """
        modes = modes_of(robot)
        self.mode = read_mode(mode) if mode is not None else modes[0]
        if Mode.REALTIME in modes:
            modes = (*modes, Mode.DELAYED)
        if self.mode not in modes:
            raise ConfigurationError(
                f"{type(robot).__name__} cannot be served in {self.mode.value}, only in "
                f"{', '.join(dict.fromkeys(modes))}"
            )
        if realtime_priority is not None and not 1 <= realtime_priority <= 99:
            raise ConfigurationError(
                f"realtime_priority must be 1 to 99, or None, not {realtime_priority}"
            )
        token = token.strip() if token is not None else None
        if token is not None and len(token) < _SHORTEST_TOKEN:
            raise ConfigurationError(
                f"the token has {len(token)} characters and needs {_SHORTEST_TOKEN}; make one with "
                "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
            )
        if listeners is not None and not listeners:
            raise ConfigurationError("listeners=[] would serve nobody; leave it out for WebSocket")
        is_remote = listeners is None and unix_path is None and not is_loopback(host)
        if is_remote and token is None:
            raise ConfigurationError(
                f"refusing to listen at {host} without a token: anyone on the network could move "
                "the robot. Pass token=... (--token-file), or keep 127.0.0.1 and use an SSH tunnel"
            )
        if getattr(robot, "_is_served", False):
            raise ConfigurationError(f"this {type(robot).__name__} is served already")
        self._robot = robot
        robot.mode = self.mode
        self._is_used = False
        # Held by start() to its end, so that a stop() beside it stops all that was started.
        self._starting = threading.RLock()
        self._host = host
        self._port = port
        self._unix_path = Path(unix_path).absolute() if unix_path is not None else None
        self._token = token
        self._allowed_hosts = tuple(allowed_hosts)
        self._allowed_origins = tuple(allowed_origins)
        self._given_listeners = listeners
        self._listeners: list[Listener] = []
        if latch_file is None and listeners is None:
            where = port if self._unix_path is None else self._unix_path
            latch_file = default_latch_file(where, name_of(robot))
        self._latch_file = Path(latch_file) if latch_file else None
        self._latch: Latch | None = None
        self._control = ControlLoop(
            robot, self.mode, sensor_timeout=sensor_timeout, realtime_priority=realtime_priority
        )
        self._session: RobotSession | None = None
        self._relays_logs = False

    @property
    def url(self) -> str:
        """Where clients connect; known once started."""
        if not self._listeners:
            raise ConfigurationError("the server has no address before it is started")
        return self._listeners[0].url

    @property
    def spec(self) -> RobotSpec:
        """What the robot is; known once started."""
        if self._session is None:
            raise ConfigurationError("the robot is not described before the server is started")
        return self._session.spec

    def statistics(self) -> dict[str, Value]:
        """Return how the robot is doing: the same as ``RobotClient.statistics``."""
        if self._session is None:
            raise ConfigurationError("there are no statistics before the server is started")
        return self._session.statistics()

    def start(self) -> None:
        """Open the robot and listen; returns when clients can connect. Once only.

        Signals are left to the program: see the class.

        Raises:
            ConfigurationError: If the robot's declarations make no sense or the address
                cannot be used.
            RobotFaultError: If ``stop`` was called meanwhile, or before.
            Exception: Whatever the robot's ``open`` raised.
        """
        if self._is_used:
            raise ConfigurationError("a server starts once; make a new one, with a new robot")
        self._is_used = True
        self._robot._is_served = True
        # A program that ends without stop() must not leave the robot moving.
        atexit.register(self.stop)
        with self._starting:
            self._relays_logs = True
            relay_logs()
            try:
                self._start()
            except BaseException:
                self.stop()
                raise

    def _start(self) -> None:
        self._latch = Latch(self._latch_file)  # first: a stop that cannot be read serves nobody
        self._control.start()
        spec = self._control.spec
        action = SpaceCodec(spec.action_space, root="action").layout
        # Twice: float64 where float32 was agreed. And as much again for reset options.
        frame_size = 2 * (_HEADER_SIZE + 2 * action.nbytes)
        self._session = RobotSession(
            self._control,
            limits=Limits(frame_size, _HEADER_SIZE),
            token=self._token,
            version=f"remote-env-server {__version__}",
            latch=self._latch,
        )
        self._listeners = list(self._given_listeners or [self._websocket(spec, frame_size)])
        for listener in self._listeners:
            listener.start(self._session.accept)
        logger.debug("%s served at %s in %s", spec.name, self.url, spec.mode.value)

    def _websocket(self, spec: RobotSpec, frame_size: int) -> Listener:
        return websocket_listener(
            self._host,
            self._port,
            unix_path=str(self._unix_path) if self._unix_path is not None else None,
            max_frame_size=frame_size,
            max_reply_size=sum(stream.array.nbytes for stream in spec.streams),
            allowed_hosts=self._allowed_hosts,
            allowed_origins=self._allowed_origins,
        )

    def stop(self) -> None:
        """Hold and close the robot, tell the clients, and stop. Idempotent.

        Blocks for as long as the robot's code does, up to 5 s, and up to 10 s more for a
        ``start`` beside it. Then it gives up: the robot is held and closed as soon as its code
        returns, if this process still lives.
        """
        try:
            self._control.ask_to_stop()  # first: the robot waits for nobody
            if not self._starting.acquire(timeout=_STARTING_TIMEOUT):
                logger.error("start() still blocks %.0f s after the stop", _STARTING_TIMEOUT)
                return
            try:
                self._stop()
            finally:
                self._starting.release()
        finally:  # also if a signal cut that short: the end of the program does not wait again
            atexit.unregister(self.stop)

    def _stop(self) -> None:
        try:
            if self._session is not None:
                self._session.say_goodbye("the robot server stopped")
            for listener in self._listeners:
                listener.stop()
            self._control.stop(_CODE_TIMEOUT)
        except BaseException as error:
            is_second_signal = isinstance(error, KeyboardInterrupt)
            self._control.stop(_LAST_CHANCE if is_second_signal else _CODE_TIMEOUT)
            raise
        finally:
            if self._session is not None:
                self._session.stop()
            if self._latch is not None:
                self._latch.close()
            self._robot._is_served = self._control.is_alive
            self._stop_relaying_logs()

    def _stop_relaying_logs(self) -> None:
        if not self._relays_logs or self._control.is_alive:
            wait_for_logs()  # robot's code that returns late must not wait for a log either
            return
        self._relays_logs = False
        stop_relaying_logs()

    def run(self) -> None:
        """Serve until SIGINT, SIGTERM, or the terminal is closed; says on standard output where.

        A second signal waits for the robot's code for half a second and no longer.

        Raises:
            ConfigurationError: Outside the main thread; use ``start`` and ``stop`` there.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ConfigurationError("run() needs the main thread; use start() and stop()")
        # A handler that raises interrupts whatever we wait for. One that sets an Event may
        # find its lock taken by the very wait that it interrupts.
        numbers = [signal.SIGINT, signal.SIGTERM]
        if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            numbers.append(signal.SIGHUP)  # an ssh that was lost; nohup wants it ignored
        before = {number: signal.signal(number, _interrupt) for number in numbers}
        try:
            with contextlib.suppress(KeyboardInterrupt), self:
                where = f"{self.spec.name} at {self.url} ({self.mode.value})"
                print(f"{where}; Ctrl-C stops", flush=True)
                while True:
                    time.sleep(3600)
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    async def serve(self) -> None:
        """Serve until cancelled. Frames travel on threads of our own, not on this loop.

        In the main thread SIGTERM and SIGHUP cancel it too, unless the program has handlers of
        its own: a process that they end holds no robot.
        """
        with _cancelled_by_signals():
            try:
                await asyncio.to_thread(self.start)
                await asyncio.get_running_loop().create_future()
            finally:
                self._control.ask_to_stop()  # whoever occupies the threads of the loop
                await asyncio.to_thread(self.stop)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        exception_type: type[BaseException] | None,
        exception: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


@contextlib.contextmanager
def _cancelled_by_signals() -> Iterator[None]:
    """Cancel this task at a signal that would end the process at once."""
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    numbers: list[signal.Signals] = []
    if task is not None and threading.current_thread() is threading.main_thread():
        numbers = [n for n in _ENDING if signal.getsignal(n) is signal.SIG_DFL]
        for number in numbers:
            loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
