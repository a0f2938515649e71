"""What is left of a training, for tests that look at it."""

import csv
import io
import zipfile

import torch

from remote_env_agents import Hyperparameters

TINY = Hyperparameters(net_arch=(8,), batch_size=64)


def rows_of(folder):
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def scalars_in(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [event.step for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def weights_of(path):
    with zipfile.ZipFile(path) as archive:
        weights = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    return [tensor.tolist() for tensor in weights.values()]
