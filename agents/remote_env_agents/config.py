"""What can be chosen about training and evaluation; the command line is made of it.

Imports nothing heavy: the help of the command line needs no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, Literal

import tyro

from remote_env.errors import ConfigurationError
from remote_env.joint import check_urls
from remote_env_agents.wrapping import Wrapping

__all__ = [
    "FIRST_EVALUATION_SEED",
    "VIDEOS_OF",
    "Algorithm",
    "EvalConfig",
    "Hyperparameters",
    "TrainConfig",
    "Updates",
    "seed_at_step",
]

Algorithm = Literal["ppo", "sac", "td3", "tqc"]
Updates = Literal["each-step", "between-episodes", "background"]
_Urls = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="URL...")]

# Far from the seeds of training, which count from 0.
FIRST_EVALUATION_SEED = 1_000_000
VIDEOS_OF = ("first", "failures", "worst")


# Of a training: what seed_at_step makes of it is to be a seed for numpy too, below 2**32.
_LARGEST_SEED: Final = (1 << 31) - 1


def seed_at_step(seed: int, step: int) -> int:
    """Return the seed with which a training goes on that began with another one.

    Far from those that it began with, and from those of evaluations.
    """
    return 10 * FIRST_EVALUATION_SEED + seed + step


@dataclass(frozen=True)
class Hyperparameters:
    """What is not given is taken from the algorithm's preset (presets.py), and written down.

    Attributes:
        net_arch: Widths of the hidden layers.
        learning_rate: Of the optimiser.
        gamma: Discount for each step.
        batch_size: Transitions in each gradient step.
        rollout: Steps of all robots together between two updates; ppo only.
    """

    net_arch: tuple[int, ...] | None = None
    learning_rate: float | None = None
    gamma: float | None = None
    batch_size: int | None = None
    rollout: int | None = None

    def __post_init__(self) -> None:
        """Check the numbers.

        Raises:
            ConfigurationError: Naming the one that makes no sense.
        """
        if self.net_arch is not None and any(width < 1 for width in self.net_arch):
            raise ConfigurationError(f"net_arch must be positive widths, not {self.net_arch}")
        if self.learning_rate is not None and not 0 < self.learning_rate < 1:
            raise ConfigurationError(
                f"learning_rate must be between 0 and 1, not {self.learning_rate}"
            )
        if self.gamma is not None and not 0 <= self.gamma <= 1:
            raise ConfigurationError(f"gamma must be between 0 and 1, not {self.gamma}")
        if self.batch_size is not None and self.batch_size < 2:
            raise ConfigurationError(f"batch_size must be 2 or more, not {self.batch_size}")
        if self.rollout is not None and self.rollout < (self.batch_size or 2):
            raise ConfigurationError(
                f"rollout must be at least a batch, not {self.rollout}; learn from less with a "
                "smaller batch_size"
            )


@dataclass(frozen=True)
class TrainConfig:
    """Train a policy on one or several robots of the same kind. They move.

    Attributes:
        urls: Of the robots, such as ws://127.0.0.1:8765.
        algo: The algorithm. ppo is the fastest where steps are cheap, the others need fewer.
        steps: How many steps of all robots together; ppo finishes the rollout that it has begun.
        seed: For the first robot; the next one gets the next number. Also for the network.
        her: Learn from goals that were reached by chance (hindsight experience replay); for
            sac, td3 and tqc, on a robot that declares its goal reward.
        streams: The streams to observe, by name; the robot's own observation if not given.
        updates: When sac, td3 and tqc learn: after each step, between-episodes while the robots
            hold, or in the background, in a process of its own that never holds up the robots.
            If not given: each-step in lockstep, else background. ppo learns after each rollout.
        folder: Where everything is written; runs/ROBOT-ALGO-N if not given.
        success_at: Stop when the success rate of an evaluation, or of the last 100 episodes,
            reaches this. Training explores, and ppo much: its policy is better than that.
        eval_every: Evaluate the policy each time after so many steps, and at the end; 0 for
            never. Training waits meanwhile.
        eval_episodes: How many episodes an evaluation has.
        checkpoint_every: Save everything that is needed to go on each time after so many steps;
            0 for never but at the end. A run that was killed goes on from there.
        save_buffer: Save the replay buffer with the newest checkpoint. Without it, a run that
            goes on warms up again.
        resume: The folder of a run, which goes on from its newest checkpoint to so many steps in
            all; or a checkpoint or policy, with which a new run of so many steps begins. Network,
            hyperparameters and the size of the replay buffer are kept. Such files are code and
            may do anything: name only what you trust.
        token_file: A file whose first line is the robots' token. The variable
            REMOTE_ENV_TOKEN does the same.
        device: Where the network is, such as cpu or cuda; auto for a GPU if there is one. For
            small networks a cpu is faster.
        torch_threads: How many threads torch uses. For small networks one is fastest.
    """

    urls: _Urls
    algo: Algorithm = "ppo"
    steps: int = 100_000
    seed: int = 0
    her: bool = False
    updates: Updates | None = None
    streams: tuple[str, ...] = ()
    folder: Path | None = None
    success_at: float | None = None
    eval_every: int = 0
    eval_episodes: int = 50
    checkpoint_every: int = 10_000
    save_buffer: bool = True
    resume: Path | None = None
    token_file: Path | None = None
    device: str = "cpu"
    torch_threads: int = 1
    hyperparameters: Annotated[Hyperparameters, tyro.conf.arg(name="")] = field(
        default_factory=Hyperparameters
    )
    wrapping: Annotated[Wrapping, tyro.conf.arg(name="")] = field(default_factory=Wrapping)

    def __post_init__(self) -> None:
        """Check what can be checked without the robots.

        Raises:
            ConfigurationError: Saying what to change.
        """
        _check_urls(self.urls)
        _check_least("steps", self.steps, 1)
        _check_least("seed", self.seed, 0)
        if self.seed > _LARGEST_SEED:
            raise ConfigurationError(f"seed must be {_LARGEST_SEED} or less, not {self.seed}")
        _check_least("eval_every", self.eval_every, 0)
        _check_least("eval_episodes", self.eval_episodes, 1)
        _check_least("checkpoint_every", self.checkpoint_every, 0)
        _check_least("torch_threads", self.torch_threads, 1)
        if self.success_at is not None and not 0 < self.success_at <= 1:
            raise ConfigurationError(
                f"success_at is a rate, above 0 and at most 1, not {self.success_at}"
            )
        if self.her and self.algo == "ppo":
            raise ConfigurationError("her needs a replay buffer, which ppo has not; use algo sac")
        if self.hyperparameters.rollout is not None and self.algo != "ppo":
            raise ConfigurationError(f"{self.algo} learns from a buffer; only ppo has rollouts")
        if self.updates is not None and self.algo == "ppo":
            raise ConfigurationError(
                f"updates {self.updates} is for sac, td3 and tqc; ppo learns after each rollout"
            )
        if self.resume is not None and self.hyperparameters != Hyperparameters():
            raise ConfigurationError("resume keeps the hyperparameters; give none")


@dataclass(frozen=True)
class EvalConfig:
    """Evaluate a policy on one or several robots: every episode exactly once. They move.

    Each episode is written to the folder as soon as it is over. The same command with the same
    folder goes on where it ended, however it ended, and does only what is missing. With a folder
    alone, neither robots nor a policy, what is in it is shown.

    A policy file is code and may do anything: evaluate only files that you trust.
    The exit code is 1 if an episode could not be finished.

    Attributes:
        urls: Of the robots, such as ws://127.0.0.1:8765.
        policy: A policy.zip or a checkpoint; or "random", to compare with.
        episodes: How many seeds.
        seed: The first one; the next one gets the next number.
        options: A file with options of reset, as a JSON list of objects or one object a line:
            each seed is run with each of them.
        folder: Where everything is written; evaluations/ROBOT-POLICY-N if not given.
        video_of: Film episodes again on the first robot, when all are done: "first",
            "failures" or "worst" (of return), or seeds. In real time a film may show another
            course of things than what was counted; the report says so.
        videos: How many of these are filmed; of seeds all are.
        cameras: The image streams to film, by name; the first two if not given.
        patience: For how long all robots together may be lost before it fails, in seconds.
        token_file: A file whose first line is the robots' token. The variable
            REMOTE_ENV_TOKEN does the same.
        device: Where the network is, such as cpu or cuda; auto for a GPU if there is one.
        torch_threads: How many threads torch uses.
    """

    urls: _Urls = ()
    policy: str = ""
    episodes: int = 200
    seed: int = FIRST_EVALUATION_SEED
    options: Path | None = None
    folder: Path | None = None
    video_of: tuple[str, ...] = ()
    videos: int = 3
    cameras: tuple[str, ...] = ()
    patience: float = 30.0
    token_file: Path | None = None
    device: str = "cpu"
    torch_threads: int = 1

    def __post_init__(self) -> None:
        """Check what can be checked without the robots.

        Raises:
            ConfigurationError: Saying what to change.
        """
        _check_least("episodes", self.episodes, 1)
        _check_least("seed", self.seed, 0)
        _check_least("videos", self.videos, 1)
        _check_least("torch_threads", self.torch_threads, 1)
        if not self.patience >= 0:
            raise ConfigurationError(f"patience must be 0 or more seconds, not {self.patience}")
        if not self.is_seeds_filmed and self.video_of not in ((), *((w,) for w in VIDEOS_OF)):
            raise ConfigurationError(
                f"--video-of is one of {', '.join(VIDEOS_OF)}, or seeds, not "
                f"{' '.join(self.video_of)}"
            )
        if self.only_shows:
            return
        _check_urls(self.urls)
        if not self.policy:
            raise ConfigurationError('give the policy to evaluate: --policy FILE, or "random"')

    @property
    def only_shows(self) -> bool:
        """Whether this is about what is in the folder already."""
        return self.folder is not None and not self.urls and not self.policy

    @property
    def is_seeds_filmed(self) -> bool:
        """Whether the episodes to film are named by their seeds."""
        return bool(self.video_of) and all(word.isdecimal() for word in self.video_of)


def _check_urls(urls: tuple[str, ...]) -> None:
    if not urls:
        raise ConfigurationError("give the url of at least one robot, such as ws://127.0.0.1:8765")
    check_urls(urls)


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ConfigurationError(f"{name} must be {least} or more, not {value}")
