"""What Gymnasium itself offers, on robots: make_vec, its wrappers, its vector environments."""

import functools
import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import wrappers
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import vector
from sample_robots import Counter

from remote_env import ConfigurationError, errors
from remote_env_server.robots import make_robot

OF_WRAPPERS = "ignore:.*(Overwriting existing videos|has an infinite|precision lowered).*"
ID = "remote_env:RemoteRobot-v0"  # with the module, so that workers that are spawned know it
NEXT_STEP, SAME_STEP = AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """Where it is noted which robots are taken."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


@pytest.fixture
def closing():
    """Close environments at the end of the test."""
    made = []

    def close_later(env):
        made.append(env)
        return env

    yield close_later
    for env in made:
        env.close()


@pytest.fixture
def make_vec(serve, closing):
    """Make a vector environment of two served robots."""

    def make(name="double-pendulum", count=2, **options):
        urls = [serve(make_robot(name)).url for _ in range(count)]
        return closing(gym.make_vec("RemoteRobot-v0", urls=urls, **options))

    return make


def steps_until_truncated(env, at_most=9):
    """Return after how many steps the episodes were truncated, and what the last one told."""
    env.reset(seed=1)
    for count in range(1, at_most + 1):
        *_, truncated, info = env.step(env.action_space.sample())
        if np.any(truncated):
            return count, info
    return None, info


# gym.make_vec


@pytest.mark.parametrize(
    ("given", "limit"),
    [
        ({"max_episode_steps": 4}, 4),
        ({"max_episode_steps": 4, "max_steps": 3}, 3),
        ({"max_episode_steps": 3, "max_steps": 4}, 3),
        ({"max_episode_steps": -1, "max_steps": 4}, 4),
    ],
)
def test_the_limit_of_make_vec_ends_the_episodes_on_the_robots(make_vec, given, limit):
    count, info = steps_until_truncated(make_vec(**given))
    assert count == limit
    assert info["remote"]["end_reason"].tolist() == ["time_limit"] * 2


def test_a_limit_that_is_none_is_refused(make_vec):
    with pytest.raises(ConfigurationError, match="positive number of steps, not 0"):
        make_vec(max_episode_steps=0)


def test_the_limit_of_make_is_a_wrapper_of_which_the_robot_knows_nothing(serve, closing):
    url = serve(Counter()).url
    env = closing(gym.make(ID, url=url, max_episode_steps=4))
    count, info = steps_until_truncated(env)
    assert count == 4
    assert "end_reason" not in info["remote"]
    env.reset()
    assert not env.step(env.action_space.sample())[3]


def test_one_url_makes_a_vector_of_one(serve, closing):
    url = serve(Counter()).url
    assert closing(gym.make_vec(ID, url=url)).unwrapped.urls == (url,)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"url": "ws://a:1", "num_envs": 2}, r"num_envs=2 and one url, .* give urls=\[...\]"),
        ({"url": "ws://a:1", "urls": ["ws://b:1"]}, "give one of them"),
        ({"robot": "arm", "urls": ["ws://b:1"]}, "give one of them"),
    ],
)
def test_what_says_two_things_about_the_robots_is_refused(given, message):
    with pytest.raises(ConfigurationError, match=message):
        gym.make_vec(ID, **given)


def test_robots_are_asked_for_small_pictures_as_one_robot_is(make_vec, closing):
    asked = {"streams": ["camera/image"], "image_size": (24, 32), "grayscale": True}
    robots = make_vec(**asked)
    one = closing(gym.make(ID, robot="double-pendulum", **asked))
    pictures, _ = robots.reset(seed=[7, 8])
    picture, _ = one.reset(seed=7)
    assert pictures["camera/image"].shape == (2, 24, 32, 1)
    assert data_equivalence(pictures["camera/image"][0], picture["camera/image"], exact=True)


def test_what_a_stream_is_to_be_reaches_every_robot(make_vec):
    with pytest.raises(ConfigurationError, match="quality"):
        make_vec(quality=0, codec="jpeg", streams=["camera/image"])


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_wrappers_are_for_environments_of_which_each_gets_a_robot(serve, closing, mode):
    urls = [serve(Counter()).url for _ in range(2)]
    robots = closing(
        gym.make_vec(
            ID,
            num_envs=2,
            urls=urls,
            vectorization_mode=mode,
            wrappers=[functools.partial(wrappers.TimeLimit, max_episode_steps=4)],
        )
    )
    assert sorted(robots.get_attr("url")) == sorted(urls)
    assert steps_until_truncated(robots)[0] == 4


def test_a_vector_of_simulated_robots_needs_no_url(closing):
    robots = closing(gym.make_vec(ID, num_envs=3, max_episode_steps=4))
    assert len(set(robots.unwrapped.urls)) == 3
    assert steps_until_truncated(robots)[0] == 4


# Its wrappers


def wrap(env):
    """Wrap an environment as single-file learners do."""
    env = wrappers.TimeLimit(wrappers.FlattenObservation(env), 20)
    env = wrappers.ClipAction(wrappers.RecordEpisodeStatistics(env))
    env = wrappers.NormalizeObservation(env)
    env = wrappers.TransformObservation(env, lambda seen: np.clip(seen, -10, 10), None)
    return wrappers.TransformReward(wrappers.NormalizeReward(env), lambda r: np.clip(r, -1, 1))


def wrap_vector(env):
    """Wrap a vector environment the same way."""
    env = vector.ClipAction(vector.RecordEpisodeStatistics(env))
    env = vector.NormalizeObservation(env)
    return vector.TransformReward(vector.NormalizeReward(env), lambda r: np.clip(r, -1, 1))


def rollout(env, steps=50):
    """Return all that an environment told, without times and without what is ours."""
    told = [env.reset(seed=5)]
    env.action_space.seed(5)
    for _ in range(steps):
        told.append(env.step(env.action_space.sample()))
        ended = told[-1][3] | told[-1][2]
        if isinstance(ended, (bool, np.bool_)) and ended:
            told.append(env.reset())
    for *_, info in told:
        forget(info)
    return told


def forget(info):
    info.pop("remote", None)
    info.pop("_remote", None)
    info.get("episode", {}).pop("t", None)
    if "final_info" in info:
        forget(info["final_info"])


@pytest.mark.filterwarnings(OF_WRAPPERS)
def test_wrapped_it_is_what_the_local_environment_is_when_it_is_wrapped(serve, closing):
    url = serve(make_robot("gymnasium:Pendulum-v1")).url
    local = rollout(closing(wrap(gym.make("Pendulum-v1"))))
    remote = rollout(closing(wrap(gym.make(ID, url=url))))
    assert sum("episode" in told[-1] for told in local) == 2
    assert data_equivalence(remote, local, exact=True)


@pytest.mark.filterwarnings(OF_WRAPPERS)
@pytest.mark.parametrize("mode", [NEXT_STEP, SAME_STEP])
def test_wrapped_robots_are_what_local_environments_are(make_vec, closing, mode):
    local = closing(
        SyncVectorEnv(
            [functools.partial(gym.make, "Pendulum-v1", max_episode_steps=20)] * 2,
            autoreset_mode=mode,
        )
    )
    remote = make_vec("gymnasium:Pendulum-v1", autoreset_mode=mode, max_episode_steps=20)
    if mode is SAME_STEP:  # Gymnasium's other vector wrappers are not made for it
        local, remote = (vector.RecordEpisodeStatistics(each) for each in (local, remote))
    else:
        local, remote = wrap_vector(local), wrap_vector(remote)
    local, remote = rollout(local), rollout(remote)
    assert sum(bool(told[-1]) for told in local[1:]) == 2  # episodes that ended
    assert data_equivalence(remote, local, exact=True)


@pytest.mark.filterwarnings("ignore:.*Overwriting existing videos")
def test_a_video_of_a_robot_and_one_of_several_are_recorded(make_vec, serve, closing, tmp_path):
    pytest.importorskip("moviepy", reason="Gymnasium's RecordVideo needs moviepy")
    url = serve(make_robot("double-pendulum")).url
    one = gym.make(ID, url=url, render_mode="rgb_array", max_episode_steps=4)
    several = make_vec(render_mode="rgb_array", max_episode_steps=4)
    for env, folder in (
        (wrappers.RecordVideo(one, tmp_path / "one"), "one"),
        (vector.RecordVideo(several, tmp_path / "several"), "several"),
    ):
        steps_until_truncated(closing(env))
        env.close()
        assert next((tmp_path / folder).glob("*.mp4")).stat().st_size > 1000


# Its vector environments


def of_each(urls, **options):
    return [functools.partial(gym.make, ID, url=url, **options) for url in urls]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("context", "shared_memory"), [("fork", True), ("fork", False), ("spawn", True)]
)
def test_workers_see_what_local_environments_give(serve, closing, context, shared_memory):
    urls = [serve(make_robot("gymnasium:CartPole-v1")).url for _ in range(2)]
    local = closing(SyncVectorEnv([functools.partial(gym.make, "CartPole-v1")] * 2))
    remote = closing(AsyncVectorEnv(of_each(urls), context=context, shared_memory=shared_memory))
    assert data_equivalence(rollout(remote), rollout(local), exact=True)


def test_environments_in_turn_see_what_local_ones_give(serve, closing):
    urls = [serve(make_robot("gymnasium:CartPole-v1")).url for _ in range(2)]
    local = closing(SyncVectorEnv([functools.partial(gym.make, "CartPole-v1")] * 2))
    remote = closing(SyncVectorEnv(of_each(urls)))
    assert data_equivalence(rollout(remote), rollout(local), exact=True)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_looking_at_a_robots_spaces_does_not_disturb_its_episode(serve, closing):
    url = serve(Counter()).url
    busy = closing(gym.make(ID, url=url))
    before, _ = busy.reset()
    AsyncVectorEnv(of_each([url]), context="fork").close()
    after, *_ = busy.step(np.ones(2, np.float32))
    assert after["sum"].tolist() == (before["sum"] + 1).tolist()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_workers_say_who_commands_the_robot_that_they_want(serve, closing):
    url = serve(Counter()).url
    busy = closing(gym.make(ID, url=url, owner="Ann"))
    busy.reset()
    workers = AsyncVectorEnv(of_each([url]), context="fork")
    with warnings.catch_warnings():  # of Gymnasium: what the worker told
        warnings.simplefilter("ignore")
        with pytest.raises(errors.LeaseError, match="commanded by Ann"):
            workers.reset()
    busy.step(np.ones(2, np.float32))
