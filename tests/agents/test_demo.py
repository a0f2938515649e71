"""The demonstration runs, as a newcomer runs it, and says what came of it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="needs the extra [agents]")
pytest.importorskip("mujoco", reason="needs the extra [sim]")

from remote_env.errors import ConfigurationError
from remote_env_agents import look_at
from remote_env_agents.demo import DemoConfig, _Film
from remote_env_agents.served import ServedRobots
from remote_env_server.robots import headless


@pytest.fixture(scope="module")
def demonstration(tmp_path_factory):
    """Run it with far too few steps to learn anything."""
    folder = tmp_path_factory.mktemp("demonstration")
    command = [sys.executable, "-m", "remote_env", "demo", "--robots", "2", "--steps", "1024"]
    command += ["--episodes", "6", "--filmed", "1"]
    shown = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110)
    return shown, folder / "demo-output"


def test_it_says_when_it_did_not_learn(demonstration):
    shown, folder = demonstration
    assert shown.returncode == 1, shown.stderr
    assert "it did not learn well enough" in shown.stdout
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["interval"][0] < 0.93
    assert summary["config"]["episodes"] == 6


def test_it_leaves_a_policy_a_curve_and_a_video(demonstration):
    shown, folder = demonstration
    assert (folder / "training" / "policy.zip").stat().st_size > 10_000
    assert (folder / "learning_curve.png").read_bytes().startswith(b"\x89PNG")
    way, why_not = headless.find()
    if not way:
        assert why_not in shown.stdout
        return
    av = pytest.importorskip("av", reason="needs the extra [video]")
    with av.open(str(folder / "reaching.mp4")) as video:
        pictures = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
    assert len(pictures) > 20
    assert pictures[0].shape[1] == 2 * 480
    assert (pictures[0] != pictures[10]).mean() > 0.001


def test_robots_that_are_served_end_with_their_block():
    with ServedRobots("arm", count=2, options=("--cameras", "none")) as urls:
        assert len(set(urls)) == 2
        assert look_at(urls).name == "arm"
    with pytest.raises(OSError):
        look_at(urls)


def test_a_robot_that_cannot_be_served_says_why():
    served = ServedRobots("gymnasium:NoSuchEnv-v0")
    with pytest.raises(ConfigurationError, match="NoSuchEnv"):
        _ = served.urls
    served.stop()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_whatever_ends_it_ends_its_arms_too(tmp_path, number, code):
    shown, folder = tmp_path / "shown", tmp_path / "output"
    command = [sys.executable, "-u", "-m", "remote_env", "demo", "--robots", "1", "--steps", "256"]
    command += ["--episodes", "4", "--folder", str(folder)]
    with shown.open("w") as file:
        demo = subprocess.Popen(command, stdout=file, stderr=file, preexec_fn=_heed)
    try:
        _wait_for(lambda: len(_children_of(demo.pid)) == 2, demo, shown)  # an arm, and the stage
        children = _children_of(demo.pid)
        demo.send_signal(number)  # to itself alone, not to its process group
        assert demo.wait(30) == code, shown.read_text()
    finally:
        demo.kill()
        demo.wait()
    assert "Traceback" not in shown.read_text()
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]


def _heed():
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _children_of(pid):
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    fields = [(stat.split()[0], stat.rpartition(")")[2].split()) for stat in stats]
    ours = [child for child, rest in fields if rest[1] == str(pid) and rest[0] != "Z"]
    # Those that are under way: they have started threads.
    return [child for child in ours if len(list(Path(f"/proc/{child}/task").glob("*"))) > 1]


def _wait_for(condition, demo, shown):
    deadline = time.monotonic() + 90
    while not condition():
        assert demo.poll() is None, shown.read_text()
        assert time.monotonic() < deadline, shown.read_text()
        time.sleep(0.02)


def test_a_film_that_fails_is_said_whatever_it_was(tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("remote_env_agents.video.record_episodes", fail)
    film = _Film(DemoConfig(folder=tmp_path), policy=None)
    with film:
        assert film.wait() == "none: OSError: [Errno 28] No space left on device"
