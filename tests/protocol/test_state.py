"""Who may say what in which state, written down a second time, by hand."""

import pytest

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import (
    MESSAGES,
    OUT_OF_BAND,
    REPLIES,
    TRANSITIONS,
    Bye,
    Cancel,
    EmergencyStop,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Observation,
    Observe,
    Observing,
    Ping,
    Probe,
    Release,
    ReleaseStop,
    Reset,
    ResetDone,
    Role,
    State,
    Step,
    Subscribe,
    diagram,
)
from remote_env.testing import ConnectionPair
from tests.protocol.frames import frame_of
from tests.protocol.sayings import welcome, word

ALWAYS = {
    *("Heartbeat", "Ping", "Release", "Bye"),
    *("EmergencyStop", "ReleaseStop", "GetStatistics", "Probe", "Cancel"),
}
# With the id of a request that waits, where there is one. Those out of band always wait.
WAITING = {90: Ping, 91: Release, 92: EmergencyStop, 93: ReleaseStop, 94: GetStatistics, 95: Probe}
ANSWERS = {
    "Pong",
    "Released",
    "EmergencyStopped",
    "StopReleased",
    "Statistics",
    "Probed",
    "Error",
    "Bye",
}
MAY_SAY = {
    ("opening", "client"): {"Hello", "Bye"},
    ("opening", "server"): {"Error", "Bye"},
    ("greeted", "client"): ALWAYS,
    ("greeted", "server"): {"Welcome", *ANSWERS},
    ("ready", "client"): {"Subscribe", "Reset", "Observe", *ALWAYS},
    ("ready", "server"): ANSWERS,
    ("subscribing", "client"): ALWAYS,
    ("subscribing", "server"): {"Subscribed", *ANSWERS},
    ("resetting", "client"): ALWAYS,
    ("resetting", "server"): {"ResetDone", "Progress", *ANSWERS},
    ("running", "client"): {"Step", "Reset", *ALWAYS},
    ("running", "server"): ANSWERS,
    ("stepping", "client"): ALWAYS,
    ("stepping", "server"): {"StepDone", *ANSWERS},
    ("attaching", "client"): ALWAYS,
    ("attaching", "server"): {"Observing", *ANSWERS},
    ("observing", "client"): ALWAYS,
    ("observing", "server"): {"Observation", *ANSWERS},
    ("closed", "client"): set(),
    ("closed", "server"): set(),
}
LEADS_TO = {
    ("opening", "Hello"): "greeted",
    ("opening", "Error"): "closed",
    ("greeted", "Welcome"): "ready",
    ("greeted", "Error"): "closed",
    ("ready", "Subscribe"): "subscribing",
    ("ready", "Reset"): "resetting",
    ("subscribing", "Subscribed"): "ready",
    ("subscribing", "Error"): "ready",
    ("ready", "Observe"): "attaching",
    ("resetting", "Progress"): "resetting",
    ("resetting", "ResetDone"): "running",
    ("resetting", "Error"): "ready",
    ("running", "Step"): "stepping",
    ("running", "Reset"): "resetting",
    ("stepping", "StepDone"): "running",
    ("stepping", "Error"): "running",
    ("attaching", "Observing"): "observing",
    ("attaching", "Error"): "ready",
    ("observing", "Observation"): "observing",
}
WAY_TO = {
    "greeted": [],
    "ready": [],
    "subscribing": [Subscribe],
    "resetting": [Reset],
    "running": [Reset, ResetDone],
    "stepping": [Reset, ResetDone, Step],
    "attaching": [Observe],
    "observing": [Observe, Observing],
}
CASES = [
    pytest.param(State(state), Role(role), cls, id=f"{state}-{role}-{cls.__name__}")
    for state, role in MAY_SAY
    for cls in MESSAGES.values()
]


def pair_in(state):
    """Return a pair in this state; after the hello, what is out of band waits for answers."""
    pair = ConnectionPair()
    if state is State.OPENING:
        return pair
    pair.to_server(word(Hello, 1, pair.client.layouts))
    if state is not State.GREETED:
        pair.to_client(welcome())
    for cls in WAY_TO.get(state.value, []):
        say = pair.to_server if cls in REPLIES else pair.to_client
        new_id = pair.client.next_id() - (cls not in REPLIES)
        say(word(cls, new_id, pair.client.layouts))
    for message_id, cls in WAITING.items():
        pair.to_server(word(cls, message_id, pair.client.layouts))
    if state is State.CLOSED:
        pair.client.close()
        pair.server.close()
    return pair


def pending_id(pair):
    """Return the id of the request of the episode channel that waits, or of the Ping, or 0."""
    waiting = [n for n in range(1, 95) if pair.client.is_waiting_for(n)]
    return waiting[0] if waiting else 0


def fitting(pair, cls):
    if cls in REPLIES:
        return word(cls, max(pair.client.next_id(), 1), pair.client.layouts)
    answered = {REPLIES[request]: message_id for message_id, request in WAITING.items()}
    unasked = dict.fromkeys((Heartbeat, Bye, Cancel, Observation), 0)
    message_id = (answered | unasked).get(cls, pending_id(pair))
    return word(cls, message_id, pair.server.layouts)


def following(state, cls):
    if cls.__name__ == "Bye":
        return State.CLOSED
    return State(LEADS_TO.get((state.value, cls.__name__), state.value))


@pytest.mark.parametrize(("state", "role", "cls"), CASES)
def test_an_end_says_only_what_it_may_and_the_other_follows(state, role, cls):
    pair = pair_in(state)
    speaker = pair.client if role is Role.CLIENT else pair.server
    listener = pair.server if role is Role.CLIENT else pair.client
    message = fitting(pair, cls)

    if cls.__name__ in MAY_SAY[state.value, role.value]:
        pair.deliver(speaker.send(message), listener)
        assert (speaker.state, listener.state) == (following(state, cls),) * 2
    else:
        with pytest.raises(LocalProtocolError, match="may not be sent"):
            speaker.send(message)
        assert speaker.state is state


FORBIDDEN = [
    pytest.param(*case.values, id=case.id)
    for case in CASES
    if case.values[0] is not State.CLOSED
    and case.values[2].__name__ not in MAY_SAY[case.values[0].value, case.values[1].value]
]


@pytest.mark.parametrize(("state", "role", "cls"), FORBIDDEN)
def test_an_end_hears_only_what_the_other_may_say(state, role, cls):
    pair = pair_in(state)
    listener = pair.server if role is Role.CLIENT else pair.client
    frame = frame_of(fitting(pair, cls), listener.layouts)

    with pytest.raises(RemoteProtocolError, match="may not be sent"):
        listener.receive(frame, 0.0)

    assert listener.state is state


def test_the_table_and_its_copy_have_the_same_rows():
    rows = {
        (state.value, cls.__name__): following.value
        for state, row in TRANSITIONS.items()
        for cls, (_, following) in row.items()
    }

    # Before the hello an Error has the id 0, and that is no matter of the table.
    assert rows == {key: to for key, to in LEADS_TO.items() if key != ("opening", "Error")}


@pytest.mark.parametrize("state", State)
def test_every_state_has_a_row_and_can_be_left(state):
    assert state in TRANSITIONS
    assert bool(TRANSITIONS[state]) is (state is not State.CLOSED)


@pytest.mark.parametrize("cls", MESSAGES.values(), ids=lambda cls: cls.__name__)
def test_every_message_has_its_place_and_its_sender_is_the_same_everywhere(cls):
    senders = {row[cls][0] for row in TRANSITIONS.values() if cls in row}
    if cls in OUT_OF_BAND:
        senders.add(OUT_OF_BAND[cls])

    assert senders == {cls.SENDER}


@pytest.mark.parametrize("request_class", REPLIES, ids=lambda cls: cls.__name__)
def test_every_state_with_a_request_can_be_left_by_an_error(request_class):
    leads_to = {row[request_class][1] for row in TRANSITIONS.values() if request_class in row}

    assert all(Error in TRANSITIONS[state] for state in leads_to)


def test_the_diagram_draws_every_transition():
    lines = diagram().splitlines()

    assert lines[0] == "stateDiagram-v2"
    assert "    running --> stepping: Step (client)" in lines
    assert len(lines) == 4 + sum(map(len, TRANSITIONS.values()))
