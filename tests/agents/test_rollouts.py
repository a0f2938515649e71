"""Rollout buffers leave out what is no transition, and let nothing through across it."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import torch
from gymnasium import spaces
from reaching import Reach
from sample_robots import Limited
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback

from remote_env import LocalProtocolError, TooFewRobotsError
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_agents.monitoring import EpisodeMonitor
from remote_env_agents.rollouts import (
    InvalidRows,
    RobotDictRolloutBuffer,
    RobotRolloutBuffer,
    rollout_buffer_class,
)

GAMMA, LAMBDA = 0.5, 0.5  # exact in floating point
BOX = spaces.Box(-1.0, 1e6, (1,), np.float32)
ACTIONS = spaces.Box(-1.0, 1.0, (1,), np.float32)


def make(cls, steps, robots=1):
    space = spaces.Dict({"x": BOX}) if issubclass(cls, DictRolloutBuffer) else BOX
    return cls(steps, space, ACTIONS, device="cpu", gae_lambda=LAMBDA, gamma=GAMMA, n_envs=robots)


def fill(buffer, *, rewards, values, starts, invalid, last_values, dones):
    """Fill a buffer; arrays are ``(steps, robots)``. Observations count the samples."""
    steps, robots = np.shape(rewards)
    for step in range(steps):
        observation = np.arange(robots, dtype=np.float32)[:, None] * 100 + step
        if isinstance(buffer, DictRolloutBuffer):
            observation = {"x": observation}
        if isinstance(buffer, RobotRolloutBuffer):
            buffer.mark(np.array(invalid[step], np.bool_))
        buffer.add(
            observation,
            np.zeros((robots, 1), np.float32),
            np.array(rewards[step], np.float32),
            np.array(starts[step]),
            torch.tensor(values[step], dtype=torch.float32),
            torch.zeros(robots),
        )
    buffer.compute_returns_and_advantage(torch.tensor(last_values), np.array(dones))
    return buffer


def column(*numbers):
    return np.array(numbers, np.float32)[:, None]


CLASSES = [RobotRolloutBuffer, RobotDictRolloutBuffer]


@pytest.mark.parametrize("cls", CLASSES)
def test_advantages_end_where_a_transition_is_missing(cls):
    buffer = fill(
        make(cls, 5),
        rewards=column(1, 2, 1000, 4, 8),
        values=column(2, 4, 6, 8, 16),
        starts=column(1, 0, 0, 0, 0),
        invalid=column(0, 0, 1, 0, 0),
        last_values=[32.0],
        dones=[False],
    )
    # By hand, with gamma = lambda = 1/2: delta = r + V'/2 - V, A = delta + A'/4.
    # Row 4: 8 + 32/2 - 16 = 8. Row 3: 4 + 16/2 - 8 = 4, and 8/4: 6.
    # Row 1: 2 + 6/2 - 4 = 1, and nothing of what is beyond. Row 0: 1 + 4/2 - 2 = 1, and 1/4.
    assert buffer.advantages[[0, 1, 3, 4], 0].tolist() == [1.25, 1.0, 6.0, 8.0]
    assert buffer.returns[[0, 1, 3, 4], 0].tolist() == [3.25, 5.0, 14.0, 24.0]


def test_what_the_missing_rows_say_makes_no_difference():
    told = []
    for nonsense in (0.0, 1e6, -7.0):
        invalid = np.array([[0, 1], [0, 1], [1, 0], [1, 0], [0, 0], [0, 1]], np.float32)
        rng = np.random.default_rng(1)
        rewards = rng.normal(size=(6, 2))
        starts = np.zeros((6, 2))
        starts[4, 0] = starts[2, 1] = 1  # robot 0 falls in row 2 and is back in row 3
        buffer = fill(
            make(RobotRolloutBuffer, 6, robots=2),
            rewards=np.where(invalid, nonsense, rewards),
            values=rng.normal(size=(6, 2)),
            starts=starts,
            invalid=invalid,
            last_values=[nonsense, nonsense] if nonsense else [0.0, 0.0],
            dones=[True, False],
        )
        told.append((buffer.advantages[invalid == 0], buffer.returns[invalid == 0]))
    for advantages, returns in told[1:]:
        assert (advantages == told[0][0]).all()
        assert (returns == told[0][1]).all()


def test_the_end_of_an_episode_is_worth_nothing_more_beside_a_missing_row():
    buffer = fill(
        make(RobotRolloutBuffer, 3),
        rewards=column(1, 5, 3),
        values=column(2, 100, 4),
        starts=column(1, 1, 1),  # row 0 ended an episode, whose reset then failed
        invalid=column(0, 1, 0),
        last_values=[2.0],
        dones=[True],
    )
    assert buffer.advantages[[0, 2], 0].tolist() == [-1.0, -1.0]


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("batch_size", [4, 16, None])
def test_minibatches_hold_every_transition_once_and_nothing_else(cls, batch_size):
    invalid = np.zeros((8, 3))
    invalid[2:5, 1] = invalid[7, 0] = invalid[0, 2] = invalid[3, 2] = invalid[4, 2] = 1
    buffer = fill(
        make(cls, 8, robots=3),
        rewards=np.ones((8, 3)),
        values=np.ones((8, 3)),
        starts=np.zeros((8, 3)),
        invalid=invalid,
        last_values=[0.0] * 3,
        dones=[False] * 3,
    )
    expected = sorted(100 * r + s for s in range(8) for r in range(3) if not invalid[s, r])
    assert len(expected) == 17  # 16 and 1, if batches were cut as SB3 does
    for _ in range(2):  # two epochs
        batches = [
            (b.observations["x"] if isinstance(b.observations, dict) else b.observations)
            for b in buffer.get(batch_size)
        ]
        assert sorted(torch.cat(batches)[:, 0].tolist()) == expected
        sizes = [len(batch) for batch in batches]
        assert max(sizes) <= (batch_size or 17)
        assert min(sizes) >= 3


@pytest.mark.parametrize("cls", CLASSES)
def test_with_nothing_missing_it_is_bit_by_bit_the_one_of_sb3(cls):
    plain = {RobotRolloutBuffer: RolloutBuffer, RobotDictRolloutBuffer: DictRolloutBuffer}[cls]
    drawn = []
    for kind in (cls, plain):
        rng = np.random.default_rng(2)
        buffer = fill(
            make(kind, 7, robots=3),
            rewards=rng.normal(size=(7, 3)),
            values=rng.normal(size=(7, 3)),
            starts=rng.random((7, 3)) < 0.3,
            invalid=np.zeros((7, 3)),
            last_values=rng.normal(size=3).tolist(),
            dones=[False, True, False],
        )
        np.random.seed(3)
        drawn.append([batch for _ in range(2) for batch in buffer.get(5)])
    assert [len(batch.advantages) for batch in drawn[0]] == [5, 5, 5, 5, 1] * 2
    for ours, theirs in zip(*drawn, strict=True):
        assert ours.advantages.numpy().tobytes() == theirs.advantages.numpy().tobytes()
        assert ours.returns.numpy().tobytes() == theirs.returns.numpy().tobytes()
        assert str(ours.observations) == str(theirs.observations)


@pytest.mark.parametrize("time_goes_on", [False, True])
def test_what_answers_an_observation_of_before_an_update_is_missing(serve, time_goes_on):
    """Of episodes of ten steps, in rollouts of four: the third ends with one and begins one."""
    env = RemoteRobotVecEnv([serve(Reach()).url])
    model = PPO(
        "MultiInputPolicy",
        env,
        n_steps=4,
        batch_size=4,
        n_epochs=1,
        rollout_buffer_class=rollout_buffer_class(env.observation_space),
        policy_kwargs={"net_arch": [4]},
        device="cpu",
    )
    missing = []

    class Look(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            missing.append(self.model.rollout_buffer.invalid[:, 0].tolist())

    try:
        model.learn(24, callback=[InvalidRows(time_goes_on=time_goes_on), Look()])
    finally:
        env.close()
    whole, first = [False] * 4, [time_goes_on, False, False, False]
    assert missing == [whole, first, first, first, first, whole]


def test_an_episode_that_begins_after_an_evaluation_answers_nothing_of_before(serve):
    env = RemoteRobotVecEnv([serve(Reach()).url])
    buffer = rollout_buffer_class(env.observation_space)
    model = PPO("MultiInputPolicy", env, n_steps=4, batch_size=4, rollout_buffer_class=buffer)
    first = []

    class BeginAnew(BaseCallback):
        def _on_rollout_start(self):
            if self.num_timesteps == 8:
                self.model._last_obs = env.reset()
                self.model._last_episode_starts = np.ones(1, np.bool_)

        def _on_step(self):
            return True

        def _on_rollout_end(self):
            first.append(self.model.rollout_buffer.invalid[0, 0])

    try:
        model.learn(16, callback=[InvalidRows(time_goes_on=True), BeginAnew()])
    finally:
        env.close()
    assert first == [False, True, False, True]


def test_a_rollout_of_nothing_is_an_error():
    with pytest.raises(TooFewRobotsError, match="none of the 2 rows"):
        fill(
            make(RobotRolloutBuffer, 2),
            rewards=column(0, 0),
            values=column(0, 0),
            starts=column(1, 1),
            invalid=column(1, 1),
            last_values=[0.0],
            dones=[True],
        )


# PPO


class Breaking(Limited):
    """Breaks with each action of those numbers."""

    def __init__(self, *numbers):
        super().__init__()
        self._numbers = numbers

    def apply_action(self, action):
        if len(self.actions) in self._numbers:
            self._numbers = tuple(n for n in self._numbers if n != len(self.actions))
            raise OSError("the gearbox")
        super().apply_action(action)


class Look(BaseCallback):
    """Keeps what was in the rollouts."""

    def __init__(self):
        super().__init__()
        self.invalid, self.observations, self.starts = [], [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        buffer = self.locals["rollout_buffer"]
        self.invalid.append(getattr(buffer, "invalid", np.zeros(0)).copy())
        first = next(iter(buffer.observations.values()))
        self.observations.append(first.copy())
        self.starts.append(buffer.episode_starts.copy())


@pytest.fixture
def learn(serve):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    made = []

    def run(robots, cls, *, steps, batch_size=8, total=None):
        urls = [serve(robot, mode="lockstep").url for robot in robots]
        env = EpisodeMonitor(RemoteRobotVecEnv(urls))
        made.append(env)
        model = PPO(
            "MultiInputPolicy",
            env,
            n_steps=steps,
            batch_size=batch_size,
            n_epochs=2,
            seed=4,
            device="cpu",
            policy_kwargs={"net_arch": [8]},
            rollout_buffer_class=cls,
        )
        look = Look()
        model.learn(total or 2 * steps * len(robots), callback=[InvalidRows(), look])
        return model, look

    yield run
    torch.set_num_threads(threads)
    for env in made:
        env.close()


def weights_of(model):
    return {name: value.numpy().tobytes() for name, value in model.policy.state_dict().items()}


def test_ppo_without_failures_learns_bit_by_bit_what_plain_ppo_learns(learn):
    ours, look = learn([Reach(), Reach()], RobotDictRolloutBuffer, steps=16)
    plain, _ = learn([Reach(), Reach()], None, steps=16)
    assert type(plain.rollout_buffer) is DictRolloutBuffer
    assert not np.any(look.invalid)
    assert weights_of(ours) == weights_of(plain)


def test_ppo_learns_from_robots_that_fail(learn, monkeypatch):
    monkeypatch.setattr("remote_env.fleet._RETRY", 0.0)
    model, look = learn([Limited(), Breaking(5, 20)], RobotDictRolloutBuffer, steps=16)
    invalid = np.concatenate(look.invalid)
    assert not invalid[:, 0].any()
    assert 2 <= invalid[:, 1].sum() < 32
    seen = np.concatenate(look.observations)[:, 1]
    starts = np.concatenate(look.starts)[:, 1].astype(bool)
    gone = np.flatnonzero(invalid[:, 1])
    # While it is away it stands still, and what it comes back with begins an episode.
    assert all((seen[i] == seen[i + 1]).all() or starts[i + 1] for i in gone if i < 31)
    back = [i for i in gone[gone < 31] if not invalid[i + 1, 1]]
    assert back
    assert all(starts[i + 1] for i in back)
    assert all(np.isfinite(value.numpy()).all() for value in model.policy.state_dict().values())
    # Of whole episodes only: not those cut short, nor the time in which it was away.
    assert {episode["l"] for episode in model.ep_info_buffer} == {3}


def test_a_batch_of_one_sample_makes_no_nan(learn):
    model, look = learn([Breaking(1)], RobotDictRolloutBuffer, steps=2, batch_size=2, total=2)
    assert look.invalid[0][:, 0].tolist() == [False, True]
    assert all(np.isfinite(value.numpy()).all() for value in model.policy.state_dict().values())


def test_ppo_that_nobody_tells_refuses_to_learn(serve):
    env = RemoteRobotVecEnv([serve(Limited(), mode="lockstep").url])
    cls = rollout_buffer_class(env.observation_space)
    model = PPO(
        "MultiInputPolicy", env, n_steps=8, batch_size=8, rollout_buffer_class=cls, device="cpu"
    )
    with pytest.raises(LocalProtocolError, match=r"callback=\[InvalidRows\(\)"):
        model.learn(8)
    env.close()
