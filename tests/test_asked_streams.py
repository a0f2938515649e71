"""Through the wire: of each stream exactly what was asked for, made once and sent once."""

import threading
import time

import gymnasium
import numpy as np
import pytest
from beside import wait_for
from gymnasium.utils.env_checker import data_equivalence
from looking_robots import HEIGHT, STEP, WIDTH, K, Looker, capture
from watching import RawObserver

from remote_env import RemoteRobotEnv, RobotClient, StreamRequest, observe
from remote_env.errors import ConfigurationError, RemoteProtocolError
from remote_env.pixels import grey, intrinsics_of, nearest, shrink
from remote_env.protocol import OnStale, Subscribe, compressing
from remote_env.protocol.compressing import available_codecs
from remote_env.testing import Direction, FaultProxy
from remote_env_server import LocalRobotEnv
from remote_env_server import views as server_views
from remote_env_server.views import derive

PICTURE = HEIGHT * WIDTH * 3
SMALL = {"image_size": (16, 20)}


@pytest.fixture
def made(monkeypatch):
    """Which forms the robot's side made: the codec, and the thread."""
    calls = []

    def counted(array, kind, request):
        calls.append((request.codec, threading.current_thread().name))
        return derive(array, kind, request)

    monkeypatch.setattr(server_views, "derive", counted)
    return calls


# The same as if it was done here


def assert_small_grey(observation, number):
    raw = capture(number)
    assert (observation["cam/image"] == grey(shrink(raw["image"], (16, 20)))).all()
    assert (observation["cam/depth"] == nearest(raw["depth"], (16, 20))).all()


def test_small_grey_pictures_are_those_that_are_computed_here(serve, connect):
    env = connect(serve(Looker()).url, **SMALL, grayscale=True)
    observation, info = env.reset()
    for number in range(1, 6):
        assert env.observation_space.contains(observation)
        assert_small_grey(observation, number)
        cameras = info["remote"]["cameras"]["cam"]
        expected = intrinsics_of(K, (0, 0, HEIGHT, WIDTH), (16, 20))
        assert (cameras["intrinsics"] == expected).all()
        assert (cameras["extrinsics"] == capture(number)["extrinsics"]).all()
        observation, _, _, _, info = env.step(STEP)


def test_the_space_is_that_of_what_comes(serve, connect):
    env = connect(serve(Looker()).url, **SMALL, grayscale=True)
    assert env.observation_space["cam/image"].shape == (16, 20, 1)
    assert env.spec_of_robot.stream("cam/image").array.shape == (16, 20, 1)
    assert set(env.observation_space) == {"steps", "cam/image", "cam/depth"}


def test_calibration_can_be_observed_and_is_corrected(serve, connect):
    names = {"cam/image": StreamRequest(crop=(8, 4, 24, 40)), "cam/intrinsics": None}
    env = connect(serve(Looker()).url, streams=names)
    observation, _ = env.reset()
    assert list(observation) == list(names)
    assert (observation["cam/intrinsics"] == intrinsics_of(K, (8, 4, 24, 40), None)).all()
    assert (observation["cam/image"] == capture(1)["image"][8:32, 4:44]).all()


ENCODED = {"codec": ["jpeg", "depth16"], "quality": 90}


def test_encoded_pictures_are_near_and_take_fewer_bytes(serve, connect, sizes):
    env = connect(serve(Looker()).url, **ENCODED)
    env.reset()
    for number in range(2, 6):
        sizes.clear()
        observation = env.step(STEP)[0]
        raw = capture(number)
        error = np.abs(observation["cam/image"].astype(int) - raw["image"])
        assert error.mean() < 4
        assert np.abs(observation["cam/depth"] - raw["depth"]).max() <= 0.000501
        assert (observation["cam/depth"][:4, :4] == 0).all()
        assert sizes[-1] < (PICTURE + HEIGHT * WIDTH * 4) / 2
        assert env.observation_space.contains(observation)


@pytest.mark.parametrize(
    "options",
    [
        SMALL,
        ENCODED,
        {"codec": "auto", "grayscale": True},
        {"streams": {"cam/image": StreamRequest(every_n=3, codec="jpeg"), "cam/extrinsics": None}},
        {"streams": {"steps": StreamRequest(max_rate=5.0), "cam/depth": None}},
    ],
)
def test_served_or_not_is_the_same_bit_by_bit(serve, connect, options):
    remote = connect(serve(Looker()).url, timing=False, **options)
    with LocalRobotEnv(Looker(), **options) as local:
        assert local.observation_space == remote.observation_space
        for one, other in [(remote.reset(), local.reset())] + [
            (remote.step(STEP), local.step(STEP)) for _ in range(10)
        ]:
            assert data_equivalence(one, other, exact=True)


def test_what_the_learner_writes_is_not_seen_again(serve, connect):
    env = connect(
        serve(Looker()).url, streams={"cam/image": StreamRequest(every_n=4, codec="jpeg")}
    )
    first = env.reset()[0]["cam/image"].copy()
    for _ in range(3):
        observation = env.step(STEP)[0]
        assert (observation["cam/image"] == first).all()
        observation["cam/image"][:] = 9


def test_without_copies_it_is_one_array_that_nobody_may_write_to(serve, connect):
    streams = {"cam/image": StreamRequest(every_n=4, codec="jpeg")}
    env = connect(serve(Looker()).url, streams=streams, copy=False)
    first = env.reset()[0]["cam/image"]
    second = env.step(STEP)[0]["cam/image"]
    assert second is first
    assert not first.flags.writeable


# How often


def numbers_of(env, steps):
    """Which capture each observation holds, told by the extrinsics that came with it."""
    infos = [env.reset()[1]] + [env.step(STEP)[4] for _ in range(steps)]
    return [int(i["remote"]["cameras"]["cam"]["extrinsics"][0, 3]) for i in infos]


def test_in_lockstep_every_third_capture_from_each_reset_on(serve, connect):
    env = connect(serve(Looker()).url, streams={"cam/image": StreamRequest(every_n=3)})
    assert numbers_of(env, 6) == [1, 1, 1, 4, 4, 4, 7]
    assert numbers_of(env, 4) == [8, 8, 8, 11, 11]


def test_in_lockstep_a_rate_is_in_simulated_time(serve, connect):
    env = connect(serve(Looker()).url, streams={"cam/image": StreamRequest(max_rate=5.0)})
    assert numbers_of(env, 8) == [1, 1, 1, 1, 5, 5, 5, 5, 9]
    time.sleep(0.25)  # which is nothing to simulated time
    assert numbers_of(env, 3) == [10, 10, 10, 10]


def test_in_between_nothing_is_sent(serve, connect, sizes):
    env = connect(serve(Looker()).url, streams={"cam/image": StreamRequest(every_n=4)})
    env.reset()
    sizes.clear()
    for _ in range(8):
        env.step(STEP)
    assert [size > PICTURE for size in sizes] == [False, False, False, True] * 2


def test_a_link_that_breaks_in_any_step_changes_nothing(serve, connect):
    with FaultProxy(serve(Looker()).url) as proxy:
        streams = {"cam/image": StreamRequest(size=(16, 20), every_n=3, codec="jpeg")}
        env = connect(proxy.url, streams=streams)
        with LocalRobotEnv(Looker(), streams=streams) as local:
            pairs = [(env.reset()[0], local.reset()[0])]
            for step in range(12):
                proxy.stall(Direction.TO_CLIENT)
                env.send_step(STEP)
                if step % 2:
                    proxy.reset_connections()
                proxy.stall(Direction.TO_CLIENT, is_on=False)
                pairs.append((env.receive_step()[0], local.step(STEP)[0]))
        for one, other in pairs:
            assert (one["cam/image"] == other["cam/image"]).all()
        assert env.statistics().resumptions >= 5


@pytest.mark.realtime
def test_in_real_time_ages_are_those_of_the_capture_that_is_held(serve, connect, slowdown):
    server = serve(Looker(), mode="realtime")
    streams = {"cam/image": StreamRequest(max_rate=4.0), "cam/depth": None}
    env = connect(server.url, streams=streams)
    env.reset()
    numbers, ages, newest = set(), [], []
    for _ in range(30):
        _, _, _, truncated, info = env.step(STEP)
        assert not truncated  # what was left out on purpose is not stale
        remote = info["remote"]
        numbers.add(int(remote["cameras"]["cam"]["extrinsics"][0, 3]))
        ages.append(remote["ages"]["cam/image"])
        newest.append(remote["ages"]["cam/depth"])
    assert 4 <= len(numbers) <= 9  # in a second and a half
    assert max(ages) > 0.18
    assert max(newest) < 0.1 * slowdown


@pytest.mark.realtime
def test_in_real_time_every_so_manyth_capture_comes(serve, connect):
    server = serve(Looker(), mode="realtime")
    env = connect(server.url, streams={"cam/image": StreamRequest(every_n=20)})
    env.reset()
    stamps = {env.step(STEP)[4]["remote"]["cameras"]["cam"]["extrinsics"][0, 3] for _ in range(30)}
    numbers = sorted(stamps)
    assert 4 <= len(numbers) <= 9  # of 150
    assert min(np.diff(numbers)) >= 20


# Made once


@pytest.mark.realtime
def test_three_clients_that_want_the_same_have_it_encoded_once(serve, connect, made):
    robot = Looker()
    robot.camera_hz = 20.0
    server = serve(robot, mode="realtime")
    streams = {"cam/image": StreamRequest(codec="jpeg", quality=70)}
    env = connect(server.url, streams=streams)
    env.reset()
    with (
        observe(server.url, hz=200, streams=streams) as one,
        observe(server.url, hz=200, streams=streams) as other,
    ):
        next(one), next(other)
        made.clear()
        before = robot.captures
        counts = [next(seen).sequences["cam/image"] for _ in range(10) for seen in (one, other)]
        for _ in range(5):
            env.step(STEP)
        encoded = list(made)  # before the captures are counted: they go on
        after = robot.captures
    assert len(set(counts)) >= 8
    assert before + 8 <= after
    assert len(encoded) <= after - before + 1
    assert {thread for _, thread in encoded} == {"sensor cam"}


def test_observers_that_want_the_same_have_it_encoded_once_and_not_by_the_robot(
    serve, connect, made
):
    server = serve(Looker())
    env = connect(server.url, streams=["steps"])
    env.reset()
    streams = {"cam/image": StreamRequest(codec="jpeg")}
    with (
        observe(server.url, hz=1000, streams=streams) as one,
        observe(server.url, hz=1000, streams=streams) as other,
    ):
        for _ in range(5):
            made.clear()
            env.step(STEP)
            number = env.unwrapped._steps + 1
            for seen in (one, other):
                found = wait_for(lambda seen=seen, number=number: at(seen, number))
                error = np.abs(found.arrays["cam/image"].astype(int) - capture(number)["image"])
                assert error.mean() < 6
            assert made == [("jpeg", "remote-env observers")]


def at(observer, number):
    found = next(observer)
    return found if found.sequences["cam/image"] == number else None


def test_nobody_is_encoded_for_who_asks_for_nothing(serve, connect, made):
    env = connect(serve(Looker()).url)
    env.reset()
    for _ in range(3):
        env.step(STEP)
    assert made == []


@pytest.mark.realtime
def test_nothing_is_encoded_for_a_learner_who_left(serve, connect, made):
    robot = Looker()
    server = serve(robot, mode="realtime")
    env = connect(server.url, codec="jpeg")
    env.reset()
    env.close()
    wait_for(lambda: robot._cameras["cam"].view is None)
    wait_for(lambda count=robot.captures: robot.captures > count + 1)
    made.clear()
    wait_for(lambda count=robot.captures: robot.captures > count + 5)
    assert made == []


def test_an_observer_has_its_own_rate_and_nothing_new_is_nothing_sent(serve, connect):
    server = serve(Looker())
    env = connect(server.url, streams=["steps"])
    env.reset()
    streams = {"cam/image": StreamRequest(every_n=3), "cam/extrinsics": None}
    with observe(server.url, hz=1000, streams=streams) as observer:
        numbers = [next(observer).sequences["cam/image"]]
        for _ in range(6):
            before = server.statistics()["observers"]["sent"]
            env.step(STEP)
            wait_for(lambda before=before: server.statistics()["observers"]["sent"] > before)
            seen = next(observer)
            numbers.append(seen.sequences["cam/image"])
            assert seen.arrays["cam/extrinsics"][0, 3] == numbers[-1]
    assert numbers == [1, 1, 1, 4, 4, 4, 7]


def test_an_observer_gets_the_first_picture_of_every_episode(serve, connect):
    server = serve(Looker())
    env = connect(server.url, streams=["steps"])
    env.reset()
    with observe(server.url, hz=1000, streams={"cam/image": StreamRequest(every_n=99)}) as seen:
        assert next(seen).sequences["cam/image"] == 1
        env.step(STEP)
        env.reset()
        wait_for(lambda: (found := next(seen)).episode == 2 and found.sequences["cam/image"] == 3)


# Safety first


@pytest.mark.realtime
def test_a_slow_encoder_makes_no_tick_late(serve, connect, monkeypatch, slowdown):
    robot = Looker()
    robot.camera_hz = 15.0
    server = serve(robot, mode="realtime")
    encoding = []

    def slow(array, kind, request):
        encoding.append(threading.current_thread().name)
        until = time.monotonic() + 0.06  # longer than a control period
        while time.monotonic() < until:
            time.sleep(0.002)
        return derive(array, kind, request)

    monkeypatch.setattr(server_views, "derive", slow)
    env = connect(server.url, streams={"cam/image": StreamRequest(codec="jpeg"), "steps": None})
    env.reset()
    for _ in range(30):
        _, _, _, _, info = env.step(STEP)
    assert len(encoding) > 5
    assert set(encoding) == {"sensor cam"}
    # Encoded by the control thread each of two steps in three would miss the period after it.
    assert info["remote"]["overruns"] <= 6 * slowdown
    assert server.statistics()["lateness"]["p50"] < 0.02 * slowdown


# What cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"streams": {"cam/colour": StreamRequest()}}, "no stream 'cam/colour'"),
        ({"streams": {"cam/image": StreamRequest(crop=(0, 0, 49, 64))}}, "reaches beyond"),
        ({"streams": {"cam/depth": StreamRequest(codec="jpeg")}}, "cannot be 'jpeg'"),
        ({"image_size": (100, 100)}, "nothing is enlarged"),
        ({"codec": "png"}, "codec must be one of"),
    ],
)
def test_a_wrong_request_is_an_error_before_anything_moves(serve, options, says):
    robot = Looker()
    with pytest.raises(ConfigurationError, match=says):
        RemoteRobotEnv(serve(robot).url, **options)
    assert robot.captures == 0


@pytest.mark.parametrize(
    "requests",
    [
        {"cam/image": None},
        {"cam/image": {"codec": "auto"}},
        {"cam/image": {"codec": ["jpeg"]}},
        {"cam/image": {"size": [100, 100]}},
        {"cam/depth": {"every_n": 2}},
        {"steps": {"size": [1, 1]}},
        {"cam/image": {"codec": np.arange(3)}},
    ],
)
def test_the_robots_side_checks_all_of_it_again(serve, requests):
    observer = RawObserver(serve(Looker()).url)
    wish = Subscribe(
        2,
        streams=("cam/image", "steps"),
        max_ages={},
        on_stale=OnStale.FLAG,
        requests=requests,
    )
    with pytest.raises(ConfigurationError):
        observer.ask(wish)
    observer.close()


@pytest.fixture
def bare_server(serve, monkeypatch):
    """A robot's side without the extra; ours has it."""
    monkeypatch.setattr(compressing.importlib.util, "find_spec", lambda name: None)
    available_codecs.cache_clear()
    server = serve(Looker())
    monkeypatch.undo()
    available_codecs.cache_clear()
    return server


def test_a_codec_that_the_robot_lacks_is_named(bare_server, connect):
    with pytest.raises(ConfigurationError, match=r"robot's side cannot encode.*\[image\]"):
        RemoteRobotEnv(bare_server.url, codec="jpeg")
    connect(bare_server.url, **SMALL, grayscale=True).reset()  # that needs no library


def test_the_robots_side_refuses_a_codec_that_it_lacks(serve, monkeypatch):
    observer = RawObserver(serve(Looker()).url)
    wish = {"max_ages": {}, "on_stale": OnStale.FLAG}
    jpeg = {"cam/image": {"codec": "jpeg"}}
    monkeypatch.setattr(compressing.importlib.util, "find_spec", lambda name: None)
    available_codecs.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match="needs simplejpeg"):
            observer.ask(Subscribe(2, streams=("cam/image",), **wish, requests=jpeg))
    finally:
        monkeypatch.undo()
        available_codecs.cache_clear()
    observer.ask(Subscribe(3, streams=("cam/image",), **wish, requests=jpeg))
    observer.close()


def test_a_codec_that_the_learner_lacks_is_named(serve, monkeypatch):
    url = serve(Looker()).url
    monkeypatch.setattr(compressing.importlib.util, "find_spec", lambda name: None)
    available_codecs.cache_clear()
    try:
        with pytest.raises(ConfigurationError, match=r"needs simplejpeg on this machine"):
            RemoteRobotEnv(url, codec="jpeg")
    finally:
        monkeypatch.undo()
        available_codecs.cache_clear()


def test_auto_is_raw_on_this_machine_and_else_what_the_network_needs(serve, connect, monkeypatch):
    from remote_env import codec_choice

    url = serve(Looker()).url
    codecs = [connect(url, codec="auto").spec_of_robot.stream("cam/image").array.codec]
    monkeypatch.setattr(codec_choice, "_is_here", lambda url: False)
    for enough in (1e12, 1e3):
        monkeypatch.setattr("remote_env.env.measure_bandwidth", lambda probe, e=enough: e)
        env = connect(url, codec="auto")
        codecs.append(env.spec_of_robot.stream("cam/image").array.codec)
    assert codecs == ["raw", "raw", "jpeg"]
    env.reset()


def test_the_bandwidth_is_measured_on_the_very_connection(serve, connect, monkeypatch):
    from remote_env import codec_choice

    monkeypatch.setattr(codec_choice, "_is_here", lambda url: False)
    url = serve(Looker()).url
    with FaultProxy(url) as proxy:
        proxy.set_rate(200_000, Direction.TO_CLIENT)
        env = connect(proxy.url, codec="auto", connect_timeout=30.0)
        env.reset()
        with observe(url, codec="auto", hz=10) as observer:
            next(observer)
            assert observer.spec.stream("cam/image").array.codec == "raw"
    assert env.spec_of_robot.stream("cam/image").array.codec == "jpeg"
    assert env.spec_of_robot.stream("cam/depth").array.codec == "depth16"


def test_a_robot_that_understands_something_else_is_not_believed(serve, monkeypatch):
    server = serve(Looker())
    monkeypatch.setattr("remote_env_server.peer.derived_arrays", lambda spec, names: ())
    with pytest.raises(RemoteProtocolError, match="install the same release"):
        RemoteRobotEnv(server.url, **SMALL)
    with pytest.raises(RemoteProtocolError, match="install the same release"):
        next(observe(server.url, **SMALL))


def test_damaged_pictures_end_the_session_with_a_protocol_error(serve, monkeypatch):
    with RobotClient(serve(Looker()).url, connect_timeout=10) as client:
        client.subscribe(["cam/image"], requests={"cam/image": StreamRequest(codec="jpeg")})
        done = client.reset()
        broken = np.full(100, 255, np.uint8)
        monkeypatch.setattr(server_views, "derive", lambda *_: broken)
        with pytest.raises(RemoteProtocolError, match="no JPEG"):
            client.step([STEP], episode=done.episode, step=1, tick=done.tick, timeout=10)


def test_gym_make_and_several_robots_pass_it_on(serve):
    from remote_env.sb3 import RemoteRobotVecEnv

    urls = [serve(Looker()).url for _ in range(2)]
    env = gymnasium.make("RemoteRobot-v0", url=urls[0], **SMALL, disable_env_checker=True)
    assert env.reset()[0]["cam/image"].shape == (16, 20, 3)
    env.close()
    robots = RemoteRobotVecEnv(urls, env_kwargs={**SMALL, "grayscale": True, "codec": "jpeg"})
    assert robots.reset()["cam/image"].shape == (2, 16, 20, 1)
    robots.close()


def test_what_is_rendered_for_people_is_as_large_as_it_is(serve, connect):
    env = connect(serve(Looker()).url, streams=["steps"], render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (HEIGHT, WIDTH, 3)
