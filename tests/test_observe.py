"""``remote_env.observe``: newest only, both kinds of iteration, stopping, and lost connections."""

import asyncio
import gc
import logging
import math
import threading
import time

import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter, Rig
from watching import threads

import remote_env
from remote_env.errors import (
    AccessDeniedError,
    ConfigurationError,
    ConnectFailedError,
    ConnectionLostError,
)
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, RobotServer


class Panorama(Rig):
    """A picture of 3 MB, now and then."""

    def camera_configs(self):
        return [CameraConfig("cam", 1000, 1000)]

    def read_camera(self):
        self.update_image("cam", np.ones((1000, 1000, 3), np.uint8))


ONES = np.ones(2, np.float32)


def is_quiet():
    return not threads("remote-env observer")


def test_an_item_has_the_arrays_and_what_is_known_of_them(serve):
    server = serve(Rig())
    streams = ["joint_pos", "cam/image", "cam/intrinsics"]
    with remote_env.observe(server.url, streams=streams) as observer:
        wait_for(lambda: next(observer).sequences["cam/image"])
        seen = next(observer)
    assert list(seen.arrays) == streams
    assert seen.arrays["cam/image"].shape == (24, 32, 3)
    seen.arrays["cam/image"][:] = 0  # the caller's own
    assert (seen.episode, seen.step) == (0, 0)
    assert 0 <= seen.ages["joint_pos"] < 5
    assert (seen.sequences["cam/intrinsics"], seen.ages["cam/intrinsics"]) == (0, math.inf)
    assert seen.remote["owner"] is None
    assert observer.spec.name == "Rig"


def test_the_default_streams_are_those_of_the_observation_space(serve):
    with remote_env.observe(serve(Rig()).url) as observer:
        assert set(next(observer).arrays) == {"joint_pos", "cam/image", "cam/depth"}


def test_it_needs_no_context_manager(serve):
    observer = remote_env.observe(serve(Rig()).url)
    assert next(observer).arrays
    assert next(observer).arrays
    observer.close()


def test_a_slow_consumer_gets_the_newest_and_what_it_missed_is_counted(counter, env):
    env.reset(seed=1)
    with remote_env.observe(counter.server.url, hz=1000.0) as observer:
        assert next(observer).dropped == 0
        for step in range(1, 11):
            last = env.step(ONES)[0]["sum"]
            wait_for(lambda step=step: getattr(observer._inbox._newest, "step", 0) == step)
        seen = next(observer)
        assert (seen.step, seen.dropped) == (10, 9)
        np.testing.assert_array_equal(seen.arrays["sum"], last)


def test_every_item_is_newer_than_the_one_before(serve):
    with remote_env.observe(serve(Rig()).url, hz=200.0, streams=["joint_pos"]) as observer:
        sequences = [next(observer).sequences["joint_pos"] for _ in range(20)]
    assert sequences == sorted(set(sequences))


def test_stop_from_another_thread_ends_an_iteration_that_waits(counter):
    observer = remote_env.observe(counter.server.url)  # and nothing was ever delivered
    began = threading.Event()
    ended = []

    def iterate():
        began.set()
        ended.append(list(observer))

    thread = threading.Thread(target=iterate)
    thread.start()
    began.wait()
    wait_for(lambda: observer.spec is not None)
    started = time.monotonic()
    observer.stop()
    thread.join(5)
    assert ended == [[]]
    assert time.monotonic() - started < 1
    wait_for(is_quiet)


def test_what_came_before_the_stop_is_not_handed_out_after_it(serve):
    observer = remote_env.observe(serve(Rig()).url)
    next(observer)
    wait_for(lambda: observer._inbox._newest is not None)
    observer.stop()
    assert list(observer) == []
    assert list(observer) == []


def test_leaving_the_block_ends_the_thread_and_the_connection(serve):
    server = serve(Rig())
    with remote_env.observe(server.url) as observer:
        next(observer)
    assert is_quiet()
    wait_for(lambda: server.statistics()["observers"]["observers"] == 0)
    observer.close()


def test_one_that_is_closed_while_it_starts_ends(counter, monkeypatch):
    start, is_starting = threading.Thread.start, threading.Event()

    def start_late(thread):
        if thread.name == "remote-env observer":
            is_starting.set()
            time.sleep(0.2)  # the moment in which another thread may close it
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_late)
    observer = remote_env.observe(counter.server.url)
    watching = Beside(lambda: next(observer, None))
    assert is_starting.wait(5)
    observer.close()
    assert watching.join().error is None
    assert is_quiet()


def test_one_that_nobody_refers_to_is_stopped(serve):
    for _ in remote_env.observe(serve(Rig()).url):
        break
    gc.collect()
    wait_for(is_quiet)


def test_async_for_does_not_block_the_loop(serve):
    server = serve(Rig())

    async def main():
        turns = 0

        async def turn():
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        turning = asyncio.create_task(turn())
        got = []
        async with remote_env.observe(server.url, hz=50.0, streams=["joint_pos"]) as observer:
            async for seen in observer:
                got.append(seen.sequences["joint_pos"])
                if len(got) == 5:
                    break
        turning.cancel()
        return got, turns

    got, turns = asyncio.run(main())
    assert got == sorted(set(got))
    assert turns > 100
    assert is_quiet()


def test_stop_ends_an_async_iteration_that_waits(counter):
    async def main():
        observer = remote_env.observe(counter.server.url)
        asyncio.get_running_loop().call_later(0.1, observer.stop)
        return [seen async for seen in observer]

    assert asyncio.run(asyncio.wait_for(main(), timeout=5)) == []


def test_an_async_wait_that_is_cancelled_loses_nothing(counter, env):
    async def main():
        async with remote_env.observe(counter.server.url, hz=1000.0) as observer:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(observer), timeout=0.1)
            await asyncio.to_thread(env.reset)
            return await asyncio.wait_for(anext(observer), timeout=5)

    assert asyncio.run(main()).episode == 1


def test_async_waits_that_are_cancelled_leave_nothing_behind(counter):
    async def main():
        async with remote_env.observe(counter.server.url) as observer:  # no episode: nothing comes
            for _ in range(5):
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(anext(observer), timeout=0.02)
            return len(observer._inbox._wakers)

    assert asyncio.run(main()) == 0


def test_a_lost_connection_is_made_again_and_said_once_each(serve, caplog):
    caplog.set_level(logging.INFO, logger="remote_env.receiver")
    server = serve(Rig())
    with (
        FaultProxy(server.url) as proxy,
        remote_env.observe(proxy.url, hz=100.0, streams=["joint_pos"]) as observer,
    ):
        before = next(observer)
        proxy.refuse()
        proxy.reset_connections()
        wait_for(lambda: "trying again" in caplog.text)
        time.sleep(0.3)  # several attempts
        proxy.refuse(is_on=False)
        after = wait_for(lambda: (s := next(observer)).time > before.time + 0.3 and s)
        assert after.dropped >= before.dropped
        wait_for(lambda: "again after" in caplog.text)
    messages = [record.getMessage() for record in caplog.records]
    assert len([m for m in messages if "trying again" in m]) == 1
    assert len([m for m in messages if "again after" in m]) == 1


def test_drops_of_connections_before_still_count(counter, env):
    env.reset()
    with (
        FaultProxy(counter.server.url) as proxy,
        remote_env.observe(proxy.url, hz=1000.0) as observer,
    ):
        next(observer)
        (state,) = counter.server._session.observers._observers.values()
        state.dropped = 5
        env.step(ONES)
        assert next(observer).dropped == 5
        proxy.reset_connections()
        assert next(observer).dropped == 5


@pytest.mark.realtime
def test_a_dead_peer_is_noticed_by_the_observers_own_clock(serve, slowdown, caplog):
    server = serve(Rig())
    with (
        FaultProxy(server.url) as proxy,
        remote_env.observe(proxy.url, hz=50.0, streams=["joint_pos"]) as observer,
    ):
        next(observer)
        proxy.blackhole()
        began_at = time.monotonic()
        wait_for(lambda: "gave no sign of life" in caplog.text, timeout=5 * slowdown)
        assert 1.5 <= time.monotonic() - began_at <= 3 * slowdown
        proxy.heal()
        next(observer)
        assert next(observer).arrays


@pytest.mark.realtime
def test_a_robot_that_stands_still_is_not_taken_for_dead(counter, caplog):
    caplog.set_level(logging.INFO, logger="remote_env.receiver")
    with remote_env.observe(counter.server.url) as observer:
        wait_for(lambda: observer.spec is not None)
        time.sleep(2.5)  # longer than it waits for a dead peer
        assert not caplog.records
        assert observer._thread.is_alive()


@pytest.mark.realtime
def test_an_observation_that_takes_long_on_a_slow_line_is_not_taken_for_a_dead_peer(serve, caplog):
    caplog.set_level(logging.INFO, logger="remote_env.receiver")
    server = serve(Panorama())
    with FaultProxy(server.url) as proxy:
        proxy.set_rate(1_000_000, Direction.TO_CLIENT)  # 3 s for one
        with remote_env.observe(proxy.url) as observer:
            assert next(observer).arrays["cam/image"].any()
    assert not caplog.records


def test_without_reconnect_a_lost_connection_is_an_error(serve):
    server = serve(Rig())
    with (
        FaultProxy(server.url) as proxy,
        remote_env.observe(proxy.url, reconnect=False) as observer,
    ):
        next(observer)
        proxy.reset_connections()
        with pytest.raises(ConnectionLostError):
            list(observer)
        assert is_quiet() or wait_for(is_quiet)


def test_a_server_that_comes_back_is_observed_again(serve):
    first = serve(Rig())
    port = int(first.url.rpartition(":")[2])
    with remote_env.observe(first.url, hz=100.0, streams=["joint_pos"]) as observer:
        next(observer)
        first.stop()
        with RobotServer(Counter(), port=port), pytest.raises(ConfigurationError, match="joint"):
            list(observer)  # another robot, which has no such stream
    with remote_env.observe(serve(Rig()).url, hz=100.0) as observer:
        assert next(observer).arrays


def test_a_server_that_stopped_and_started_is_observed_again(serve):
    first = serve(Rig())
    port = int(first.url.rpartition(":")[2])
    with remote_env.observe(first.url, hz=100.0, streams=["joint_pos"]) as observer:
        next(observer)
        first.stop()
        with RobotServer(Rig(), port=port):
            began_at = time.monotonic()
            wait_for(lambda: next(observer).time > began_at)


def test_the_first_connection_must_succeed():
    with pytest.raises(ConnectFailedError, match="nothing listens"):
        next(remote_env.observe("ws://127.0.0.1:1"))


def test_a_stream_that_does_not_exist_is_an_error_at_once(serve):
    with pytest.raises(ConfigurationError, match="'nose'.*offers.*joint_pos"):
        next(remote_env.observe(serve(Rig()).url, streams=["nose"]))
    wait_for(is_quiet)


def test_a_wrong_token_is_an_error_at_once(serve):
    server = serve(Rig(), token="a-token-of-some-length")
    with pytest.raises(AccessDeniedError, match="needs a token"):
        next(remote_env.observe(server.url))
    with remote_env.observe(server.url, token="a-token-of-some-length") as observer:
        assert next(observer).arrays


@pytest.mark.parametrize(
    "options",
    [{"hz": 0}, {"hz": -1.0}, {"hz": math.inf}, {"hz": math.nan}, {"hz": "10"},
     {"streams": "cam/image"}, {"connect_timeout": 0}],
)  # fmt: skip
def test_nonsense_is_refused_before_anything_is_connected(options):
    with pytest.raises(ConfigurationError):
        remote_env.observe("ws://127.0.0.1:1", **options)


def test_observers_of_one_process_do_not_share(serve):
    server = serve(Rig())
    with (
        remote_env.observe(server.url, streams=["joint_pos"]) as one,
        remote_env.observe(server.url, streams=["cam/image"]) as other,
    ):
        assert set(next(one).arrays) == {"joint_pos"}
        assert set(next(other).arrays) == {"cam/image"}
