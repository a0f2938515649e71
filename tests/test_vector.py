"""Several robots as one vector environment: bit by bit what Gymnasium's own would give."""

import math
import select
import threading
import warnings

import gymnasium as gym
import numpy as np
import pytest
from beside import wait_for
from gymnasium import spaces
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sample_robots import Counter, Limited
from vector_envs import without_ours

from remote_env import ConfigurationError, RemoteRobotVectorEnv, errors
from remote_env.member import Member
from remote_env_server import CameraConfig, LocalRobotEnv, Mode
from remote_env_server.robots import make_robot

ONES = np.ones((3, 2), np.float32)
KINDS = {
    "Dict": "double-pendulum",
    "Box": "gymnasium:CartPole-v1",
    "Discrete": "gymnasium:FrozenLake-v1",
    "Tuple": "gymnasium:Blackjack-v1",
    "nested": "gymnasium:Mixed-v0",
}


@pytest.fixture
def connect_all(serve):
    """Make vector environments; closes them at the end of the test."""
    made = []

    def make(robots, *, mode="lockstep", **options):
        urls = [serve(robot, mode=mode).url for robot in robots]
        made.append(gym.make_vec("RemoteRobot-v0", urls=urls, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.fixture
def both(connect_all):
    """Make a vector environment of served robots, and Gymnasium's own of the same ones."""
    made = []

    def make(name, mode, count=3, max_steps=20):
        local = SyncVectorEnv(
            [lambda: LocalRobotEnv(make_robot(name), max_steps=max_steps)] * count,
            autoreset_mode=mode,
        )
        made.append(local)
        robots = [make_robot(name) for _ in range(count)]
        return connect_all(robots, autoreset_mode=mode, max_steps=max_steps), local

    yield make
    for env in made:
        env.close()


# Bit by bit


def same(remote, local):
    return data_equivalence(without_ours(remote), local, exact=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_it_is_bit_by_bit_what_a_sync_vector_env_is(both, kind, mode):
    remote, local = both(KINDS[kind], mode)
    assert same(remote.reset(seed=7), local.reset(seed=7))
    local.action_space.seed(5)
    ends, most = 0, 0
    for _ in range(120):
        actions = local.action_space.sample()
        got, expected = remote.step(actions), local.step(actions)
        ended = int((expected[2] | expected[3]).sum())
        ends, most = ends + ended, max(most, ended)
        assert same(got, expected)
    assert ends >= 12
    assert most > 1  # several in one step
    assert same(remote.reset(), local.reset())


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_so_too_where_the_learner_resets(both, kind):
    remote, local = both(KINDS[kind], AutoresetMode.DISABLED)
    assert same(remote.reset(seed=[3, 1, 8]), local.reset(seed=[3, 1, 8]))
    local.action_space.seed(5)
    resets = 0
    for number in range(80):
        actions = local.action_space.sample()
        got, expected = remote.step(actions), local.step(actions)
        assert same(got, expected)
        over = expected[2] | expected[3]
        if over.any():
            resets += 1
            options = {"reset_mask": over}
            assert same(
                remote.reset(seed=number, options=dict(options)),
                local.reset(seed=number, options=dict(options)),
            )
    assert resets >= 4


def test_the_spaces_are_those_of_a_sync_vector_env(both):
    remote, local = both(KINDS["nested"], AutoresetMode.SAME_STEP)
    assert remote.observation_space == local.observation_space
    assert remote.action_space == local.action_space
    assert remote.single_observation_space == local.single_observation_space
    assert remote.single_action_space == local.single_action_space
    assert remote.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert remote.reset()[0] in remote.observation_space


def test_the_seeds_and_generators_are_those_of_the_robots(both):
    remote, local = both(KINDS["Dict"], AutoresetMode.NEXT_STEP)
    remote.reset(seed=7)
    local.reset(seed=7)
    assert remote.np_random_seed == local.np_random_seed == (7, 8, 9)
    assert remote.np_random == tuple(env.np_random for env in remote.envs)


def test_options_reach_every_robot(connect_all):
    env = connect_all([Counter() for _ in range(3)])
    _, infos = env.reset(seed=1, options={"start": 2.0})
    assert infos["start"].tolist() == [2.0] * 3


def test_the_mask_is_taken_out_of_no_dictionary_of_the_callers(connect_all):
    env = connect_all([Counter() for _ in range(3)])
    env.reset(seed=1)
    options = {"reset_mask": np.array([True, False, False]), "start": 3.0}
    observations, infos = env.reset(options=options)
    assert set(options) == {"reset_mask", "start"}
    assert infos["_start"].tolist() == [True, False, False]
    assert infos["remote"]["_valid"].tolist() == [True, False, False]
    assert observations["sum"].shape == (3, 2)


@pytest.mark.parametrize(
    ("mask", "error"),
    [
        ([True, False, False], TypeError),
        (np.array([1, 0, 0]), TypeError),
        (np.array([True, False]), ValueError),
        (np.zeros(3, np.bool_), ValueError),
    ],
)
def test_a_mask_that_is_none_is_refused(connect_all, mask, error):
    env = connect_all([Counter() for _ in range(3)])
    with pytest.raises(error, match="reset_mask"):
        env.reset(options={"reset_mask": mask})
    with pytest.raises(ValueError, match="2 seeds for 3 robots"):
        env.reset(seed=[1, 2])


def test_every_step_has_arrays_of_its_own(connect_all):
    env = connect_all([Counter() for _ in range(3)])
    env.reset(seed=1)
    first = env.step(ONES)
    before = first[0]["sum"].copy()
    second = env.step(ONES)
    assert first[0]["sum"].tolist() == before.tolist()
    assert second[0]["sum"].tolist() == (before + 1).tolist()
    second[0]["sum"][:] = 0
    assert env.step(ONES)[0]["sum"].tolist() == (before + 2).tolist()
    assert first[0]["sum"].flags.c_contiguous


def test_without_copies_each_step_overwrites_the_one_before(connect_all):
    env = connect_all([Counter() for _ in range(3)], copy=False)
    first, _ = env.reset(seed=1)
    second, *_ = env.step(ONES)
    assert second["sum"] is first["sum"]


# How it is made


def test_an_embedded_robot_for_each_of_num_envs():
    with gym.make_vec("RemoteRobot-v0", num_envs=2) as env:
        assert isinstance(env, RemoteRobotVectorEnv)
        observations, _ = env.reset(seed=1)
        assert observations["joint_pos"].shape[0] == 2
        assert len(set(env.urls)) == 2


def test_num_envs_beside_urls_must_be_their_number(serve):
    urls = [serve(Counter()).url for _ in range(2)]
    gym.make_vec("RemoteRobot-v0", num_envs=2, urls=urls).close()
    with pytest.raises(ConfigurationError, match="num_envs=3 and 2 urls"):
        gym.make_vec("RemoteRobot-v0", num_envs=3, urls=urls)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"urls": []}, "at least one url"),
        ({"urls": ["ws://a:1", "ws://a:1"]}, "comes twice"),
        ({"urls": ["ws://localhost:1", "ws://127.0.0.1:1/"]}, "also as ws://localhost:1"),
        ({"urls": ["ws://A", "ws://a:80"]}, "also as ws://A"),
        ({"urls": ["ws://[::1", "ws://[::1"]}, "comes twice"),
        ({"urls": [1]}, "text such as"),
        ({"urls": (url for url in ("ws://a:1",))}, "list of"),
        ({"urls": "ws://a:1"}, "list of"),
        ({"url": ["ws://a:1", "ws://b:1"]}, r"give several as urls=\[...\]"),
        ({"urls": ["ws://a:1"], "min_envs": "1"}, "min_envs must be"),
        ({"urls": ["ws://a:1"], "min_envs": 0.5}, "min_envs must be"),
        ({"urls": ["ws://a:1"], "robot": "arm"}, "give one of them"),
        ({"urls": ["ws://a:1"], "autoreset_mode": "Never"}, "autoreset_mode must be"),
        ({"urls": ["ws://a:1"], "min_envs": 2}, "min_envs must be"),
        ({"num_envs": 0}, "num_envs must be"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(options, match):
    with pytest.raises(ConfigurationError, match=match):
        RemoteRobotVectorEnv(**options)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"options": "x"}, "options must be a dict"),
        ({"options": 3}, "options must be a dict"),
        ({"options": {1: 2}}, "options must be a dict"),
        ({"options": [{}]}, "1 options for 2 robots"),
        ({"options": [{}, "x"]}, "options must be a dict"),
        ({"options": {"start": object()}}, r"options\['start'\] is a builtins.object"),
        ({"options": {"reset_mask": np.ones(2, bool), "start": object()}}, "builtins.object"),
        ({"seed": 1.5}, "seed must be an integer"),
        ({"seed": [1.5, 2]}, "seed must be an integer"),
        ({"seed": "12"}, "seed must be an integer"),
        ({"seed": {"a": 1, "b": 2}}, "seed must be an integer"),
    ],
)
def test_a_reset_that_makes_no_sense_is_refused_and_reaches_no_robot(serve, given, match):
    robots = [Counter(), Counter()]
    env = RemoteRobotVectorEnv([serve(robot).url for robot in robots])
    env.reset(seed=1)
    env.step(np.ones((2, 2), np.float32))
    with pytest.raises(ConfigurationError, match=match):
        env.reset(**given)
    *_, infos = env.step(np.ones((2, 2), np.float32))  # the episode goes on
    assert infos["steps"].tolist() == [2, 2]
    assert infos["remote"]["valid"].all()
    env.reset(seed=1)
    env.close()


def test_each_robot_may_have_options_of_its_own(serve):
    env = RemoteRobotVectorEnv([serve(Counter()).url for _ in range(3)])
    _, infos = env.reset(options=[{"start": 1.0}, None, {"start": 2.0}])
    assert infos["start"].tolist() == [1.0, 0.0, 2.0]
    env.close()


def test_what_is_no_number_of_a_robot_is_refused(serve):
    env = RemoteRobotVectorEnv([serve(Counter()).url])
    env.reset()
    for ids in ([0.5], 0, [1], [0, 0]):
        with pytest.raises(errors.LocalProtocolError, match="env_ids must be"):
            env.send(np.ones((1, 2), np.float32), ids)
    env.close()


class Wider(Counter):
    action_space = spaces.Box(-1.0, 1.0, (3,), np.float32)


def test_robots_with_other_spaces_are_refused_by_name_and_all_are_let_go(serve):
    servers = [serve(robot) for robot in (Counter(), Counter(), Wider())]
    with pytest.raises(ConfigurationError) as error:
        RemoteRobotVectorEnv([server.url for server in servers])
    assert f"{servers[0].url} and {servers[2].url}" in str(error.value)
    assert "action_space is Box(-1.0, 1.0, (2,), float32) and Box(-1.0, 1.0, (3,)" in str(
        error.value
    )
    wait_for(lambda: all(s.statistics()["connections"] == 0 for s in servers))


def test_a_robot_that_is_not_there_is_named_and_the_others_are_let_go(serve):
    server = serve(Counter())
    with pytest.raises(errors.ConnectFailedError, match="127.0.0.1:1;"):
        RemoteRobotVectorEnv([server.url, "ws://127.0.0.1:1"])
    wait_for(lambda: server.statistics()["connections"] == 0)


def test_gymnasium_has_nothing_to_warn_of(serve):
    urls = [serve(make_robot("double-pendulum"), mode="lockstep").url for _ in range(2)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gym.make_vec("RemoteRobot-v0", urls=urls, render_mode="rgb_array")
        wrapped = gym.wrappers.vector.RecordEpisodeStatistics(env)
        wrapped.reset(seed=1)
        for _ in range(5):
            wrapped.step(wrapped.action_space.sample())
        assert len(env.render()) == 2
        assert env.render()[0].shape == (96, 128, 3)
        assert "RemoteRobot-v0" in repr(env)
        wrapped.close()
        env.close()


class Large(Counter):
    """Has a picture that does not fit into what a link reads ahead."""

    modes = (Mode.LOCKSTEP,)

    def camera_configs(self):
        return [CameraConfig("cam", 240, 320)]

    def update_proprio(self, name, value, **options):
        super().update_proprio(name, value, **options)
        self.update_image("cam", np.full((240, 320, 3), self._steps, np.uint8))


def test_large_pictures_arrive_in_their_rows(connect_all):
    env = connect_all([Large() for _ in range(3)])
    for _ in range(2):
        observations, infos = env.reset(seed=1)
        assert infos["remote"]["valid"].all()
        for number in range(1, 4):
            observations, *_, infos = env.step(ONES)
            assert infos["remote"]["valid"].all()
            assert (observations["cam/image"] == number).all()


# The same time


class Meeting(Counter):
    """Goes on only when all robots have been asked."""

    def __init__(self, together, *, in_reset=False):
        super().__init__()
        self.together, self.in_reset = together, in_reset

    def reset(self, *, seed=None, options=None):
        if self.in_reset:
            self.together.wait()
        return super().reset(seed=seed, options=options)

    def apply_action(self, action):
        if not self.in_reset:
            self.together.wait()
        super().apply_action(action)


def test_the_robots_move_at_once(connect_all):
    together = threading.Barrier(3, timeout=10)
    env = connect_all([Meeting(together) for _ in range(3)])
    env.reset()
    assert env.step(ONES)[4]["remote"]["valid"].all()


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_the_robots_are_reset_at_once_and_without_a_thread(connect_all, mode):
    together = threading.Barrier(3, timeout=10)

    class Homing(Meeting, Limited):
        pass

    env = connect_all([Homing(together, in_reset=True) for _ in range(3)], autoreset_mode=mode)
    env.reset()
    ends = sum(int(env.step(ONES)[3].sum()) for _ in range(8))
    assert ends == 6
    assert not [t.name for t in threading.enumerate() if t.name.startswith("remote-env member")]


GIVEN = np.array([[0.5, -0.25], [0.0, 1.0], [-1.0, 0.125]], np.float32)


@pytest.mark.parametrize(
    "actions",
    [
        GIVEN,
        np.asfortranarray(GIVEN),
        np.repeat(GIVEN, 2, axis=0)[::2],
        GIVEN.astype(np.float64),
        GIVEN.astype(">f4"),
        GIVEN.tolist(),
        list(GIVEN),
    ],
    ids=["as it is", "columns", "strided", "float64", "big-endian", "numbers", "rows"],
)
def test_each_robot_executes_its_row_however_a_batch_is_laid_out(connect_all, actions):
    robots = [Counter() for _ in range(3)]
    env = connect_all(robots)
    env.reset()
    info = env.step(actions)[4]
    assert [robot.actions[0].tolist() for robot in robots] == GIVEN.tolist()
    executed = info["remote"]["action_executed"]
    assert (executed.dtype, executed.tolist()) == (np.float32, GIVEN.tolist())


@pytest.mark.parametrize(
    ("actions", "match"),
    [
        (np.where(GIVEN == 1.0, np.float32(np.nan), GIVEN), "row 1 .*not finite"),
        (np.where(GIVEN == 1.0, np.inf, GIVEN), "row 1 .*not finite"),
        (np.where(GIVEN == 1.0, 1e300, GIVEN.astype(np.float64)), "row 1 .*not finite"),
        (np.where(GIVEN == 1.0, np.nan, GIVEN).tolist(), "row 1 .*not finite"),
        (GIVEN[:2], "2 actions for 3 robots"),
        (np.zeros((3, 4), np.float32), "ws:.*must have the shape"),
        (np.zeros(3, np.float32), "ws:.*must have the shape"),
        (GIVEN.astype(np.complex64), "ws:.*must be float32"),
        (np.float32(0.5), "do not fit the action space"),
    ],
    ids=[
        "nan",
        "infinite",
        "too large",
        "numbers with nan",
        "too few",
        "too wide",
        "too flat",
        "complex",
        "one number",
    ],
)
def test_a_batch_that_does_not_fit_is_refused_and_nothing_moves(connect_all, actions, match):
    robots = [Counter() for _ in range(3)]
    env = connect_all(robots)
    env.reset()
    with pytest.raises(errors.ActionRefusedError, match=match):
        env.step(actions)
    assert env.step(ONES)[4]["steps"].tolist() == [1] * 3
    assert [len(robot.actions) for robot in robots] == [1] * 3


def test_who_answered_first_is_asked_first(connect_all, monkeypatch):
    """In real time its control period is the first to end."""
    order, asked = [2, 0, 1], []

    class InOrder(Counter):
        """Answers when the one before it in the order was heard."""

        def apply_action(self, action):
            place = order.index(robots.index(self))
            if place:
                before = env.unwrapped._fleet.slots[order[place - 1]]
                wait_for(lambda: before.row is not None)
            super().apply_action(action)

    robots = [InOrder() for _ in range(3)]
    env = connect_all(robots)
    env.reset(seed=1)
    env.step(ONES)
    send = Member.send_prepared

    def note(member, action):
        asked.append(env.unwrapped.envs.index(member))
        send(member, action)

    monkeypatch.setattr(Member, "send_prepared", note)
    order = [1, 2, 0]
    env.step(ONES)
    assert asked == [2, 0, 1]
    env.step(ONES)
    assert asked[3:] == [1, 2, 0]


# Some of them


def test_a_slow_robot_keeps_nobody_waiting_for_what_is_ready(connect_all):
    gate = threading.Event()

    class Slow(Counter):
        def apply_action(self, action):
            gate.wait(20)
            super().apply_action(action)

    env = connect_all([Counter(), Slow(), Counter()])
    env.reset(seed=1)
    env.send(ONES, [0, 1, 2])
    for _ in range(5):
        ready = env.recv(2)
        assert ready.env_ids.tolist() == [0, 2]
        assert ready.observations["sum"].shape == (2, 2)
        assert ready.infos["steps"].shape == (2,)
        env.send(ONES[:2], ready.env_ids)
    gate.set()
    ready = env.recv(3)
    assert ready.env_ids.tolist() == [0, 1, 2]
    assert ready.infos["steps"].tolist() == [6, 1, 6]


def test_what_was_sent_is_told_whatever_becomes_of_the_learners_array(connect_all):
    env = connect_all([Counter() for _ in range(3)])
    env.reset(seed=1)
    actions = ONES.copy()
    env.send(actions, [0, 1, 2])
    actions[:] = 0.0
    executed = env.recv(3).infos["remote"]["action_executed"]
    assert executed.tolist() == ONES.tolist()


def test_what_is_not_finite_deep_in_an_action_is_refused_and_nothing_moves(connect_all):
    env = connect_all([make_robot("gymnasium:Mixed-v0") for _ in range(2)])
    env.reset(seed=1)
    actions = env.action_space.sample()
    actions["a"][1][1, 0] = np.nan
    with pytest.raises(errors.ActionRefusedError, match="row 1 .*not finite"):
        env.step(actions)
    actions["a"][1][1, 0] = 0.0
    assert not env.step(actions)[3].any()


def test_a_robot_that_was_never_reset_is_not_valid(connect_all):
    env = connect_all([Counter(), Counter()])
    observation, info = env.reset(options={"reset_mask": np.array([True, False])})
    assert observation["sum"][1].tolist() == [0.0, 0.0]
    assert info["remote"]["valid"].tolist() == [True, False]


@pytest.mark.parametrize("is_waiting", [False, True])
def test_closing_on_another_thread_ends_a_step_with_an_error_that_says_so(connect_all, is_waiting):
    gate = threading.Event()

    class Slow(Counter):
        def apply_action(self, action):
            gate.wait(20)

    env = connect_all([Slow()])
    env.reset()
    env.send(ONES[:1], [0])
    if is_waiting:
        closing = threading.Timer(0.2, env.close)
        closing.start()
    else:
        env._fleet.close()
    with pytest.raises(errors.ConnectionLostError, match=r"close\(\) was called"):
        env._receive_all()
    gate.set()
    if is_waiting:
        closing.join()


def test_an_answer_that_the_keeper_took_off_the_socket_is_found_at_once(connect_all):
    env = connect_all([Counter()])
    env.reset(seed=1)
    env.send(ONES[:1], [0])
    client = env.envs[0]._client
    if client.fileno() < 0:
        pytest.skip("the keeper takes nothing off a link without a file")

    def keeper_has_it():
        client.heartbeat()
        return client._channel.has_unread

    wait_for(keeper_has_it)
    assert env.recv(timeout=1e-6).env_ids.tolist() == [0]


def test_a_timeout_of_nothing_takes_what_is_there(connect_all):
    env = connect_all([Counter()])
    env.reset(seed=1)
    robot = env.envs[0]
    if robot.fileno() < 0:
        pytest.skip("nobody can see whether something lies on a link without a file")
    for _ in range(3):
        env.send(ONES[:1], [0])
        wait_for(lambda: robot.has_unread or select.select([robot], [], [], 0)[0])
        env._fleet._gatherer._looked_at = math.inf  # at all: no tick finds it
        assert env.recv(timeout=0).env_ids.tolist() == [0]
        env._fleet._gatherer._looked_at = 0.0


def test_nobody_is_ready_before_the_timeout(connect_all):
    gate = threading.Event()

    class Slow(Counter):
        def apply_action(self, action):
            gate.wait(20)
            super().apply_action(action)

    env = connect_all([Slow()])
    env.reset(seed=1)
    env.send(ONES[:1], [0])
    ready = env.recv(timeout=0.05)
    assert ready.env_ids.tolist() == []
    assert ready.observations["sum"].shape == (0, 2)
    gate.set()
    assert env.recv().env_ids.tolist() == [0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_each_robot_gets_what_it_gets_alone(both, kind, mode):
    remote, local = both(KINDS[kind], mode, count=2)
    remote.reset(seed=7)
    local.reset(seed=7)
    local.action_space.seed(5)
    for _ in range(60):
        actions = local.action_space.sample()
        observations, rewards, terminations, truncations, infos = local.step(actions)
        remote.send(actions, [0, 1])
        ready = remote.recv(2)
        assert data_equivalence(ready.observations, observations, exact=True)
        assert ready.rewards.tolist() == rewards.tolist()
        assert ready.terminations.tolist() == terminations.tolist()
        assert ready.truncations.tolist() == truncations.tolist()
        assert data_equivalence(without_ours((ready.infos,))[0], infos, exact=True)


def test_after_an_end_that_a_reset_of_others_dropped_the_next_row_is_no_transition(connect_all):
    env = connect_all([Counter(), Limited()])
    env.reset(seed=1)
    for _ in range(2):
        env.step(ONES[:2])
    env.send(ONES[:2], [0, 1])
    env.reset(options={"reset_mask": np.array([True, False])})
    told = env.step(ONES[:2])
    assert told[4]["remote"]["step"].tolist() == [1, 0]
    assert told[4]["remote"]["valid"].tolist() == [True, False]
    assert env.step(ONES[:2])[4]["remote"]["valid"].all()


def test_sending_and_receiving_in_the_wrong_order_is_refused(connect_all):
    env = connect_all([Counter() for _ in range(3)])
    with pytest.raises(errors.LocalProtocolError, match="step before reset"):
        env.step(ONES)
    env.reset()
    with pytest.raises(errors.LocalProtocolError, match="recv without"):
        env.recv()
    env.send(ONES[:1], [1])
    with pytest.raises(errors.LocalProtocolError, match="robot 1 was sent an action already"):
        env.step(ONES)
    with pytest.raises(errors.LocalProtocolError, match="different numbers from 0 to 2"):
        env.send(ONES, [0, 2, 2])
    assert env.recv().env_ids.tolist() == [1]
    env.send(ONES[:1], [1])
    env.reset()
    assert env.step(ONES)[4]["steps"].tolist() == [1, 1, 1]


# What else a vector environment can


def test_what_a_vector_env_can_it_can(connect_all):
    env = connect_all([make_robot("double-pendulum") for _ in range(2)])
    env.reset()
    assert [spec.name for spec in env.get_attr("spec_of_robot")] == ["double-pendulum"] * 2
    env.set_attr("colour", ["red", "blue"])
    assert env.call("colour") == ("red", "blue")
    env.set_attr("colour", "green")
    assert env.get_attr("colour") == ("green", "green")
    with pytest.raises(ValueError, match="3 values for 2 robots"):
        env.set_attr("colour", [1, 2, 3])
    assert [s.resumptions for s in env.call("statistics")] == [0, 0]
    assert [s.round_trip.count for s in env.statistics()] == [0, 0]


def test_closing_twice_is_harmless_and_afterwards_nothing_goes(connect_all):
    robots = [Counter() for _ in range(3)]
    env = connect_all(robots)
    env.reset()
    env.close()
    env.close()
    with pytest.raises(errors.LocalProtocolError, match="step after close"):
        env.step(ONES)
    with pytest.raises(errors.LocalProtocolError, match="reset after close"):
        env.reset()
