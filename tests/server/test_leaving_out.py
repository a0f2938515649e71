"""Through the wire: what has not changed is not sent, and nobody can tell but by the bytes."""

import time
from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from beside import wait_for
from gymnasium import spaces
from watching import RawObserver

from remote_env import RobotClient, observe
from remote_env.errors import RemoteProtocolError
from remote_env.protocol import OnStale, Subscribe
from remote_env.testing import Direction, FaultProxy
from remote_env_server import CameraConfig, Mode, ProprioConfig, Robot
from remote_env_server.leaving_out import LeftOut
from remote_env_server.robots.gymnasium_env import GymnasiumConfig, GymnasiumRobot

PICTURE = 120 * 160 * 3
EVERY = 4  # steps for one picture
STEP = np.zeros(1, np.float32)


class SlowCamera(Robot):
    """A new picture in every fourth step, of a depth camera whose depth comes each second."""

    modes: ClassVar = (Mode.LOCKSTEP,)
    action_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    control_hz = 20.0

    def __init__(self):
        super().__init__()
        self.steps = 0

    def camera_configs(self):
        return [
            CameraConfig("slow", 120, 160, has_depth=True, hz=5.0),
            CameraConfig("fast", 120, 160, hz=20.0),
        ]

    def proprio_configs(self):
        return [ProprioConfig("steps", 1, hz=5.0)]

    def reset(self, seed=None):
        self.steps = 0 if seed is None else seed
        self.look(is_new=True)

    def apply_action(self, action):
        self.steps += 1
        self.look(is_new=self.steps % EVERY == 0)

    def look(self, *, is_new):
        picture = np.full((120, 160, 3), self.steps % 256, np.uint8)
        self.update_image("fast", picture)
        self.update_proprio("steps", np.array([self.steps], np.float32))
        if is_new:
            self.update_image("slow", picture)
        if is_new or self.steps % EVERY == 2:
            self.update_depth("slow", np.full((120, 160), self.steps, np.float32))


def expected(steps):
    newest = steps - steps % EVERY
    depth = steps - steps % 2
    return {"slow/image": newest % 256, "slow/depth": depth, "fast/image": steps % 256}


def assert_right(observation, steps):
    for name, value in expected(steps).items():
        assert (observation[name] == value).all(), name
    assert observation["steps"] == [steps]


def test_a_picture_that_has_not_changed_is_not_sent(serve, connect, sizes):
    env = connect(serve(SlowCamera()).url)
    env.reset()
    sizes.clear()
    for steps in range(1, 41):
        assert_right(env.step(STEP)[0], steps)
    fast, slow, depth = PICTURE, PICTURE / 4, 4 / 3 * PICTURE / 2
    per_step = sum(sizes) / 40
    assert fast + slow + depth < per_step < fast + slow + depth + 1000


def test_what_the_learner_writes_is_not_seen_again(serve, connect):
    env = connect(serve(SlowCamera()).url)
    observation, _ = env.reset()
    for steps in range(1, 20):
        for array in observation.values():
            array[:] = 17
        observation = env.step(STEP)[0]
        assert_right(observation, steps)


def test_observations_that_are_kept_stay_as_they_are(serve, connect):
    env = connect(serve(SlowCamera()).url)
    env.reset()
    seen = [env.step(STEP)[0] for _ in range(30)]
    for steps, observation in enumerate(seen, start=1):
        assert_right(observation, steps)


def test_an_episode_that_begins_is_sent_whole(serve, connect):
    env = connect(serve(SlowCamera()).url)
    for seed in (0, 100, 52):
        observation, _ = env.reset(seed=seed)
        assert (observation["slow/image"] == seed % 256).all()
        assert_right(env.step(STEP)[0], seed + 1)


def test_without_copies_it_is_one_array_that_nobody_may_write_to(serve, connect):
    env = connect(serve(SlowCamera()).url, copy=False)
    first, _ = env.reset()
    second = env.step(STEP)[0]
    assert second["slow/image"] is first["slow/image"]
    with pytest.raises(ValueError, match="read-only"):
        second["slow/image"][:] = 1
    second["fast/image"][:] = 1
    for steps in range(2, 10):
        assert_right(env.step(STEP)[0], steps)


@pytest.mark.parametrize("direction", [Direction.TO_CLIENT, Direction.TO_SERVER])
def test_a_link_that_breaks_in_any_step_changes_nothing(serve, connect, direction):
    with FaultProxy(serve(SlowCamera()).url) as proxy:
        env = connect(proxy.url)
        env.reset()
        for steps in range(1, 17):
            if steps % 3 == 0:
                proxy.stall(direction)
                env.send_step(STEP)
                time.sleep(0.01)  # that it breaks at another point each time
                proxy.reset_connections()
                proxy.stall(direction, is_on=False)
                observation = env.receive_step()[0]
            else:
                observation = env.step(STEP)[0]
            assert_right(observation, steps)
        assert env.statistics().resumptions >= 5


def test_an_observer_is_not_sent_it_either(serve, connect, sizes):
    server = serve(SlowCamera())
    env = connect(server.url)
    env.reset()
    with RawObserver.keeping(server.url, ["slow/image", "steps"], ["slow/image"]) as observer:
        observer.observe(hz=1000.0)
        assert (observer.receive().observation[0] == 0).all()
        sizes.clear()
        for steps in range(1, 9):
            env.step(STEP)
            image, count = observer.receive().observation
            assert count == [steps]
            assert (image == expected(steps)["slow/image"]).all()
        learners = 8  # in each step it has the picture of the fast camera
        assert sum(size > PICTURE for size in sizes) == learners + 2


def test_an_observer_that_resumes_and_observes_anew_is_sent_everything(serve, connect):
    server = serve(SlowCamera())
    env = connect(server.url)
    env.reset()
    with RawObserver.keeping(server.url, ["slow/image"], ["slow/image"]) as observer:
        observer.observe(hz=1000.0)
        assert (observer.receive().observation[0] == 0).all()
        for _ in range(EVERY):
            env.step(STEP)  # what that shows is lost
        wait_for(lambda: server.statistics()["observers"]["sent"] >= 2)
        again = RawObserver.resuming(observer, server.url)
    again.observe(hz=1000.0)
    assert (again.receive().observation[0] == EVERY).all()
    again.close()


def test_observe_keeps_what_is_slower_than_it_looks(serve, connect):
    server = serve(SlowCamera())
    env = connect(server.url)
    env.reset()
    with observe(server.url, hz=1000.0) as observer:
        for steps in range(1, 13):
            env.step(STEP)
            seen = wait_for(lambda steps=steps: newest(observer, steps))
            assert (seen["slow/image"] == expected(steps)["slow/image"]).all()


def newest(observer, steps):
    arrays = next(observer).arrays
    return arrays if arrays["steps"] == [steps] else None


class SamePixels(gymnasium.Env):
    """Returns the very same array in every step, with other pixels."""

    observation_space = spaces.Box(0, 255, (100, 100, 3), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.pixels = np.zeros((100, 100, 3), np.uint8)
        return self.pixels, {}

    def step(self, action):
        self.pixels += 1
        return self.pixels, 0.0, False, False, {}


gymnasium.register("SamePixels-v0", entry_point=SamePixels, disable_env_checker=True)


def test_arrays_that_a_robot_may_write_to_are_always_sent(serve):
    with RobotClient(serve(GymnasiumRobot(GymnasiumConfig("SamePixels-v0"))).url) as client:
        streams = [stream.name for stream in client.spec.streams]
        client.subscribe(streams, kept=streams)
        done = client.reset()
        for steps in range(1, 5):
            done = client.step(
                [np.array(0)], episode=done.episode, step=steps, tick=done.tick, timeout=5
            )
            assert (done.observation[0] == steps).all()


def test_a_client_that_keeps_nothing_is_sent_everything(serve, sizes):
    with RobotClient(serve(SlowCamera()).url) as client:
        client.subscribe(["slow/image"], kept=[])
        done = client.reset()
        sizes.clear()
        client.step([STEP], episode=done.episode, step=1, tick=done.tick, timeout=5)
        assert sizes[-1] > PICTURE


def test_who_keeps_what_it_does_not_observe_is_told_so(serve):
    observer = RawObserver(serve(SlowCamera()).url)
    wish = Subscribe(
        2, streams=("steps",), max_ages={}, on_stale=OnStale.FLAG, kept=("slow/image",)
    )
    observer.connection._judge = lambda *_: observer.connection.state  # says it all the same
    with pytest.raises(RemoteProtocolError, match="do not exist or come twice"):
        observer.ask(wish)
    observer.close()


def test_what_is_small_or_not_slower_is_not_worth_keeping(serve, connect):
    spec = connect(serve(SlowCamera()).url).spec_of_robot
    names = [stream.name for stream in spec.streams]
    assert spec.worth_keeping(names, 20.0) == ("slow/image", "slow/depth")
    assert spec.worth_keeping(["slow/depth", "steps"], 20.0) == ("slow/depth",)
    assert spec.worth_keeping(names, 5.0) == ()
    assert spec.worth_keeping(names, 21.0) == ("slow/image", "slow/depth", "fast/image")


# By itself


def published(value):
    array = np.full(3, value)
    array.flags.writeable = False
    return array


def test_the_same_array_is_left_out_and_its_equal_is_not():
    one, other = published(1), published(2)
    left_out = LeftOut(["a", "b", "c"], ["a", "b"])
    assert left_out.of([one, other, one]) == ()
    left_out.note_sent([one, other, one])
    assert left_out.of([one, other, one]) == (0, 1)
    assert left_out.of([published(1), other, one]) == (1,)
    left_out.forget()
    assert left_out.of([one, other, one]) == ()


def test_an_array_that_can_be_written_to_is_not_left_out():
    left_out = LeftOut(["a"], ["a"])
    array = np.zeros(3)
    left_out.note_sent([array])
    assert left_out.of([array]) == ()
