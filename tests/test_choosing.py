"""Programs that give all environments the same arguments: each gets a robot of its own."""

import functools
import gc
import multiprocessing
import os

import gymnasium as gym
import numpy as np
import pytest
from beside import wait_for
from sample_robots import Counter

from remote_env import ConfigurationError, errors

ZEROS = np.zeros(2, np.float32)
forks = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # Python 3.12


@pytest.fixture(autouse=True)
def notes(tmp_path, monkeypatch):
    """Where it is noted which robots are taken."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def urls(serve):
    return [serve(Counter()).url for _ in range(2)]


@pytest.fixture
def make():
    """Call ``gym.make``; closes what it made at the end of the test."""
    made = []

    def make(**options):
        made.append(gym.make("RemoteRobot-v0", **options))
        return made[-1]

    yield make
    for env in made:
        env.close()


def url_of(env):
    return env.unwrapped.url


def test_each_environment_gets_the_first_robot_that_no_other_has(urls, make):
    assert [url_of(make(urls=urls)) for _ in urls] == urls


def test_a_robot_is_free_when_its_environment_is_closed(urls, make):
    make(urls=urls).close()
    assert url_of(make(urls=urls)) == urls[0]


def test_a_robot_is_free_when_nobody_refers_to_its_environment(urls, make):
    env = gym.make("RemoteRobot-v0", urls=urls)
    del env
    gc.collect()
    assert url_of(make(urls=urls)) == urls[0]


def test_a_robot_is_free_when_connecting_to_it_failed(urls, make):
    with pytest.raises(ConfigurationError, match="image_size") as caught:
        make(urls=urls, image_size=(8, 8))
    assert url_of(make(urls=urls)) == urls[0]
    del caught  # which refers to the one that failed


def test_where_there_are_too_few_robots_the_log_says_which_one_is_shared(urls, make, caplog):
    older = make(urls=urls)
    older.reset()
    make(urls=urls)
    newer = make(urls=urls)
    assert url_of(newer) == urls[0]
    wait_for(lambda: f"other environments of this user have {urls[0]} already" in caplog.text)
    newer.reset()
    with pytest.raises(errors.LeaseError, match="another environment of this process"):
        older.step(ZEROS)


def test_one_robot_may_be_opened_twice_and_nothing_is_noted(urls, make, notes):
    assert {url_of(make(urls=urls[:1])) for _ in range(2)} == {urls[0]}
    assert not list(notes.rglob("*.lock"))


@forks
def test_workers_in_processes_of_their_own_get_different_robots(urls):
    pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import SubprocVecEnv

    workers = make_vec_env(
        "RemoteRobot-v0",
        n_envs=2,
        env_kwargs={"urls": urls, "render_mode": None},  # SB3 asks for pictures otherwise
        vec_env_cls=SubprocVecEnv,
        vec_env_kwargs={"start_method": "fork"},
    )
    assert sorted(workers.get_attr("url")) == sorted(urls)
    workers.reset()
    workers.step(np.zeros((2, 2), np.float32))
    workers.close()


@forks
def test_a_process_that_was_forked_keeps_no_robot(urls, make):
    env = make(urls=urls)
    context = multiprocessing.get_context("fork")
    is_over = context.Event()
    child = context.Process(target=functools.partial(is_over.wait, 60))
    child.start()
    try:
        env.close()
        assert url_of(make(urls=urls)) == urls[0]
    finally:
        is_over.set()
        child.join()


def test_a_fork_that_has_not_let_go_yet_keeps_no_robot_that_was_given_back(urls, make):
    env = make(urls=urls)
    copies = [os.dup(file) for file in env.unwrapped._choice._files]  # as a fork has them at first
    try:
        env.close()
        assert url_of(make(urls=urls)) == urls[0]
    finally:
        for copy in copies:
            os.close(copy)


@forks
def test_a_process_that_was_forked_takes_no_robot_from_its_parent(urls, make):
    make(urls=urls)
    context = multiprocessing.get_context("fork")
    child = context.Process(target=gc.collect)
    child.start()
    child.join()
    assert url_of(make(urls=urls)) == urls[1]


def test_without_a_url_the_robots_are_those_of_an_environment_variable(urls, make, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", " ".join(urls))
    assert [url_of(make()) for _ in urls] == urls


def test_it_is_said_that_an_environment_variable_chose_the_robot(urls, make, monkeypatch, caplog):
    monkeypatch.setenv("REMOTE_ENV_URLS", urls[0])
    make()
    wait_for(lambda: f"choosing from REMOTE_ENV_URLS={urls[0]}" in caplog.text)


def test_who_names_a_robot_gets_that_one(urls, make, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", urls[0])
    assert url_of(make(url=urls[1])) == urls[1]
    assert url_of(make(robot="double-pendulum")) not in urls


def test_an_empty_variable_is_none(make, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", "")
    assert make().unwrapped.spec_of_robot.name == "double-pendulum"


def test_robots_of_the_variable_get_the_token_of_the_other_one(serve, make, monkeypatch):
    token = "a-token-of-more-than-sixteen-characters"
    url = serve(Counter(), token=token).url
    monkeypatch.setenv("REMOTE_ENV_TOKEN", token)
    with pytest.raises(errors.AccessDeniedError):
        make(url=url)
    monkeypatch.setenv("REMOTE_ENV_URLS", url)
    assert url_of(make()) == url


def test_a_vector_environment_takes_as_many_as_it_has_rows(urls, make, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", " ".join(urls))
    taken = make()
    with gym.make_vec("RemoteRobot-v0") as robots:
        assert robots.unwrapped.urls == (urls[1],)
    taken.close()
    with gym.make_vec("RemoteRobot-v0", num_envs=2) as robots:
        assert robots.unwrapped.urls == tuple(urls)
    assert url_of(make()) == urls[0]  # they are free again


def test_more_rows_than_robots_are_refused(urls, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", " ".join(urls))
    with pytest.raises(ConfigurationError, match="3 robots of 2 .* give more urls, or ask for few"):
        gym.make_vec("RemoteRobot-v0", num_envs=3)


def test_a_vector_environment_that_fails_keeps_no_robot(urls, make, monkeypatch):
    monkeypatch.setenv("REMOTE_ENV_URLS", " ".join(urls))
    with pytest.raises(ConfigurationError, match="image_size") as caught:
        gym.make_vec("RemoteRobot-v0", image_size=(8, 8))
    assert url_of(make()) == urls[0]
    del caught  # which refers to the one that failed


@pytest.mark.parametrize("other", [{"url": "ws://a:1"}, {"robot": "double-pendulum"}])
def test_two_answers_to_which_robot_are_refused(urls, make, other):
    with pytest.raises(ConfigurationError, match="give one of them"):
        make(urls=urls, **other)


def test_a_robot_that_comes_twice_is_refused(urls, make):
    with pytest.raises(ConfigurationError, match="comes twice"):
        make(urls=[urls[0], urls[0]])


def test_a_folder_that_cannot_be_written_is_named(urls, make, notes, monkeypatch):
    (notes / "file").touch()
    monkeypatch.setenv("XDG_STATE_HOME", str(notes / "file"))
    with pytest.raises(ConfigurationError, match=r"cannot note .*file.* set XDG_STATE_HOME"):
        make(urls=urls)
