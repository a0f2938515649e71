"""Frames that were written down once: a change on the wire cannot go unnoticed."""

from pathlib import Path

import numpy as np
import pytest

import tests.golden
from remote_env.protocol import MESSAGES
from remote_env.protocol.compressing import decode_array
from remote_env.spec import RobotSpec
from tests.golden.expected import ENCODED_LAYOUTS, GOAL_SPEC, GOLDEN, GOLDEN_ENCODED, SPEC
from tests.protocol.exactly import exactly
from tests.protocol.frames import frame_of, read

FOLDER = Path(tests.golden.__file__).parent


def golden(name):
    return (FOLDER / f"{name}.bin").read_bytes()


@pytest.mark.parametrize("name", GOLDEN)
def test_a_golden_frame_holds_the_expected_message(name):
    assert exactly(read(golden(name))) == exactly(GOLDEN[name])


@pytest.mark.parametrize("name", GOLDEN)
def test_what_was_read_is_written_with_the_same_bytes(name):
    assert bytes(frame_of(read(golden(name)))) == golden(name)


def test_there_is_a_golden_frame_for_every_message_and_none_too_many():
    assert {type(message) for message in GOLDEN.values()} == set(MESSAGES.values())
    assert {path.stem for path in FOLDER.glob("*.bin")} == {*GOLDEN, *GOLDEN_ENCODED}


@pytest.mark.parametrize("name", GOLDEN_ENCODED)
def test_a_golden_frame_with_an_encoded_array_holds_its_bytes(name):
    message = read(golden(name), ENCODED_LAYOUTS)
    assert exactly(message) == exactly(GOLDEN_ENCODED[name])
    assert bytes(frame_of(message, ENCODED_LAYOUTS)) == golden(name)


def test_the_encoded_array_of_a_golden_frame_is_what_its_comment_says():
    _, encoded, _ = read(golden("08-step-done-encoded"), ENCODED_LAYOUTS).observation
    depth = np.empty((4, 6), np.float32)
    decode_array(ENCODED_LAYOUTS.observation[1], encoded, depth)
    assert depth.tolist() == [[0.0] * 6, [1.0] * 6, [1.0] * 6, [2.5] * 6]


@pytest.mark.parametrize(
    ("name", "expected"), [("02-welcome", SPEC), ("02-welcome-goal-reward", GOAL_SPEC)]
)
def test_a_golden_welcome_describes_its_robot(name, expected):
    spec = RobotSpec.from_welcome(read(golden(name)))

    assert spec.action_space == expected.action_space
    assert spec.observation_space == expected.observation_space
    assert spec.streams == expected.streams
    assert spec.goal_reward == expected.goal_reward
    assert spec.hash() == expected.hash()


@pytest.mark.parametrize("name", ["06-reset-done", "07-step", "08-step-done"])
def test_every_array_of_a_golden_frame_starts_at_a_multiple_of_64(name):
    frame = bytearray(golden(name))
    message = read(frame)
    agreed = message.action if name == "07-step" else message.observation
    free = [message.info["array"]] if name == "08-step-done" else []

    start = np.frombuffer(frame, np.uint8).__array_interface__["data"][0]
    offsets = [a.__array_interface__["data"][0] - start for a in (*agreed, *free)]
    assert [offset % 64 for offset in offsets] == [0] * len(offsets)
