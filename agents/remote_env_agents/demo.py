"""``remote-env demo``: arms are served, a policy learns to reach through the wire, and is shown.

Everything is as between two machines: each arm is a process of its own behind a socket, and the
learner knows nothing of it but its url. Goals of the evaluation were never seen in training: its
seeds are others.
"""

from __future__ import annotations

import json
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.console import Console

from remote_env.errors import ConfigurationError, RemoteEnvError
from remote_env.terminal import plain
from remote_env_agents.config import FIRST_EVALUATION_SEED, Hyperparameters, TrainConfig
from remote_env_agents.display import Display, duration, percent
from remote_env_agents.served import ServedRobots

if TYPE_CHECKING:
    from remote_env_agents.evaluation import Evaluation

__all__ = ["DemoConfig", "run_demo"]

# What reached 100 % of 60 goals, to 15 mm at most, in 7,168 steps with each of two seeds; in
# 6,144 with each of three, to 23 mm.
_HYPERPARAMETERS: Final = Hyperparameters(learning_rate=3e-3, gamma=0.9, rollout=512)
# Of the arm that is filmed: with shadows, and 20 steps are enough to reach and stay.
_STAGE: Final = (
    *("--quality", "fine", "--image-size", "360", "480"),
    *("--cameras", "front", "side", "--max-steps", "20"),
)
_NEXT: Final = "remote-env serve arm, and remote-env train ws://127.0.0.1:8765"
_GOOD_ENOUGH: Final = 0.93  # the lower end of the interval of the success rate


@dataclass(frozen=True)
class DemoConfig:
    """Serve simulated arms, train a policy through the wire, evaluate and film it.

    The exit code is 1 if the policy did not learn to reach.

    Attributes:
        robots: How many arms.
        steps: Of training, of all arms together.
        episodes: Of evaluation; each has a goal that was not seen in training.
        filmed: Episodes on the video.
        seed: Of the training.
        folder: Where everything is written. What an earlier demonstration wrote is replaced.
    """

    robots: int = 4
    steps: int = 7_168
    episodes: int = 200
    filmed: int = 3
    seed: int = 0
    folder: Path = Path("demo-output")

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: Naming the one that makes no sense.
        """
        for name in ("robots", "steps", "episodes", "filmed"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be 1 or more, not {getattr(self, name)}")


def run_demo(config: DemoConfig, *, console: Console, errors: Console) -> int:
    """Run it.

    Args:
        config: What to do.
        console: For results.
        errors: For how far it is.

    Returns:
        The exit code.

    Raises:
        RemoteEnvError: If something fails; says what to do.
    """
    with _ending_at_sigterm():
        return _Demo(config, console, errors).run()


@contextmanager
def _ending_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end this as Ctrl-C does: by itself it would leave the arms running."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield  # only that one has signals
        return
    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Demo:
    def __init__(self, config: DemoConfig, console: Console, errors: Console) -> None:
        self._config = config
        self._console = console
        self._errors = errors
        self._began_at = time.monotonic()

    def run(self) -> int:
        config, folder = self._config, self._config.folder
        _clear(folder)
        self._headline("1/4", f"starting {config.robots} arms, each a process behind a socket")
        arms = ServedRobots("arm", count=config.robots, options=("--cameras", "none"))
        try:
            _import_torch()  # meanwhile
            self._say(f"arms at {', '.join(url.removeprefix('ws://') for url in arms.urls)}")
            self._train(arms.urls)
            return self._show(arms.urls)
        finally:
            arms.stop()

    def _train(self, urls: Sequence[str]) -> None:
        from remote_env_agents.plots import plot_learning_curve
        from remote_env_agents.run_folder import read_progress
        from remote_env_agents.training import train

        config, folder = self._config, self._config.folder
        self._headline("2/4", "training PPO on them, from joint angles and the goal")
        training = TrainConfig(
            urls=tuple(urls),
            algo="ppo",
            steps=config.steps,
            seed=config.seed,
            folder=folder / "training",
            eval_every=max(1, config.steps // 4),
            eval_episodes=12,
            hyperparameters=_HYPERPARAMETERS,
        )
        result = train(training, console=self._errors)
        if result.ended_by == "interrupt":
            raise KeyboardInterrupt
        rows = read_progress(folder / "training" / "progress.csv")
        title = f"A simulated arm learns to reach: PPO on {config.robots} of them, over the wire"
        plot_learning_curve(folder / "learning_curve.png", rows, title=title)
        self._say(
            f"{result.steps:,} steps in {duration(result.seconds)}, evaluations included "
            f"({result.steps / result.seconds:,.0f}/s)"
        )

    def _show(self, urls: Sequence[str]) -> int:
        from remote_env_agents.policies import load_policy
        from remote_env_agents.robots import look_at
        from remote_env_agents.terminal import print_evaluation

        config, folder = self._config, self._config.folder
        spec = look_at(urls)
        policy = load_policy(str(folder / "training" / "policy.zip"), spec)
        self._headline("3/4", f"evaluating it on {config.episodes} goals that it has not seen")
        film = _Film(config, policy)
        trained = self._evaluate(policy, urls, "policy")
        print_evaluation(self._console, trained, "the policy")
        self._headline("4/4", "comparing with random actions, and filming")
        with film:
            by_chance = self._evaluate(load_policy("random", spec), urls, "random")
            no_video = film.wait()
        return self._conclude(trained, by_chance, no_video)

    def _evaluate(self, policy: Any, urls: Sequence[str], what: str) -> Evaluation:
        from remote_env_agents.evaluation import evaluate

        display = Display(self._errors, total=self._config.episodes, unit="episodes", what=what)
        over = iter(range(1, 10 * self._config.episodes))
        with display:
            return evaluate(
                policy,
                urls,
                episodes=self._config.episodes,
                on_episode=lambda episode: display.update(next(over)),
            )

    def _conclude(self, trained: Evaluation, by_chance: Evaluation, no_video: str) -> int:
        folder, seconds = self._config.folder, time.monotonic() - self._began_at
        low, high = trained.interval or (0.0, 0.0)
        chance_low, chance_high = by_chance.interval or (0.0, 0.0)
        summary = {
            "config": {**asdict(self._config), "folder": str(folder)},
            "success_rate": trained.success_rate,
            "interval": [low, high],
            "random_success_rate": by_chance.success_rate,
            "random_interval": [chance_low, chance_high],
            "seconds": round(seconds, 1),
        }
        (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        self._console.print()
        self._say(
            f"within 2.5 cm after 1.5 s: [bold]{percent(trained.success_rate or 0.0)}[/] of "
            f"{len(trained.episodes)} goals in a box of 30 cm "
            f"(95 % interval {percent(low)} to {percent(high)}); "
            f"by chance {percent(by_chance.success_rate or 0.0)}"
        )
        self._say(f"learning curve  {plain(str(folder / 'learning_curve.png'))}")
        self._say(f"video           {plain(no_video or str(folder / 'reaching.mp4'))}")
        self._say(f"policy          {plain(str(folder / 'training' / 'policy.zip'))}")
        self._say(f"all of it took {duration(seconds)}")
        self._say(f"once more on your own arm: [bold]{_NEXT}[/]")
        if low < _GOOD_ENOUGH:
            self._say(
                f"[bold red]it did not learn well enough:[/] {percent(_GOOD_ENOUGH)} at least was "
                "expected of the lower end; train for longer with --steps"
            )
            return 1
        return 0

    def _headline(self, number: str, text: str) -> None:
        self._console.print(f"[bold]{number}[/]  {text}", highlight=False, soft_wrap=True)

    def _say(self, text: str) -> None:
        self._console.print(f"     {text}", highlight=False, soft_wrap=True)


class _Film:
    """Films the policy on an arm of its own, beside everything else, in a ``with`` block."""

    def __init__(self, config: DemoConfig, policy: Any) -> None:
        self._config = config
        self._policy = policy
        self._problem = ""
        self._stage: ServedRobots | None = None
        self._thread = threading.Thread(target=self._run, name="filming", daemon=True)

    def __enter__(self) -> None:
        self._stage = ServedRobots("arm", options=_STAGE)
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        # Not on the thread: whoever presses Ctrl-C does not wait for it.
        assert self._stage is not None
        self._stage.stop()

    def wait(self) -> str:
        """Wait for the end; return why there is no video, or ``""``."""
        self._thread.join()
        return self._problem

    def _run(self) -> None:
        from remote_env_agents.video import record_episodes

        first = FIRST_EVALUATION_SEED
        assert self._stage is not None
        try:
            (url,) = self._stage.urls
            record_episodes(
                self._config.folder / "reaching.mp4",
                self._policy,
                url,
                seeds=range(first, first + self._config.filmed),
            )
        except RemoteEnvError as error:
            self._problem = f"none: {error}"
        except Exception as error:  # such as a disk that is full
            self._problem = f"none: {type(error).__name__}: {error}"


def _clear(folder: Path) -> None:
    """Make the folder, without what an earlier demonstration left there.

    Raises:
        ConfigurationError: If it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(folder / "training", ignore_errors=True)
        for name in ("learning_curve.png", "reaching.mp4", "summary.json"):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(f"cannot write to {folder}: {error.strerror}") from error


def _import_torch() -> None:
    import stable_baselines3  # noqa: F401
