"""Policies: functions from observation to action, of files and of models."""

from __future__ import annotations

import copy
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, cast

import gymnasium
from gymnasium import spaces

from remote_env.errors import ConfigurationError
from remote_env.spec import RobotSpec
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env_agents.config import Algorithm
from remote_env_agents.devices import check_device
from remote_env_agents.episodes import Policy
from remote_env_agents.wrapping import noted_wrappers, wrap_as

__all__ = ["ModelPolicy", "RandomPolicy", "algorithm_of", "as_policy", "load_model", "load_policy"]

# Which algorithm wrote a file of Stable-Baselines3, by a hyperparameter that only it has.
_MARKS: Final[tuple[tuple[str, Algorithm], ...]] = (
    ("top_quantiles_to_drop_per_net", "tqc"),
    ("target_policy_noise", "td3"),
    ("target_entropy", "sac"),
    ("clip_range_vf", "ppo"),
)


class RandomPolicy:
    """Actions by chance, evenly within their bounds; the same for the same seed.

    Args:
        space: The robot's actions.
        seed: Of the chance.
    """

    def __init__(self, space: spaces.Space[Any], seed: int = 0) -> None:
        self._space = copy.deepcopy(space)  # its generator is our own
        self._space.seed(seed)

    def for_episode(self, seed: int) -> RandomPolicy:
        """Return the policy for an episode of this seed."""
        return RandomPolicy(self._space, seed)

    def __call__(self, observation: Any) -> Any:
        """Return an action."""
        return self._space.sample()


class ModelPolicy:
    """A model of Stable-Baselines3 on a robot: deterministic, in the robot's own units.

    One that was trained with wrappers (``note_wrappers``) is shown what ``wrap`` makes of a robot.

    Attributes:
        streams: What to ask the robot for; None for its own observation space.

    Args:
        model: Trained.
        spec: Of the robot.

    Raises:
        ConfigurationError: If the robot lacks a stream that the model was trained with, or its
            actions are others.
    """

    def __init__(self, model: Any, spec: RobotSpec) -> None:
        self._model = model
        self._space = model.observation_space
        self._recipe: Recipe = ()
        self.streams: tuple[str, ...] | None = None
        noted = noted_wrappers(model)
        if noted is not None:
            self.streams, self._recipe = noted.streams, noted.recipe
            self._check_prepared(spec)
        elif isinstance(self._space, spaces.Dict):
            self.streams = tuple(self._space)
            for name, trained in self._space.items():
                _check_stream(spec, name, trained)
        else:
            self._check_own_observation(spec)
        self._scale_to = _action_scale(model.action_space, spec)

    def wrap(self, env: gymnasium.Env[Any, Any]) -> gymnasium.Env[Any, Any]:
        """Return a robot as the model was shown those that it was trained on."""
        return wrap_as(self._recipe, env)

    def _check_prepared(self, spec: RobotSpec) -> None:
        observed = spec.space_of(self.streams)
        made = Chain(observed, spec.action_space, spec, recipe=self._recipe).space
        if not _is_same(made, self._space):
            raise ConfigurationError(
                f"the policy was trained with {self._space}, and what its wrappers make of "
                f"{spec.name} is {made}; evaluate it on a robot of the same kind"
            )
        self._only_stream = spec.observed[0]

    def _check_own_observation(self, spec: RobotSpec) -> None:
        own = spec.observation_space
        if type(own) is not type(self._space) or not _is_same_shape(own, self._space):
            raise ConfigurationError(
                f"the policy was trained with {self._space}, and {spec.name} observes {own}; "
                "evaluate it on a robot of the kind that it was trained with"
            )
        self._only_stream = spec.observed[0]

    def __call__(self, observation: Any) -> Any:
        """Return the action that the model thinks best.

        Args:
            observation: The streams that the model was trained with; others may be there too.
        """
        if isinstance(self._space, spaces.Dict):
            observation = {name: observation[name] for name in self._space}
        elif isinstance(observation, Mapping):
            observation = observation[self._only_stream]
        action, _ = self._model.predict(observation, deterministic=True)
        if self._scale_to is None:
            return action
        from remote_env_agents.scaling import from_unit

        return from_unit(action, self._scale_to)


def _check_stream(spec: RobotSpec, name: str, trained: spaces.Space[Any]) -> None:
    if all(stream.name != name for stream in spec.streams):
        offered = ", ".join(repr(stream.name) for stream in spec.streams)
        raise ConfigurationError(
            f"the policy was trained with the stream {name!r}, which {spec.name} has not; it "
            f"offers {offered}"
        )
    offered_space = spec.stream(name).space
    if not _is_same_shape(offered_space, trained):
        raise ConfigurationError(
            f"the policy was trained with the stream {name!r} as {trained}, and {spec.name} has "
            f"it as {offered_space}"
        )


def _is_same(ours: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    """Whether the parts of observations are the same, in their order."""
    if not isinstance(ours, spaces.Dict) or not isinstance(trained, spaces.Dict):
        return type(ours) is type(trained) and _is_same_shape(ours, trained)
    return list(ours) == list(trained) and all(
        _is_same_shape(ours[name], trained[name]) for name in ours
    )


def _is_same_shape(ours: spaces.Space[Any], trained: spaces.Space[Any]) -> bool:
    """Whether shapes fit; pictures were trained channels first."""
    if ours.shape is None or trained.shape is None:
        return ours == trained
    if isinstance(ours, spaces.Discrete) and isinstance(trained, spaces.Discrete):
        return bool(ours.n == trained.n)
    if len(ours.shape) == 3 and trained.shape != ours.shape:
        return trained.shape == (ours.shape[2], *ours.shape[:2])
    return ours.shape == trained.shape


def _action_scale(trained: spaces.Space[Any], spec: RobotSpec) -> spaces.Box | None:
    """Return what actions in [-1, 1] must be scaled to, or None if they need not.

    Raises:
        ConfigurationError: If the robot's actions are others.
    """
    from remote_env_agents.scaling import is_unit

    own = spec.action_space
    if own == trained:
        return None
    if is_unit(trained) and isinstance(own, spaces.Box) and own.shape == trained.shape:
        return own
    raise ConfigurationError(
        f"the policy was trained for the actions {trained}, and those of {spec.name} are {own}"
    )


def as_policy(policy: Any, spec: RobotSpec) -> Policy:
    """Return a function from observation to action, of one, of a model or of a policy file.

    Raises:
        ConfigurationError: If it does not fit the robot, cannot be loaded, or is none of these.
    """
    if isinstance(policy, (str, Path)):
        return load_policy(policy, spec)
    if hasattr(policy, "predict") and hasattr(policy, "observation_space"):
        return ModelPolicy(policy, spec)
    if not callable(policy):
        raise ConfigurationError(f"a policy is a function, a model or a file, not {policy!r:.60}")
    return cast(Policy, policy)


def load_policy(
    path: str | Path, spec: RobotSpec, *, device: str = "cpu", threads: int | None = None
) -> Policy:
    """Return the policy of a file, or ``"random"``, for a robot.

    **A policy file is code** (pickle): loading it can do anything. Load only what the user
    named, and trusts.

    Args:
        path: What ``remote-env train`` or ``model.save`` wrote, or ``"random"``.
        spec: Of the robot.
        device: For torch.
        threads: Of torch; its own choice if None.

    Raises:
        ConfigurationError: If it cannot be loaded, does not fit the robot, or if there is no such
            device.
    """
    if str(path) == "random":
        return RandomPolicy(spec.action_space)
    return ModelPolicy(load_model(Path(path), device=device, threads=threads), spec)


def load_model(path: Path, *, device: str = "cpu", threads: int | None = None) -> Any:
    """Return the Stable-Baselines3 model of a file, to act, not to train. The file is code.

    Raises:
        ConfigurationError: If it cannot be loaded, or if there is no such device.
    """
    algo = algorithm_of(path)
    from remote_env_agents.presets import algorithm_class

    cls = algorithm_class(algo)
    import torch

    if threads is not None:
        torch.set_num_threads(threads)
    check_device(device)
    # Its replay buffer would be made anew, as large as it was.
    small: dict[str, Any] = {
        "buffer_size": 1,
        "replay_buffer_class": None,
        "replay_buffer_kwargs": {},
    }
    try:
        return cls.load(path, device=device, custom_objects={} if algo == "ppo" else small)
    except Exception as error:  # whatever unpickling comes to
        raise ConfigurationError(
            f"{path} cannot be loaded: {type(error).__name__}: {error}"
        ) from error


def algorithm_of(path: Path) -> Algorithm:
    """Return which algorithm wrote a file, without running anything of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            data = json.loads(archive.read("data"))
    except OSError as error:
        raise ConfigurationError(f"cannot read the policy {path}: {error.strerror}") from error
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ConfigurationError(
            f"{path} is no policy of Stable-Baselines3; give a policy.zip or a checkpoint that "
            "remote-env train has written"
        ) from error
    for mark, algo in _MARKS:
        if mark in data:
            return algo
    raise ConfigurationError(
        f"{path} was written by another algorithm than ppo, sac, td3 and tqc; load it yourself "
        "and call remote_env_agents.evaluate(model, urls)"
    )
