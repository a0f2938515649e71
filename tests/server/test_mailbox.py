"""Where requests come in: as a queue, and from a socket that was lent."""

import queue
import socket
import threading
import time

import gymnasium as gym
import numpy as np
import pytest
from beside import Beside, wait_for
from sample_robots import Counter

import remote_env
from remote_env.protocol import Probe, Step
from remote_env.protocol.codec import kind_of
from remote_env.transport.lending import Loan as RealLoan
from remote_env_server.mailbox import LARGEST_STEP, Mailbox
from remote_env_server.peer import Peer


class Loan:
    """A loan of one end of a pair of sockets."""

    def __init__(self, mailbox):
        self.is_over = False
        self.given_back = 0
        self._mailbox = mailbox
        self.here, self.there = socket.socketpair()

    def fileno(self):
        return self.here.fileno()

    def read(self):
        self._mailbox.put(self.here.recv(100))

    def give_back(self):
        self.given_back += 1
        self.is_over = True

    def close(self):
        self.here.close()
        self.there.close()


@pytest.fixture
def mailbox():
    mailbox = Mailbox()
    yield mailbox
    mailbox.close()


@pytest.fixture
def borrow(mailbox):
    loans = []

    def borrow():
        loans.append(loan := Loan(mailbox))
        mailbox.borrow(loan)
        assert mailbox.get(timeout=5) is None  # to look again
        return loan

    yield borrow
    for loan in loans:
        loan.close()


def test_it_is_a_queue(mailbox):
    assert mailbox.empty()
    mailbox.put("a")
    mailbox.put("b")
    assert not mailbox.empty()
    assert [mailbox.get(), mailbox.get_nowait()] == ["a", "b"]
    with pytest.raises(queue.Empty):
        mailbox.get_nowait()
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.001)


def test_who_waits_is_woken_by_who_lends(mailbox):
    waiting = Beside(mailbox.get)
    loan = Loan(mailbox)
    mailbox.borrow(loan)
    waiting.join()
    assert waiting.result is None
    assert waiting.error is None
    loan.close()


def test_what_is_read_is_gotten(mailbox, borrow):
    loan = borrow()
    loan.there.send(b"step")
    assert mailbox.get(timeout=5) == b"step"
    waiting = Beside(lambda: mailbox.get(timeout=5))
    wait_for(lambda: mailbox._is_polling)
    loan.there.send(b"another")
    waiting.join()
    assert waiting.result == b"another"


def test_a_wait_for_a_socket_has_an_end(mailbox, borrow):
    borrow()
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)
    mailbox.put("here")
    assert mailbox.get(timeout=0) == "here"


def test_who_waits_for_a_socket_is_woken_by_who_puts(mailbox, borrow):
    borrow()
    waiting = Beside(lambda: mailbox.get(timeout=5))
    wait_for(lambda: mailbox._is_polling)
    mailbox.put("stop")
    waiting.join()
    assert waiting.result == "stop"


def test_nothing_that_is_put_is_missed(mailbox, borrow):
    """By four threads, while the socket is read too: each wakes who may be about to wait."""
    loan = borrow()
    count = 2_000
    threads = [
        threading.Thread(target=lambda: [mailbox.put("put") for _ in range(count)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    got = [mailbox.get(timeout=5) for _ in range(4 * count)]
    assert set(got) == {"put"}
    for thread in threads:
        thread.join()
    loan.there.send(b"x")
    assert mailbox.get(timeout=5) == b"x"


def test_what_is_put_just_before_the_wait_is_found(mailbox, borrow):
    borrow()

    class Late:
        """A queue into which something is put right after it was found empty."""

        def __init__(self):
            self.waiting = ["late"]
            self.looks = 0

        def get_nowait(self):
            self.looks += 1
            if self.looks == 1:
                raise queue.Empty
            return self.waiting.pop()

        def empty(self):
            return not self.waiting

    mailbox._queue = Late()
    began = time.monotonic()
    assert mailbox.get(timeout=30) == "late"
    assert time.monotonic() - began < 20


def test_another_loan_takes_the_place_of_the_one_before(mailbox, borrow):
    first, second = borrow(), borrow()
    assert (first.given_back, second.given_back) == (1, 0)
    first.there.send(b"not ours")
    second.there.send(b"ours")
    assert mailbox.get(timeout=5) == b"ours"


def test_a_loan_that_is_over_is_not_looked_at(mailbox, borrow):
    loan = borrow()
    loan.there.send(b"1")
    assert mailbox.get(timeout=5) == b"1"
    loan.is_over = True
    loan.there.send(b"for the network thread")
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)
    mailbox.put("else")
    assert mailbox.get(timeout=5) == "else"


def test_a_loan_whose_connection_is_gone_is_no_wait(mailbox):
    loan = Loan(mailbox)
    loan.close()
    mailbox.borrow(loan)
    assert mailbox.get() is None
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)


def test_who_does_something_else_for_long_is_away(mailbox, borrow):
    assert mailbox.is_away()  # nobody has begun to wait
    borrow()
    assert not mailbox.is_away()
    assert mailbox.is_away()
    waiting = Beside(lambda: mailbox.get(timeout=5))
    wait_for(lambda: mailbox._is_polling)
    assert not mailbox.is_away()
    assert not mailbox.is_away()
    mailbox.put("x")
    waiting.join()


def test_a_mailbox_that_is_closed_reads_nothing(mailbox, borrow):
    loan = borrow()
    mailbox.close()
    assert loan.is_over
    late = Loan(mailbox)
    mailbox.borrow(late)
    assert late.is_over
    late.close()


@pytest.fixture
def readers(monkeypatch):
    """The names of the threads that read by a loan."""
    names = []
    read = RealLoan.read

    def note(loan):
        names.append(threading.current_thread().name)
        read(loan)

    monkeypatch.setattr(RealLoan, "read", note)
    return names


class Many(Counter):
    """Its actions are more than is taken up in real time."""

    action_space = gym.spaces.Box(-1.0, 1.0, (LARGEST_STEP // 4,), np.float32)

    def apply_action(self, action):
        pass


@pytest.mark.parametrize(
    ("robot", "mode", "is_read"),
    [
        (Counter, "lockstep", True),
        (Counter, "realtime", True),
        (Counter, "delayed", True),
        (Many, "lockstep", True),
        (Many, "realtime", False),
    ],
)
def test_the_control_thread_reads_steps(serve, readers, robot, mode, is_read):
    server = serve(robot(), mode=mode)
    with remote_env.RemoteRobotEnv(server.url) as env:
        env.reset()
        for _ in range(30):
            env.step(np.zeros_like(env.action_space.sample()))
    if is_read:
        assert len(readers) >= 25
        assert set(readers) == {"remote-env control"}
    else:
        assert readers == []
    server.stop()
    assert all(sock.fileno() == -1 for sock in server._control._mailbox._pair)


def test_in_real_time_the_control_thread_takes_up_steps_and_nothing_else(serve, monkeypatch):
    taken = []
    on_frame = Peer.on_frame

    def note(peer, frame, sink):
        taken.append((kind_of(frame), threading.current_thread().name))
        on_frame(peer, frame, sink)

    monkeypatch.setattr(Peer, "on_frame", note)
    server = serve(Counter(), mode="realtime")
    with remote_env.RemoteRobotEnv(server.url) as env:
        env.reset()
        for _ in range(5):
            env.step(np.zeros(2, np.float32))
            (connection,) = server._listeners[0]._connections
            wait_for(lambda connection=connection: connection.is_lent)
            env.step(np.zeros(2, np.float32))
            env._client.probe(100)
    threads = {kind: {name for k, name in taken if k == kind} for kind, _ in taken}
    assert len([kind for kind, _ in taken if kind == Probe.KIND]) == 5
    assert "remote-env control" in threads.pop(Step.KIND)
    assert all("remote-env control" not in names for names in threads.values())


@pytest.mark.parametrize(
    ("message", "size", "is_taken"),
    [
        (Step.KIND, LARGEST_STEP, True),
        (Step.KIND, LARGEST_STEP + 1, False),
        (Probe.KIND, 100, False),
        (Step.KIND, 4, False),
    ],
)
def test_what_is_taken_up_in_real_time(message, size, is_taken):
    frame = (b"RRE\x05" + bytes([message]) + bytes(LARGEST_STEP))[:size].ljust(size, b"\0")
    assert Mailbox(is_realtime=True).takes(frame) is is_taken
    assert Mailbox().takes(frame)


def test_a_file_that_cannot_be_selected_is_given_back(mailbox, monkeypatch):
    monkeypatch.setattr("remote_env_server.mailbox._MOST_FILES", 3)
    loan = Loan(mailbox)
    mailbox.borrow(loan)
    assert mailbox.get(timeout=5) is None
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)
    assert loan.given_back == 1
    mailbox.put("else")
    assert mailbox.get(timeout=5) == "else"
    loan.close()


def test_a_connection_that_ends_while_nobody_waits_is_given_back(mailbox, borrow):
    loan = borrow()
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)
    loan.close()
    with pytest.raises(queue.Empty):
        mailbox.get(timeout=0.01)
    assert loan.given_back == 1


def test_a_wait_for_a_socket_is_as_exact_as_one_for_a_queue(mailbox, borrow):
    borrow()
    late = []
    for _ in range(50):
        began = time.monotonic()
        with pytest.raises(queue.Empty):
            mailbox.get(timeout=0.0002)
        late.append(time.monotonic() - began - 0.0002)
    assert min(late) < 0.0005  # poll waits for whole milliseconds


class Slow(Counter):
    """Its second step lasts as long as the test wants."""

    def __init__(self):
        super().__init__()
        self.may_go = threading.Event()
        self.is_blocked = threading.Event()

    def apply_action(self, action):
        super().apply_action(action)
        if len(self.actions) == 3:
            self.is_blocked.set()
            assert self.may_go.wait(30)


def test_a_robot_that_blocks_keeps_nobody_from_being_heard(serve):
    """Also on the connection of the steps, which the control thread had read before."""
    server = serve(robot := Slow())
    with remote_env.RemoteRobotEnv(server.url, step_timeout=60.0) as env:
        env.reset()
        for _ in range(2):
            env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
        (connection,) = (c for c in server._listeners[0]._connections if c.is_lent)
        stepping = Beside(
            lambda: env.step(np.zeros(env.action_space.shape, env.action_space.dtype))
        )
        assert robot.is_blocked.wait(10)
        wait_for(lambda: not connection.is_lent)
        robot.may_go.set()
        stepping.join()
        assert stepping.error is None
