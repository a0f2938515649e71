"""Updates between episodes: while every robot holds, and nothing wrong is learned from that."""

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from dataclasses import replace
from types import SimpleNamespace

from reaching import Reach, Timed
from stable_baselines3.common.callbacks import BaseCallback
from trained import TINY, weights_of

from remote_env_agents import TrainConfig, evaluate, train
from remote_env_agents.checkpoints import Saved
from remote_env_agents.presets import make_model, resolve
from remote_env_agents.robots import make_vec_env
from remote_env_agents.starting import restore
from remote_env_agents.updates import BetweenEpisodes, LocalLearner, Waits

WARMUP = 100


class Short(Reach):
    max_episode_steps = 4


@pytest.fixture
def learn(serve, tmp_path, monkeypatch):
    """Learn on these robots for so many steps of each; return when was learned, and the infos."""
    made = []
    saved = Saved(tmp_path, 0, 0.0)  # this model cannot be: it notes what it is told
    monkeypatch.setattr("remote_env_agents.updates.save_checkpoint", lambda *a, **k: saved)

    def start(*robots, steps, time_goes_on=True, saved_at=()):
        urls = tuple(serve(robot).url for robot in robots)
        config = TrainConfig(urls, algo="sac", steps=steps * len(urls), hyperparameters=TINY)
        env = make_vec_env(urls, max_steps=1000)
        made.append(env)
        model = make_model(
            config, resolve(config, robots=len(urls), longest=10, pictures=False), env
        )
        waits = Waits() if time_goes_on else None
        between = BetweenEpisodes(model, waits=waits)
        updates, infos = [], []
        added = model.replay_buffer.add
        model.replay_buffer.add = lambda *given: (infos.append(given[5]), added(*given))
        model.train = lambda gradient_steps, batch_size: updates.append(
            (model.num_timesteps // len(urls), gradient_steps)
        )
        learner = LocalLearner(model, with_buffer=False, say=list, waits=waits)

        class Saving(BaseCallback):
            def _on_rollout_start(self):
                if self.num_timesteps in saved_at:
                    learner.save_checkpoint(tmp_path / "it.zip", self.num_timesteps, {})

            def _on_step(self):
                return True

        model.learn(config.steps, callback=[between, Saving(), waits or Saving()])
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


def test_the_step_after_a_checkpoint_within_an_episode_is_no_transition(learn):
    _, invalid = learn(Reach(), steps=60, saved_at=[23, 30, 45])
    assert [number for number, each in enumerate(invalid) if any(each)] == [23, 45]
    _, invalid = learn(Reach(), steps=60, saved_at=[23], time_goes_on=False)
    assert not any(any(each) for each in invalid)


def test_what_is_evaluated_in_the_end_is_the_policy_that_is_saved(serve, tmp_path, monkeypatch):
    evaluated = []

    def note(model, *args, **kwargs):
        evaluated.append([tensor.tolist() for tensor in model.policy.state_dict().values()])
        return evaluate(model, *args, **kwargs)

    monkeypatch.setattr("remote_env_agents.evaluation.evaluate", note)
    options = {"algo": "sac", "updates": "between-episodes", "hyperparameters": TINY}
    config = TrainConfig((serve(Reach()).url,), **options, steps=118, folder=tmp_path / "run")
    result = train(replace(config, eval_every=1000, eval_episodes=1))
    assert result.gradient_steps == 18
    assert evaluated == [weights_of(result.policy)]


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
    updates = BetweenEpisodes(model)
    assert (updates._owed, updates._has_ended.tolist()) == (5, [True, False])
    model.n_envs = 3
    updates = BetweenEpisodes(model)
    assert (updates._owed, updates._has_ended.tolist()) == (5, [False] * 3)
    restore(model, {"buffer": None, "chance": None}, goes_on=False)
    assert BetweenEpisodes(model)._owed == 0
