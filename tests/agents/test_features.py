"""What a network is fed."""

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import torch
from gymnasium import spaces

from remote_env import ConfigurationError
from remote_env_agents.features import BoundedFeatures, check_learnable

INFINITE = np.float32(np.inf)


def features_of(space, observation):
    batch = {name: torch.as_tensor(value)[None] for name, value in observation.items()}
    return BoundedFeatures(spaces.Dict(space))(batch)[0].detach().numpy()


def box(low, high):
    return spaces.Box(np.float32(low), np.float32(high), dtype=np.float32)


def test_streams_are_scaled_by_their_bounds_and_concatenated():
    space = {"joint_pos": box([-2, 0], [2, 10]), "z": box([5], [7])}
    seen = features_of(space, {"joint_pos": np.float32([1, 0]), "z": np.float32([7])})
    np.testing.assert_allclose(seen, [0.5, -1.0, 1.0])


def test_numbers_without_finite_bounds_stay_as_they_are():
    largest = np.finfo(np.float32).max
    space = {"mixed": box([-4, -INFINITE, -largest, 3], [4, INFINITE, largest, 3])}
    seen = features_of(space, {"mixed": np.float32([4, 70, 80, 3])})
    np.testing.assert_allclose(seen, [1.0, 70.0, 80.0, 3.0])


def test_any_name_may_be_a_streams():
    space = {"arm.joint": box([-1], [1]), "type": box([-1], [1]), "a/b": box([-1], [1])}
    seen = features_of(space, {name: np.float32([0.5]) for name in space})
    np.testing.assert_allclose(seen, [0.5, 0.5, 0.5])


def test_a_picture_goes_through_convolutions():
    picture = spaces.Box(0, 255, (3, 36, 40), np.uint8)
    extractor = BoundedFeatures(spaces.Dict({"cam/image": picture, "z": box([0], [2])}), 16)
    pictures = torch.rand(5, 3, 36, 40)
    seen = extractor({"cam/image": pictures, "z": torch.full((5, 1), 2.0)})
    assert seen.shape == (5, 17)
    assert torch.equal(seen[:, 16], torch.ones(5))


def test_one_box_needs_no_dict():
    extractor = BoundedFeatures(box([0, 0], [4, 4]))
    np.testing.assert_allclose(extractor(torch.tensor([[4.0, 2.0]])), [[1.0, 0.0]])


@pytest.mark.parametrize(
    ("space", "message"),
    [
        (spaces.Box(0, 255, (24, 24, 3), np.uint8), "'x' is a picture of 24x24; the CNN needs 36"),
        (spaces.Box(0, 9, (480, 640), np.float32), "307200 numbers of float32, too many"),
        (spaces.Box(0, 1, (), np.float32), r"has the shape \(\)"),
        (spaces.Discrete(3, start=1), "counts from 1"),
        (spaces.Text(5), "no network here can be fed with"),
    ],
)
def test_what_no_network_can_be_fed_with_is_refused(space, message):
    with pytest.raises(ConfigurationError, match=message):
        check_learnable(spaces.Dict({"x": space}))


@pytest.mark.parametrize(
    "space",
    [
        spaces.Box(0, 255, (36, 36, 1), np.uint8),
        spaces.Box(0, 1, (7,), np.float32),
        spaces.Discrete(3),
        spaces.MultiBinary(4),
        spaces.MultiDiscrete([3, 4]),
    ],
)
def test_what_a_network_can_be_fed_with_is_not(space):
    check_learnable(space)
