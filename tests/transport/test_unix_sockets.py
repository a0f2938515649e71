"""A server at a path: for this user alone, replaced when it was killed, and never by mistake."""

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from sample_robots import Counter

from remote_env import RemoteRobotEnv, RobotClient
from remote_env.errors import AccessDeniedError, ConfigurationError, ConnectFailedError
from remote_env.transport import connect, unix_sockets, websocket_listener
from remote_env.transport.kernel import unsent
from remote_env.transport.unix_sockets import UnixAddress
from remote_env_server import RobotServer

pytestmark = pytest.mark.usefixtures("lane")


class Silent:
    def __init__(self, sink):
        pass

    def on_frame(self, frame):
        pass

    def on_close(self, reason):
        pass


@pytest.fixture
def start():
    """Listen at a path; stops at the end."""
    listeners = []

    def start(path):
        listener = websocket_listener(
            "127.0.0.1", 0, unix_path=str(path), max_frame_size=1 << 20, max_reply_size=1 << 20
        )
        listener.start(Silent)
        listeners.append(listener)
        return listener

    yield start
    for listener in listeners:
        listener.stop()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "robot.sock"


def can_connect(path):
    connect(f"ws+unix://{path}", timeout=5, max_frame_size=1 << 20).close()
    return True


def abandoned(path):
    """Leave what a server leaves that is killed."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
    return path


def test_a_robot_is_served_at_a_path_without_a_token(path):
    with RobotServer(Counter(), unix_path=path, latch_file=False) as server:
        assert server.url == f"ws+unix://{path}"
        env = RemoteRobotEnv(server.url)
        observation, _ = env.reset(seed=1)
        assert env.step(env.action_space.sample())[0]["sum"].shape == observation["sum"].shape
        assert env.statistics().carrier == "Unix socket"
        env.close()
    assert not path.exists()


def test_a_path_may_be_relative_where_it_is_served(path, monkeypatch):
    monkeypatch.chdir(path.parent)
    with RobotServer(Counter(), unix_path="robot.sock", latch_file=False) as server:
        assert server.url == f"ws+unix://{path}"


def test_each_path_remembers_its_own_emergency_stop(path, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    for number, expected in (("1", True), ("2", False), ("1", True)):
        with (
            RobotServer(Counter(), unix_path=f"{path}{number}") as server,
            RobotClient(server.url, role="observe") as client,
        ):
            if expected:
                client.emergency_stop("for a test")
            assert (client.robot_statistics()["emergency_stop"] is not None) is expected


def test_only_this_user_may_connect(start, path):
    start(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


PROGRAM = """
import os, sys
sys.path[:0] = {path!r}
from remote_env.transport import connect
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    connect(sys.argv[1], timeout=5, max_frame_size=1 << 20)
except Exception as error:
    print(type(error).__name__, error)
"""


def test_another_user_is_told_so(start, path):
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    for folder in (path.parent, *path.parent.parents):
        if not folder.stat().st_mode & stat.S_IXOTH:
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    listener = start(path)
    program = PROGRAM.format(path=sys.path)
    said = subprocess.run(
        [sys.executable, "-c", program, listener.url], capture_output=True, text=True, timeout=30
    ).stdout
    assert said.startswith(f"AccessDeniedError {listener.url} is another user's")


def test_what_a_killed_server_left_is_replaced(start, path):
    start(abandoned(path))
    assert can_connect(path)
    assert os.listdir(path.parent) == ["robot.sock"]


def test_a_living_server_is_not_replaced(start, path):
    start(path)
    with pytest.raises(ConfigurationError, match="another server listens there; choose another"):
        start(path)
    assert can_connect(path)


def test_a_server_whose_queue_is_full_is_not_replaced(start, path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConfigurationError, match="another server listens there"):
            start(path)


def test_a_server_that_began_meanwhile_gets_its_path_back(monkeypatch, path):
    abandoned(path)
    other = UnixAddress(str(path))
    sockets = []
    rename = os.rename

    def be_late(*names):
        monkeypatch.setattr(os, "rename", rename)
        sockets.append(other.listen())
        rename(*names)

    monkeypatch.setattr(os, "rename", be_late)
    with pytest.raises(OSError, match="another server began to listen there"):
        UnixAddress(str(path)).listen()
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
    assert os.listdir(path.parent) == ["robot.sock"]
    sockets[0].close()


@pytest.mark.parametrize("kind", ["file", "folder", "link"])
def test_what_is_no_socket_is_not_removed(start, path, kind):
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(path.parent / "elsewhere")
    with pytest.raises(ConfigurationError, match="no socket; choose another path"):
        start(path)
    assert os.path.lexists(path)


def test_a_path_that_somebody_else_took_is_not_removed_at_the_end(start, path):
    listener = start(path)
    path.unlink()
    path.write_text("precious")
    listener.stop()
    assert path.read_text() == "precious"


def test_a_path_that_cannot_be_is_refused(start, path):
    for wrong in (path.parent / "nowhere" / "robot.sock", path.parent / ("x" * 120)):
        with pytest.raises(ConfigurationError, match="cannot listen at .*; choose another path"):
            start(wrong)


@pytest.mark.parametrize("url", ["ws+unix://robot.sock", "ws+unix://", "unix:///robot.sock"])
def test_a_url_without_an_absolute_path_is_refused(url):
    with pytest.raises(ConfigurationError):
        connect(url, timeout=5, max_frame_size=1 << 20)


def test_nothing_there_is_said(path):
    for _ in range(2):
        with pytest.raises(ConnectFailedError, match="nothing listens at ws\\+unix://") as caught:
            can_connect(path)
        assert f"--unix {path}', or check the path" in str(caught.value)
        if not path.exists():
            abandoned(path)


def test_a_server_that_accepts_nobody_is_waited_for_no_longer_than_allowed(path):
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(ConnectFailedError, match="no answer"):
            connect(f"ws+unix://{path}", timeout=0.2, max_frame_size=1 << 20)


def test_something_that_answers_nothing_is_waited_for_no_longer_than_allowed(path):
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen()
        with pytest.raises(ConnectFailedError, match="no answer"):
            connect(f"ws+unix://{path}", timeout=0.2, max_frame_size=1 << 20)


def test_another_scheme_has_no_path():
    assert unix_sockets.path_in("ws://robot:8765") is None
    assert unix_sockets.path_in("WS+UNIX:///tmp/robot.sock") == "/tmp/robot.sock"


def test_what_a_peer_at_a_path_has_not_read_is_unsent_but_for_a_small_answer():
    here, there = socket.socketpair()
    with here, there:
        here.send(bytes(1000))
        assert unsent(here) == 0
        here.send(bytes(100_000))
        assert unsent(here) >= 100_000
        there.recv(200_000, socket.MSG_WAITALL | socket.MSG_DONTWAIT)
        assert unsent(here) == 0


def test_the_command_serves_at_a_path(path):
    command = [sys.executable, "-m", "remote_env", "serve", "double-pendulum", "--unix", str(path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    environment["XDG_STATE_HOME"] = str(path.parent)
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        line = server.stdout.readline()
        assert f" at ws+unix://{path} " in line
        with RobotClient(f"ws+unix://{path}", role="observe") as client:
            assert client.carrier == "Unix socket"
        server.terminate()
        assert server.wait(20) == 0
        assert not path.exists()
    finally:
        server.kill()
        server.communicate()


def test_a_peer_of_another_user_is_an_access_denied(monkeypatch, path):
    def refuse(path, timeout):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(unix_sockets, "connect_unix", refuse)
    with pytest.raises(AccessDeniedError, match="is another user's"):
        can_connect(Path("/robot.sock"))
