"""A learner in the background: never ahead of the data, never waited for, never left over."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import numpy as np
import torch
from gymnasium import spaces
from reaching import Reach, Sparse, Timed
from trained import TINY, weights_of

from remote_env_agents import Hyperparameters, TrainConfig, evaluate, train
from remote_env_agents.background import BackgroundLearner, LearnerLostError
from remote_env_agents.checkpoints import find_checkpoint, load_state
from remote_env_agents.exchange import TransitionRing, WeightSlot, transition_dtype
from remote_env_agents.learner_process import (
    Assignment,
    CheckpointSaved,
    Finish,
    KnownRobots,
    Report,
    SaveCheckpoint,
    _Learner,
    takes_more,
)
from remote_env_agents.presets import resolve
from remote_env_agents.robots import look_at, streams_to_learn

CONTEXT = multiprocessing.get_context("spawn")
WARMUP = 100
OBSERVED = spaces.Box(-1.0, 1.0, (3,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Bench:
    """A learner in a thread of this process, and the collector's ends."""

    def __init__(self, *, observed=OBSERVED, goal_reward=None, rows=1000, **options):
        config = TrainConfig(("",), algo="sac", steps=1000, hyperparameters=TINY, **options)
        preset = resolve(config, robots=1, longest=10, pictures=False)
        robots = KnownRobots(observed, ACTIONS, 1, goal_reward)
        assignment = Assignment(config, preset, robots, None, False, 1000, 0)
        self.ring = TransitionRing(CONTEXT, transition_dtype(observed, ACTIONS, 1), rows)
        self.connection, theirs = CONTEXT.Pipe()
        tensors = {name: torch.zeros_like(part) for name, part in self._actor(assignment).items()}
        self.weights, self.acting = WeightSlot(CONTEXT, tensors), tensors
        self.learner = _Learner(assignment, self.ring, self.weights, theirs, [])
        self.ended_with = None
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.count = 0

    @staticmethod
    def _actor(assignment):
        from remote_env_agents.presets import make_model

        model = make_model(assignment.config, assignment.preset, assignment.robots)
        return model.policy.actor.state_dict()

    def _run(self):
        try:
            self.learner.learn()
        except BaseException as error:
            self.ended_with = error

    def put(self, count, observe=lambda number: np.full((1, 3), number % 7 / 7, np.float32)):
        for _ in range(count):
            self.count += 1
            is_over = np.array([self.count % 10 == 0])
            here, there = observe(self.count), observe(self.count + 1)
            action = np.random.default_rng(self.count).uniform(-1, 1, (1, 2)).astype(np.float32)
            assert self.ring.put_nowait(here, there, action, np.ones(1), is_over, [{}])

    def wait_for(self, is_it):
        """Return the first thing the learner says that is it."""
        while self.connection.poll(60):
            said = self.connection.recv()
            if is_it(said):
                return said
        raise AssertionError("the learner is silent")


@pytest.fixture
def bench():
    before, made = torch.get_num_threads(), []

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for each in made:
        each.connection.close()
        each.thread.join(60)
    torch.set_num_threads(before)


def has_done(steps):
    return lambda said: isinstance(said, Report) and said.gradient_steps >= steps


def test_it_makes_one_gradient_step_for_each_transition_after_the_warm_up(bench):
    each = bench()
    each.thread.start()
    each.put(WARMUP)
    report = each.wait_for(lambda said: isinstance(said, Report) and said.transitions == WARMUP)
    assert (report.gradient_steps, report.owed) == (0, 0)
    each.put(25)
    assert each.wait_for(has_done(25)).owed == 0
    later = [each.wait_for(lambda said: isinstance(said, Report)) for _ in range(2)]
    assert [report.gradient_steps for report in later] == [25, 25]
    assert each.weights.take_nowait(each.acting)


def test_while_it_is_slow_the_data_goes_into_the_buffer_and_what_it_owes_is_said(bench):
    each = bench()
    model, may_go_on, is_training = each.learner._model, threading.Event(), threading.Event()
    train_once = model.train

    def train(**options):
        is_training.set()
        assert may_go_on.wait(60)
        train_once(**options)

    model.train = train
    each.thread.start()
    each.put(WARMUP + 1)
    assert is_training.wait(60)
    each.put(40)
    model.train = lambda **options: (_ for _ in ()).throw(RuntimeError("once is enough"))
    may_go_on.set()
    each.thread.join(60)
    assert str(each.ended_with) == "once is enough"
    assert model.replay_buffer.pos == WARMUP + 1 + 40
    assert each.learner._owed == 40


@pytest.mark.timeout(30)
def test_what_nobody_reads_is_not_sent():
    """While robots are evaluated for minutes, the learner goes on learning."""
    ours, theirs = multiprocessing.Pipe()
    with ours, theirs:
        sent = 0
        while takes_more(ours):
            ours.send(Report(1, 10, 5, {"train/actor_loss": 0.1}))
            sent += 1
        assert sent > 10
        learner = object.__new__(_Learner)
        learner._connection = ours
        learner._report()  # would wait for ever
        while theirs.poll():
            theirs.recv()
        assert takes_more(ours)


def test_it_ends_when_its_collector_is_gone(bench):
    each = bench()
    each.thread.start()
    each.put(WARMUP + 500)
    each.wait_for(has_done(1))
    each.connection.close()  # as the system does for one that was killed
    each.thread.join(20)
    assert not each.thread.is_alive()
    assert isinstance(each.ended_with, (EOFError, ConnectionError))


def test_with_hindsight_it_waits_for_an_episode_and_knows_where_one_was_cut(bench, serve, tmp_path):
    spec = look_at([serve(Sparse()).url])
    space = spec.space_of(streams_to_learn(spec, (), her=True))
    each = bench(observed=space, goal_reward=spec.goal_reward, her=True)

    def observe(number):
        return {name: np.full((1, 2), number / 2000, np.float32) for name in space}

    each.thread.start()
    each.put(95, observe)
    each.ring.cut()
    each.put(12, observe)
    each.wait_for(has_done(7))
    last = SaveCheckpoint(tmp_path / "step-1.zip", 107, {})
    each.connection.send(Finish(last, tmp_path / "policy.zip"))
    assert each.wait_for(lambda said: isinstance(said, CheckpointSaved)).is_last
    lengths = load_state(last.path)["buffer"].ep_length[:, 0].tolist()
    assert lengths[90:100] == [5] * 5 + [5] * 5
    assert lengths[100:107] == [0] * 7


# With real processes


def learner_pid():
    (pid,) = [p.pid for p in multiprocessing.active_children() if p.name == "remote-env learner"]
    return pid


@pytest.mark.realtime
def test_ctrl_c_in_the_learner_ends_both_and_saves(serve, tmp_path):
    def interrupt():
        os.kill(learner_pid(), signal.SIGINT)

    robot = Timed(steps_until=200, then=interrupt)
    config = TrainConfig(
        (serve(robot).url,),
        algo="sac",
        steps=100_000,
        folder=tmp_path / "run",
        hyperparameters=TINY,
    )
    result = train(config)
    assert (result.ended_by, config.updates) == ("interrupt", None)
    assert 0 < result.gradient_steps <= result.steps - WARMUP
    assert load_state(find_checkpoint(result.folder))["buffer"].pos == result.steps
    kept = {"resume": find_checkpoint(result.folder), "hyperparameters": Hyperparameters()}
    more = {"steps": 3, "updates": "each-step", "folder": tmp_path / "more"}
    again = train(replace(config, **kept, **more))
    assert again.gradient_steps == result.gradient_steps + 3
    assert weights_of(again.policy) != weights_of(result.policy)
    assert not multiprocessing.active_children()


@pytest.mark.realtime
def test_a_learner_that_is_killed_is_an_error_and_the_robots_hold(serve, tmp_path):
    folder = tmp_path / "run"

    class Deadly(Timed):
        is_dead = False

        def apply_action(self, action):
            super().apply_action(action)
            saved = folder / "checkpoints" / "step-000000050.zip"
            if not self.is_dead and saved.exists():
                self.is_dead = True
                self.holds.clear()
                os.kill(learner_pid(), signal.SIGKILL)

    robot = Deadly()
    config = TrainConfig(
        (serve(robot).url,),
        algo="sac",
        steps=100_000,
        hyperparameters=TINY,
        folder=folder,
        checkpoint_every=50,
    )
    with pytest.raises(LearnerLostError, match=r"died with exit code -9 .*step-0000000.0\.zip is"):
        train(config)
    assert robot.holds
    assert load_state(find_checkpoint(folder))["buffer"].pos >= 50
    assert not multiprocessing.active_children()


@pytest.mark.realtime
def test_a_learner_that_is_killed_in_the_last_evaluation_is_told_with_what_is_left(
    serve, tmp_path, monkeypatch
):
    def kill(*args, **kwargs):
        os.kill(learner_pid(), signal.SIGKILL)
        return evaluate(*args, **kwargs)

    monkeypatch.setattr("remote_env_agents.evaluation.evaluate", kill)
    options = {"algo": "sac", "hyperparameters": TINY, "eval_every": 1000, "eval_episodes": 1}
    folder = tmp_path / "run"
    config = TrainConfig((serve(Timed()).url,), **options, steps=60, folder=folder)
    with pytest.raises(LearnerLostError, match=r"code -9 .*step-000000040\.zip is there: --resume"):
        train(replace(config, checkpoint_every=40))
    assert (folder / "learning_curve.png").exists()


def test_of_what_the_learner_says_at_once_nothing_is_lost(tmp_path, monkeypatch):
    monkeypatch.setattr("remote_env_agents.background._SAVES_WITHIN", 2.0)
    here, there = multiprocessing.Pipe()
    learner = BackgroundLearner.__new__(BackgroundLearner)  # without a process of torch
    learner._connection = here
    learner._process = SimpleNamespace(join=lambda timeout: None, pid=0, exitcode=0)
    learner._is_torn, learner._say = False, [].append
    for step, is_last in ((100, False), (120, True)):
        there.send(CheckpointSaved(step, 1, 0.1, is_last))
    learner.finish(tmp_path / "step-120.zip", tmp_path / "policy.zip", 120, {})
    assert isinstance(there.recv(), Finish)


def test_robots_without_a_rate_have_room_for_many_steps_on_the_way(serve, tmp_path, monkeypatch):
    class Timeless(Reach):
        control_hz = 0.0

    rows = []

    def end(context, dtype, count):
        rows.append(count)
        raise KeyboardInterrupt

    monkeypatch.setattr("remote_env_agents.background.TransitionRing", end)
    options = {"algo": "sac", "updates": "background", "hyperparameters": TINY}
    with pytest.raises(KeyboardInterrupt):
        train(TrainConfig((serve(Timeless()).url,), **options, folder=tmp_path / "run"))
    assert rows == [60_000]


UNGUARDED = """
import sys
from remote_env_agents import TrainConfig, train
train(TrainConfig((sys.argv[1],), algo="sac", steps=5))
"""


def test_a_script_that_does_not_ask_whether_it_is_main_is_told(serve, tmp_path):
    script = tmp_path / "learn.py"
    script.write_text(UNGUARDED)
    command = [sys.executable, str(script), serve(Timed()).url]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert 'call it below `if __name__ == "__main__":`' in done.stderr
    assert "died with exit code 1; what it printed says why" in done.stderr
