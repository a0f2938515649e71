"""How a server ends: at a signal, at a second one, and while its robot is still opened."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
from beside import wait_for
from sample_robots import Counter
from watching import threads

from remote_env import errors
from remote_env.transport.inprocess import InProcessListener
from remote_env_server import RobotServer, app

PREAMBLE = """
import asyncio, signal, sys, threading, time
from sample_robots import Counter
from remote_env_server import RobotServer, app

class Talking(Counter):
    def open(self):
        print("opens", flush=True)
        time.sleep(OPEN_FOR)
    is_first = True  # at the start
    def hold(self):
        if self.is_first:
            self.is_first = False
            return
        print("holds", flush=True)
        time.sleep(HOLD_FOR)
        print("held", flush=True)

OPEN_FOR = HOLD_FOR = 0
server = RobotServer(Talking(), port=0, mode="realtime")

async def tell_when_ready():
    while True:
        await asyncio.sleep(0.01)
        try:
            print(server.url, flush=True)
            return
        except Exception:
            pass
"""
SERVE = """
async def main():
    telling = asyncio.create_task(tell_when_ready())
    try:
        await server.serve()
    finally:
        telling.cancel()
        print(signal.getsignal(signal.SIGTERM) is BEFORE, flush=True)

BEFORE = signal.getsignal(signal.SIGTERM)
try:
    asyncio.run(main())
except asyncio.CancelledError:
    print("cancelled", flush=True)
"""


@pytest.fixture
def program():
    """Run a program that serves, in a process of its own."""
    processes = []

    def run(text):
        process = subprocess.Popen(
            [sys.executable, "-c", PREAMBLE + text],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        process.kill()
        process.communicate()


def read_until(process, pattern):
    while line := process.stdout.readline():
        if re.search(pattern, line):
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_serve_and_the_robot_holds(program, number):
    process = program(SERVE)
    read_until(process, "ws://")
    process.send_signal(number)
    said, _ = process.communicate(timeout=20)
    assert said.split() == ["holds", "held", "True", "cancelled"]
    assert process.returncode == 0


def test_serve_leaves_a_handler_of_the_programs_own_alone(program):
    own = "signal.signal(signal.SIGTERM, lambda *_: print('mine', flush=True))\n"
    process = program(own + SERVE)
    read_until(process, "ws://")
    process.send_signal(signal.SIGTERM)
    read_until(process, "mine")
    process.send_signal(signal.SIGINT)
    assert "holds" in process.communicate(timeout=20)[0]


def test_serve_works_outside_the_main_thread():
    server = RobotServer(Counter(), port=0)

    async def serve():
        serving = asyncio.create_task(server.serve())
        while server._session is None:
            await asyncio.sleep(0.01)
        serving.cancel()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    thread.join(10)
    assert not thread.is_alive()
    assert server._robot.closed


def test_a_robot_whose_open_hangs_keeps_serve_from_nothing(program):
    process = program("OPEN_FOR, app._CODE_TIMEOUT = 1000, 0.3\n" + SERVE)
    read_until(process, "opens")
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=30)
    assert said.split() == ["True", "cancelled"]


def test_a_stop_beside_an_open_that_hangs_comes_back(monkeypatch):
    monkeypatch.setattr(app, "_CODE_TIMEOUT", 0.3)
    may_open = threading.Event()

    class Hanging(Counter):
        def open(self):
            may_open.wait(60)

    robot = Hanging()
    server = RobotServer(robot, port=0)
    raised = []

    def start():
        try:
            server.start()
        except errors.RemoteEnvError as error:
            raised.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    wait_for(lambda: threads("remote-env control"))
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    for thread in (starting, stopping):
        thread.join(30)
        assert not thread.is_alive()
    assert "stopped" in str(raised[0])
    may_open.set()
    wait_for(lambda: robot.closed)  # what was opened after all is closed


def test_a_server_that_was_stopped_before_it_was_started_opens_nothing():
    opened = []

    class Opening(Counter):
        def open(self):
            opened.append(True)

    server = RobotServer(Opening(), port=0)
    server.stop()
    with pytest.raises(errors.RemoteEnvError, match="stopped"):
        server.start()
    assert not opened


def test_a_transport_that_cannot_stop_keeps_no_robot_from_being_closed():
    class Broken(InProcessListener):
        def stop(self):
            raise OSError("no such socket")

    class Slow(Counter):
        def close(self):
            time.sleep(0.3)
            super().close()

    robot = Slow()
    server = RobotServer(robot, listeners=[Broken("robot")])
    server.start()
    with pytest.raises(OSError, match="no such socket"):
        server.stop()
    assert robot.closed


RUN = """
def tell_when_only_the_robot_is_waited_for():
    while not server._control._stopping.is_set() or server._listeners[0]._thread is not None:
        time.sleep(0.01)
    time.sleep(0.1)
    print("waits", flush=True)

threading.Thread(target=tell_when_only_the_robot_is_waited_for, daemon=True).start()
server.run()
print("returned", flush=True)
"""


def test_a_second_signal_does_not_wait_for_the_robots_code(program):
    process = program("HOLD_FOR = app._CODE_TIMEOUT = 1000\n" + RUN)
    interrupt_twice(process)
    said, _ = process.communicate(timeout=15)
    assert said.split() == ["returned"]


def test_a_ctrl_c_that_is_pressed_twice_does_not_cut_a_hold_short(program):
    process = program("HOLD_FOR, app._LAST_CHANCE = 1.0, 20.0\n" + RUN)
    interrupt_twice(process)
    said, _ = process.communicate(timeout=30)
    assert said.split() == ["held", "returned"]


def interrupt_twice(process):
    read_until(process, "ws://")
    process.send_signal(signal.SIGINT)
    read_until(process, "waits")
    process.send_signal(signal.SIGINT)
