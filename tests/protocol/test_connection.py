import numpy as np
import pytest

from remote_env.errors import (
    LeaseError,
    LocalProtocolError,
    RemoteProtocolError,
    VersionMismatchError,
)
from remote_env.protocol import (
    Bye,
    Connection,
    Error,
    Heartbeat,
    Hello,
    Limits,
    Ping,
    Pong,
    Release,
    Released,
    Repeated,
    Reset,
    ResetDone,
    Role,
    State,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    Welcome,
    error_of,
)
from remote_env.testing import ConnectionPair, HandClock
from tests.protocol.frames import frame_of, packed_frame
from tests.protocol.sayings import STREAMS, welcome, word


@pytest.fixture
def pair():
    """Both ends after the hello."""
    return ConnectionPair.greeted(welcome())


@pytest.fixture
def running(pair):
    """Both ends in an episode; the reset had the id 2."""
    ask(pair, Reset)
    answer(pair, ResetDone)
    return pair


def ask(pair, cls, **options):
    return pair.to_server(word(cls, pair.client.next_id(), pair.client.layouts, **options))


def answer(pair, cls, **options):
    return pair.to_client(word(cls, pair.client.next_id() - 1, pair.server.layouts, **options))


def snapshot(connection):
    return repr(vars(connection))


def hear(listener, message):
    """Let an end hear what the other's program would not say."""
    return listener.receive(frame_of(message, listener.layouts), 0.0)


# The agreement


def test_the_welcome_tells_both_ends_the_arrays(pair):
    assert pair.client.layouts == pair.server.layouts
    assert pair.client.layouts.observation.names == ("a", "b")
    assert pair.client.layouts.action.names == ("a",)


def test_a_subscription_holds_from_its_answer_on(pair):
    ask(pair, Subscribe, streams=("c", "a"))
    assert pair.client.layouts.observation.names == ("a", "b")

    answer(pair, Subscribed, streams=("c", "a"))

    assert pair.client.layouts == pair.server.layouts
    assert pair.client.layouts.observation.names == ("c", "a")


def test_a_subscription_that_fails_changes_nothing(pair):
    ask(pair, Subscribe, streams=("nope",))
    answer(pair, Error)

    assert pair.client.layouts.observation.names == ("a", "b")
    assert pair.client.state is pair.server.state is State.READY


@pytest.mark.parametrize("subscribed", [("nope",), ("a", "a")])
def test_a_welcome_that_cannot_be_kept_is_neither_said_nor_heard(subscribed):
    pair = ConnectionPair()
    pair.to_server(word(Hello, 1, pair.client.layouts))
    before = snapshot(pair.server), snapshot(pair.client)

    with pytest.raises(LocalProtocolError, match="do not exist or come twice"):
        pair.to_client(welcome(subscribed=subscribed))
    with pytest.raises(RemoteProtocolError, match="do not exist or come twice"):
        hear(pair.client, welcome(subscribed=subscribed))

    assert (snapshot(pair.server), snapshot(pair.client)) == before


def test_two_streams_of_the_same_name_are_neither_said_nor_heard():
    pair = ConnectionPair()
    pair.to_server(word(Hello, 1, pair.client.layouts))
    twice = Welcome(
        id=1,
        session="",
        server="",
        spec_hash="",
        capabilities=(),
        max_frame_size=1,
        streams=(STREAMS[0], STREAMS[0]),
        subscribed=("a",),
        action=(),
        metadata={},
    )

    with pytest.raises(LocalProtocolError, match="come twice"):
        pair.to_client(twice)
    with pytest.raises(RemoteProtocolError, match="come twice"):
        hear(pair.client, twice)


@pytest.mark.parametrize("streams", [("nope",), ("b", "a"), ("a",), ("a", "a")])
def test_other_streams_than_asked_for_are_neither_said_nor_heard(pair, streams):
    ask(pair, Subscribe, streams=("a", "b"))
    before = snapshot(pair.server), snapshot(pair.client)
    wrong = Subscribed(id=2, streams=streams)

    with pytest.raises(LocalProtocolError, match="streams"):
        pair.to_client(wrong)
    with pytest.raises(RemoteProtocolError, match="streams"):
        hear(pair.client, wrong)

    assert (snapshot(pair.server), snapshot(pair.client)) == before


@pytest.mark.parametrize(("sequences", "stamps"), [((1,), ()), ((), (0.5,)), ((1, 2, 3), ())])
def test_sequences_and_stamps_are_one_for_each_array_or_none(pair, sequences, stamps):
    ask(pair, Reset)
    done = word(ResetDone, 2, pair.server.layouts)
    wrong = ResetDone(
        **{name: getattr(done, name) for name in ("id", "episode", "tick", "time", "info")},
        remote={},
        sequences=sequences,
        stamps=stamps,
        observation=done.observation,
    )

    with pytest.raises(LocalProtocolError, match="2 sequences and stamps"):
        pair.to_client(wrong)
    with pytest.raises(RemoteProtocolError, match="2 sequences and stamps"):
        hear(pair.client, wrong)


def test_the_client_keeps_to_the_frame_size_of_the_welcome():
    pair = ConnectionPair.greeted(welcome(frame_size=200))

    with pytest.raises(LocalProtocolError, match="the limit is 200"):
        pair.to_server(Reset(id=2, seed=None, options={"a": bytes(200)}, take=False))

    assert pair.client.state is State.READY


def test_an_end_refuses_what_exceeds_its_own_limits():
    server = Connection(Role.SERVER, now=0.0, limits=Limits(frame_size=30, header_size=30))

    with pytest.raises(RemoteProtocolError, match="limits"):
        server.receive(frame_of(Bye(reason="too long")), 0.0)


# Requests and answers


def test_an_episode(pair):
    assert isinstance(ask(pair, Reset), Reset)
    assert isinstance(answer(pair, ResetDone), ResetDone)
    assert isinstance(ask(pair, Step), Step)
    assert isinstance(answer(pair, StepDone), StepDone)
    assert isinstance(ask(pair, Release), Release)
    assert isinstance(answer(pair, Released), Released)
    assert isinstance(pair.to_server(Bye(reason="")), Bye)
    assert pair.client.state is pair.server.state is State.CLOSED


def test_out_of_band_requests_do_not_wait_for_a_step(running):
    ask(running, Step)
    assert isinstance(ask(running, Ping), Ping)
    assert isinstance(running.to_client(Pong(id=4, time=0.0)), Pong)
    assert isinstance(running.to_server(Heartbeat()), Heartbeat)
    assert isinstance(running.to_client(word(StepDone, 3, running.server.layouts)), StepDone)


def test_an_error_of_another_request_does_not_end_the_step(running):
    ask(running, Step)
    ask(running, Ping)

    running.to_client(word(Error, 4, running.server.layouts))

    assert running.client.state is running.server.state is State.STEPPING


@pytest.mark.parametrize("cls", [Ping, Release, Reset, Step])
@pytest.mark.parametrize("request_id", [0, 1, 2])
def test_the_id_of_a_request_is_new(running, cls, request_id):
    before = snapshot(running.client)

    with pytest.raises(LocalProtocolError, match="used before"):
        running.client.send(word(cls, request_id, running.client.layouts))

    assert snapshot(running.client) == before


def test_ids_may_leave_gaps(running):
    running.to_server(Ping(id=100))

    assert running.client.next_id() == 101


@pytest.mark.parametrize("cls", [Heartbeat, Bye])
def test_what_has_no_answer_has_the_id_0(running, cls):
    """A heartbeat with the id of a step once made the server forget the step."""
    ask(running, Step)
    message = word(cls, 3, running.client.layouts)

    with pytest.raises(LocalProtocolError, match="has the id 0, not 3"):
        running.client.send(message)
    with pytest.raises(RemoteProtocolError, match="has the id 0, not 3"):
        hear(running.server, message)

    assert running.server.is_waiting_for(3)


@pytest.mark.parametrize("wrong_id", [0, 2, 4, 99])
def test_an_answer_has_the_id_of_a_request_that_waits(running, wrong_id):
    ask(running, Step)
    ask(running, Ping)
    before = snapshot(running.server)

    with pytest.raises(LocalProtocolError):
        running.server.send(word(StepDone, wrong_id, running.server.layouts))

    assert snapshot(running.server) == before


@pytest.mark.parametrize("cls", [Pong, StepDone, Error])
def test_an_answer_to_what_was_never_asked_is_refused(running, cls):
    ask(running, Step)
    before = snapshot(running.client)

    with pytest.raises(RemoteProtocolError, match="which nobody asked"):
        hear(running.client, word(cls, 99, running.client.layouts))

    assert snapshot(running.client) == before


def test_an_answer_of_another_kind_is_refused(running):
    ask(running, Ping)

    with pytest.raises(RemoteProtocolError, match="Ping was answered by Released"):
        hear(running.client, Released(id=3))


def test_an_answer_that_comes_twice_is_dropped(running):
    ask(running, Step)
    done = word(StepDone, 3, running.server.layouts)
    answer(running, StepDone)

    assert hear(running.client, done) is None
    assert running.client.state is State.RUNNING


def test_a_request_in_the_servers_mouth_is_refused_though_its_id_is_known(running):
    ask(running, Step)

    with pytest.raises(RemoteProtocolError, match="Reset may not be sent by the server"):
        hear(running.client, word(Reset, 3, running.client.layouts))


# Repeated requests


@pytest.mark.parametrize(
    ("request_class", "answer_class"),
    [(Step, StepDone), (Reset, ResetDone), (Step, Error), (Ping, Pong), (Release, Released)],
)
def test_a_repeated_request_gets_the_very_same_bytes(running, request_class, answer_class):
    request = running.client.send(word(request_class, 3, running.client.layouts))
    running.deliver(request, running.server)
    sent = running.server.send(word(answer_class, 3, running.server.layouts))
    before = snapshot(running.server)

    again = running.deliver(request, running.server)

    assert isinstance(again, Repeated)
    assert again.id == 3
    assert b"".join(again.frame) == b"".join(sent)
    assert snapshot(running.server) == before


def test_a_ping_in_between_does_not_forget_the_step(running):
    request = running.client.send(word(Step, 3, running.client.layouts))
    running.deliver(request, running.server)
    answer(running, StepDone)
    ask(running, Ping)
    running.to_client(Pong(id=4, time=0.0))

    assert isinstance(running.deliver(request, running.server), Repeated)


def test_a_request_that_is_being_worked_on_is_not_delivered_again(running):
    request = running.client.send(word(Step, 3, running.client.layouts))
    running.deliver(request, running.server)

    assert running.deliver(request, running.server) is None


def test_a_request_of_long_ago_is_refused(running):
    old = frame_of(word(Reset, 2, running.client.layouts), running.client.layouts)
    ask(running, Step)
    answer(running, StepDone)

    with pytest.raises(RemoteProtocolError, match="request id 2 was used before"):
        running.server.receive(old, 0.0)


# Nobody waits


def test_an_answer_that_nobody_waits_for_is_noted_and_not_delivered(running):
    ask(running, Step)
    running.client.forget(3)
    assert not running.client.is_waiting_for(3)

    assert answer(running, StepDone) is None

    assert running.client.state is running.server.state is State.RUNNING
    assert isinstance(ask(running, Step), Step)
    assert isinstance(answer(running, StepDone), StepDone)


def test_a_subscription_that_nobody_waits_for_still_holds(pair):
    ask(pair, Subscribe, streams=("c",))
    pair.client.forget(2)

    answer(pair, Subscribed, streams=("c",))

    assert pair.client.layouts == pair.server.layouts


def test_an_end_is_busy_while_a_request_has_no_answer(running):
    assert not running.server.is_busy

    ask(running, Step)
    assert running.server.is_busy

    answer(running, StepDone)
    assert not running.server.is_busy


def test_forgetting_what_does_not_wait_does_nothing(running):
    before = snapshot(running.client)

    running.client.forget(2)
    running.client.forget(99)

    assert snapshot(running.client) == before


# The end


def test_after_a_bye_what_crosses_it_is_ignored(running):
    crossing = running.client.send(word(Step, 3, running.client.layouts))
    running.to_client(Bye(reason="the server stops"))

    assert running.deliver(crossing, running.server) is None
    assert running.client.state is running.server.state is State.CLOSED


def test_an_error_without_a_request_ends_the_connection(running):
    ask(running, Step)

    running.to_client(Error(id=0, code="protocol.remote", message="no", retryable=False))

    assert running.client.state is running.server.state is State.CLOSED


def test_a_server_may_give_up_before_the_hello():
    pair = ConnectionPair()

    assert isinstance(pair.to_client(Bye(reason="the server stops")), Bye)
    assert pair.client.state is pair.server.state is State.CLOSED


def test_a_refused_hello_ends_the_connection():
    pair = ConnectionPair()
    ask(pair, Hello)

    answer(pair, Error)

    assert pair.client.state is pair.server.state is State.CLOSED


@pytest.mark.parametrize("end", ["client", "server"])
def test_nothing_is_said_once_the_transport_is_gone(running, end):
    connection = getattr(running, end)
    connection.close()

    with pytest.raises(LocalProtocolError, match="'closed'"):
        connection.send(Bye(reason=""))
    assert connection.receive(b"noise", 0.0) is None


# Damage


@pytest.mark.parametrize("end", ["client", "server"])
def test_a_damaged_frame_changes_nothing(running, end):
    ask(running, Step)
    connection = getattr(running, end)
    before = snapshot(connection)

    with pytest.raises(RemoteProtocolError):
        connection.receive(b"noise that is longer than a prefix", 5.0)

    assert snapshot(connection) == before


def test_another_version_is_told_from_damage():
    server = Connection(Role.SERVER, now=0.0)

    with pytest.raises(VersionMismatchError, match=r"version 2 .* speaks 1"):
        server.receive(packed_frame(Hello.KIND, {}, version=2), 0.0)


def test_a_message_that_cannot_be_written_changes_nothing(running):
    before = snapshot(running.client)

    with pytest.raises(LocalProtocolError):
        running.client.send(
            Step(id=3, episode=1, step=1, tick=3, dtypes=(), action=(np.zeros(9, np.float32),))
        )

    assert snapshot(running.client) == before


# Signs of life


def test_every_message_is_a_sign_of_life():
    clock = HandClock(100.0)
    pair = ConnectionPair(clock=clock)
    clock.advance(1.5)
    ask(pair, Hello)

    clock.advance(2.0)

    assert not pair.server.is_silent(clock(), longer_than=2.0)
    assert pair.client.is_silent(clock(), longer_than=2.0)


def test_what_is_refused_is_no_sign_of_life(running):
    with pytest.raises(RemoteProtocolError):
        running.server.receive(
            frame_of(word(ResetDone, 2, running.server.layouts), running.server.layouts), 50.0
        )

    assert running.server.last_heard == 0.0


def test_a_clock_moved_by_hand_does_not_go_back():
    with pytest.raises(ValueError, match="does not go back"):
        HandClock().advance(-1.0)


def test_an_error_message_becomes_the_exception_that_it_reports():
    error = error_of(Error(id=1, code="robot.lease.taken", message="by ada", retryable=True))

    assert type(error) is LeaseError
    assert (str(error), error.code, error.retryable) == ("by ada", "robot.lease.taken", True)
