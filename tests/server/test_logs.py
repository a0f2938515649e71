"""The log of a served robot: who writes a line waits for nobody."""

import contextlib
import fcntl
import logging
import os
import threading
import warnings

import numpy as np
import pytest
from beside import wait_for
from sample_robots import Counter, Rig
from watching import threads

from remote_env import RobotClient, emergency_stop
from remote_env_server import RobotServer, logs
from remote_env_server.logs import PatientHandler


@pytest.fixture
def pipe():
    """A pipe into a pager that nobody scrolls: it takes 4096 bytes."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
    yield reader, writer
    os.close(reader)
    os.close(writer)


@pytest.fixture
def handler(pipe):
    handler = PatientHandler(pipe[1])
    logger = logging.getLogger("of a robot")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)
    handler.close()


def read_until(reader, text):
    read = b""
    while text not in read:
        read += os.read(reader, 65536)
    return read.decode()


def test_a_terminal_that_takes_no_lines_stops_nobody(monkeypatch, pipe):
    monkeypatch.setattr(logs, "_LAST_WORDS", 0.1)
    monkeypatch.setattr(logs, "_MOST_LINES", 500)
    handler = PatientHandler(pipe[1])
    for number in range(2000):  # of which the pipe takes 400: this would wait for ever
        handler.emit(logging.makeLogRecord({"msg": "line %d", "args": (number,)}))
    handler.close()
    assert read_until(pipe[0], b"were left out").startswith("line 0\n")
    os.set_blocking(pipe[0], False)
    while handler._thread.is_alive():
        handler.close()
        with contextlib.suppress(BlockingIOError):
            os.read(pipe[0], 65536)


def test_what_was_said_is_written_before_the_end(pipe, handler):
    logging.getLogger("of a robot").error("the last word")
    handler.close()
    assert read_until(pipe[0], b"word\n") == "the last word\n"


def test_a_record_that_cannot_be_shown_is_named(pipe, handler):
    handler.emit(logging.makeLogRecord({"name": "of a robot", "msg": "%d", "args": ("one",)}))
    handler.close()
    assert "log record of 'of a robot' cannot be shown" in read_until(pipe[0], b"\n")


# While a robot is served, whatever handlers the program has


class Stuck(logging.Handler):
    """A terminal that was stopped with Ctrl-S."""

    def __init__(self):
        super().__init__()
        self.may_go = threading.Event()
        self.is_stuck = threading.Event()
        self.lines = []

    def emit(self, record):
        self.is_stuck.set()
        self.may_go.wait(30)
        self.lines.append(self.format(record))


@pytest.fixture(params=["", "remote_env_server", "remote_env_server.session"])
def stuck(request):
    """A handler of the program's own, on the root, on our top logger, or below it."""
    handler = Stuck()
    logger = logging.getLogger(request.param)
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield handler
    handler.may_go.set()
    logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.mark.realtime
def test_a_log_that_blocks_keeps_neither_the_watchdog_nor_the_stop_from_working(
    stuck, serve, connect, slowdown
):
    robot = Rig()
    server = serve(robot)
    env = connect(server.url)  # says who connected, in the session's lock or not
    env.reset()
    env.step(np.zeros(3, np.float32))
    assert stuck.is_stuck.wait(5)
    before = len(robot.holds)
    wait_for(lambda: len(robot.holds) > before, timeout=2 * slowdown)  # the watchdog's
    env.reset()
    emergency_stop(server.url, "smoke", timeout=2 * slowdown)
    wait_for(lambda: server.statistics()["end_reason"] == "emergency_stop", timeout=2 * slowdown)


def test_a_server_stops_although_its_log_blocks(stuck):
    server = RobotServer(Counter(), port=0)
    server.start()
    with RobotClient(server.url):
        assert stuck.is_stuck.wait(5)
    stopping = threading.Thread(target=server.stop)
    stopping.start()
    stopping.join(10)
    assert not stopping.is_alive()


@pytest.fixture
def lines():
    """What reaches a handler that takes everything, and on which thread."""
    handler = Stuck()
    handler.may_go.set()
    logging.getLogger().addHandler(handler)
    yield handler.lines
    logging.getLogger().removeHandler(handler)


@pytest.fixture
def nothing_is_served():
    """Nor is a robot of a test before this one, whose code never came back."""
    while logs._users:
        logs.stop_relaying_logs()


@pytest.fixture
def relayed():
    logs.relay_logs()
    yield logging.getLogger("remote_env_server.session")
    logs.stop_relaying_logs()


def test_records_arrive_in_order_and_before_the_server_has_stopped():
    handler, logger = Stuck(), logging.getLogger("remote_env_server.session")
    logger.addHandler(handler)
    with RobotServer(Counter(), port=0):
        for number in range(100):
            logger.warning("line %d", number)
        threading.Timer(0.1, handler.may_go.set).start()
    logger.removeHandler(handler)
    assert handler.lines == [f"line {number}" for number in range(100)]


def test_levels_and_filters_of_the_program_are_asked_once(lines, request):
    asked = []
    relayed = logging.getLogger("remote_env_server.session")

    def refuse_odd(record):
        asked.append(record.getMessage())
        return "odd" not in record.getMessage()

    relayed.addFilter(refuse_odd)
    request.getfixturevalue("relayed")
    relayed.warning("even")
    relayed.warning("odd")
    relayed.debug("too fine")
    logs.wait_for_logs()
    relayed.removeFilter(refuse_odd)
    assert asked == ["even", "odd"]
    assert lines == ["even"]


@pytest.mark.parametrize("stuck", [""], indirect=True)
def test_what_a_log_has_no_room_for_is_counted(monkeypatch, relayed, stuck):
    monkeypatch.setattr(logs, "_MOST_LINES", 10)
    relayed.warning("line 0")
    assert stuck.is_stuck.wait(5)
    for number in range(1, 50):
        relayed.warning("line %d", number)
    stuck.may_go.set()
    logs.wait_for_logs(5)
    assert stuck.lines[:11] == [f"line {number}" for number in range(11)]
    assert stuck.lines[11].startswith("39 records were left out here")


def test_a_handler_that_raises_takes_only_its_own_line(capsys, lines, relayed):
    class Broken(logging.Handler):
        def emit(self, record):
            if "bad" in record.getMessage():
                raise OSError("no such terminal")

    handler = Broken()
    logging.getLogger().addHandler(handler)
    relayed.warning("bad")
    relayed.warning("good")
    logs.wait_for_logs()
    logging.getLogger().removeHandler(handler)
    assert "good" in lines
    assert "no such terminal" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["remote_env", "remote_env_server", "remote_env_server.session"])
@pytest.mark.usefixtures("nothing_is_served")
def test_when_nothing_is_served_records_are_handled_at_once(lines, name):
    logger = logging.getLogger(name)
    with RobotServer(Counter(), port=0):
        pass
    logger.warning("afterwards")
    assert lines[-1] == "afterwards"


@pytest.mark.usefixtures("nothing_is_served")
def test_two_servers_share_a_thread_and_the_last_one_ends_it():
    first, second = RobotServer(Counter(), port=0), RobotServer(Counter(), port=0)
    with first:
        with second:
            assert len(threads("remote-env log")) == 1
        second.stop()  # again
        assert len(threads("remote-env log")) == 1
    wait_for(lambda: not threads("remote-env log"))


def test_a_process_that_was_forked_off_writes_its_own_lines(lines, relayed):
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads; here is what they say
        child = os.fork()
    if child == 0:
        relayed.warning("from a child")
        os.write(writer, (lines or ["nothing"])[-1].encode())
        os._exit(0)
    os.waitpid(child, 0)
    os.close(writer)
    assert os.read(reader, 100) == b"from a child"
    os.close(reader)


@pytest.mark.parametrize("stuck", ["asyncio"], indirect=True)
def test_what_asyncio_says_on_our_threads_waits_for_nobody(stuck, relayed):
    def complain(name):
        thread = threading.Thread(target=logging.getLogger("asyncio").error, args=("a",), name=name)
        thread.start()
        return thread

    ours, other = complain("remote-env network"), complain("of the program")
    ours.join(5)
    assert not ours.is_alive()
    assert other.is_alive()
    stuck.may_go.set()
    other.join(5)


# What they say


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain text, ünïcödé, \N{SNOWMAN}", "plain text, ünïcödé, \N{SNOWMAN}"),
        ("a\nforged\r\n12:00 CRITICAL line", r"a\nforged\r\n12:00 CRITICAL line"),
        ("\x1b[2J\x1b]0;title\x07", r"\x1b[2J\x1b]0;title\x07"),
        ("\x9b2J\x7f\0", r"\x9b2J\x7f\x00"),
        ("\u202eright to left\u2028", r"\u202eright to left\u2028"),
        ("\udc80", r"\udc80"),
    ],
)
def test_a_line_shows_what_a_terminal_would_obey(text, line):
    assert logs.shown(text) == line


def test_a_line_has_a_limit():
    line = logs.shown("\n" * 100_000)
    assert len(line) < 5000
    assert line.endswith("(100000 characters)")


def test_what_a_client_says_forges_no_line(serve, lines, caplog):
    caplog.set_level(logging.INFO)
    server = serve(Counter())
    owner = "me\x1b[2J\n12:00:00 CRITICAL the robot is on fire"
    with RobotClient(server.url, owner=owner) as client:
        client.emergency_stop("a\nb" + "!" * 4000)
        logs.wait_for_logs(5)
    ours = [line for line in lines if "connected from" in line or "EMERGENCY" in line]
    assert len(ours) == 2
    assert all(line.isprintable() for line in ours)
    assert all(len(line) < 2500 for line in ours)


def test_a_traceback_keeps_its_lines_and_nothing_else(lines, relayed):
    try:
        raise ValueError("a\x1b[2Jb")
    except ValueError:
        relayed.exception("failed\nso")
    logs.wait_for_logs()
    first, *_, last = lines[-1].split("\n")
    assert first == r"failed\nso"
    assert last == r"ValueError: a\x1b[2Jb"
