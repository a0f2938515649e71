from dataclasses import replace

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
    Cancel,
    Connection,
    EmergencyStop,
    EmergencyStopped,
    Error,
    Heartbeat,
    Hello,
    Limits,
    Observation,
    Observe,
    Observing,
    Ping,
    Pong,
    Progress,
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


def send(pair, cls, **options):
    """Let the client ask over a transport that may lose it; returns the frame."""
    return pair.client.send(word(cls, pair.client.next_id(), pair.client.layouts, **options))


def states(pair):
    return pair.client.state, pair.server.state


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
        resumed=False,
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
    wrong = replace(done, sequences=sequences, stamps=stamps)

    with pytest.raises(LocalProtocolError, match="2 sequences and stamps"):
        pair.to_client(wrong)
    with pytest.raises(RemoteProtocolError, match="2 sequences and stamps"):
        hear(pair.client, wrong)


def test_the_client_keeps_to_the_frame_size_of_the_welcome():
    pair = ConnectionPair.greeted(welcome(frame_size=200))

    with pytest.raises(LocalProtocolError, match="the limit is 200"):
        pair.to_server(replace(word(Reset, 2, pair.client.layouts), options={"a": bytes(200)}))

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


@pytest.mark.parametrize("cls", [Ping, Release, Reset, Step])
def test_a_request_with_the_id_0_is_not_executed(running, cls):
    """0 also means that no request is asked again."""
    with pytest.raises(RemoteProtocolError, match="request id 0 was used before"):
        hear(running.server, word(cls, 0, running.server.layouts))


def test_ids_may_leave_gaps(running):
    running.to_server(Ping(id=100))

    assert running.client.next_id() == 101


@pytest.mark.parametrize("cls", [Heartbeat, Bye, Cancel])
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


def test_a_reset_may_tell_its_progress_any_number_of_times(pair):
    ask(pair, Reset)

    heard = [answer(pair, Progress) for _ in range(3)]

    assert heard == [Progress(id=2, fraction=0.5, text="homing")] * 3
    assert states(pair) == (State.RESETTING, State.RESETTING)

    assert isinstance(answer(pair, ResetDone), ResetDone)


def test_progress_that_nobody_waits_for_is_not_delivered(pair):
    ask(pair, Reset)
    pair.client.forget(2)

    assert answer(pair, Progress) is None
    assert answer(pair, ResetDone) is None
    assert states(pair) == (State.RUNNING, State.RUNNING)


def test_only_a_reset_makes_progress(pair):
    ask(pair, Reset)
    ask(pair, Ping)
    wrong = word(Progress, 3, pair.server.layouts)

    with pytest.raises(LocalProtocolError, match="a Ping makes no progress"):
        pair.server.send(wrong)
    with pytest.raises(RemoteProtocolError, match="a Ping makes no progress"):
        hear(pair.client, wrong)


def test_progress_is_not_the_answer_to_a_repeated_reset(pair):
    request = send(pair, Reset)
    pair.deliver(request, pair.server)
    answer(pair, Progress)

    assert pair.deliver(request, pair.server) is None


@pytest.fixture
def observing(pair):
    """Both ends while the client observes; the Observe had the id 2."""
    ask(pair, Observe)
    answer(pair, Observing)
    return pair


def test_an_observer_gets_observations_of_what_it_subscribed_to(observing):
    seen = observing.to_client(word(Observation, 0, observing.server.layouts))

    assert [array.shape for array in seen.observation] == [(3,), (2, 2)]
    assert states(observing) == (State.OBSERVING, State.OBSERVING)


def test_an_observation_answers_nothing(observing):
    wrong = word(Observation, 2, observing.server.layouts)

    with pytest.raises(LocalProtocolError, match="has the id 0, not 2"):
        observing.server.send(wrong)


@pytest.mark.parametrize(("sequences", "stamps"), [((1,), ()), ((), (0.5,)), ((1, 2, 3), ())])
def test_an_observation_has_sequences_and_stamps_for_each_array_or_none(
    observing, sequences, stamps
):
    seen = word(Observation, 0, observing.server.layouts)
    wrong = replace(seen, sequences=sequences, stamps=stamps)

    with pytest.raises(LocalProtocolError, match="2 sequences and stamps"):
        observing.server.send(wrong)
    with pytest.raises(RemoteProtocolError, match="2 sequences and stamps"):
        hear(observing.client, wrong)


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


def test_a_repeated_request_gets_no_answer_of_another_lane(running):
    """A client may choose the id of its Hello, and so may one that resumes."""
    request = send(running, Step)
    running.deliver(request, running.server)

    with pytest.raises(RemoteProtocolError, match="request id 2 was used before"):
        hear(running.server, Ping(id=2))


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


def test_both_ends_wait_while_a_request_has_no_answer(running):
    step = ask(running, Step).id
    assert running.client.is_waiting_for(step)
    assert running.server.is_waiting_for(step)

    answer(running, StepDone)
    assert not running.client.is_waiting_for(step)
    assert not running.server.is_waiting_for(step)


def test_forgetting_what_does_not_wait_does_nothing(running):
    before = snapshot(running.client)

    running.client.forget(2)
    running.client.forget(99)

    assert snapshot(running.client) == before


# A lost connection that is resumed

RESUMED = welcome(resumed=True)
REQUESTS = pytest.mark.parametrize(
    ("request_class", "answer_class"),
    [(Reset, ResetDone), (Step, StepDone), (Step, Error)],
)


@REQUESTS
def test_a_request_that_never_came_is_executed_once_when_it_is_asked_again(
    running, request_class, answer_class
):
    request = send(running, request_class)
    waits = running.client.state

    running.lose_transport(RESUMED)

    assert states(running) == (waits, State.RUNNING)
    assert running.client.unanswered == 3
    assert isinstance(running.deliver(request, running.server), request_class)
    assert running.deliver(request, running.server) is None
    sent = running.server.send(word(answer_class, 3, running.server.layouts))
    assert isinstance(running.deliver(sent, running.client), answer_class)
    assert isinstance(running.deliver(request, running.server), Repeated)


@REQUESTS
def test_a_request_that_is_worked_on_is_not_executed_when_it_is_asked_again(
    running, request_class, answer_class
):
    request = send(running, request_class)
    running.deliver(request, running.server)

    running.lose_transport(RESUMED)

    assert running.client.state is running.server.state is not State.RUNNING
    assert running.deliver(request, running.server) is None
    sent = running.server.send(word(answer_class, 3, running.server.layouts))
    assert isinstance(running.deliver(sent, running.client), answer_class)
    assert states(running) == (State.RUNNING,) * 2 or answer_class is Error


@REQUESTS
def test_a_lost_answer_comes_with_the_very_same_bytes_when_it_is_asked_for_again(
    running, request_class, answer_class
):
    request = send(running, request_class)
    running.deliver(request, running.server)
    sent = running.server.send(word(answer_class, 3, running.server.layouts))

    running.lose_transport(RESUMED)
    again = running.deliver(request, running.server)

    assert b"".join(again.frame) == b"".join(sent)
    assert isinstance(running.deliver(again.frame, running.client), answer_class)
    assert running.client.state is running.server.state


def test_an_answer_that_comes_by_itself_and_when_it_is_asked_for_is_heard_once(running):
    request = send(running, Step)
    running.deliver(request, running.server)
    running.lose_transport(RESUMED)
    assert isinstance(running.to_client(word(StepDone, 3, running.server.layouts)), StepDone)

    again = running.deliver(request, running.server)

    assert running.deliver(again.frame, running.client) is None


def test_a_lost_subscription_holds_when_it_is_asked_for_again(pair):
    request = send(pair, Subscribe, streams=("c",))
    pair.deliver(request, pair.server)
    pair.server.send(word(Subscribed, 2, pair.server.layouts, streams=("c",)))

    pair.lose_transport(RESUMED)
    again = pair.deliver(request, pair.server)
    pair.deliver(again.frame, pair.client)

    assert pair.client.layouts == pair.server.layouts
    assert pair.client.layouts.observation.names == ("c",)


def test_an_idle_connection_goes_on_where_it_was_lost(pair):
    ask(pair, Subscribe, streams=("c",))
    answer(pair, Subscribed, streams=("c",))
    ask(pair, Reset)
    answer(pair, ResetDone)

    pair.lose_transport(RESUMED)

    assert states(pair) == (State.RUNNING, State.RUNNING)
    assert pair.client.unanswered == 0
    assert pair.client.layouts.observation.names == ("c",)
    assert isinstance(ask(pair, Step), Step)
    assert isinstance(answer(pair, StepDone), StepDone)


def test_a_server_that_does_not_know_the_session_begins_anew(running):
    request = send(running, Step)

    running.lose_transport(welcome(resumed=False))

    assert states(running) == (State.READY, State.READY)
    assert not running.client.is_waiting_for(3)
    with pytest.raises(RemoteProtocolError, match="request id 3 was used before"):
        running.deliver(request, running.server)
    assert isinstance(ask(running, Reset), Reset)


def test_a_request_that_never_came_may_be_lost_again_though_others_came_meanwhile(running):
    request = send(running, Step)
    running.lose_transport(RESUMED)
    ask(running, Ping)

    running.lose_transport(RESUMED)

    assert isinstance(running.deliver(request, running.server), Step)
    assert running.deliver(request, running.server) is None


def test_a_request_that_came_the_second_time_is_not_executed_the_third_time(running):
    request = send(running, Step)
    running.lose_transport(RESUMED)
    running.deliver(request, running.server)

    running.lose_transport(RESUMED)

    assert running.deliver(request, running.server) is None
    assert states(running) == (State.STEPPING, State.STEPPING)


def test_a_client_cannot_have_an_old_request_executed_by_asking_for_it(running):
    old = frame_of(word(Step, 3, running.client.layouts), running.client.layouts)
    ask(running, Step)
    answer(running, StepDone)
    ask(running, Step)
    answer(running, StepDone)
    server = Connection(Role.SERVER, now=0.0)
    server.receive(frame_of(word(Hello, 5, server.layouts, asking=3)), 0.0)
    server.adopt(running.server, asking=3)
    server.send(replace(RESUMED, id=5))

    with pytest.raises(RemoteProtocolError, match="request id 3 was used before"):
        server.receive(old, 0.0)


@pytest.mark.parametrize("hello_id", [1, 3, 4])
def test_the_id_of_a_resuming_hello_is_not_taken_for_that_of_a_request(running, hello_id):
    request = send(running, Step)
    running.deliver(request, running.server)
    running.to_client(word(StepDone, 3, running.server.layouts))
    server = Connection(Role.SERVER, now=0.0)
    server.receive(frame_of(word(Hello, hello_id, server.layouts, asking=3)), 0.0)
    server.adopt(running.server, asking=3)
    server.send(replace(RESUMED, id=hello_id))

    again = server.receive(b"".join(request), 0.0)

    assert again.frame[0][4] == StepDone.KIND


def test_a_stop_pressed_between_hello_and_welcome_is_heard(running):
    """Its id was one that the server knew, when a new connection counted from 1."""
    client, server = Connection(Role.CLIENT, now=0.0), Connection(Role.SERVER, now=0.0)
    client.adopt(running.client, asking=0)
    hello = word(Hello, client.next_id(), client.layouts)
    running.deliver(client.send(hello), server)
    stop = client.send(EmergencyStop(client.next_id(), reason=""))
    server.adopt(running.server, asking=0)
    running.deliver(server.send(replace(RESUMED, id=hello.id)), client)

    assert isinstance(running.deliver(stop, server), EmergencyStop)

    stopped = server.send(EmergencyStopped(hello.id + 1))
    assert isinstance(running.deliver(stopped, client), EmergencyStopped)


def test_a_connection_lost_before_its_welcome_stands_for_the_one_before(running):
    request = send(running, Step)
    lost = Connection(Role.CLIENT, now=0.0)
    lost.adopt(running.client, asking=3)
    lost.send(word(Hello, lost.next_id(), lost.layouts, asking=3))
    running.client = lost

    running.lose_transport(RESUMED)

    assert isinstance(running.deliver(request, running.server), Step)
    assert states(running) == (State.STEPPING, State.STEPPING)


def test_what_was_lost_before_its_first_welcome_cannot_be_resumed():
    pair = ConnectionPair()
    ask(pair, Hello)
    lost = pair.client, pair.server
    pair = ConnectionPair()
    pair.client.adopt(lost[0], asking=0)
    ask(pair, Hello)
    pair.server.adopt(lost[1], asking=0)
    resumed = replace(RESUMED, id=2)

    with pytest.raises(LocalProtocolError, match="not asked to"):
        pair.server.send(resumed)
    with pytest.raises(RemoteProtocolError, match="not asked to"):
        hear(pair.client, resumed)


def test_a_welcome_that_resumes_what_nobody_asked_for_is_neither_said_nor_heard():
    pair = ConnectionPair()
    ask(pair, Hello)

    with pytest.raises(LocalProtocolError, match="not asked to"):
        pair.server.send(RESUMED)
    with pytest.raises(RemoteProtocolError, match="not asked to"):
        hear(pair.client, RESUMED)


@pytest.mark.parametrize("asking", [0, 2, 4])
def test_a_client_asks_again_for_what_has_no_answer_and_nothing_else(running, asking):
    send(running, Step)

    with pytest.raises(LocalProtocolError, match=f"the answer to 3, not to {asking}"):
        Connection(Role.CLIENT, now=0.0).adopt(running.client, asking=asking)


def close_by_an_error(pair):
    pair.to_client(Error(id=0, code="protocol.remote", message="noise", retryable=False))


def close_both_ends(pair):
    pair.client.close()
    pair.server.close()


@pytest.mark.parametrize("close", [close_by_an_error, close_both_ends])
def test_a_lost_connection_that_was_closed_goes_on_where_it_stood(running, close):
    """What one end found damaged closes the connection; that is a lost one."""
    request = send(running, Step)
    close(running)
    assert states(running) == (State.CLOSED, State.CLOSED)

    running.lose_transport(RESUMED)

    assert states(running) == (State.STEPPING, State.RUNNING)
    assert isinstance(running.deliver(request, running.server), Step)


def test_nobody_waits_any_more_for_what_was_asked_out_of_band(running):
    ask(running, Ping)

    running.lose_transport(RESUMED)

    assert not running.client.is_waiting_for(3)
    assert running.to_client(Pong(id=3, time=0.0)) is None
    assert isinstance(ask(running, Ping), Ping)


def test_what_was_forgotten_stays_so_over_a_lost_connection(running):
    request = send(running, Step)
    running.client.forget(3)

    running.lose_transport(RESUMED)

    assert running.client.unanswered == 3
    assert not running.client.is_waiting_for(3)
    running.deliver(request, running.server)
    assert running.to_client(word(StepDone, 3, running.server.layouts)) is None
    assert states(running) == (State.RUNNING, State.RUNNING)


@pytest.mark.parametrize("came", ["not at all", "and was answered", "only"])
def test_who_observed_observes_anew(pair, came):
    request = send(pair, Observe)
    if came != "not at all":
        pair.deliver(request, pair.server)
    if came == "and was answered":
        pair.server.send(Observing(id=2))
    assert pair.client.unanswered == 0

    pair.lose_transport(RESUMED)

    assert states(pair) == (State.READY, State.READY)
    assert not pair.client.is_waiting_for(2)
    assert not pair.server.is_waiting_for(2)
    with pytest.raises(RemoteProtocolError, match="request id 2 was used before"):
        pair.deliver(request, pair.server)
    ask(pair, Observe)
    assert isinstance(answer(pair, Observing), Observing)


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

    with pytest.raises(VersionMismatchError, match=r"version 1 .* speaks 5"):
        server.receive(packed_frame(Hello.KIND, {}, version=1), 0.0)


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

    assert pair.server.last_heard == 101.5
    assert pair.client.last_heard == 100.0


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
