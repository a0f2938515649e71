"""What a network is fed: every stream scaled by the bounds that its robot declares.

Nothing is measured while training, so a policy file is complete: there are no running means
that would have to be saved beside it, and none that differ from robot to robot.
"""

from __future__ import annotations

import math
from typing import Any, Final

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.preprocessing import get_flattened_obs_dim, is_image_space
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from remote_env.errors import ConfigurationError

__all__ = ["BoundedFeatures", "check_learnable"]

# Bounds beyond this say "any number", as the largest float32 does.
_LARGEST_BOUND: Final = 1e6
# More numbers than this, and not a picture: not for layers that are connected everywhere.
_MOST_NUMBERS: Final = 4096
_SMALLEST_PICTURE: Final = 36  # what NatureCNN's three convolutions leave something of


class BoundedFeatures(BaseFeaturesExtractor):
    """Streams side by side, as one vector.

    A Box with finite bounds is mapped to [-1, 1], element by element; without them it stays
    as it is. A picture goes through the CNN of the Nature paper on DQN, one for each stream.
    What is discrete comes one-hot from Stable-Baselines3.

    Args:
        observation_space: A Box or a flat Dict; pictures channels first.
        cnn_features: Outputs of the CNN, for each picture.
    """

    def __init__(self, observation_space: spaces.Space[Any], cnn_features: int = 256) -> None:
        parts = _parts(observation_space)
        self._names = list(parts)
        sizes = [
            cnn_features if is_image_space(space) else get_flattened_obs_dim(space)
            for space in parts.values()
        ]
        super().__init__(observation_space, features_dim=sum(sizes))
        self._is_dict = isinstance(observation_space, spaces.Dict)
        # By position: torch allows neither dots in the names of modules, nor "type".
        self.parts = nn.ModuleList(_part(space, cnn_features) for space in parts.values())

    def forward(self, observations: Any) -> torch.Tensor:
        """Return the features, ``(batch, features_dim)`` float32."""
        if not self._is_dict:
            features: torch.Tensor = self.parts[0](observations)
            return features
        pairs = zip(self._names, self.parts, strict=True)
        return torch.cat([part(observations[name]) for name, part in pairs], dim=1)


class _Scaled(nn.Module):
    """Numbers with bounds, mapped to [-1, 1] where these are finite."""

    centre: torch.Tensor
    scale: torch.Tensor

    def __init__(self, space: spaces.Box) -> None:
        super().__init__()
        low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
        is_bounded = (np.abs(low) <= _LARGEST_BOUND) & (np.abs(high) <= _LARGEST_BOUND)
        is_bounded &= high > low
        with np.errstate(invalid="ignore", over="ignore"):
            centre = np.where(is_bounded, (low + high) / 2, 0.0)
            scale = np.where(is_bounded, 2 / np.where(is_bounded, high - low, 1.0), 1.0)
        self.register_buffer("centre", _tensor(centre))
        self.register_buffer("scale", _tensor(scale))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return (values.flatten(start_dim=1) - self.centre) * self.scale


def _tensor(values: NDArray[np.float64]) -> torch.Tensor:
    return torch.as_tensor(values.astype(np.float32))


def _parts(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    return dict(space.spaces) if isinstance(space, spaces.Dict) else {"": space}


def _part(space: spaces.Space[Any], cnn_features: int) -> nn.Module:
    if is_image_space(space):
        assert isinstance(space, spaces.Box)
        return NatureCNN(space, features_dim=cnn_features)
    return _Scaled(space) if isinstance(space, spaces.Box) else nn.Flatten()


def check_learnable(space: spaces.Space[Any]) -> None:
    """Check that a network can be fed with this observation.

    Args:
        space: A Box or a flat Dict, as the robot has it: pictures channels last.

    Raises:
        ConfigurationError: Naming the stream, and saying what to do.
    """
    for name, part in _parts(space).items():
        stream = f"the stream {name!r}" if name else "the observation"
        trouble = _trouble_with(part)
        if trouble:
            raise ConfigurationError(f"{stream} {trouble}")


def _trouble_with(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Discrete):
        return f"counts from {space.start}; networks want 0" if space.start else ""
    if isinstance(space, spaces.MultiDiscrete):
        starts = np.any(space.start != 0)
        return f"counts from {space.start}; networks want 0" if starts else ""
    if isinstance(space, spaces.MultiBinary):
        return ""
    if not isinstance(space, spaces.Box):
        return f"is {space}, which no network here can be fed with"
    if space.shape == ():
        return "has the shape (); declare it as (1,), or choose others with --streams"
    if is_image_space(space):
        height, width = space.shape[:2]
        if min(height, width) < _SMALLEST_PICTURE:
            return (
                f"is a picture of {height}x{width}; the CNN needs {_SMALLEST_PICTURE}x"
                f"{_SMALLEST_PICTURE} or more, so serve it larger or choose others with --streams"
            )
        if space.shape[2] >= min(height, width):  # Stable-Baselines3 would take rows for channels
            return (
                f"is a picture of {height}x{width} with {space.shape[2]} channels, which must be "
                "fewer than rows and columns; stack fewer pictures, or serve it larger"
            )
        return ""
    count = math.prod(space.shape)
    if count > _MOST_NUMBERS:
        return (
            f"is {count} numbers of {space.dtype}, too many for a network without convolutions "
            "(only uint8 pictures get them); choose others with --streams"
        )
    return ""
