"""The examples run, as a reader would run them."""

import ast
import importlib.util
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from remote_env_agents import ServedRobots

EXAMPLES = Path(__file__).parents[1] / "examples"
LINES = {"plain_ppo.py": 75}  # a whole algorithm; the others use one


def test_every_example_is_short_enough_to_read():
    lengths = {path.name: len(path.read_text().splitlines()) for path in EXAMPLES.glob("*.py")}
    assert lengths
    assert {name: n for name, n in lengths.items() if n > LINES.get(name, 60)} == {}


def run(name, *options, folder):
    """Run an example as a reader would; warnings are errors. Returns what it printed."""
    script = [sys.executable, "-W", "error", str(EXAMPLES / name), *options]
    shown = subprocess.run(script, capture_output=True, text=True, timeout=100, cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "Exception ignored" not in shown.stderr
    return shown.stdout


def test_every_example_has_a_line_in_the_readme():
    readme = (EXAMPLES / "README.md").read_text()
    programs = {path.name for path in EXAMPLES.glob("*.py")} - {"fake_sdk.py"}
    assert set(re.findall(r"\]\((\w+\.py)\)", readme)) == programs


def test_the_first_step_runs(tmp_path):
    assert "the episode ended" in run("first_step.py", "--smoke", folder=tmp_path)


def test_the_first_step_is_that_of_the_readme():
    readme = (EXAMPLES.parent / "README.md").read_text()
    block = re.search(r"```python\n(.*?)```", readme, re.DOTALL)[1]
    statements = ast.parse((EXAMPLES / "first_step.py").read_text()).body[1:]
    assert ast.dump(ast.Module(statements, [])) == ast.dump(ast.parse(block))


def test_ppo_trains_on_arms_through_the_wire(tmp_path):
    pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")
    pytest.importorskip("mujoco", reason="needs the extra [sim]")
    shown = run("train_arm.py", "--smoke", folder=tmp_path)
    assert "all steps are done" in shown
    assert "ended by 4 time_limit" in shown
    assert (tmp_path / "runs" / "arm-ppo-1" / "policy.zip").is_file()


@pytest.mark.parametrize(
    ("name", "updates"), [("fetch_reach_dense_ppo.py", 10), ("fetch_reach_her.py", 99)]
)
def test_stable_baselines3_learns_through_the_wire_as_it_is(tmp_path, name, updates):
    pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")
    pytest.importorskip("gymnasium_robotics", reason="the environment is there")
    shown = run(name, "--smoke", folder=tmp_path)
    assert re.findall(r"n_updates +\| (\d+)", shown)[-1] == str(updates)
    assert "ended by 2 time_limit" in shown


def test_a_learner_of_gymnasium_and_torch_alone_learns_through_the_wire(tmp_path):
    pytest.importorskip("torch", reason="needs the extra [agents]")
    pytest.importorskip("mujoco", reason="needs the extra [sim]")
    shown = run("plain_ppo.py", "--smoke", folder=tmp_path)
    assert [line.split(",")[0] for line in shown.splitlines()] == ["4 episodes", "8 episodes"]


def test_robots_that_somebody_else_serves_are_used(tmp_path):
    pytest.importorskip("mujoco", reason="needs the extra [sim]")
    with ServedRobots("arm", count=2, options=("--cameras", "none")) as urls:
        shown = run("evaluate_robots.py", "--smoke", *urls, folder=tmp_path)
    assert all(url.removeprefix("ws://") in shown for url in urls)
    assert "24 episodes count, of 24 different seeds" in shown


@pytest.mark.parametrize(
    "path",
    [path for path in EXAMPLES.glob("*.py") if "tyro" in path.read_text()],
    ids=lambda path: path.name,
)
def test_urls_are_written_without_the_name_of_an_option(path):
    functions = {n.name: n for n in ast.parse(path.read_text()).body if hasattr(n, "name")}
    assert [argument.arg for argument in functions["main"].args.posonlyargs] == ["urls"]


def test_every_seed_counts_once_although_a_robot_is_lost(tmp_path):
    pytest.importorskip("mujoco", reason="needs the extra [sim]")
    shown = run("evaluate_robots.py", "--smoke", "--kill-one", folder=tmp_path)
    assert "24 episodes count, of 24 different seeds" in shown
    of_each = [int(count) for count in re.findall(r"^127\.0\.0\.1:\d+ +(\d+) ", shown, re.M)]
    assert sum(of_each) == 24
    assert of_each[0] < of_each[1]


def test_a_robot_that_another_program_commands_is_watched(tmp_path):
    pytest.importorskip("matplotlib", reason="needs the extra [agents]")
    pytest.importorskip("mujoco", reason="needs the extra [sim]")
    from matplotlib.image import imread

    from remote_env_server.robots import headless

    way, why_not = headless.find()
    if not way:
        pytest.skip(why_not)
    assert "episode 1" in run("watch_robot.py", "--smoke", folder=tmp_path)
    picture = imread(tmp_path / "watched" / "000000.png")
    assert picture.shape == (240, 320, 4)
    assert picture[..., :3].std() > 0.05


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
def test_a_robot_of_ones_own_moves(tmp_path):
    shown = run("my_robot.py", "--smoke", folder=tmp_path)
    assert shown == "[0. 0. 0. 0. 0. 0.] [0.05 0.05 0.05 0.05 0.05 0.05]\n"


@pytest.mark.realtime
def test_a_robot_of_ones_own_is_served_in_real_time(connect):
    robot = f"{EXAMPLES / 'my_robot.py'}:MyRobot"
    script = [sys.executable, "-u", "-m", "remote_env", "serve", robot, "--port", "0"]
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
