"""Updates between episodes: while every robot holds, and nothing wrong is learned from that."""

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from types import SimpleNamespace

from reaching import Reach, Timed
from trained import TINY

from remote_env_agents import TrainConfig, train
from remote_env_agents.presets import make_model, resolve
from remote_env_agents.robots import make_vec_env
from remote_env_agents.starting import restore
from remote_env_agents.updates import BetweenEpisodes

WARMUP = 100


class Short(Reach):
    max_episode_steps = 4


@pytest.fixture
def learn(serve):
    """Learn on these robots for so many steps of each; return when was learned, and the infos."""
    made = []

    def start(*robots, steps, time_goes_on=True):
        urls = tuple(serve(robot).url for robot in robots)
        config = TrainConfig(urls, algo="sac", steps=steps * len(urls), hyperparameters=TINY)
        env = make_vec_env(urls, max_steps=1000)
        made.append(env)
        model = make_model(
            config, resolve(config, robots=len(urls), longest=10, pictures=False), env
        )
        between = BetweenEpisodes(model, time_goes_on=time_goes_on)
        updates, infos = [], []
        added = model.replay_buffer.add
        model.replay_buffer.add = lambda *given: (infos.append(given[5]), added(*given))
        model.train = lambda gradient_steps, batch_size: updates.append(
            (model.num_timesteps // len(urls), gradient_steps)
        )
        model.learn(config.steps, callback=between)
        return updates, [
            [info["remote"].get("invalid_transition", False) for info in each] for each in infos
        ]

    yield start
    for env in made:
        env.close()


def test_one_robot_learns_after_each_episode_as_much_as_after_each_step(learn):
    updates, invalid = learn(Reach(), steps=125)
    assert updates == [(110, 10), (120, 10), (125, 5)]
    assert not any(any(each) for each in invalid)


def test_robots_that_end_together_learn_together(learn):
    updates, invalid = learn(Reach(), Reach(), steps=70)
    assert updates == [(60, 20), (70, 20)]
    assert not any(any(each) for each in invalid)


def test_robots_hold_when_each_has_ended_an_episode_and_the_step_after_that_is_no_transition(learn):
    updates, invalid = learn(Reach(), Short(), steps=75)
    assert updates == [(60, 20), (70, 20), (75, 10)]
    # After 70 steps the second one was in the middle of its 18th episode; after 60 it was not.
    assert [number for number, each in enumerate(invalid) if any(each)] == [70]
    assert invalid[70] == [False, True]


def test_in_lockstep_nothing_is_spoiled_by_waiting(learn):
    _, invalid = learn(Reach(), Short(), steps=75, time_goes_on=False)
    assert not any(any(each) for each in invalid)


@pytest.mark.realtime
def test_a_robot_in_real_time_misses_no_period_between_its_own_episodes(serve, slowdown, tmp_path):
    config = TrainConfig(
        (serve(Timed()).url,),
        algo="sac",
        steps=130,
        updates="between-episodes",
        hyperparameters=TINY,
        folder=tmp_path / "run",
    )
    result = train(config)
    assert result.gradient_steps == 30
    assert result.periods.periods == 130
    assert result.periods.missed < 20 * slowdown


def test_what_is_owed_goes_on_with_the_model_and_its_buffer():
    model = SimpleNamespace(n_envs=2, owed_updates=(5, [True, False]))
    updates = BetweenEpisodes(model, time_goes_on=False)
    assert (updates._owed, updates._has_ended.tolist()) == (5, [True, False])
    model.n_envs = 3
    updates = BetweenEpisodes(model, time_goes_on=False)
    assert (updates._owed, updates._has_ended.tolist()) == (5, [False] * 3)
    restore(model, {"buffer": None, "chance": None}, goes_on=False)
    assert BetweenEpisodes(model, time_goes_on=False)._owed == 0
