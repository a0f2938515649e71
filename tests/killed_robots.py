"""Robots in processes of their own, that can be killed, stopped and started again."""

import contextlib
import multiprocessing
import os
import signal
import time

import numpy as np
from sample_robots import Counter

from remote_env_server import RobotServer

ONES = np.ones((3, 2), np.float32)


def step_until(env, condition, actions=ONES, timeout=20.0):
    """Step until something is so; return all that was told."""
    told = []
    deadline = time.monotonic() + timeout
    while not told or not condition(told[-1]):
        assert time.monotonic() < deadline, "it did not happen in time"
        told.append(env.step(actions))
    return told


def serve_counter(pipe, port):
    """Serve a counter until the pipe is closed."""
    with RobotServer(Counter(), port=port) as server:
        pipe.send(server.url)
        with contextlib.suppress(EOFError):
            pipe.recv()


class Served:
    """A counter in a process of its own, that can be killed, stopped and started again."""

    def __init__(self):
        self.url, self._port = "", 0
        self.start()

    def start(self):
        here, there = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=serve_counter, args=(there, self._port))
        self.process.start()
        there.close()
        assert here.poll(30)
        self.url, self._pipe = here.recv(), here
        self._port = int(self.url.rsplit(":", 1)[1])

    def send(self, number):
        os.kill(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.join(10)
        if number == signal.SIGSTOP:
            os.waitpid(self.process.pid, os.WUNTRACED)  # until then it may answer

    def end(self):
        if self.process.is_alive():
            self.send(signal.SIGCONT)
            self._pipe.close()
            self.process.join(10)
            self.process.kill()
