"""A checkpoint is there as a whole or not at all, at any moment."""

import io
import os
import pickle
import resource
import signal
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer

from remote_env import ConfigurationError
from remote_env_agents import checkpoints
from remote_env_agents.checkpoints import (
    CheckpointError,
    find_checkpoint,
    load_state,
    load_watched,
    save_checkpoint,
    write_whole,
)

BOX = spaces.Box(-1.0, 1.0, (2,), np.float32)


class Model:
    """What a checkpoint asks a model for."""

    def __init__(self, step, rows=1000):
        self.step, self.n_envs, self.action_space = step, 1, BOX
        self.replay_buffer = ReplayBuffer(rows, BOX, BOX, device="cpu")
        for _ in range(min(step, rows)):
            row = np.full((1, 2), step, np.float32)
            self.replay_buffer.add(row, row, row, np.ones(1), np.zeros(1), [{}])

    def save(self, file):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("step", str(self.step))


def path_of(folder, step):
    return folder / "checkpoints" / f"step-{step:09d}.zip"


def save(folder, step, **options):
    return save_checkpoint(path_of(folder, step), Model(step), watched={"at": step}, **options)


def found_in(folder):
    """Return the step of the newest checkpoint, having read all of it."""
    path = find_checkpoint(folder)
    step = load_watched(path)["at"]
    assert path == path_of(folder, step)
    buffer = load_state(path)["buffer"]
    assert (buffer.size(), float(buffer.observations.max())) == (step, step)
    return step


def test_a_checkpoint_has_everything_and_only_the_newest_has_its_buffer(tmp_path):
    save(tmp_path, 20)
    saved = save(tmp_path, 30)
    assert found_in(tmp_path) == 30
    names = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    assert names == {"step-000000020.zip", "step-000000030.zip", "step-000000030.state"}
    files = [saved.path, saved.path.with_suffix(".state")]
    assert saved.size == sum(path.stat().st_size for path in files)


def test_a_buffer_may_be_left_out(tmp_path):
    save(tmp_path, 20, with_buffer=False)
    path = find_checkpoint(tmp_path)
    assert load_state(path)["buffer"] is None
    assert load_watched(path) == {"at": 20}


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of ours handles it."""


def test_killed_at_any_moment_there_is_a_whole_checkpoint(tmp_path, monkeypatch):
    """Every call to the system of a checkpoint is once the last one."""
    seen = set()
    for fatal in range(100):
        folder, left = tmp_path / str(fatal), [fatal]
        save(folder, 20)

        def dying(real, left=left):
            def call(*arguments, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise KilledError
                return real(*arguments, **options)

            return call

        with monkeypatch.context() as patch:
            for name in ("fsync", "replace", "open"):
                patch.setattr(checkpoints.os, name, dying(getattr(os, name)))
            patch.setattr(Path, "unlink", dying(Path.unlink))
            patch.setattr(Path, "open", dying(Path.open))
            is_killed = False
            try:
                save(folder, 30)
            except KilledError:
                is_killed = True
        seen.add(found_in(folder))
        if not is_killed:
            break
    assert fatal > 5
    assert seen == {20, 30}
    assert found_in(folder) == 30


def test_a_file_that_was_there_stays_until_another_is_whole(tmp_path):
    def write(file):
        file.write(b"half of")
        file.flush()
        raise KilledError

    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(KilledError):
        write_whole(path, write)
    assert path.read_bytes() == b"before"


def test_where_there_is_no_room_it_says_so_and_the_one_before_is_whole(tmp_path):
    save(tmp_path, 20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        with pytest.raises(CheckpointError, match=r"step-000000900\.state cannot be written: .*"):
            save(tmp_path, 900)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert found_in(tmp_path) == 20
    assert not list((tmp_path / "checkpoints").glob("*.part"))


def test_a_folder_without_a_whole_checkpoint_is_refused(tmp_path):
    path = save(tmp_path, 20).path
    path.with_suffix(".state").unlink()
    with pytest.raises(ConfigurationError, match="there is no complete checkpoint in"):
        find_checkpoint(tmp_path)


def test_a_damaged_state_is_refused(tmp_path):
    path = save(tmp_path, 20).path
    path.with_suffix(".state").write_bytes(b"\x80\x05damage")
    with pytest.raises(ConfigurationError, match=r"step-000000020\.state cannot be read"):
        load_state(path)


@pytest.mark.parametrize("used", [0, 1, 9_999, 1_100_000, 1_200_000])
@pytest.mark.parametrize("dtype", [np.uint8, np.float64])
def test_zeros_at_the_end_of_a_large_array_take_no_room(used, dtype):
    array = np.zeros((600_000, 2), dtype)
    array.reshape(-1)[:used] = 3
    file = io.BytesIO()
    checkpoints._StatePickler(file).dump({"array": array})
    read = pickle.loads(file.getvalue())["array"]
    assert (read.dtype, read.shape) == (array.dtype, array.shape)
    assert np.array_equal(read, array)
    assert read.flags.writeable
    assert file.tell() < used * array.itemsize + 1000
