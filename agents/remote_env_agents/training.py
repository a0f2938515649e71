"""Training: Stable-Baselines3 on robots behind urls.

In lockstep the robots wait for the learner, so nothing that is learned depends on how fast
anything is. In real time the robots hold while PPO computes an update; an off-policy algorithm
learns in the background (``background.py``), between episodes, or after each step.
"""

from __future__ import annotations

import importlib
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

from gymnasium import spaces
from rich.console import Console

from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.spec import Mode, RobotSpec
from remote_env.terminal import plain
from remote_env.tokens import read_token
from remote_env.wrappers.recipes import Chain, Recipe
from remote_env_agents.checkpoints import CheckpointError, find_checkpoint
from remote_env_agents.config import TrainConfig, Updates
from remote_env_agents.devices import check_device
from remote_env_agents.display import Display
from remote_env_agents.periods import PeriodCount
from remote_env_agents.presets import Preset, algorithm_class, check_action_space, resolve
from remote_env_agents.robots import limit_for, look_at, make_vec_env, streams_to_learn
from remote_env_agents.run_folder import RunFolder, read_progress
from remote_env_agents.starting import (
    Start,
    choose_updates,
    config_to_write,
    find_start,
    make_start_model,
    steps_left,
)
from remote_env_agents.wrapping import note_wrappers, prepare

if TYPE_CHECKING:
    from stable_baselines3.common.callbacks import BaseCallback

    from remote_env_agents.evaluation import Evaluation
    from remote_env_agents.updates import Learner

__all__ = ["TrainingResult", "train"]

_WHILE_LEARNING: Final[dict[Updates | None, str]] = {
    None: "time goes on while the policy is updated: the robots hold meanwhile",
    "each-step": "the policy is updated within each control period: robots hold if it takes longer",
    "between-episodes": "the policy is updated between episodes: the robots hold meanwhile",
    "background": "the policy is updated in the background: no robot waits for it",
}


@dataclass(frozen=True)
class TrainingResult:
    """What came of a training run.

    Attributes:
        folder: Where everything is.
        policy: The file of the policy; ``remote_env_agents.load_policy`` reads it.
        steps: That were done, of all robots together; also before the run was resumed.
        seconds: They took, evaluations included.
        episodes: That ended meanwhile.
        mean_return: Of the last 100 episodes; None if none ended.
        success_rate: Of the last 100 episodes; None if the robot does not say.
        evaluation: The last one, if there were any.
        spoiled_steps: Steps that a lost link or a stale sensor spoiled.
        periods: How well the robots' control periods were kept; None in lockstep.
        gradient_steps: Made in all by an off-policy algorithm; None for ppo.
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
    periods: PeriodCount | None
    gradient_steps: int | None
    ended_by: Literal["steps", "success", "interrupt"]


def train(config: TrainConfig, *, console: Console | None = None) -> TrainingResult:
    """Train a policy on robots, and write it and how it went into a folder. They move.

    Ctrl-C ends it early; what was learned until then is saved, and the result says so. On
    robots that set no limit themselves, an episode is truncated after 1000 steps.

    A learner in the background is a process that imports the script again: a script calls this
    below ``if __name__ == "__main__":``.

    Args:
        config: What to do.
        console: Where to show how far it is; None for nowhere.

    Raises:
        ConfigurationError: If this cannot be learned on these robots; says why.
        RemoteEnvError: If a robot fails meanwhile. What was learned until then is saved, and
            the error says where.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise ConfigurationError(
            "train was called while the learner's process imported this script; call it below "
            '`if __name__ == "__main__":`'
        )
    algorithm_class(config.algo)
    import torch

    torch.set_num_threads(config.torch_threads)
    check_device(config.device)
    token = read_token(config.token_file)
    spec = look_at(config.urls, token=token)
    streams = streams_to_learn(spec, config.streams, her=config.her)
    recipe = config.wrapping.recipe()
    prepared = Chain(spec.space_of(streams), spec.action_space, spec, recipe=recipe)
    preset = _check(config, spec, prepared.space)
    updates = choose_updates(config, is_lockstep=spec.mode is Mode.LOCKSTEP)
    config = replace(config, updates=updates)
    start = find_start(config)
    vec_env = _make_vec_env(config, streams, token, limit_for(spec), prepared.recipe)
    try:
        model = make_start_model(config, preset, vec_env, start, only_acts=updates == "background")
        note_wrappers(model, prepared.recipe, streams=streams)
        folder = _open_folder(config, spec, start, model.num_timesteps)
        folder.write_config(config_to_write(config, preset, start), spec, str(prepared.space))
        if console is not None:
            _announce(console, config, spec, folder)
        run = _Run(config, preset, spec, start, folder, streams, token, console)
        return _learn(run, model)
    finally:
        vec_env.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """What a training is made of."""

    config: TrainConfig
    preset: Preset
    spec: RobotSpec
    start: Start
    folder: RunFolder
    streams: tuple[str, ...] | None
    token: str | None
    console: Console | None


def _open_folder(config: TrainConfig, spec: RobotSpec, start: Start, step: int) -> RunFolder:
    if start.folder is not None:
        return RunFolder.reopen(start.folder, step=step)
    return RunFolder.make(config.folder, robot=spec.name, algo=config.algo)


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
        console.print(_WHILE_LEARNING[config.updates], highlight=False, soft_wrap=True)


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


def _learn(run: _Run, model: Any) -> TrainingResult:
    from remote_env_agents.background import LearnerLostError
    from remote_env_agents.rollouts import InvalidRows
    from remote_env_agents.watcher import Watcher

    config, folder, start = run.config, run.folder, run.start
    is_lockstep = run.spec.mode is Mode.LOCKSTEP
    periods = None if is_lockstep else PeriodCount(run.spec.control_hz, len(config.urls))
    display = Display(run.console, total=config.steps, unit="steps", what="training")
    learner, before, after = _learner(run, model, display)
    logger = _tensorboard(folder, None if start.folder is None else model.num_timesteps)
    model.set_logger(logger)
    watcher = Watcher(
        config,
        folder=folder,
        display=display,
        evaluate=_evaluator(run),
        learner=learner,
        periods=periods,
        watched=start.watched,
    )
    ended_by: Literal["steps", "success", "interrupt"] = "steps"
    can_save = True
    try:
        with display:
            model.learn(
                steps_left(config, start, model.num_timesteps),
                callback=[InvalidRows(time_goes_on=not is_lockstep), *before, watcher, *after],
                reset_num_timesteps=start.checkpoint is None,
            )
        ended_by = "success" if watcher.reached else "steps"
    except KeyboardInterrupt:
        ended_by = "interrupt"
    except (CheckpointError, LearnerLostError) as error:
        can_save = False
        error.args = (f"{error}; {_kept(folder)}",)
        raise
    except RemoteEnvError as error:
        error.args = (f"{error}; what was learned until then is in {folder.policy}",)
        raise
    finally:
        try:
            if can_save:
                _finish(learner, folder, int(model.num_timesteps), watcher.watched())
        finally:
            learner.close()
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
        periods=periods,
        gradient_steps=learner.gradient_steps,
        ended_by=ended_by,
    )


def _finish(learner: Learner, folder: RunFolder, step: int, watched: dict[str, Any]) -> None:
    from remote_env_agents.background import LearnerLostError

    try:
        learner.finish(folder.checkpoint(step), folder.policy, step, watched)
    except (CheckpointError, LearnerLostError) as error:
        error.args = (f"{error}; {_kept(folder)}",)
        raise


def _kept(folder: RunFolder) -> str:
    """Say what there is to go on from."""
    try:
        kept = find_checkpoint(folder.path)
    except ConfigurationError:
        return "there is no checkpoint to go on from"
    return f"what was learned until {kept} is there: --resume {folder.path}"


def _learner(
    run: _Run, model: Any, display: Display
) -> tuple[Learner, list[BaseCallback], list[BaseCallback]]:
    """Return who learns and saves, and what is to be called for that, before and after others.

    So what is evaluated and saved has all updates that are due, and what is marked because the
    robots waited is not counted as spoiled.
    """
    from remote_env_agents.background import BackgroundLearner
    from remote_env_agents.updates import BetweenEpisodes, LocalLearner, Waits

    config = run.config
    if config.updates == "background":
        background = BackgroundLearner(
            config, run.preset, model, run.spec, start=run.start, say=display.say
        )
        return background, [], [background]
    # PPO has its checkpoints where it waits anyway, for its update: see InvalidRows.
    waits = None if run.spec.mode is Mode.LOCKSTEP or config.updates is None else Waits()
    after: list[BaseCallback] = [] if waits is None else [waits]
    local = LocalLearner(model, with_buffer=config.save_buffer, say=display.say, waits=waits)
    if config.updates == "between-episodes":
        return local, [BetweenEpisodes(model, waits=waits)], after
    return local, [], after


def _evaluator(run: _Run) -> Callable[[Any, Callable[[int], object]], Evaluation]:
    from remote_env_agents.evaluation import evaluate

    config = run.config

    def evaluate_now(model: Any, tell: Callable[[int], object]) -> Evaluation:
        over = iter(range(1, 10 * config.eval_episodes))
        return evaluate(
            model,
            config.urls,
            episodes=config.eval_episodes,
            streams=run.streams,
            token=run.token,
            spec=run.spec,
            on_episode=lambda episode: tell(next(over)),
        )

    return evaluate_now


def _tensorboard(folder: RunFolder, goes_on_at: int | None) -> Any:
    from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat

    output = TensorBoardOutputFormat(str(folder.tensorboard))
    if goes_on_at is not None:
        _take_back(output, goes_on_at + 1)
    return Logger(str(folder.path), [output])


def _take_back(output: Any, step: int) -> None:
    """Have TensorBoard leave out what earlier files say of this step and later ones."""
    events = importlib.import_module("tensorboard.compat.proto.event_pb2")
    start = events.SessionLog(status=events.SessionLog.START)
    output.writer.file_writer.add_event(events.Event(session_log=start), step)


def _draw(folder: RunFolder) -> None:
    from remote_env_agents.plots import plot_learning_curve

    rows = read_progress(folder.progress)
    plot_learning_curve(folder.learning_curve, rows, title=folder.path.name)
