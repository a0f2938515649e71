"""Action history, depth as pictures and frame stacks: on one robot, on several, and for SB3."""

import json
import math
import pickle
import time
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from seeing import Seeing
from stable_baselines3.common.env_checker import check_env as check_env_for_sb3
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack
from vector_envs import without_ours

from benchmarks.wrappers import costs, learn
from remote_env import ConfigurationError, Mode, wrappers
from remote_env.sb3 import RemoteRobotVecEnv
from remote_env.wrappers import ActionHistory, DepthAsImage, FrameStack, depth_from_image
from remote_env.wrappers import sb3 as for_sb3
from remote_env.wrappers import vector as for_vectors
from remote_env.wrappers.action_history import History, actions_under_way
from remote_env.wrappers.depth import Depth
from remote_env.wrappers.frames import Frames
from remote_env.wrappers.recipes import Chain
from remote_env.wrappers.transforms import advance
from remote_env_server import LocalRobotEnv

BOX = spaces.Box(np.float32([-1, -2]), np.float32([1, 2]))
PICTURE = spaces.Box(0, 255, (2, 2, 3), np.uint8)
ALL = [
    ("ActionHistory", {"steps": 3}),
    ("DepthAsImage", {"near": 0.1}),
    ("FrameStack", {"count": 3}),
]


def picture(value):
    return np.full((2, 2, 3), value, np.uint8)


def executed(*action):
    return {"action_executed": np.float32(action)}


# Action history


def test_it_holds_the_executed_actions_the_oldest_first():
    history = History(spaces.Dict({"x": BOX}), BOX, steps=2)
    x = np.zeros(2, np.float32)
    begun = history.reset({"x": x})
    assert list(begun) == ["x", "action_history"]
    assert begun["action_history"].tolist() == [0, 0, 0, 0]
    first = history.step({"x": x}, np.float32([9, 9]), executed(0.5, 1))
    second = history.step({"x": x}, np.float32([0.25, -2]), {})
    third = history.step({"x": x}, np.float32([7, 7]), {})  # beyond the bounds
    assert first["action_history"].tolist() == [0, 0, 0.5, 1]
    assert second["action_history"].tolist() == [0.5, 1, 0.25, -2]
    assert third["action_history"].tolist() == [0.25, -2, 1, 2]
    assert all(seen in history.space for seen in (begun, first, second, third))
    assert history.reset({"x": x})["action_history"].tolist() == [0, 0, 0, 0]
    assert begun["action_history"].tolist() == [0, 0, 0, 0]  # the caller's own


def test_actions_of_any_kind_become_rows_of_numbers():
    space = spaces.Dict({"a": spaces.Discrete(3, start=-1), "b": spaces.MultiBinary(2), "c": BOX})
    history = History(spaces.Discrete(4), space, steps=1)
    assert history.reset(2) == {"observation": 2, "action_history": pytest.approx(np.zeros(7))}
    action = {"a": 1, "b": np.int8([1, 0]), "c": np.float32([0.5, 2])}
    rows = history.step(3, action, {})["action_history"]
    assert rows.tolist() == [0, 0, 1, 1, 0, 0.5, 2]
    assert history.space["action_history"].high.tolist() == [1, 1, 1, 1, 1, 1, 2]


def test_zero_is_moved_to_the_bound_where_it_is_none():
    space = spaces.Box(0.5, 1.0, (1,))
    history = History(BOX, space, steps=1)
    assert history.reset(np.zeros(2, np.float32))["action_history"].tolist() == [0.5]


def test_at_reset_it_holds_what_the_robot_measures_of_its_position():
    env = ActionHistory(LocalRobotEnv(Seeing()), 2)
    begun, _ = env.reset(seed=1)
    assert begun["action_history"].tolist() == begun["joint_pos"].tolist() * 2
    assert np.any(begun["joint_pos"])
    _, _, _, _, info = env.step(np.float32([3, -3]))
    told = info["remote"]["action_executed"]
    assert np.abs(told - begun["joint_pos"]).max() == pytest.approx(8.0 / 20)  # it was cut
    again, *_ = env.step(told)
    assert again["action_history"][:2].tolist() == told.tolist()
    env.close()


@pytest.mark.parametrize(
    ("mode", "hz", "delay", "under_way"),
    [
        (Mode.LOCKSTEP, 20.0, 0.0, 0),
        (Mode.REALTIME, 20.0, 0.0, 1),
        (Mode.DELAYED, 20.0, 0.0, 1),
        (Mode.LOCKSTEP, 20.0, 0.08, 2),
        (Mode.DELAYED, 20.0, 0.1, 3),
        (Mode.REALTIME, 100.0, 0.07, 8),  # 7.000000000000001 periods
    ],
)
def test_auto_is_what_mode_and_declared_delay_put_between_action_and_effect(
    mode, hz, delay, under_way
):
    env = LocalRobotEnv(Seeing())
    spec = replace(env.spec_of_robot, mode=mode, control_hz=hz, extra={"action_delay": delay})
    assert actions_under_way(spec) == under_way
    history = History(env.observation_space, env.action_space, spec, steps="auto")
    assert history.options == {"steps": under_way}
    rows = history.space.spaces.get("action_history")
    assert (rows.shape[0] if rows else 0) == 2 * under_way
    env.close()


@pytest.mark.parametrize(
    ("extra", "hz", "message"),
    [
        ({"action_delay": -1.0}, 20.0, "must be seconds, 0 or more"),
        ({"action_delay": "much"}, 20.0, "must be seconds, 0 or more"),
        ({"action_delay": True}, 20.0, "must be seconds, 0 or more"),
        ({"action_delay": math.inf}, 20.0, "must be seconds, 0 or more"),
        ({"action_delay": 0.1}, 0.0, "no control_hz"),
    ],
)
def test_a_delay_that_is_none_is_refused(extra, hz, message):
    env = LocalRobotEnv(Seeing())
    with pytest.raises(ConfigurationError, match=message):
        actions_under_way(replace(env.spec_of_robot, extra=extra, control_hz=hz))
    env.close()


# Depth


@pytest.mark.parametrize("inverse", [False, True])
def test_depth_is_as_exact_as_said(inverse):
    near, far = 0.2, 5.0
    depth = np.linspace(near, far, 40_000, dtype=np.float32).reshape(200, 200)
    space = spaces.Box(0, np.inf, depth.shape, np.float32)
    options = {"near": near, "far": far, "inverse": inverse}
    step = Depth(space, BOX, streams=["observation"], **options)
    image = step.reset(depth)
    assert image in step.space
    assert image.shape == (200, 200, 1)
    assert (image.min(), image.max()) == (1, 255)
    back = depth_from_image(image[..., 0], **options)
    error = np.abs(back.astype(np.float64) - depth)
    half = (1 / near - 1 / far) / 508
    bound = depth**2 * half / (1 - depth * half) if inverse else (far - near) / 508
    assert np.all(error <= bound * 1.0001 + 1e-6)
    assert np.max(error / bound) > 0.9  # no better than said either


def test_what_has_no_reading_is_0_and_what_is_out_of_range_is_at_its_end():
    depth = np.float32([[0, np.nan, np.inf, -np.inf], [-1, 0.05, 0.1, 1e9]])
    step = Depth(spaces.Box(0, np.inf, (2, 4)), BOX, near=0.1, far=2.0, streams=["observation"])
    image = step.reset(depth)
    assert image[..., 0].tolist() == [[0, 0, 0, 0], [0, 1, 1, 255]]
    assert depth_from_image(image, near=0.1, far=2.0)[0].tolist() == [[0]] * 4


@pytest.mark.parametrize("inverse", [False, True])
def test_millimetres_become_what_metres_do(inverse):
    count = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    options = {"near": 0.1, "far": 3.0, "inverse": inverse, "streams": ["observation"]}
    integers = Depth(spaces.Box(0, 65535, (256, 256), np.uint16), BOX, **options)
    floats = Depth(spaces.Box(0, np.inf, (256, 256, 1)), BOX, **options)
    metres = (count * 0.001).astype(np.float32)[..., None]
    assert np.array_equal(integers.reset(count), floats.reset(metres))


def test_a_robot_says_which_stream_is_depth_and_how_far_it_sees():
    env = DepthAsImage(LocalRobotEnv(Seeing()))
    assert env.recipe[0][1] == {"near": 0.1, "far": 2.0, "inverse": False, "streams": ["cam/depth"]}
    observation, info = env.reset(seed=1)
    assert observation["cam/depth"].shape == (5, 6, 1)
    assert list(observation) == ["joint_pos", "cam/image", "cam/depth"]
    assert (observation["cam/depth"] == 0).any()
    assert "cameras" in info["remote"]
    env.close()


# Frames


def test_it_joins_the_last_pictures_by_their_channels():
    frames = Frames(spaces.Dict({"cam": PICTURE, "x": BOX}), BOX, count=3)
    x = np.zeros(2, np.float32)
    seen = [frames.reset({"cam": picture(1), "x": x})]
    seen += [frames.step({"cam": picture(n), "x": x}, None, {}) for n in (2, 3, 4)]
    told = [one["cam"][0, 0].tolist() for one in seen]
    assert told == [
        [1, 1, 1, 1, 1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1, 1, 2, 2, 2],
        [1, 1, 1, 2, 2, 2, 3, 3, 3],
        [2, 2, 2, 3, 3, 3, 4, 4, 4],
    ]
    assert all(one in frames.space and one["x"].shape == (2,) for one in seen)
    seen[-1]["cam"][:] = 0
    kept = frames.step({"cam": picture(5), "x": x}, None, {})
    assert kept["cam"][0, 0].tolist() == [3, 3, 3, 4, 4, 4, 5, 5, 5]


def test_the_order_of_pictures_in_memory_makes_no_difference():
    frames = Frames(PICTURE, BOX, count=2)
    seen = np.random.default_rng(1).integers(256, size=(3, 2, 2, 3), dtype=np.uint8)
    frames.reset(np.asfortranarray(seen[0]))
    frames.step(np.asfortranarray(seen[1]), None, {})
    last = frames.step(np.asfortranarray(seen[2]), None, {})
    assert np.array_equal(last, np.concatenate([seen[1], seen[2]], axis=-1))


def test_a_stale_stream_is_not_joined_twice():
    frames = Frames(spaces.Dict({"a": PICTURE, "b": PICTURE}), BOX, count=2)
    frames.reset({"a": picture(1), "b": picture(1)})
    frames.step({"a": picture(2), "b": picture(2)}, None, {})
    seen = frames.step({"a": picture(2), "b": picture(3)}, None, {"stale": {"a": {"age": 1.0}}})
    assert seen["a"][0, 0].tolist() == [1, 1, 1, 2, 2, 2]
    assert seen["b"][0, 0].tolist() == [2, 2, 2, 3, 3, 3]


def test_what_is_named_is_stacked_with_its_own_bounds():
    frames = Frames(spaces.Dict({"cam": PICTURE, "x": BOX}), BOX, count=2, streams=["x"])
    frames.reset({"cam": picture(1), "x": np.float32([0.5, 1.5])})
    seen = frames.step({"cam": picture(1), "x": np.float32([1, 2])}, None, {})
    assert seen["x"].tolist() == [0.5, 1.5, 1, 2]
    assert frames.space["x"].high.tolist() == [1, 2, 1, 2]
    assert seen in frames.space
    assert seen["cam"].shape == (2, 2, 3)


# What cannot be


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: History(BOX, BOX, steps="auto"), "needs a robot that says what it is"),
        (lambda: History(BOX, BOX, steps=-1), "number of actions or 'auto', not -1"),
        (lambda: History(BOX, BOX, steps=True), "number of actions or 'auto', not True"),
        (lambda: Chain(BOX, BOX, recipe=[ALL[0], ALL[0]]), "wrap it once"),
        (lambda: History(spaces.Tuple([BOX]), BOX, steps=1), "flatten=True"),
        (lambda: History(spaces.Dict(x=spaces.Dict(y=BOX)), BOX, steps=1), "'x' .* is nested"),
        (lambda: Frames(BOX, BOX), "none of 'observation' is a picture"),
        (lambda: Frames(PICTURE, BOX, count=0), "1 or more, not 0"),
        (lambda: Frames(spaces.Box(0, 1, (2, 2)), BOX, streams=["observation"]), r"\(2, 2\)"),
        (lambda: Frames(spaces.Discrete(2), BOX, streams=["observation"]), "must be a Box"),
        (lambda: Frames(PICTURE, BOX, streams=["cam"]), "no 'cam'; it has 'observation'"),
        (lambda: Depth(PICTURE, BOX), "none of 'observation' is declared as depth"),
        (lambda: Depth(PICTURE, BOX, streams=["observation"]), "a depth image is"),
        (lambda: Depth(spaces.Box(0, np.inf, (2, 2)), BOX, streams=["observation"]), "give far"),
        (lambda: Depth(spaces.Box(0, 1, (2, 2)), BOX, near=2, streams=["observation"]), "near <"),
        (lambda: Chain(BOX, BOX, recipe=[("Frames", {})]), "no wrapper 'Frames'"),
        (lambda: Chain(BOX, BOX, recipe=[("FrameStack", {"n": 1})]), "unexpected keyword"),
    ],
)
def test_what_cannot_be_made_is_refused(make, message):
    with pytest.raises(ConfigurationError, match=message):
        make()


# One robot


def test_a_step_that_is_no_transition_is_not_remembered():
    class Lost(gym.Env):
        observation_space = spaces.Dict({"cam": PICTURE})
        action_space = BOX

        def reset(self, *, seed=None, options=None):
            return {"cam": picture(1)}, {}

        def step(self, action):
            if action[0] > 0:
                remote = {"remote": {"invalid_transition": True, "step": 1}}
                return {"cam": picture(9)}, 0.0, False, True, remote
            return {"cam": picture(2)}, 0.0, False, False, {"remote": {"step": 1}}

    env = ActionHistory(FrameStack(Lost(), 2), 2)
    env.reset()
    before, *_ = env.step(np.float32([-0.5, 0]))
    after, *_ = env.step(np.float32([0.5, 0]))
    assert data_equivalence(after, before)


def test_a_step_that_was_executed_is_remembered_also_if_what_it_led_to_is_stale():
    history = History(BOX, BOX, steps=1)
    x = np.zeros(2, np.float32)
    history.reset(x)
    told = {"invalid_transition": True, **executed(0.5, 1)}
    assert advance(history, x, x, told)["action_history"].tolist() == [0.5, 1]


class Large(Seeing):
    """With pictures that a CNN can take."""

    size = (36, 40)


def test_checkers_find_nothing(serve):
    url = serve(Large(), mode="lockstep").url
    env = gym.make("RemoteRobot-v0", url=url, disable_env_checker=True)
    wrapped = wrappers.PreparedObservations(env, ALL)
    pictures = [name for name, part in wrapped.observation_space.items() if is_image_space(part)]
    assert pictures == ["cam/image", "cam/depth"]
    assert wrapped.observation_space["cam/image"].shape == (36, 40, 9)
    assert wrapped.observation_space["cam/depth"].shape == (36, 40, 3)
    with pytest.warns(UserWarning, match="different from the unwrapped"):  # of any wrapper
        check_env(wrapped)
    check_env_for_sb3(wrapped)
    wrapped.close()


def test_they_stand_in_the_spec_of_an_environment_and_are_made_of_it_again():
    gym.register("Seeing-v0", entry_point=lambda: LocalRobotEnv(Seeing()))
    env = FrameStack(
        DepthAsImage(ActionHistory(gym.make("Seeing-v0"), 2), near=0.2, inverse=True), 3
    )
    spec = pickle.loads(pickle.dumps(env.spec.additional_wrappers))
    assert [one.name for one in spec] == ["ActionHistory", "DepthAsImage", "FrameStack"]
    json.dumps([one.kwargs for one in spec])
    again = gym.make(env.spec)
    assert again.observation_space == env.observation_space
    assert data_equivalence(again.reset(seed=3), env.reset(seed=3))
    action = np.float32([0.25, 0.5])
    assert data_equivalence(again.step(action), env.step(action))
    env.close()
    again.close()
    del gym.registry["Seeing-v0"]


def test_a_recipe_in_full_makes_the_same_without_a_robot():
    env = LocalRobotEnv(Seeing())
    recipe = [("ActionHistory", {"steps": "auto"}), ("DepthAsImage", {}), ("FrameStack", {})]
    chain = Chain(env.observation_space, env.action_space, env.spec_of_robot, recipe=recipe)
    full = json.loads(json.dumps(chain.recipe))
    assert full[0] == ["ActionHistory", {"steps": 2}]
    again = Chain(env.observation_space, env.action_space, None, recipe=full)
    assert again.space == chain.space
    env.close()


# Several robots: what is wrapped outside is what is wrapped inside


def prepared_local():
    return wrappers.PreparedObservations(LocalRobotEnv(Seeing()), ALL)


@pytest.fixture
def vector(serve):
    made = []

    def make(robots, **options):
        urls = [serve(robot, mode="lockstep").url for robot in robots]
        made.append(gym.make_vec("RemoteRobot-v0", urls=urls, **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


@pytest.mark.parametrize("copy", [True, False])
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_of_robots_is_wrapped_as_each_one_is(vector, mode, copy):
    inside = SyncVectorEnv([prepared_local] * 3, autoreset_mode=mode)
    robots = vector([Seeing() for _ in range(3)], autoreset_mode=mode, copy=copy)
    outside = for_vectors.PreparedObservations(robots, ALL)
    assert outside.observation_space == inside.observation_space
    assert outside.single_observation_space == inside.single_observation_space

    def same(got, expected):
        return data_equivalence(without_ours(got), expected, exact=True)

    assert same(outside.reset(seed=3), inside.reset(seed=3))
    inside.action_space.seed(5)
    ends = finals = 0
    kept = []
    for number in range(30):
        actions = inside.action_space.sample()
        got, expected = outside.step(actions), inside.step(actions)
        kept.append((got[0], {name: part.copy() for name, part in got[0].items()}))
        assert same(got, expected)
        assert got[0] in outside.observation_space
        over = expected[2] | expected[3]
        ends += int(over.sum())
        finals += int(got[-1].get("_final_obs", np.zeros(3)).sum())
        if mode is AutoresetMode.DISABLED and over.any():
            # Each its own: Gymnasium takes the mask out.
            given = [{"reset_mask": over.copy()} for _ in range(2)]
            assert same(
                outside.reset(seed=number, options=given[0]),
                inside.reset(seed=number, options=given[1]),
            )
    assert ends >= 12
    assert (finals >= 12) is (mode is AutoresetMode.SAME_STEP)
    assert all(data_equivalence(one, copied) for one, copied in kept)  # the caller's own
    inside.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_environments_that_are_no_robots_are_wrapped_too(mode):
    def cart():
        return gym.make("CartPole-v1", max_episode_steps=5)

    def inside_out():
        return FrameStack(ActionHistory(cart(), 2), 3, streams=["observation"])

    inside = SyncVectorEnv([inside_out] * 2, autoreset_mode=mode)
    outside = for_vectors.FrameStack(
        for_vectors.ActionHistory(SyncVectorEnv([cart] * 2, autoreset_mode=mode), 2),
        3,
        streams=["observation"],
    )
    assert data_equivalence(outside.reset(seed=3), inside.reset(seed=3))
    inside.action_space.seed(5)
    for _ in range(15):
        actions = inside.action_space.sample()
        assert data_equivalence(outside.step(actions), inside.step(actions), exact=True)
    inside.close()
    outside.close()


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_rows_of_a_robot_that_is_down_change_nothing_and_its_return_begins_anew(vector, mode):
    robots = vector([Seeing(), Seeing(fails_at=2)], autoreset_mode=mode)
    env = for_vectors.PreparedObservations(robots, ALL)
    begun, _ = env.reset(seed=[3, 4])
    action = np.full((2, 2), 0.25, np.float32)
    rows, told = [begun], []
    deadline = time.monotonic() + 20.0
    while time.monotonic() < deadline:  # it is reset again after a second
        observation, _, _, truncated, infos = env.step(action)
        rows.append(observation)
        told.append((truncated[1], infos["remote"]["valid"][1]))
        if len(told) > 2 and told[-1][1]:
            break
    fell = next(i for i, (was_truncated, valid) in enumerate(told) if was_truncated and not valid)
    back = len(told) - 2  # the row before is the one with which it returned
    assert told[-1][1]
    assert 0 < fell < back

    def of(index):
        return {name: part[1] for name, part in rows[index + 1].items()}

    assert not data_equivalence(of(fell - 1), {name: part[1] for name, part in begun.items()})
    for index in range(fell, back):
        assert data_equivalence(of(index), of(fell - 1))
    returned = of(back)
    assert returned["action_history"].tolist() == returned["joint_pos"].tolist() * 3
    frames = np.split(returned["cam/image"], 3, axis=-1)
    assert all(np.array_equal(frames[0], frame) for frame in frames)
    assert not np.array_equal(frames[0], of(fell)["cam/image"][..., :3])


# Stable-Baselines3


def test_a_vec_env_of_robots_is_wrapped_as_each_one_is(serve):
    inside = DummyVecEnv([prepared_local] * 3)
    urls = [serve(Seeing(), mode="lockstep").url for _ in range(3)]
    outside = for_sb3.FrameStack(
        for_sb3.DepthAsImage(for_sb3.ActionHistory(RemoteRobotVecEnv(urls), 3), near=0.1), 3
    )
    assert outside.observation_space == inside.observation_space
    told = []
    for env in (outside, inside):
        env.seed(7)
        env.action_space.seed(5)
        seen = [(dict(env.reset()),)]
        for _ in range(30):
            actions = np.array([env.action_space.sample() for _ in range(3)])
            observation, *rest = env.step(actions)
            seen.append((dict(observation), *rest))
        told.append(seen)
    ends = [infos for _, _, _, infos in told[1][1:] for infos in infos if "TimeLimit" in str(infos)]
    assert sum("terminal_observation" in info for info in ends) >= 12
    assert data_equivalence(told[0], told[1], exact=True)
    inside.close()
    outside.close()


def test_an_end_that_is_no_transition_has_the_memory_as_it_was():
    class Robots(DummyVecEnv):
        """Says of every end that it was none of the policy's."""

        def step_wait(self):
            *rest, infos = super().step_wait()
            for info in infos:
                if "terminal_observation" in info:
                    info["remote"] = {"invalid_transition": True}
            return *rest, infos

    env = for_sb3.ActionHistory(Robots([lambda: gym.make("Pendulum-v1", max_episode_steps=2)]), 2)
    env.reset()
    before, *_ = env.step(np.float32([[1.5]]))
    after, _, dones, infos = env.step(np.float32([[0.5]]))
    assert dones.all()
    assert infos[0]["terminal_observation"]["action_history"].tolist() == [0, 1.5]
    assert before["action_history"].tolist() == [[0, 1.5]]
    assert after["action_history"].tolist() == [[0, 0]]
    env.close()


def test_of_pictures_alone_it_is_what_the_frame_stack_of_sb3_is_once_that_is_full():
    def make():
        return DummyVecEnv([lambda: LocalRobotEnv(Large(), streams=["cam/image"])])

    ours, theirs = for_sb3.FrameStack(make(), 2), VecFrameStack(make(), 2)
    assert ours.observation_space == theirs.observation_space
    for env in (ours, theirs):
        env.seed(3)
        env.reset()
    action = np.zeros((1, 2), np.float32)
    got, expected = ours.step(action), theirs.step(action)
    assert np.array_equal(got[0]["cam/image"], expected[0]["cam/image"])
    ours.close()
    theirs.close()


def test_the_benchmark_measures_every_wrapper_and_trains():
    figures = costs(rounds=1, steps=2)
    assert {"stack, ours", "depth", "history of 3", "all three"} <= figures.keys()
    assert all(np.isfinite(list(figures.values())))
    lengths = learn(0, with_history=True, steps=32)
    assert len(lengths) == 20
    assert all(1 < length <= 100 for length in lengths)
