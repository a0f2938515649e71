"""How a training begins: anew, from a policy, or from where a run stopped."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from remote_env.errors import ConfigurationError
from remote_env_agents.checkpoints import (
    find_checkpoint,
    has_buffer,
    load_state,
    load_watched,
    restore_chance,
    truncate,
)
from remote_env_agents.config import Hyperparameters, TrainConfig, Updates, seed_at_step
from remote_env_agents.config_files import read_config
from remote_env_agents.policies import algorithm_of
from remote_env_agents.presets import Preset, algorithm_class, make_model

__all__ = [
    "Start",
    "choose_updates",
    "config_to_write",
    "find_start",
    "make_start_model",
    "restore",
    "steps_left",
]


@dataclass(frozen=True, slots=True)
class Start:
    """Where a training begins.

    Attributes:
        checkpoint: To go on from; None to begin anew.
        folder: Of the run that goes on; None for a new one.
        watched: What its watcher had counted.
    """

    checkpoint: Path | None = None
    folder: Path | None = None
    watched: dict[str, Any] | None = None


def find_start(config: TrainConfig) -> Start:
    """Return where this training begins.

    Raises:
        ConfigurationError: If there is nothing to go on from, or it has come to its end.
    """
    path = config.resume
    if path is None:
        return Start()
    if not path.is_dir():
        return Start(path)
    if config.folder not in (None, path):
        raise ConfigurationError(
            f"the run in {path} goes on in its own folder, not in {config.folder}; to begin "
            "another run give a checkpoint of it: --resume FOLDER/checkpoints/step-N.zip"
        )
    checkpoint = find_checkpoint(path)
    watched = load_watched(checkpoint)
    done = int(checkpoint.stem.removeprefix("step-")) - watched["first_step"]
    if done >= config.steps:
        raise ConfigurationError(
            f"the run in {path} has done {done:,} steps, and steps is {config.steps:,}, which "
            "counts from its beginning; give a larger --steps"
        )
    return Start(checkpoint, path, watched)


def steps_left(config: TrainConfig, start: Start, done: int) -> int:
    """Return how many steps there are to do after those that the model has done."""
    return config.steps - (done - start.watched["first_step"] if start.watched else 0)


def choose_updates(config: TrainConfig, *, is_lockstep: bool) -> Updates | None:
    """Return when an off-policy algorithm learns; None for ppo, after its rollouts."""
    if config.algo == "ppo":
        return None
    return config.updates or ("each-step" if is_lockstep else "background")


def make_start_model(
    config: TrainConfig, preset: Preset, vec_env: Any, start: Start, *, only_acts: bool
) -> Any:
    """Return the model, with the replay buffer and the chance of its checkpoint.

    Args:
        config: What the user chose.
        preset: All hyperparameters.
        vec_env: The robots.
        start: Where it begins.
        only_acts: Whether it learns elsewhere: without a replay buffer, on the CPU.

    Raises:
        ConfigurationError: If the checkpoint is of another algorithm, or for other robots.
    """
    if start.checkpoint is not None:
        model = _load(config, start.checkpoint, vec_env, only_acts=only_acts)
        seed = seed_at_step(config.seed, model.num_timesteps)
        model.set_random_seed(seed)  # other episodes than those that it has seen
        if not only_acts:
            state = load_state(start.checkpoint)
            restore(model, state, goes_on=start.folder is not None)
        elif not has_buffer(start.checkpoint):
            _warm_up_again(model)
        return model
    if only_acts:
        small = {**preset.extra, "buffer_size": vec_env.num_envs}
        preset = Preset(**{**asdict(preset), "extra": small})
        config = TrainConfig(**{**_shallow(config), "device": "cpu"})
    return make_model(config, preset, vec_env)


def _shallow(config: TrainConfig) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _load(config: TrainConfig, path: Path, vec_env: Any, *, only_acts: bool) -> Any:
    from stable_baselines3 import HerReplayBuffer

    from remote_env_agents.rollouts import rollout_buffer_class

    if (found := algorithm_of(path)) != config.algo:
        raise ConfigurationError(
            f"{path} is of {found}, not of {config.algo}; go on with --algo {found}"
        )
    cls: Any = algorithm_class(config.algo)
    # Its replay buffer would be made anew, as large as it was.
    custom = {"buffer_size": vec_env.num_envs} if only_acts else {}
    device = "cpu" if only_acts else config.device
    kwargs: dict[str, Any] = {}
    if config.algo == "ppo":
        kwargs["rollout_buffer_class"] = rollout_buffer_class(vec_env.observation_space)
    try:
        model = cls.load(path, env=vec_env, device=device, custom_objects=custom, **kwargs)
    except ValueError as error:  # spaces
        raise ConfigurationError(f"{path} does not fit this robot: {error}") from error
    replay = getattr(model, "replay_buffer_class", None)
    if (replay is not None and issubclass(replay, HerReplayBuffer)) != config.her:
        raise ConfigurationError(
            f"{path} was learned {'without' if config.her else 'with'} hindsight; go on "
            f"{'without' if config.her else 'with'} --her"
        )
    _fit_noise(model, vec_env.num_envs)
    return model


def _fit_noise(model: Any, count: int) -> None:
    """Let as many noises be made anew as there are robots, if it was another number."""
    from stable_baselines3.common.noise import VectorizedActionNoise

    noise = getattr(model, "action_noise", None)
    if isinstance(noise, VectorizedActionNoise) and len(noise.noises) != count:
        model.action_noise = noise.base_noise


def restore(model: Any, state: dict[str, Any] | None, *, goes_on: bool) -> None:
    """Give a model that was loaded the rest of its checkpoint.

    Without a replay buffer it warms up again as at the beginning.

    Args:
        model: As ``load`` returned it.
        state: As ``load_state`` returned it.
        goes_on: Whether its run goes on, with the chance that it had.

    Raises:
        ConfigurationError: If the replay buffer is of another number of robots.
    """
    replay = None if state is None else state["buffer"]
    if replay is not None:
        if replay.n_envs != model.n_envs:
            raise ConfigurationError(
                f"the replay buffer is of {replay.n_envs} robots, and there are {model.n_envs}; "
                "give as many urls as before"
            )
        replay.device = model.device
        if hasattr(replay, "set_env"):
            replay.set_env(model.env)
        truncate(replay)
        model.replay_buffer = replay
    elif hasattr(model, "replay_buffer"):
        _warm_up_again(model)
    if replay is None or not goes_on:
        model.owed_updates = 0, []  # of what is not there, or of another run
    if state is not None and goes_on:
        restore_chance(state["chance"], model)


def _warm_up_again(model: Any) -> None:
    """Have a model act by chance for as many steps as in the beginning."""
    # What is saved may be shifted already, by a run before.
    model.warm_up = getattr(model, "warm_up", model.learning_starts)
    model.learning_starts = model.warm_up + model.num_timesteps


def config_to_write(config: TrainConfig, preset: Preset, start: Start) -> dict[str, Any]:
    """Return a configuration that repeats this run, as ``config_files`` reads it."""
    said = {k: v for k, v in asdict(config).items() if k not in ("folder", "hyperparameters")}
    if start.folder is not None:
        written = read_config(start.folder / "config.toml", TrainConfig)
        kept = written.get("hyperparameters", Hyperparameters())
        return {**said, "resume": written.get("resume"), "hyperparameters": asdict(kept)}
    if start.checkpoint is not None:
        return said  # which has the hyperparameters
    chosen = {
        "net_arch": preset.net_arch,
        "learning_rate": preset.learning_rate,
        "gamma": preset.gamma,
        "batch_size": preset.batch_size,
    }
    if "n_steps" in preset.extra:
        chosen["rollout"] = preset.extra["n_steps"] * len(config.urls)
    return {**said, "hyperparameters": chosen}
