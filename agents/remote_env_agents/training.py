"""Training: Stable-Baselines3 on robots behind urls.

In lockstep the robots wait for the learner, so nothing that is learned depends on how fast
anything is. In real time the robots hold while PPO computes an update; an off-policy algorithm
should take less than a control period for its step, or the robots hold now and then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from gymnasium import spaces
from rich.console import Console

from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.spec import Mode, RobotSpec
from remote_env.terminal import plain
from remote_env.tokens import read_token
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env_agents.config import TrainConfig, seed_at_step
from remote_env_agents.display import Display
from remote_env_agents.presets import (
    Preset,
    algorithm_class,
    check_action_space,
    make_model,
    resolve,
)
from remote_env_agents.robots import limit_for, look_at, make_vec_env, streams_to_learn
from remote_env_agents.run_folder import RunFolder, read_progress
from remote_env_agents.wrapping import note_wrappers, prepare

__all__ = ["TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training run.

    Attributes:
        folder: Where everything is.
        policy: The file of the policy; ``remote_env_agents.load_policy`` reads it.
        steps: That were done, of all robots together.
        seconds: They took, evaluations included.
        episodes: That ended meanwhile.
        mean_return: Of the last 100 episodes; None if none ended.
        success_rate: Of the last 100 episodes; None if the robot does not say.
        evaluation: The last one, if there were any.
        spoiled_steps: Steps that a lost link or a stale sensor spoiled.
        ended_by: All steps are done, the success rate is reached, or Ctrl-C.
    """

    folder: Path
    policy: Path
    steps: int
    seconds: float
    episodes: int
    mean_return: float | None
    success_rate: float | None
    evaluation: Any
    spoiled_steps: int
    ended_by: Literal["steps", "success", "interrupt"]


def train(config: TrainConfig, *, console: Console | None = None) -> TrainingResult:
    """Train a policy on robots, and write it and how it went into a folder. They move.

    Ctrl-C ends it early; what was learned until then is saved, and the result says so. On
    robots that set no limit themselves, an episode is truncated after 1000 steps.

    Args:
        config: What to do.
        console: Where to show how far it is; None for nowhere.

    Raises:
        ConfigurationError: If this cannot be learned on these robots; says why.
        RemoteEnvError: If a robot fails meanwhile. What was learned until then is saved, and
            the error says where.
    """
    algorithm_class(config.algo)
    import torch

    torch.set_num_threads(config.torch_threads)
    token = read_token(config.token_file)
    spec = look_at(config.urls, token=token)
    streams = streams_to_learn(spec, config.streams, her=config.her)
    recipe = config.wrapping.recipe()
    prepared = Chain(spec.space_of(streams), spec.action_space, spec, recipe=recipe)
    preset = _check(config, spec, prepared.space)
    folder = RunFolder.make(config.folder, robot=spec.name, algo=config.algo)
    folder.write_config(
        config,
        spec,
        {
            "streams": None if streams is None else list(streams),
            "wrappers": prepared.recipe,
            "observation_space": str(prepared.space),
            "hyperparameters": asdict(preset),
        },
    )
    if console is not None:
        _announce(console, config, spec, folder)
    vec_env = _make_vec_env(config, streams, token, limit_for(spec), prepared.recipe)
    try:
        model = _make_model(config, preset, vec_env)
        note_wrappers(model, prepared.recipe, streams=streams)
        return _learn(config, model, folder=folder, console=console, streams=streams, token=token)
    finally:
        vec_env.close()


def _check(config: TrainConfig, spec: RobotSpec, observed: spaces.Space[Any]) -> Preset:
    """Refuse what cannot be learned, before anything is written or moves."""
    from stable_baselines3.common.preprocessing import is_image_space

    from remote_env_agents.features import check_learnable

    check_action_space(config.algo, spec.action_space)
    check_learnable(observed)
    parts = observed.values() if isinstance(observed, spaces.Dict) else [observed]
    return resolve(
        config,
        robots=len(config.urls),
        longest=spec.max_episode_steps,
        pictures=any(is_image_space(part) for part in parts),
    )


def _announce(console: Console, config: TrainConfig, spec: RobotSpec, folder: RunFolder) -> None:
    robots = "1 robot" if len(config.urls) == 1 else f"{len(config.urls)} robots"
    text = (
        f"[bold]{plain(spec.name)}[/]  {robots} in {spec.mode.value}, {config.algo}"
        f"{' with her' if config.her else ''}; everything goes to {plain(str(folder.path))}"
    )
    console.print(text, highlight=False, soft_wrap=True)
    if (limit := limit_for(spec)) is not None:
        console.print(
            f"the robot sets no limit: an episode is truncated after {limit:,} steps",
            highlight=False,
            soft_wrap=True,
        )
    if spec.mode is not Mode.LOCKSTEP:
        console.print(
            "time goes on while the policy is updated: the robots hold meanwhile",
            highlight=False,
            soft_wrap=True,
        )


def _make_vec_env(
    config: TrainConfig,
    streams: tuple[str, ...] | None,
    token: str | None,
    limit: int | None,
    recipe: Recipe,
) -> Any:
    from remote_env_agents.monitoring import EpisodeMonitor
    from remote_env_agents.scaling import ScaledActions, is_unit

    vec_env = make_vec_env(config.urls, streams=streams, token=token, max_steps=limit)
    vec_env = prepare(vec_env, recipe)
    space = vec_env.action_space
    # The others scale their actions themselves.
    if config.algo == "ppo" and isinstance(space, spaces.Box) and not is_unit(space):
        vec_env = ScaledActions(vec_env)
    return EpisodeMonitor(vec_env)


def _make_model(config: TrainConfig, preset: Preset, vec_env: Any) -> Any:
    if config.resume is None:
        return make_model(config, preset, vec_env)
    from remote_env_agents.policies import load_model
    from remote_env_agents.rollouts import rollout_buffer_class

    model = load_model(config.resume, device=config.device)
    if type(model) is not algorithm_class(config.algo):
        raise ConfigurationError(
            f"{config.resume} is of {type(model).__name__}, not of {config.algo}; only ppo resumes"
        )
    try:
        resumed = type(model).load(
            config.resume,
            env=vec_env,
            device=config.device,
            rollout_buffer_class=rollout_buffer_class(vec_env.observation_space),
        )
    except ValueError as error:  # spaces
        raise ConfigurationError(f"{config.resume} does not fit this robot: {error}") from error
    # Other episodes than those that it has seen.
    resumed.set_random_seed(seed_at_step(config.seed, resumed.num_timesteps))
    return resumed


def _learn(
    config: TrainConfig,
    model: Any,
    *,
    folder: RunFolder,
    console: Console | None,
    streams: tuple[str, ...] | None,
    token: str | None,
) -> TrainingResult:
    from remote_env_agents.evaluation import Evaluation, evaluate
    from remote_env_agents.rollouts import InvalidRows
    from remote_env_agents.watcher import Watcher

    def evaluate_now(model: Any, tell: Callable[[int], object]) -> Evaluation:
        over = iter(range(1, 10 * config.eval_episodes))
        return evaluate(
            model,
            config.urls,
            episodes=config.eval_episodes,
            streams=streams,
            token=token,
            on_episode=lambda episode: tell(next(over)),
        )

    ended_by: Literal["steps", "success", "interrupt"] = "steps"
    logger = _tensorboard(folder)
    display = Display(console, total=config.steps, unit="steps", what="training")
    watcher = Watcher(config, folder=folder, display=display, evaluate=evaluate_now)
    model.set_logger(logger)
    try:
        with display:
            model.learn(
                config.steps,
                callback=[InvalidRows(), watcher],
                reset_num_timesteps=config.resume is None,
            )
        ended_by = "success" if watcher.reached else "steps"
    except KeyboardInterrupt:
        ended_by = "interrupt"
    except RemoteEnvError as error:
        error.args = (f"{error}; what was learned until then is in {folder.policy}",)
        raise
    finally:
        folder.save(model, folder.policy)
        logger.close()
        _draw(folder)
    return TrainingResult(
        folder=folder.path,
        policy=folder.policy,
        steps=watcher.steps,
        seconds=watcher.seconds,
        episodes=watcher.episodes,
        mean_return=watcher.mean_return,
        success_rate=watcher.success_rate,
        evaluation=watcher.evaluation,
        spoiled_steps=watcher.spoiled_steps,
        ended_by=ended_by,
    )


def _tensorboard(folder: RunFolder) -> Any:
    from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

    return Logger(str(folder.path), [TensorBoardOutputFormat(str(folder.tensorboard))])


def _draw(folder: RunFolder) -> None:
    from remote_env_agents.plots import plot_learning_curve

    rows = read_progress(folder.progress)
    plot_learning_curve(folder.learning_curve, rows, title=folder.path.name)
