"""The examples run, as a reader would run them."""

import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_every_example_is_short_enough_to_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > 60} == {}


def test_the_first_step_runs():
    script = [sys.executable, "-W", "error", str(EXAMPLES / "first_step.py"), "--smoke"]
    shown = subprocess.run(script, capture_output=True, text=True, check=True, timeout=60)
    assert "episode over" in shown.stdout


def test_the_example_of_a_camera_has_noise_as_a_real_one():
    description = importlib.util.spec_from_file_location("fake_sdk", EXAMPLES / "fake_sdk.py")
    fake_sdk = importlib.util.module_from_spec(description)
    description.loader.exec_module(fake_sdk)
    camera = fake_sdk.CameraSdk()
    (image, depth), (next_image, next_depth) = camera.read(), camera.read()
    assert (image != next_image).any()
    assert (depth != next_depth).any()
    assert (image.dtype, depth.dtype) == (np.uint8, np.float32)


@pytest.mark.realtime
def test_a_robot_of_ones_own_is_served_in_real_time(connect):
    script = [sys.executable, "-u", str(EXAMPLES / "my_robot.py"), "--smoke"]
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        url = re.search(r"ws://\S+:\d+", process.stdout.readline())[0]
        env = connect(url)
        observation, info = env.reset()
        assert observation["wrist_cam/image"].shape == (120, 160, 3)
        for _ in range(10):
            observation, *_, info = env.step(np.ones(6, np.float32))
        assert info["remote"]["ages"]["wrist_cam/image"] < 1.0
        assert observation["joint_pos"][0] > 0
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=10) == 0
