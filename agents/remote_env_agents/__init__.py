"""Training and evaluation of policies on robots behind urls.

``remote-env train`` and ``remote-env eval`` are its command line. Importing this imports no
torch; what needs it does so when it is called.
"""

from remote_env_agents.about import About, PolicyIdentity
from remote_env_agents.comparing import wilson
from remote_env_agents.config import EvalConfig, Hyperparameters, TrainConfig
from remote_env_agents.dispatch import Assignment, Desk
from remote_env_agents.episodes import Episode, Policy
from remote_env_agents.evaluation import Evaluation, evaluate
from remote_env_agents.executor import Executor, Job, LostError
from remote_env_agents.keys import EpisodeKey
from remote_env_agents.plots import plot_learning_curve
from remote_env_agents.policies import ModelPolicy, RandomPolicy, load_policy
from remote_env_agents.report import write_report
from remote_env_agents.robots import look_at, make_vec_env
from remote_env_agents.run_folder import ProgressRow, read_progress
from remote_env_agents.served import ServedRobots
from remote_env_agents.terminal import print_evaluation, print_training
from remote_env_agents.training import TrainingResult, train
from remote_env_agents.video import Film, FilmedEpisode, VideoWriter, record_episodes
from remote_env_agents.wrapping import Wrapping, note_wrappers

__all__ = [
    "About",
    "Assignment",
    "Desk",
    "Episode",
    "EpisodeKey",
    "EvalConfig",
    "Evaluation",
    "Executor",
    "Film",
    "FilmedEpisode",
    "Hyperparameters",
    "Job",
    "LostError",
    "ModelPolicy",
    "Policy",
    "PolicyIdentity",
    "ProgressRow",
    "RandomPolicy",
    "ServedRobots",
    "TrainConfig",
    "TrainingResult",
    "VideoWriter",
    "Wrapping",
    "evaluate",
    "load_policy",
    "look_at",
    "make_vec_env",
    "note_wrappers",
    "plot_learning_curve",
    "print_evaluation",
    "print_training",
    "read_progress",
    "record_episodes",
    "train",
    "wilson",
    "write_report",
]
