"""Training writes what it says, and what it writes can be used."""

import _thread
import io
import json
import threading
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import gymnasium
import numpy as np
from reaching import Reach, Silent, Strong, Switch
from rich.console import Console
from stable_baselines3.common.vec_env import DummyVecEnv
from trained import TINY, rows_of, scalars_in, weights_of

from remote_env import ConfigurationError, TooFewRobotsError
from remote_env.cli import main
from remote_env_agents import TrainConfig, evaluate, load_policy, train
from remote_env_agents.buffers import RobotDictReplayBuffer, RobotHerReplayBuffer
from remote_env_agents.presets import make_model, resolve
from remote_env_agents.robots import look_at
from remote_env_agents.rollouts import RobotDictRolloutBuffer
from remote_env_agents.watcher import Watcher
from remote_env_server import CameraConfig, Outcome, ProprioConfig, RobotServer


@pytest.fixture(autouse=True)
def in_an_empty_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


def test_training_writes_what_it_says_and_its_policy_evaluates(serve, tmp_path, capsys):
    urls = tuple(serve(Reach()).url for _ in range(2))
    options = ["--steps", "1100", "--eval-every", "1024", "--eval-episodes", "5"]
    options += ["--checkpoint-every", "500", "--net-arch", "16", "--seed", "3"]
    assert main(["train", *urls, *options]) == 0
    folder = tmp_path / "runs" / "Reach-ppo-1"
    shown = capsys.readouterr()
    command = f"remote-env eval {' '.join(urls)} --policy runs/Reach-ppo-1/policy.zip"
    assert f"evaluate it: {command}" in shown.out
    assert "2 robots in lockstep, ppo; everything goes to runs/Reach-ppo-1" in shown.err
    checkpoints = sorted(path.name for path in (folder / "checkpoints").iterdir())
    assert checkpoints == [
        *(
            f"step-{step:09d}.{kind}"
            for step, kind in [(1024, "zip"), (2048, "state"), (2048, "zip")]
        )
    ]
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    scalars = scalars_in(folder / "tensorboard")
    assert {"rollout/ep_rew_mean", "rollout/success_rate", "train/value_loss"} <= scalars.keys()
    assert scalars["evaluation/success_rate"] == [1024, 2048]
    assert scalars["train/value_loss"][-1] == 2048
    rows = rows_of(folder)
    assert [row["step"] for row in rows if row["evaluation_success_rate"]] == ["1024", "2048"]
    assert int(rows[-1]["episodes"]) > 180
    assert 0 <= float(rows[-1]["success_rate"]) <= 1
    assert float(rows[-1]["episode_return"]) < 0
    written = tomllib.loads((folder / "config.toml").read_text())
    assert written["urls"] == list(urls)
    assert written["hyperparameters"]["net_arch"] == [16]
    assert written["hyperparameters"]["rollout"] == 1024
    assert written["run"]["robot"].endswith("Reach")

    left = tmp_path / "evaluation"
    options = ["--policy", str(folder / "policy.zip"), "--episodes", "12"]
    options += ["--folder", str(left)]
    assert main(["eval", *urls, *options]) == 0
    assert "success [95 %]" in capsys.readouterr().out
    lines = (left / "episodes.jsonl").read_text().splitlines()
    episodes = [json.loads(line)["episode"] for line in lines if line.startswith('{"episode"')]
    assert sorted(episode["seed"] for episode in episodes) == list(range(10**6, 10**6 + 12))


def test_training_twice_with_one_seed_learns_the_same(serve):
    urls = tuple(serve(Reach()).url for _ in range(2))
    config = {"urls": urls, "steps": 256, "hyperparameters": TINY, "seed": 5}
    evaluated = {"eval_every": 128, "eval_episodes": 3}
    first = train(TrainConfig(**config, **evaluated))
    second = train(TrainConfig(**config, **evaluated))
    other = train(TrainConfig(**{**config, "seed": 6}))
    assert first.folder != second.folder
    assert weights_of(first.policy) == weights_of(second.policy)
    assert weights_of(first.policy) != weights_of(other.policy)


def test_evaluations_have_their_own_seeds_and_training_never_has_them(serve):
    robot = Reach()
    config = TrainConfig((serve(robot).url,), algo="sac", steps=60, seed=4, eval_every=30)
    train(replace(config, eval_episodes=3, hyperparameters=TINY))
    given = [seed for seed in robot.seeds if seed is not None]
    evaluated = [10**6, 10**6 + 1, 10**6 + 2]
    assert given == [4, *evaluated, 10**7 + 4 + 30, *evaluated]


@pytest.mark.parametrize("algo", ["sac", "td3", "tqc"])
def test_an_off_policy_algorithm_trains_and_evaluates(serve, algo):
    urls = [serve(Reach()).url for _ in range(2)]
    config = TrainConfig(
        tuple(urls), algo=algo, steps=150, hyperparameters=TINY, eval_every=100, eval_episodes=4
    )
    result = train(config)
    assert (result.steps, result.ended_by) == (150, "steps")
    assert len(result.evaluation.episodes) == 4
    policy = load_policy(result.policy, look_at(urls))
    assert len(evaluate(policy, urls, episodes=4).episodes) == 4


def test_pictures_and_numbers_are_learned_from_together(serve):
    class Large(Reach):
        def camera_configs(self):
            return [CameraConfig("top", 40, 36, may_repeat=True)]

        def _publish(self):
            self.update_proprio("achieved_goal", self._position)
            self.update_proprio("desired_goal", self._goal)
            self.update_proprio("goal_difference", self._goal - self._position)
            self.update_camera("top", image=np.full((40, 36, 3), 9, np.uint8))

    url = serve(Large()).url
    streams = ("top/image", "goal_difference")
    config = TrainConfig((url,), steps=64, streams=streams, hyperparameters=TINY)
    policy = load_policy(train(config).policy, look_at([url]))
    assert policy.streams == streams
    assert len(evaluate(policy, [url], episodes=2).episodes) == 2


def test_discrete_actions_are_learned_by_ppo_and_refused_by_the_others(serve, tmp_path):
    url = serve(Switch()).url
    result = train(TrainConfig((url,), steps=64, hyperparameters=TINY))
    policy = load_policy(result.policy, look_at([url]))
    assert len(evaluate(policy, [url], episodes=2).episodes) == 2
    with pytest.raises(ConfigurationError, match=r"sac needs continuous actions.*Discrete\(2\)"):
        train(TrainConfig((url,), algo="sac", folder=tmp_path / "none"))
    assert not (tmp_path / "none").exists()


def test_a_device_that_is_not_there_is_refused_and_the_cpu_is_not_taken_in_its_place(serve):
    url = serve(Reach()).url
    with pytest.raises(ConfigurationError, match="no device 'cuda:99'.* give --device cpu"):
        train(TrainConfig((url,), steps=64, hyperparameters=TINY, device="cuda:99"))
    assert not Path("runs").exists()
    policy = train(TrainConfig((url,), steps=64, hyperparameters=TINY, device="auto")).policy
    with pytest.raises(ConfigurationError, match="no device 'nope'"):
        load_policy(policy, look_at([url]), device="nope")


def test_a_policy_file_may_be_given_by_its_path(serve):
    url = serve(Reach()).url
    result = train(TrainConfig((url,), steps=64, hyperparameters=TINY))
    loaded = load_policy(result.policy, look_at([url]))
    by_path = evaluate(str(result.policy), [url], episodes=2)
    assert by_path.mean_return == evaluate(loaded, [url], episodes=2).mean_return


def test_ppo_acts_within_the_robots_own_bounds(serve):
    robot = Strong()
    url = serve(robot).url
    largest = []
    robot.apply_action = lambda action, own=robot.apply_action: (
        largest.append(abs(action).max()),
        own(action),
    )
    result = train(TrainConfig((url,), steps=64, hyperparameters=TINY))
    assert max(largest) == 5.0
    evaluate(load_policy(result.policy, look_at([url])), [url], episodes=2)


def test_it_stops_when_the_success_rate_is_reached(serve):
    class Easy(Reach):
        max_episode_steps = 2

        def outcome(self, observation):
            return Outcome(reward=0.0, info={"is_success": True})

    url = serve(Easy()).url
    result = train(TrainConfig((url,), success_at=0.9, hyperparameters=TINY))
    assert (result.ended_by, result.steps, result.success_rate) == ("success", 200, 1.0)
    config = TrainConfig((url,), algo="sac", success_at=0.9, eval_every=10, eval_episodes=3)
    assert train(config).steps == 11


def test_success_at_needs_a_robot_that_speaks_of_success(serve):
    config = TrainConfig((serve(Silent()).url,), success_at=0.9, hyperparameters=TINY)
    with pytest.raises(ConfigurationError, match="success_at needs info"):
        train(config)


def test_ctrl_c_saves_what_there_is(serve, capsys):
    url = serve(Reach(steps_until=100, then=_thread.interrupt_main)).url
    assert main(["train", url, "--net-arch", "8"]) == 130
    shown = capsys.readouterr().out
    assert "interrupted" in shown
    assert "--policy runs/Reach-ppo-1/policy.zip" in shown
    policy = load_policy("runs/Reach-ppo-1/policy.zip", look_at([url]))
    assert len(evaluate(policy, [url], episodes=1).episodes) == 1


class Dying(Reach):
    """Fails once, and cannot be reset any more."""

    is_dead = False

    def reset(self, *, seed=None):
        if self.is_dead:
            raise OSError("smoke")
        super().reset(seed=seed)

    def die(self):
        self.is_dead = True
        raise OSError("smoke")


def test_too_few_robots_leave_what_was_learned(serve, tmp_path, monkeypatch):
    monkeypatch.setattr("remote_env_agents.robots.RECONNECT_TIMEOUT", 0.3)
    robot = Dying(steps_until=100)
    robot._then = robot.die
    folder = tmp_path / "run"
    config = TrainConfig((serve(robot).url,), folder=folder, hyperparameters=TINY)
    with pytest.raises(TooFewRobotsError, match=r"smoke.*until then is in .*policy\.zip"):
        train(config)
    load_policy(folder / "policy.zip", look_at([serve(Reach()).url]))


class Moody(Reach):
    """Fails now and then."""

    moves = 0

    def apply_action(self, action):
        self.moves += 1
        if self.moves % 45 == 44:
            raise OSError("the gearbox")
        super().apply_action(action)


@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_a_robot_that_fails_now_and_then_costs_its_own_steps_only(serve, monkeypatch, algo):
    monkeypatch.setattr("remote_env.fleet._RETRY", 0.0)
    robots = Reach(), Moody()
    urls = tuple(serve(robot).url for robot in robots)
    result = train(TrainConfig(urls, algo=algo, steps=256, hyperparameters=TINY))
    assert (result.steps, result.ended_by) == (256, "steps")
    assert result.spoiled_steps >= 4
    # Each began with a reset; those of the end are under way.
    assert result.episodes == sum(len(robot.seeds) for robot in robots) - 2


@pytest.mark.parametrize(
    ("algo", "her"),
    [("ppo", False), ("sac", False), ("sac", True), ("td3", False), ("tqc", True)],
)
def test_every_algorithm_has_buffers_that_leave_out_what_failed(serve, algo, her):
    space = gymnasium.spaces.Box(-1.0, 1.0, (2,))
    goals = ("achieved_goal", "desired_goal")
    env = DummyVecEnv([lambda: _Still(gymnasium.spaces.Dict(dict.fromkeys(goals, space)))])
    config = TrainConfig(("",), algo=algo, her=her)
    model = make_model(config, resolve(config, robots=1, longest=9, pictures=False), env)
    if algo == "ppo":
        assert isinstance(model.rollout_buffer, RobotDictRolloutBuffer)
    else:
        kind = RobotHerReplayBuffer if her else RobotDictReplayBuffer
        assert type(model.replay_buffer) is kind


class _Still(gymnasium.Env):
    """An environment to look at."""

    action_space = gymnasium.spaces.Box(-1.0, 1.0, (2,))

    def __init__(self, observation_space):
        self.observation_space = observation_space


def test_ppo_resumes_from_a_checkpoint(serve, tmp_path):
    url = serve(Reach()).url
    short = replace(TINY, rollout=64)
    first = train(TrainConfig((url,), steps=128, hyperparameters=short, checkpoint_every=64))
    checkpoint = first.folder / "checkpoints" / "step-000000064.zip"
    config = TrainConfig((url,), steps=256, resume=checkpoint)
    result = train(config)
    assert result.folder.name == "Reach-ppo-2"
    assert result.steps == 256
    assert int(rows_of(result.folder)[-1]["step"]) == 64 + 256


def test_what_the_last_updates_came_to_is_in_tensorboard(serve):
    config = TrainConfig((serve(Reach()).url,), algo="sac", steps=115, hyperparameters=TINY)
    assert scalars_in(train(config).folder / "tensorboard")["train/critic_loss"] == [115]


def test_a_policy_of_another_algorithm_is_not_resumed(serve):
    url = serve(Reach()).url
    first = train(TrainConfig((url,), algo="sac", steps=20, hyperparameters=TINY))
    with pytest.raises(ConfigurationError, match="is of sac, not of ppo; go on with --algo sac"):
        train(TrainConfig((url,), resume=first.policy))


def test_a_policy_for_another_robot_is_refused(serve):
    url = serve(Reach()).url
    result = train(TrainConfig((url,), steps=64, hyperparameters=TINY))

    class Blind(Reach):
        def proprio_configs(self):
            return super().proprio_configs()[1:]

    class Wide(Reach):
        def proprio_configs(self):
            return [*super().proprio_configs()[1:], ProprioConfig("achieved_goal", 3)]

    with pytest.raises(ConfigurationError, match="the stream 'achieved_goal', which Blind has not"):
        load_policy(result.policy, look_at([serve(Blind()).url]))
    with pytest.raises(ConfigurationError, match="'achieved_goal' as .* and Wide has it as"):
        load_policy(result.policy, look_at([serve(Wide()).url]))
    with pytest.raises(ConfigurationError, match="was trained for the actions"):
        load_policy(result.policy, look_at([serve(Switch()).url]))


def test_her_without_a_goal_reward_is_refused(serve):
    with pytest.raises(ConfigurationError, match="her needs a goal reward, and Reach declares"):
        train(TrainConfig((serve(Reach()).url,), algo="sac", her=True))


def test_a_folder_that_is_in_use_is_refused(serve, tmp_path):
    (tmp_path / "mine").write_text("")
    url = serve(Reach()).url
    with pytest.raises(ConfigurationError, match="is not empty; choose another"):
        train(TrainConfig((url,), folder=tmp_path, hyperparameters=TINY))


def test_without_a_terminal_a_line_is_printed_now_and_then(serve, monkeypatch, tmp_path):
    monkeypatch.setattr("remote_env_agents.display._LINE_EVERY", 0.0)
    with (tmp_path / "log").open("w") as log:
        console = Console(file=log, width=200)
        train(TrainConfig((serve(Reach()).url,), steps=200, hyperparameters=TINY), console=console)
    lines = (tmp_path / "log").read_text().splitlines()
    last = [line for line in lines if line.startswith("training  ")][-1]
    assert " of 200 steps  " in last
    assert "left" in last


def test_training_leaves_no_thread_behind(serve):
    url = serve(Reach()).url
    before = set(threading.enumerate())
    train(TrainConfig((url,), steps=64, hyperparameters=TINY, eval_every=32, eval_episodes=2))
    left = {thread.name for thread in set(threading.enumerate()) - before}
    assert not any(name.startswith("remote-env evaluation") for name in left)


def test_a_robot_may_be_away_when_an_evaluation_begins(serve, monkeypatch):
    servers = [serve(Reach()), serve(Reach())]
    urls = tuple(server.url for server in servers)
    evaluated = []
    evaluate_then = Watcher.evaluate

    def evaluate_without_one(watcher):
        servers[1].stop()
        evaluate_then(watcher)
        evaluated.append(watcher.evaluation)
        servers[1] = RobotServer(Reach(), port=int(urls[1].rpartition(":")[2]))
        servers[1].start()

    monkeypatch.setattr(Watcher, "evaluate", evaluate_without_one)
    options = {"hyperparameters": TINY, "eval_every": 1024, "eval_episodes": 4}
    try:
        train(TrainConfig(urls, steps=2048, **options))
    finally:
        servers[1].stop()
    assert len(evaluated) == 2
    for evaluation in evaluated:
        assert len(evaluation.of_robot(urls[0]).episodes) == 4


def test_episodes_that_would_never_end_are_cut_and_that_is_said(serve, tmp_path):
    class Endless(Reach):
        max_episode_steps = None

    config = TrainConfig(
        urls=(serve(Endless()).url,), steps=1024, folder=tmp_path / "run", hyperparameters=TINY
    )
    shown = io.StringIO()
    assert train(config, console=Console(file=shown, width=200)).episodes == 1
    assert "an episode is truncated after 1,000 steps" in shown.getvalue()
