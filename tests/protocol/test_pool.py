"""Memory is used again when nobody refers to it any more, and never before."""

import gc

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from sample_robots import Counter

from remote_env.protocol.arrays import ALIGNMENT
from remote_env.protocol.pool import BufferPool
from remote_env_server import CameraConfig

SIZE = 1 << 17


def address(buffer):
    return np.frombuffer(buffer, np.uint8).ctypes.data


def numpy_array(buffer):
    return np.ndarray((100,), np.float32, buffer, 64)


# What a learner may hold on to when the buffer itself is dropped.
HOLDERS = {
    "the buffer": lambda buffer: buffer,
    "a memoryview of it": lambda buffer: memoryview(buffer)[5:6],
    "a cast of it": lambda buffer: buffer.cast("i"),
    "a read-only view of it": lambda buffer: buffer.toreadonly(),
    "an array in it": numpy_array,
    "a view of an array": lambda buffer: numpy_array(buffer)[3:],
    "a view of a view": lambda buffer: numpy_array(buffer)[3:].reshape(-1, 1)[1:][::-1].T,
    "another dtype": lambda buffer: numpy_array(buffer).view(np.uint8),
    "frombuffer": lambda buffer: np.frombuffer(buffer, np.uint8, 10),
    "a memoryview of an array": lambda buffer: numpy_array(buffer).data,
    "a tensor": lambda buffer: torch.from_numpy(numpy_array(buffer)),
    "a view of a tensor": lambda buffer: torch.from_numpy(numpy_array(buffer))[5:].view(-1, 1),
    "a tensor by dlpack": lambda buffer: torch.from_dlpack(numpy_array(buffer)),
    "a tensor of the buffer": lambda buffer: torch.frombuffer(buffer, dtype=torch.uint8),
    "a list": lambda buffer: [{"observation": numpy_array(buffer)}],
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS.keys())
def test_what_is_held_is_not_used_again_and_what_is_dropped_is(hold):
    pool = BufferPool()
    buffer = pool.take(SIZE)
    first = address(buffer)
    held = hold(buffer)
    del buffer
    others = {address(pool.take(SIZE)) for _ in range(3)}
    assert first not in others
    assert len(others) == 1  # of those nobody held one
    del held
    assert address(pool.take(SIZE)) == first


def test_what_was_taken_is_writable_and_of_the_size_that_was_asked_for():
    pool = BufferPool()
    for size in (1, 65, 70_000, 1 << 20, 70_001, 5):
        buffer = pool.take(size)
        assert (len(buffer), buffer.readonly, buffer.format) == (size, False, "B")
        assert address(buffer) % ALIGNMENT == 0
        buffer[0] = buffer[-1] = 7


def test_a_few_bytes_more_or_less_use_the_same_memory():
    pool = BufferPool()
    assert len({address(pool.take(SIZE + more)) for more in (0, 300, -300, 64, 1)}) == 1


def test_what_is_too_small_is_not_used():
    pool = BufferPool()
    small = address(pool.take(100))
    assert address(pool.take(SIZE)) != small


def test_at_most_four_are_kept():
    pool = BufferPool()
    held = [pool.take(SIZE) for _ in range(20)]
    assert len({address(buffer) for buffer in held}) == 20
    assert len(pool._slots) == 4
    newest = {address(buffer) for buffer in held[-4:]}
    del held
    again = [pool.take(SIZE) for _ in range(4)]
    assert {address(buffer) for buffer in again} == newest


def test_what_was_given_up_goes_with_whom_it_was_given_to():
    pool = BufferPool()
    held = [pool.take(SIZE) for _ in range(5)]
    del pool
    gc.collect()
    held[0][:] = bytes(SIZE)  # it is the holder's now


class Filming(Counter):
    """Takes a picture after every step; each differs from the last one in every pixel."""

    def camera_configs(self):
        return [CameraConfig("cam", 480, 640, may_repeat=True)]

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed or 1, options=options)
        self.update_image("cam", picture(0))

    def apply_action(self, action):
        super().apply_action(action)
        self.update_image("cam", picture(self._steps))


def picture(number):
    return np.full((480, 640, 3), number % 251, np.uint8)


ACTION = np.zeros(2, np.float32)
KEY = "cam/image"


@pytest.fixture
def filmed(serve, monkeypatch):
    """The url of a robot with a camera of 640 by 480, and the fast lane to it."""
    monkeypatch.setenv("REMOTE_ENV_FAST", "1")
    return serve(Filming()).url


def test_fifty_observations_that_are_kept_stay_as_they_were(filmed, connect):
    env = connect(filmed)
    first, _ = env.reset(seed=1)
    kept = [first, *(env.step(ACTION)[0] for _ in range(49))]
    addresses = {observation[KEY].ctypes.data for observation in kept}
    assert len(addresses) == 50
    for number, observation in enumerate(kept):
        assert np.array_equal(observation[KEY], picture(number))
    kept[7][KEY][:] = 0  # they are writable, and each is on its own
    assert np.array_equal(kept[8][KEY], picture(8))


def test_a_row_of_a_picture_is_enough_to_keep_it(filmed, connect):
    env = connect(filmed)
    env.reset(seed=1)
    rows = [env.step(ACTION)[0][KEY][100, 3:].T for _ in range(20)]
    assert [np.unique(row).tolist() for row in rows] == [[number] for number in range(1, 21)]


def test_observations_that_are_dropped_leave_their_memory_to_the_next_ones(filmed, connect):
    env = connect(filmed)
    env.reset(seed=1)
    addresses = [env.step(ACTION)[0][KEY].ctypes.data for _ in range(30)]
    assert len(set(addresses)) <= 2
    assert all(address % ALIGNMENT == 0 for address in addresses)


def test_gymnasiums_checkers_have_nothing_to_say_of_such_memory(filmed):
    with gym.make("RemoteRobot-v0", url=filmed) as env:  # in its PassiveEnvChecker
        env.reset(seed=1)
        for _ in range(10):
            env.step(ACTION)
        check_env(env.unwrapped)
