"""Replay buffers hold what happened: executed actions, and no transition that is none."""

import pickle

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

from gymnasium import spaces
from sample_robots import Clipping
from stable_baselines3 import SAC, HerReplayBuffer
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer

from remote_env import ConfigurationError, GoalReward, LocalProtocolError
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env_agents.buffers import (
    RobotDictReplayBuffer,
    RobotHerReplayBuffer,
    RobotReplayBuffer,
    replay_buffer_class,
)

N = 3
BOX = spaces.Box(-10.0, 1e9, (2,), np.float64)
NAMES = ("achieved_goal", "desired_goal", "observation")
DICT = spaces.Dict({name: BOX for name in NAMES})
ACTIONS = spaces.Box(np.array([-1.0, -3.0], np.float32), np.array([1.0, 5.0], np.float32))
INVALID = {"remote": {"invalid_transition": True}}


class Goals:
    """What HER asks of an environment."""

    reward = GoalReward("sparse", 0.5)

    def env_method(self, name, *args, indices):
        assert name == "compute_reward"
        return [self.reward.compute(*args[:2])]


def make(cls, size, space=None, **options):
    if issubclass(cls, HerReplayBuffer):
        options["env"] = Goals()
    space = space or (DICT if issubclass(cls, DictReplayBuffer) else BOX)
    return cls(size * N, space, ACTIONS, device="cpu", n_envs=N, **options)


def observed(buffer, number):
    """An observation of each robot, that says which it is."""
    array = np.stack([np.full(2, 1000.0 * robot + number) for robot in range(N)])
    if isinstance(buffer, DictReplayBuffer):
        return {name: array.copy() for name in NAMES}
    return array


def add(buffer, number, infos=None, *, dones=(), actions=None):
    """Add a step: from observation ``number`` to the next, with that as its reward."""
    actions = np.full((N, 2), 0.25, np.float32) if actions is None else actions
    done = np.array([robot in dones for robot in range(N)])
    rewards = np.full(N, float(number), np.float32)
    infos = infos or [{} for _ in range(N)]
    buffer.add(
        observed(buffer, number), observed(buffer, number + 1), actions, rewards, done, infos
    )


def but(robots, told=INVALID):
    """Infos of a step that failed for some robots."""
    return [dict(told) if robot in robots else {} for robot in range(N)]


def seen(samples):
    """Which transitions were sampled: of which robot, and their numbers."""
    arrays = []
    for part in (samples.observations, samples.next_observations):
        arrays.append((part["observation"] if isinstance(part, dict) else part)[:, 0].numpy())
    robots, numbers = np.divmod(arrays[0], 1000)
    assert (arrays[1] == arrays[0] + 1).all()  # never from one transition into another
    return list(zip(robots.astype(int).tolist(), numbers.astype(int).tolist(), strict=True))


CLASSES = [RobotReplayBuffer, RobotDictReplayBuffer]


@pytest.mark.parametrize("cls", [*CLASSES, RobotHerReplayBuffer])
def test_with_nothing_left_out_it_is_bit_by_bit_the_one_of_sb3(cls):
    plain = {
        RobotReplayBuffer: ReplayBuffer,
        RobotDictReplayBuffer: DictReplayBuffer,
        RobotHerReplayBuffer: HerReplayBuffer,
    }[cls]
    buffers = make(cls, 8), make(plain, 8)
    rng = np.random.default_rng(0)
    for number in range(21):
        actions = rng.uniform(-1, 1, (N, 2)).astype(np.float32)
        dones = [robot for robot in range(N) if number % (3 + robot) == 2]
        infos = [{"TimeLimit.truncated": robot == 1} for robot in range(N)]
        for buffer in buffers:
            add(buffer, number, infos, dones=dones, actions=actions)
        assert (buffers[0].pos, buffers[0].full) == (buffers[1].pos, buffers[1].full)
        assert buffers[0].size() == buffers[1].size()
        if number < 3:
            continue
        drawn = []
        for buffer in buffers:
            np.random.seed(number)
            drawn.append(buffer.sample(16))
        for name in ("observations", "next_observations", "actions", "rewards", "dones"):
            ours, theirs = (getattr(samples, name) for samples in drawn)
            if not isinstance(ours, dict):
                ours, theirs = {"": ours}, {"": theirs}
            assert all((ours[key] == theirs[key]).all() for key in theirs)
            assert all(ours[key].dtype == theirs[key].dtype for key in theirs)
            assert all(ours[key].shape == theirs[key].shape for key in theirs)


@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("told", [INVALID, {"remote": {"stale": {"cam": {"age": 1.0}}}}])
def test_what_is_no_transition_is_never_sampled_and_all_else_is_as_likely(cls, told):
    buffer = make(cls, 50)
    away = {2: [0], 3: [0], 4: [0, 2], 5: [0]}
    for number in range(8):
        add(buffer, number, but(away.get(number, []), told))
    stored = {(r, n) for r in range(N) for n in range(8) if r not in away.get(n, [])}
    assert buffer.counts.tolist() == [4, 8, 7]
    assert buffer.size() == 7  # 19 transitions of 3 robots
    np.random.seed(0)
    draws = 19_000
    drawn, counts = np.unique(seen(buffer.sample(draws)), axis=0, return_counts=True)
    assert {tuple(pair) for pair in drawn.tolist()} == stored
    assert abs(counts - draws / 19).max() < 5 * np.sqrt(draws / 19)


@pytest.mark.parametrize("cls", CLASSES)
def test_each_robots_ring_keeps_its_own_newest(cls):
    buffer = make(cls, 4)
    for number in range(10):
        add(buffer, number, but([1] if 3 <= number < 8 else []))
        assert buffer.full == (number >= 3 and number not in range(3, 8))
    np.random.seed(0)
    kept = {(0, n) for n in range(6, 10)} | {(2, n) for n in range(6, 10)}
    assert set(seen(buffer.sample(500))) == kept | {(1, n) for n in (1, 2, 8, 9)}


def test_rewards_and_ends_stay_with_their_transition():
    buffer = make(RobotReplayBuffer, 20)
    truncated = [{"TimeLimit.truncated": True} for _ in range(N)]
    add(buffer, 0, but([0]))
    add(buffer, 1, dones=[2])
    add(buffer, 2, truncated, dones=[1, 2])
    np.random.seed(0)
    samples = buffer.sample(400)
    for (robot, number), reward, end in zip(
        seen(samples), samples.rewards[:, 0].tolist(), samples.dones[:, 0].tolist(), strict=True
    ):
        assert reward == number
        assert end == ((robot, number) == (2, 1))  # what was truncated goes on


def test_the_executed_action_is_stored_as_sb3_scales_it():
    buffer = make(RobotReplayBuffer, 5)
    asked = np.array([[0.3, 0.7]] * N, np.float32)
    low, high = ACTIONS.low, ACTIONS.high
    sent = low + 0.5 * (asked[0] + 1.0) * (high - low)
    clipped = np.array([sent[0], 1.0], np.float32)
    infos = [{"remote": {"action_executed": action}} for action in (sent, clipped)] + [{}]
    add(buffer, 0, infos, actions=asked)
    assert buffer.actions[0, 0].tobytes() == asked[0].tobytes()  # to the bit
    assert buffer.actions[0, 1].tolist() == [asked[0, 0], 0.0]  # 1.0 is half way from -3 to 5
    assert buffer.actions[0, 2].tobytes() == asked[2].tobytes()
    assert (
        asked.tolist() == [[np.float32(0.3), np.float32(0.7)]] * N
    )  # and the learner's is its own


def test_a_discrete_action_is_stored_as_it_was_executed():
    buffer = RobotReplayBuffer(10, BOX, spaces.Discrete(4), device="cpu", n_envs=N)
    infos = [{"remote": {"action_executed": np.int64(robot)}} for robot in range(N)]
    add(buffer, 0, infos, actions=np.full(N, 3))
    assert buffer.actions[0, :, 0].tolist() == [0, 1, 2]


def test_discrete_observations_are_stored():
    space = spaces.Dict({"at": spaces.Discrete(9), "observation": BOX})
    buffer = make(RobotDictReplayBuffer, 5, space)
    step = {"at": np.array([1, 2, 3]), "observation": np.zeros((N, 2))}
    buffer.add(step, step, np.zeros((N, 2)), np.zeros(N), np.zeros(N), but([1]))
    assert buffer.observations["at"][0, :, 0].tolist() == [1, 0, 3]


@pytest.mark.parametrize("cls", [*CLASSES, RobotHerReplayBuffer])
def test_it_can_be_saved_and_loaded(cls):
    buffer = make(cls, 6)
    for number in range(9):
        add(buffer, number, but([1] if number in (2, 5) else []), dones=[2] if number == 3 else [])
    loaded = pickle.loads(pickle.dumps(buffer))
    if cls is RobotHerReplayBuffer:
        loaded.set_env(Goals())
    drawn = []
    for one in (buffer, loaded):
        add(one, 9, but([0]), dones=[0, 1, 2])
        np.random.seed(1)
        drawn.append(one.sample(50))
    assert seen(drawn[0]) == seen(drawn[1])
    assert loaded.counts.tolist() == buffer.counts.tolist()


def test_it_can_be_emptied_and_says_so():
    buffer = make(RobotReplayBuffer, 4)
    with pytest.raises(LocalProtocolError, match="no robot has made a transition"):
        buffer.sample(1)
    for number in range(5):
        add(buffer, number)
    buffer.reset()
    assert (buffer.size(), buffer.full, buffer.pos) == (0, False, 0)
    add(buffer, 7)
    assert set(seen(buffer.sample(50))) == {(robot, 7) for robot in range(N)}


def test_what_cannot_leave_anything_out_is_refused():
    with pytest.raises(ConfigurationError, match="optimize_memory_usage"):
        make(RobotReplayBuffer, 4, optimize_memory_usage=True, handle_timeout_termination=False)


# Hindsight


def goals_of(buffer, strategy_draws=3000):
    """Return which goals were given to which transitions: robot, number, number of the goal."""
    np.random.seed(0)
    samples = buffer.sample(strategy_draws)
    robots, numbers = np.array(seen(samples)).T
    goals = samples.observations["desired_goal"][:, 0].numpy()
    is_own = goals == 1000 * robots + numbers  # the goal that it had
    goal_robots, goal_numbers = np.divmod(goals, 1000)
    assert (goal_robots == robots).all()
    triples = np.stack([robots, numbers, goal_numbers], 1)[~is_own].astype(int)
    return {tuple(triple) for triple in np.unique(triples, axis=0).tolist()}


def test_no_goal_is_taken_from_beyond_a_transition_that_is_none():
    buffer = make(RobotHerReplayBuffer, 50)
    for number in range(10):
        add(
            buffer,
            number,
            but([0] if number in (3, 4) else []),
            dones=range(N) if number == 9 else (),
        )
    goals = goals_of(buffer)
    of_robot = {robot: {(n, g) for r, n, g in goals if r == robot} for robot in range(N)}
    # A transition n ends at observation n + 1.
    first = {(n, g) for n in range(3) for g in range(n + 1, 4)}
    second = {(n, g) for n in range(5, 10) for g in range(n + 1, 11)}
    assert of_robot[0] == first | second
    assert of_robot[1] == {(n, g) for n in range(10) for g in range(n + 1, 11)}


def test_an_episode_that_ends_with_what_is_no_transition_is_learned_from():
    buffer = make(RobotHerReplayBuffer, 50)
    for number in range(4):
        add(buffer, number)
    add(buffer, 4, but([0]), dones=[0])
    assert {robot for robot, *_ in goals_of(buffer)} == {0}  # the others are under way
    for number in range(5, 8):
        add(buffer, number, but([0]))
    add(buffer, 8, dones=[0, 1, 2])
    assert {(n, g) for r, n, g in goals_of(buffer) if r == 0 and n > 4} == {(8, 9)}


def test_a_ring_that_is_overwritten_forgets_whole_episodes():
    buffer = make(RobotHerReplayBuffer, 6)
    for number in range(6):
        add(buffer, number, dones=range(N) if number in (3, 5) else ())
    add(buffer, 6, but([1]))
    assert {n for r, n, _ in goals_of(buffer) if r == 0} == {4, 5}
    assert {n for r, n, _ in goals_of(buffer) if r == 1} == {0, 1, 2, 3, 4, 5}


def test_truncating_ends_the_episodes_under_way():
    buffer = make(RobotHerReplayBuffer, 20)
    for number in range(4):
        add(buffer, number, but([2] if number == 3 else []))
    with pytest.warns(UserWarning, match="truncated"):
        buffer.truncate_last_trajectory()
    add(buffer, 4, dones=range(N))
    assert max(g for _, n, g in goals_of(buffer) if n < 4) == 4
    buffer.truncate_last_trajectory()  # nothing is under way: no warning
    buffer.reset()
    assert buffer.ep_length.sum() == 0


# With robots


def test_sac_stores_what_a_robot_executed(serve, tmp_path):
    urls = [serve(Clipping(), mode="lockstep").url for _ in range(2)]
    env = RemoteRobotVecEnv(urls, env_kwargs={"max_steps": 5})
    # The learner believes in twice the bounds that the robot has.
    wide = spaces.Box(-2.0, 2.0, (2,), np.float32)
    env.action_space = wide
    model = SAC(
        "MultiInputPolicy",
        env,
        learning_starts=20,
        buffer_size=100,
        replay_buffer_class=replay_buffer_class(env.observation_space),
        device="cpu",
    )
    model.learn(20)
    env.close()
    model.save_replay_buffer(tmp_path / "buffer.pkl")
    model.load_replay_buffer(tmp_path / "buffer.pkl")
    buffer = model.replay_buffer
    assert buffer.size() == 10
    stored = buffer.actions[:10]
    assert abs(stored).max() == 0.5  # the robot's 1.0, of 2.0
    moved = buffer.next_observations["sum"][:10] - buffer.observations["sum"][:10]
    assert np.allclose(moved, 2 * stored, atol=1e-5)
