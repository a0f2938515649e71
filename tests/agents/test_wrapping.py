"""A policy acts with the wrappers that it was trained with, and nobody has to say so twice."""

import json
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import numpy as np
import tyro
from reaching import Reach
from seeing import Looking, Seeing

from remote_env import ConfigurationError
from remote_env.cli import main
from remote_env_agents import (
    Hyperparameters,
    TrainConfig,
    Wrapping,
    evaluate,
    load_policy,
    note_wrappers,
    record_episodes,
    train,
)
from remote_env_agents.config_files import read_config
from remote_env_agents.policies import load_model
from remote_env_agents.robots import look_at, make_vec_env
from remote_env_agents.wrapping import noted_wrappers, prepare
from remote_env_server import CameraConfig

URL = "ws://127.0.0.1:8765"
TINY = Hyperparameters(net_arch=(8,), batch_size=32)
RECIPE = [
    ["ActionHistory", {"steps": 2}],
    ["DepthAsImage", {"near": 0.2, "far": 2.0, "inverse": True, "streams": ["cam/depth"]}],
    ["FrameStack", {"count": 3, "streams": ["cam/image", "cam/depth"]}],
]
SEED = 1_000_000


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def actions_in_training(model, url, robot):
    """Return what the robot executed in one episode of the model's own training environment."""
    vec_env = prepare(make_vec_env([url]), noted_wrappers(model).recipe)
    vec_env.seed(SEED)
    observation, dones = vec_env.reset(), [False]
    del robot.actions[:]
    low, high = robot.action_space.low, robot.action_space.high
    while not dones[0]:
        action, _ = model.predict(observation, deterministic=True)
        if model.action_space.high[0] == 1.0:  # ppo saw them scaled
            action = low + (np.clip(action, -1, 1).astype(np.float64) + 1) * 0.5 * (high - low)
        observation, _, dones, _ = vec_env.step(action.astype(np.float32))
    vec_env.close()
    return list(robot.actions)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_what_was_trained_with_wrappers_acts_as_in_its_training(serve, algo, capsys):
    robot = Looking()
    url = serve(robot, mode="lockstep").url
    options = ["--algo", algo, "--net-arch", "8", "--batch-size", "16"]
    options += ["--action-history", "auto", "--depth-as-image", "--depth-near", "0.2"]
    options += ["--depth-inverse", "--frame-stack", "3", "--folder", "run"]
    options += ["--steps", "32"] if algo == "ppo" else ["--steps", "104"]
    assert main(["train", url, *options]) == 0
    written = tomllib.loads(Path("run/config.toml").read_text())
    assert written["wrapping"]["action_history"] == "auto"
    assert written["wrapping"]["frame_stack"] == 3
    assert read_config(Path("run/config.toml"), TrainConfig)["wrapping"].frame_stack == 3
    with zipfile.ZipFile("run/policy.zip") as archive:
        noted = json.loads(archive.read("data"))["remote_env_wrappers"]
    assert noted == {"streams": None, "recipe": RECIPE}  # plain data: no code has to run

    model = load_model("run/policy.zip")
    shapes = {name: part.shape for name, part in model.observation_space.items()}
    assert shapes == {
        "joint_pos": (2,),
        "cam/image": (9, 36, 40),
        "cam/depth": (3, 36, 40),
        "action_history": (4,),
    }
    expected = actions_in_training(model, url, robot)
    assert len(expected) >= 2
    del robot.actions[:]
    assert main(["eval", url, "--policy", "run/policy.zip", "--episodes", "1"]) == 0
    assert np.array_equal(robot.actions, expected)
    del robot.actions[:]
    evaluate(model, [url], episodes=2)  # the second one begins with a memory of its own
    assert np.array_equal(robot.actions[: len(expected)], expected)
    second = robot.actions[len(expected) :]
    del robot.actions[:]
    evaluate("run/policy.zip", [url], episodes=1, seed=SEED + 1)
    assert np.array_equal(robot.actions, second)


def test_such_a_policy_can_be_filmed_and_acts_on_film_as_it_does(serve, tmp_path):
    pytest.importorskip("av", reason="needs the extra [video]")
    robot = Looking()
    url = serve(robot, mode="lockstep").url
    wrapping = Wrapping(action_history=2, frame_stack=2)
    config = TrainConfig((url,), steps=32, streams=("joint_pos", "cam/image"), wrapping=wrapping)
    policy = train(replace(config, hyperparameters=TINY)).policy
    del robot.actions[:]
    evaluate(policy, [url], episodes=1)
    expected = list(robot.actions)
    del robot.actions[:]
    record_episodes(tmp_path / "film.mp4", policy, url, seeds=[SEED])
    assert np.array_equal(robot.actions, expected)


def test_a_policy_without_wrappers_says_nothing_of_them(serve):
    url = serve(Reach()).url
    result = train(TrainConfig((url,), steps=32, hyperparameters=TINY))
    with zipfile.ZipFile(result.policy) as archive:
        assert "remote_env_wrappers" not in json.loads(archive.read("data"))
    policy = load_policy(result.policy, look_at([url]))
    env = object()
    assert policy.wrap(env) is env


def test_a_run_goes_on_with_the_wrappers_that_it_began_with(serve):
    url = serve(Reach()).url
    first = train(
        TrainConfig((url,), steps=32, hyperparameters=TINY, wrapping=Wrapping(action_history=1))
    )
    again = {"urls": (url,), "steps": 32, "resume": first.policy}
    result = train(TrainConfig(**again, wrapping=Wrapping(action_history=1)))
    assert noted_wrappers(load_model(result.policy)).recipe == [["ActionHistory", {"steps": 1}]]
    with pytest.raises(ConfigurationError, match="does not fit this robot"):
        train(TrainConfig(**again))
    model = load_model(first.policy)
    with pytest.raises(ConfigurationError, match="goes on with the same"):
        note_wrappers(model, [("ActionHistory", {"steps": 2})])


class Blind(Seeing):
    """The same without depth."""

    def camera_configs(self):
        return [CameraConfig("cam", *self.size, may_repeat=True)]

    def update_camera(self, name, *, image, depth):
        super().update_camera(name, image=image)


def test_a_robot_of_another_kind_is_refused(serve):
    url = serve(Looking(), mode="lockstep").url
    wrapping = Wrapping(action_history=2)
    config = TrainConfig((url,), steps=32, streams=("joint_pos",), wrapping=wrapping)
    policy = train(replace(config, hyperparameters=TINY)).policy
    other = look_at([serve(Reach()).url])
    with pytest.raises(ConfigurationError, match="no stream 'joint_pos'"):
        load_policy(policy, other)
    model = load_model(policy)
    model.observation_space["action_history"] = model.observation_space["joint_pos"]
    with pytest.raises(ConfigurationError, match="what its wrappers make of Looking"):
        evaluate(model, [url])


@pytest.mark.parametrize(
    ("robot", "wrapping", "message"),
    [
        (Blind, {"depth_as_image": True}, "none of .* is declared as depth"),
        (Looking, {"depth_as_image": True, "frame_stack": 12}, "40 with 36 channels"),
        (Looking, {"frame_stack": 12}, "fewer than rows and columns"),
        (Seeing, {"frame_stack": 2}, "is a picture of 5x6"),
    ],
)
def test_what_cannot_be_learned_is_refused_before_anything_is_written(
    serve, tmp_path, robot, wrapping, message
):
    url = serve(robot(), mode="lockstep").url
    with pytest.raises(ConfigurationError, match=message):
        train(TrainConfig((url,), wrapping=Wrapping(**wrapping)))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_history": 0}, "1 or more, or auto, not 0"),
        ({"frame_stack": 0}, "1 or more, not 0"),
        ({"depth_near": 0.5}, "nothing without depth_as_image"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ConfigurationError, match=message):
        Wrapping(**options)


@pytest.mark.parametrize(("given", "steps"), [("auto", "auto"), ("3", 3)])
def test_the_command_line_takes_a_number_or_auto(given, steps):
    config = tyro.cli(TrainConfig, args=[URL, "--action-history", given])
    assert config.wrapping.recipe() == [("ActionHistory", {"steps": steps})]
    assert TrainConfig((URL,)).wrapping.recipe() == []
