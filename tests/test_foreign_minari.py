"""Minari records a robot: what is read back is what was seen, bit by bit."""

import gc

import gymnasium as gym
import numpy as np
import pytest
from sample_robots import Counter

from remote_env_server.robots import make_robot

minari = pytest.importorskip(
    "minari", reason="not in our extras: pip install 'minari[create,hdf5,arrow]'"
)

pytestmark = [
    pytest.mark.filterwarnings("ignore:`eval_env` is set to None:UserWarning"),
    pytest.mark.filterwarnings("ignore:Implicitly cleaning up:ResourceWarning"),  # its own folder
]
ABOUT = {
    "algorithm_name": "random",
    "author": "Ann",
    "author_email": "ann@example.org",
    "code_permalink": "https://example.org",
    "description": "random actions",
}


@pytest.fixture(autouse=True)
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


class WhatStays(minari.StepDataCallback):
    """Choose of ``info`` what all steps tell: Minari wants the same keys in each."""

    def __call__(self, env, **kwargs):
        step = super().__call__(env, **kwargs)
        remote = step["info"]["remote"]
        is_invalid = remote.get("invalid_transition", False)
        step["info"] = {"time": remote["time"], "invalid": is_invalid}
        return step


def record(env, **options):
    """Record two episodes of random actions; return the dataset, and what was seen."""
    collector = minari.DataCollector(env, **options)
    episodes = []
    for seed in range(2):
        told = [(collector.reset(seed=seed)[0],)]
        collector.action_space.seed(seed)
        while len(told) == 1 or not (told[-1][2] or told[-1][3]):
            action = collector.action_space.sample()
            told.append((*collector.step(action), action))
        episodes.append(told)
    collector.create_dataset(dataset_id="robot/random-v0", **ABOUT)
    collector.close()
    del collector
    gc.collect()
    return minari.load_dataset("robot/random-v0"), episodes


def check(dataset, episodes):
    """Compare a dataset with what was seen."""
    read = list(dataset.iterate_episodes())
    assert len(read) == len(episodes)
    for episode, (first, *steps) in zip(read, episodes, strict=True):
        assert set(episode.observations) == set(first[0])
        for name, arrays in episode.observations.items():
            seen = np.stack([told[0][name] for told in [first, *steps]])
            assert arrays.dtype == seen.dtype
            np.testing.assert_array_equal(arrays, seen)
        np.testing.assert_array_equal(episode.rewards, [told[1] for told in steps])
        np.testing.assert_array_equal(episode.terminations, [told[2] for told in steps])
        np.testing.assert_array_equal(episode.truncations, [told[3] for told in steps])
        np.testing.assert_array_equal(episode.actions, [told[5] for told in steps])


def test_a_dataset_holds_what_was_seen_and_finds_the_robot_again(serve):
    url = serve(Counter()).url
    dataset, episodes = record(gym.make("RemoteRobot-v0", url=url, max_steps=5))
    check(dataset, episodes)
    again = dataset.recover_environment()
    assert again.unwrapped.url == url
    assert again.observation_space == dataset.observation_space
    again.close()


def test_pictures_are_kept_as_they_were_seen(serve):
    pytest.importorskip("pyarrow", reason="in HDF5 Minari takes a slash in a key for a folder")
    robot = make_robot("double-pendulum")
    streams = ["joint_pos", "camera/image"]
    env = gym.make("RemoteRobot-v0", url=serve(robot).url, max_steps=5, streams=streams)
    dataset, episodes = record(env, data_format="arrow", jpeg_encoding=False)
    check(dataset, episodes)


def test_of_info_is_kept_what_every_step_tells(serve):
    env = gym.make("RemoteRobot-v0", url=serve(Counter()).url, max_steps=5)
    dataset, episodes = record(env, record_infos=True, step_data_callback=WhatStays)
    check(dataset, episodes)
    for read, told in zip(dataset.iterate_episodes(), episodes, strict=True):
        times = [told[-1]["remote"]["time"] for *told, _action in told[1:]]
        assert read.infos["time"][1:].tolist() == times
        assert not read.infos["invalid"].any()
