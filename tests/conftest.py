"""What all tests share."""

import os

# Before anything imports mujoco: without a screen its default takes the process down.
os.environ.setdefault("MUJOCO_GL", "egl")
os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
# A test that names no robot means a simulated one, whatever robots the person who tests has.
os.environ.pop("REMOTE_ENV_URLS", None)

import faulthandler
import gc
import signal

import hypothesis
import pytest
from blockbuster import blockbuster_ctx
from sample_robots import Counter

import remote_env
from remote_env.protocol import Connection, Role
from remote_env.transport import fast_server, shared_memory, shared_offer
from remote_env_server import Robot, RobotServer

faulthandler.enable()
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    # Under nohup: what the tests start would inherit that, and some of it is to be hung up.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # In the background of a shell script: tests press Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("default", deadline=None)
hypothesis.settings.register_profile(
    "fuzz",
    deadline=None,
    max_examples=2_000,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

if os.environ.get("REMOTE_ENV_TEST_SHARES_ALL"):
    # `make test-shared`: frames of all sizes go through the memory that both ends share.
    for module in (fast_server, shared_memory, shared_offer):
        module.LEAST = 1  # type: ignore[attr-defined]

# On a busy machine, bounds on real time are multiplied by this.
SLOWDOWN = float(os.environ.get("REMOTE_ENV_TEST_SLOWDOWN", "1"))


def pytest_collection_finish():
    """Let no collection of garbage look through what stays anyway: five thousand tests, torch.

    It holds the interpreter for a quarter of a second, and the robots of most tests live in this
    very process: streams that may be 80 ms old were stale then.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter):
    """Say what tests recorded: of random tests the figures are their strength."""
    for report in terminalreporter.getreports("passed"):
        if report.user_properties:
            figures = ", ".join(f"{value} {name}" for name, value in report.user_properties)
            terminalreporter.write_line(f"{report.nodeid}: {figures}")


@pytest.fixture(autouse=True)
def nothing_blocks_an_event_loop():
    """Make every blocking call on the network thread an error."""
    with blockbuster_ctx():
        yield


@pytest.fixture
def slowdown():
    return SLOWDOWN


@pytest.fixture
def sizes(monkeypatch):
    """How many bytes each frame had that a client received."""
    noted = []
    receive = Connection.receive

    def note(connection, frame, now):
        if connection.role is Role.CLIENT:
            noted.append(len(frame))
        return receive(connection, frame, now)

    monkeypatch.setattr(Connection, "receive", note)
    return noted


@pytest.fixture
def serve():
    """Serve robots on free ports; stops them at the end of the test."""
    servers = []

    def start(robot: Robot, **options) -> RobotServer:
        server = RobotServer(robot, port=0, **options)
        server.start()
        servers.append(server)
        if hasattr(robot, "holds"):  # in real time there is one at the start
            robot.holds.clear()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def connect():
    """Make environments; closes them at the end of the test."""
    environments = []

    def make(url: str, **options) -> remote_env.RemoteRobotEnv:
        env = remote_env.RemoteRobotEnv(url, **options)
        environments.append(env)
        return env

    yield make
    for env in environments:
        env.close()


@pytest.fixture
def counter(serve):
    robot = Counter()
    robot.server = serve(robot)
    return robot


@pytest.fixture
def env(counter, connect):
    return connect(counter.server.url)
