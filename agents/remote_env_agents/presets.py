"""The algorithms, with hyperparameters that work, and what each of them can be used for."""

from __future__ import annotations

import importlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from gymnasium import spaces

from remote_env.errors import ConfigurationError
from remote_env_agents.config import Algorithm, TrainConfig

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm
    from stable_baselines3.common.vec_env import VecEnv

__all__ = ["Preset", "algorithm_class", "check_action_space", "make_model", "resolve"]

_CLASSES: Final[dict[str, tuple[str, str, str]]] = {
    "ppo": ("stable_baselines3", "PPO", "stable-baselines3"),
    "sac": ("stable_baselines3", "SAC", "stable-baselines3"),
    "td3": ("stable_baselines3", "TD3", "stable-baselines3"),
    "tqc": ("sb3_contrib", "TQC", "sb3-contrib"),
}
_PPO_ROLLOUT: Final = 1024  # steps of all robots between two updates
_WARMUP: Final = 100  # steps before the first update, off-policy
_LARGEST_BUFFER: Final = 1_000_000
_LARGEST_PICTURE_BUFFER: Final = 50_000


@dataclass(frozen=True, slots=True)
class Preset:
    """What a training run uses, once the user's choices are in it.

    Attributes:
        net_arch: Widths of the hidden layers.
        learning_rate: Of the optimiser.
        gamma: Discount for each step.
        batch_size: Transitions in each gradient step.
        extra: What else goes to the algorithm's constructor.
    """

    net_arch: tuple[int, ...]
    learning_rate: float
    gamma: float
    batch_size: int
    extra: dict[str, Any]


def algorithm_class(algo: Algorithm) -> type[BaseAlgorithm]:
    """Return the class of an algorithm.

    Raises:
        ConfigurationError: If its package is not installed; says how to install it.
    """
    module, name, package = _CLASSES[algo]
    try:
        found: type[BaseAlgorithm] = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{algo} needs {package}, and {error.name} is not installed: "
            "pip install 'remote-robot-env[agents]'"
        ) from error
    return found


def check_action_space(algo: Algorithm, space: spaces.Space[Any]) -> None:
    """Check that an algorithm can choose such actions.

    Raises:
        ConfigurationError: Saying which algorithm can, if any.
    """
    discrete = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
    if isinstance(space, spaces.Box):
        if not np.all(np.isfinite(space.low) & np.isfinite(space.high)):
            raise ConfigurationError(
                f"the robot's actions are {space}; learning needs finite bounds"
            )
        return
    if not isinstance(space, discrete):
        raise ConfigurationError(
            f"the robot's actions are {space}; the algorithms here choose Box or discrete ones"
        )
    if algo != "ppo":
        raise ConfigurationError(
            f"{algo} needs continuous actions, a Box, and this robot's are {space}; use --algo ppo"
        )
    if np.any(getattr(space, "start", 0) != 0):
        raise ConfigurationError(f"the robot's actions are {space}; they must be counted from 0")


def resolve(config: TrainConfig, *, robots: int, longest: int | None, pictures: bool) -> Preset:
    """Return all hyperparameters, those given and those of the preset.

    Args:
        config: What the user chose.
        robots: How many there are.
        longest: Steps of an episode at most, if the robot has a limit.
        pictures: Whether pictures are observed.
    """
    given = config.hyperparameters
    is_ppo = config.algo == "ppo"
    batch_size = given.batch_size or 256
    # 64x64 is too small for what her makes of a reach (0 of 4 runs learned it in 10,000 steps).
    width = 64 if is_ppo or not config.her else 256
    if is_ppo:
        extra = _ppo(robots, batch_size, min(given.rollout or _PPO_ROLLOUT, config.steps))
    else:
        extra = _off_policy(config, robots=robots, longest=longest, pictures=pictures)
    return Preset(
        net_arch=given.net_arch or (width, width),
        learning_rate=given.learning_rate or 1e-3,
        gamma=0.95 if given.gamma is None else given.gamma,
        batch_size=batch_size,
        extra=extra,
    )


def _ppo(robots: int, batch_size: int, rollout: int) -> dict[str, Any]:
    # A rollout of whole batches, whatever the number of robots.
    unit = batch_size // math.gcd(batch_size, robots)
    n_steps = max(1, round(rollout / robots / unit)) * unit
    return {"n_steps": n_steps, "n_epochs": 10}


def _off_policy(
    config: TrainConfig, *, robots: int, longest: int | None, pictures: bool
) -> dict[str, Any]:
    stacked = config.wrapping.frame_stack
    most = _LARGEST_PICTURE_BUFFER // stacked if pictures else _LARGEST_BUFFER
    # Hindsight needs one whole episode of each robot before the first update.
    warmup = max(_WARMUP, ((longest or 1000) + 1) * robots) if config.her else _WARMUP
    return {
        "buffer_size": max(min(config.steps, most), warmup + robots),
        "learning_starts": warmup,
        "train_freq": 1,
        "gradient_steps": -1,  # one for each step of each robot
    }


def make_model(config: TrainConfig, preset: Preset, vec_env: VecEnv) -> BaseAlgorithm:
    """Make the algorithm, with a new network and buffers that leave out what failed.

    PPO's needs ``rollouts.InvalidRows`` among the callbacks of ``learn``.
    """
    from stable_baselines3.common.noise import NormalActionNoise
    from stable_baselines3.common.preprocessing import is_image_space

    from remote_env_agents.buffers import replay_buffer_class
    from remote_env_agents.features import BoundedFeatures
    from remote_env_agents.rollouts import rollout_buffer_class

    space = vec_env.observation_space
    extra = dict(preset.extra)
    if config.algo == "td3":
        count = math.prod(vec_env.action_space.shape or ())
        extra["action_noise"] = NormalActionNoise(np.zeros(count), np.full(count, 0.1))
    if config.algo == "ppo":
        extra["rollout_buffer_class"] = rollout_buffer_class(space)
    else:
        extra["replay_buffer_class"] = replay_buffer_class(space, her=config.her)
    if config.her:
        extra["replay_buffer_kwargs"] = {"n_sampled_goal": 4, "goal_selection_strategy": "future"}
    if isinstance(space, spaces.Dict):
        policy = "MultiInputPolicy"
    else:
        policy = "CnnPolicy" if is_image_space(space) else "MlpPolicy"
    make: Any = algorithm_class(config.algo)
    model: BaseAlgorithm = make(
        policy,
        vec_env,
        learning_rate=preset.learning_rate,
        gamma=preset.gamma,
        batch_size=preset.batch_size,
        policy_kwargs={
            "net_arch": list(preset.net_arch),
            "features_extractor_class": BoundedFeatures,
        },
        seed=config.seed,
        device=config.device,
        **extra,
    )
    return model
