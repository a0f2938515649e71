"""A camera that freezes, dies, hangs or falls silent, or whose clock stops, is reported in time.

The robot is ours, so what is true is known: when each picture was published, and which one an
observation shows. An observation is silently stale if it shows a picture older than ``max_age``
and nothing says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

import remote_env
from benchmarks.reliability_rig import Line, Scale, milliseconds, say
from remote_env_server import CameraConfig, Robot, RobotServer
from remote_env_server.testing import Faults, inject

HZ: Final = 50.0
CAMERA_HZ: Final = 60.0
MAX_AGE: Final = 0.15
KINDS: Final = ("freeze", "throw", "hang", "silence", "stop_clock")
POLICIES: Final = ("flag", "truncate", "raise")
HEALTHY: Final = 8  # steps before each fault
LATE: Final = 0.005  # what a control period may be late by itself; the part "ticks" measures it


class Cinema(Robot):
    """One camera; each picture has a number in its first pixels."""

    action_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
    control_hz = HZ

    def __init__(self) -> None:
        """Begin with the first picture."""
        self.published: dict[int, float] = {}
        self._number = 0
        super().__init__()

    def camera_configs(self) -> list[CameraConfig]:
        """Declare the camera."""
        return [CameraConfig("cam", 8, 8, hz=CAMERA_HZ, max_age=MAX_AGE)]

    def open(self) -> None:
        """Start the camera."""
        self.start_sensor("cam", self.read_camera, hz=CAMERA_HZ)

    def read_camera(self) -> None:
        """Publish the next picture, and remember when."""
        self._number += 1
        self.update_camera("cam", image=picture(self._number))
        self.published[self._number] = time.monotonic()

    def reset(self) -> None:  # type: ignore[override]
        """Be ready."""

    def apply_action(self, action: Any) -> None:
        """Do nothing."""

    def hold(self) -> None:
        """Do nothing."""


def picture(number: int) -> NDArray[np.uint8]:
    """Return the picture with a number."""
    image = np.zeros((8, 8, 3), np.uint8)
    image[0, :2] = np.array([number], "<i8").view(np.uint8)[:6].reshape(2, 3)
    return image


def number_of(image: NDArray[np.uint8]) -> int:
    """Return the number in a picture."""
    raw = np.zeros(8, np.uint8)
    raw[:6] = image[0, :2].reshape(6)
    return int(raw.view("<i8")[0])


class Case:
    """One kind of fault under one policy, again and again.

    Attributes:
        taken: From the fault to the observation that was reported, in seconds.
        missed: How often nothing was reported.
        alarms: How often a camera was reported that we had not touched.
        silent: Observations that were stale without a word.
        steps: How many observations were looked at.
    """

    def __init__(self, robot: Cinema, faults: Faults, env: remote_env.RemoteRobotEnv) -> None:
        self.taken: list[float] = []
        self.missed = 0
        self.alarms = 0
        self.silent = 0
        self.steps = 0
        self._robot, self._faults, self._env = robot, faults, env

    def repeat(self, kind: str, rng: np.random.Generator) -> None:
        """Reset, step a little, let the camera fail, and step until that is reported."""
        self._env.reset()
        for _ in range(HEALTHY):
            if self._step() is not None:
                raise RuntimeError("a healthy camera was reported")
        time.sleep(rng.uniform(0, 1 / CAMERA_HZ))
        failed_at = time.monotonic()
        self._fail(kind)
        while time.monotonic() - failed_at < MAX_AGE + 1.0:
            reported_at = self._step()
            if reported_at is not None:
                self.taken.append(reported_at - failed_at)
                break
        else:
            self.missed += 1
        self._faults.heal("cam")

    def _fail(self, kind: str) -> None:
        if kind == "throw":
            self._faults.throw("cam", OSError("the camera was pulled"))
        else:
            getattr(self._faults, kind)("cam")

    def _step(self) -> float | None:
        """Step; return when the robot judged the observation, if it was reported as stale."""
        try:
            observation, *_, truncated, info = self._env.step(np.zeros(2, np.float32))
        except remote_env.SensorError:
            return self._faults.calls("get_obs")[-1]
        self.steps += 1
        remote = info["remote"]
        if "cam/image" in remote.get("stale", {}) or truncated:
            assert not truncated or remote["end_reason"] == "stale_sensor", remote
            return float(remote["time"])
        age = remote["time"] - self._robot.published[number_of(observation["cam/image"])]
        self.silent += age > MAX_AGE
        return None


def play(policy: str, count: int, seed: int) -> dict[str, Case]:
    """Play every kind of fault under one policy."""
    rng = np.random.default_rng(seed)
    robot = Cinema()
    cases = {}
    with inject(robot) as faults, RobotServer(robot, port=0) as server:
        env = remote_env.RemoteRobotEnv(server.url, on_stale=policy)
        try:
            for kind in KINDS:
                cases[kind] = Case(robot, faults, env)
                for _ in range(count):
                    cases[kind].repeat(kind, rng)
        finally:
            env.close()
    return cases


def sensors(scale: Scale) -> Iterator[Line]:
    """Play all policies."""
    allowed = MAX_AGE + 1 / HZ + LATE
    found = {policy: play(policy, scale.pick(2, 15), scale.seed) for policy in POLICIES}
    for policy, cases in found.items():
        for kind, case in cases.items():
            say(f"{policy}, {kind}: after {milliseconds(case.taken)}; {case.missed} missed")
    every = [case for cases in found.values() for case in cases.values()]
    taken = [seconds for case in every for seconds in case.taken]
    missed = sum(case.missed for case in every)
    alarms = sum(case.alarms for case in every)
    late = sum(seconds > allowed for seconds in taken)
    yield Line(
        f"a camera that fails is reported within max_age + one period "
        f"({MAX_AGE * 1e3:.0f} + {1e3 / HZ:.0f} ms, and {LATE * 1e3:.0f} by which that may be "
        f"late); {', '.join(KINDS)}; {', '.join(POLICIES)}",
        f"{milliseconds(taken)} after the fault in {len(taken)} cases, {late} later, "
        f"{missed} missed, {alarms} reported that were not touched",
        not late and not missed,
    )
    silent, steps = sum(case.silent for case in every), sum(case.steps for case in every)
    yield Line(
        "no stale observation without a word",
        f"{silent} of {steps} observations",
        silent == 0,
    )
