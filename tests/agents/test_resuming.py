"""A run that stopped goes on as if nothing had happened."""

import csv
from dataclasses import replace

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import numpy as np
from reaching import Reach, Sparse
from trained import TINY, rows_of, scalars_in, weights_of

from remote_env import ConfigurationError, RobotFaultError
from remote_env.cli import main
from remote_env_agents import TrainConfig, train
from remote_env_agents.checkpoints import CheckpointError, find_checkpoint, load_state
from remote_env_agents.cli import train_config
from remote_env_agents.presets import resolve
from remote_env_agents.robots import make_vec_env
from remote_env_agents.starting import find_start, make_start_model
from remote_env_agents.updates import LocalLearner
from remote_env_agents.watcher import Watcher

pytestmark = pytest.mark.usefixtures("one_torch_thread")


@pytest.fixture
def one_torch_thread():
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def told_in(folder):
    """Return what the table of a run says, but for how long it took."""
    return [{**row, "seconds": ""} for row in rows_of(folder)]


def state_of(folder):
    """Return the bytes of the last state: the replay buffer and the chance."""
    state = load_state(find_checkpoint(folder))
    replay = state["buffer"]
    kept = {} if replay is None else vars(replay)
    arrays = {name: array for name, array in kept.items() if isinstance(array, np.ndarray)}
    return {
        "chance": str(state["chance"]),
        **{name: array.tobytes() for name, array in arrays.items() if not array.dtype.hasobject},
    }


@pytest.fixture
def kill_training(monkeypatch):
    """End a training within its step, as if by SIGKILL: what is done at the end is not done."""

    def smoke(watcher):
        raise RobotFaultError("smoke")

    def kill():
        monkeypatch.setattr(LocalLearner, "finish", lambda *arguments: None)
        monkeypatch.setattr(Watcher, "_on_step", smoke)

    return kill


CASES = {
    "ppo": {"steps": 256, "hyperparameters": replace(TINY, rollout=64), "checkpoint_every": 100},
    "td3": {"steps": 150, "checkpoint_every": 110},
    "sac between episodes": {
        "algo": "sac",
        "steps": 190,
        "checkpoint_every": 130,
        "updates": "between-episodes",
    },
    "tqc and her": {"algo": "tqc", "steps": 150, "checkpoint_every": 110, "her": True},
}


@pytest.mark.parametrize("name", CASES)
def test_what_goes_on_is_bit_by_bit_what_never_stopped(
    name, serve, kill_training, tmp_path, monkeypatch
):
    """On two robots, which are served anew for the run that goes on."""

    robot = Sparse if "her" in name else Reach
    options = {"algo": name, "hyperparameters": TINY, "seed": 7, **CASES[name]}
    urls = [tuple(serve(robot()).url for _ in range(2)) for _ in range(2)]
    mortal = [serve(robot()).url, serve(robot(steps_until=70, then=kill_training)).url]
    whole = train(TrainConfig(urls[0], **options, folder=tmp_path / "whole"))
    with pytest.raises(RobotFaultError, match="smoke"):
        train(TrainConfig(tuple(mortal), **options, folder=tmp_path / "parts"))
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    assert weights_of(find_checkpoint(tmp_path / "parts")) != weights_of(whole.policy)
    del options["hyperparameters"]
    parts = train(TrainConfig(urls[1], **options, resume=tmp_path / "parts"))
    assert parts.folder == tmp_path / "parts"
    assert (parts.steps, parts.episodes) == (whole.steps, whole.episodes)
    assert weights_of(parts.policy) == weights_of(whole.policy)
    assert state_of(parts.folder) == state_of(whole.folder)
    assert told_in(parts.folder) == told_in(whole.folder)


def test_the_table_and_tensorboard_go_on_where_the_checkpoint_is(
    serve, kill_training, tmp_path, monkeypatch
):
    # Dies in its step 65, three evaluations of 20 steps aside; the last checkpoint was that of 40.
    folder, url = tmp_path / "run", serve(Reach(steps_until=125, then=kill_training)).url
    options = {"algo": "sac", "hyperparameters": TINY, "eval_episodes": 2, "eval_every": 20}
    with pytest.raises(RobotFaultError, match="smoke"):
        train(TrainConfig((url,), **options, steps=80, checkpoint_every=40, folder=folder))
    monkeypatch.undo()
    assert int(rows_of(folder)[-1]["step"]) == 64
    with (folder / "progress.csv").open("a") as file:
        file.write("65,3")  # and while it was writing
    config = train_config(["--resume", str(folder)])
    assert (config.urls, config.algo, config.eval_every) == ((url,), "sac", 20)
    assert train(config).steps == 80
    steps = [int(row["step"]) for row in rows_of(folder)]
    assert steps == sorted(steps)
    evaluated = [int(row["step"]) for row in rows_of(folder) if row["evaluation_return"]]
    assert evaluated == [20, 40, 60, 80]
    assert scalars_in(folder / "tensorboard")["evaluation/return"] == [20, 40, 60, 80]


def test_without_its_buffer_a_run_warms_up_again(serve, tmp_path):
    folder, url = tmp_path / "run", serve(Reach()).url
    options = {"algo": "sac", "save_buffer": False, "folder": folder}
    train(TrainConfig((url,), **options, steps=110, hyperparameters=TINY))
    assert load_state(find_checkpoint(folder))["buffer"] is None
    result = train(TrainConfig((url,), **options, steps=230, resume=folder))
    assert result.gradient_steps == 10 + 20  # after 100 steps, each time
    result = train(TrainConfig((url,), **options, steps=350, resume=folder))
    assert result.gradient_steps == 10 + 20 + 20


def test_who_collects_for_a_background_learner_without_a_buffer_warms_up_again_too(serve, tmp_path):
    url = serve(Reach()).url
    for with_buffer, acts_by_chance_until in ((False, 230), (True, 100)):
        folder = tmp_path / str(with_buffer)
        options = {"algo": "sac", "save_buffer": with_buffer, "folder": folder}
        train(TrainConfig((url,), **options, steps=130, hyperparameters=TINY))
        config = TrainConfig((url,), algo="sac", steps=400, resume=folder)
        env = make_vec_env(config.urls)
        preset = resolve(config, robots=1, longest=10, pictures=False)
        model = make_start_model(config, preset, env, find_start(config), only_acts=True)
        env.close()
        assert (model.num_timesteps, model.learning_starts) == (130, acts_by_chance_until)


def test_an_evaluation_that_was_broken_off_is_made_by_who_goes_on(serve, tmp_path, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    options = {"algo": "sac", "steps": 190, "eval_every": 60, "eval_episodes": 1}
    config = TrainConfig((serve(Reach()).url,), **options, folder=tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr("remote_env_agents.evaluation.evaluate", interrupt)
        result = train(replace(config, hyperparameters=TINY))
    assert (result.ended_by, result.steps) == ("interrupt", 60)
    train(replace(config, resume=tmp_path / "run"))
    evaluated = [int(row["step"]) for row in rows_of(config.folder) if row["evaluation_return"]]
    assert evaluated == [60, 120, 180, 190]


@pytest.mark.parametrize(("was", "asked"), [(False, True), (True, False)])
def test_hindsight_goes_on_with_what_was_learned_with_it_alone(serve, tmp_path, was, asked):
    url = serve(Sparse()).url
    options = {"algo": "sac", "streams": ("achieved_goal", "desired_goal")}
    first = TrainConfig((url,), **options, steps=20, her=was, hyperparameters=TINY)
    path = find_checkpoint(train(replace(first, folder=tmp_path / "first")).folder)
    wanted = "with" if was else "without"
    with pytest.raises(ConfigurationError, match=f"learned {wanted} hindsight; go on {wanted} --h"):
        train(TrainConfig((url,), **options, steps=20, her=asked, resume=path))


@pytest.mark.parametrize("count", [1, 3])
def test_a_policy_goes_on_with_another_number_of_robots(serve, tmp_path, count):
    urls = [serve(Reach()).url for _ in range(3)]
    options = {"algo": "td3", "save_buffer": False, "hyperparameters": TINY}
    first = train(TrainConfig(tuple(urls[:2]), **options, steps=20, folder=tmp_path / "first"))
    options = {"algo": "td3", "steps": 30, "resume": first.policy, "folder": tmp_path / "next"}
    assert train(TrainConfig(tuple(urls[:count]), **options)).steps == 30


def test_a_new_run_begins_with_a_checkpoint_and_its_buffer(serve, tmp_path):
    url = serve(Reach()).url
    first = train(TrainConfig((url,), algo="sac", steps=110, hyperparameters=TINY))
    path = find_checkpoint(first.folder)
    result = train(TrainConfig((url,), algo="sac", steps=50, resume=path))
    assert result.folder != first.folder
    assert (result.steps, result.gradient_steps) == (50, 10 + 50)
    assert load_state(find_checkpoint(result.folder))["buffer"].size() == 110


def test_a_run_repeats_itself_from_its_own_file(serve, tmp_path):
    urls = [serve(Reach()).url for _ in range(2)]
    options = ["--algo", "sac", "--steps", "110", "--net-arch", "8", "--batch-size", "32"]
    assert main(["train", urls[0], *options, "--folder", str(tmp_path / "a")]) == 0
    again = ["train", urls[1], "--config", str(tmp_path / "a" / "config.toml")]
    assert main([*again, "--folder", str(tmp_path / "b")]) == 0
    assert weights_of(tmp_path / "a" / "policy.zip") == weights_of(tmp_path / "b" / "policy.zip")
    texts = [(tmp_path / run / "config.toml").read_text() for run in "ab"]
    assert texts[0].replace(urls[0], urls[1]) == texts[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 20}, "has done 20 steps, and steps is 20, which counts from its beginning"),
        ({"algo": "td3"}, "is of sac, not of td3; go on with --algo sac"),
        ({"folder": "elsewhere"}, "goes on in its own folder, not in elsewhere"),
        ({"two": True}, "the replay buffer is of 1 robots, and there are 2"),
    ],
)
def test_what_cannot_go_on_is_refused(change, message, serve, tmp_path):
    urls = tuple(serve(Reach()).url for _ in range(2))
    folder = tmp_path / "run"
    train(TrainConfig(urls[:1], algo="sac", steps=20, hyperparameters=TINY, folder=folder))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    config = TrainConfig(urls[:1], algo="sac", steps=40, resume=folder)
    if change.pop("two", False):
        change["urls"] = urls
    with pytest.raises(ConfigurationError, match=message):
        train(replace(config, **change))
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_folder_without_a_checkpoint_is_refused(serve, tmp_path):
    with pytest.raises(ConfigurationError, match="there is no complete checkpoint"):
        train(TrainConfig((serve(Reach()).url,), resume=tmp_path))


def test_a_checkpoint_for_which_there_is_no_room_ends_the_run_and_says_what_is_left(
    serve, tmp_path, monkeypatch
):
    from remote_env_agents import checkpoints

    folder, real = tmp_path / "run", checkpoints._sync_folder

    def full(path):
        if (folder / "checkpoints" / "step-000000040.state").exists():
            raise OSError(28, "No space left on device")
        real(path)

    monkeypatch.setattr(checkpoints, "_sync_folder", full)
    config = TrainConfig(
        (serve(Reach()).url,), algo="sac", steps=99, hyperparameters=TINY, folder=folder
    )
    message = r"No space left on device.*what was learned until .*step-000000020\.zip is there"
    with pytest.raises(CheckpointError, match=message):
        train(replace(config, checkpoint_every=20))
    assert find_checkpoint(folder).name == "step-000000020.zip"
    with (folder / "progress.csv").open() as file:
        assert len(list(csv.reader(file))) > 2
