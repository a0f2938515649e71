"""What a client keeps is not sent again, and what it gets is what would have been sent."""

from dataclasses import replace

import numpy as np
import pytest

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import (
    Connection,
    Hello,
    Layouts,
    Observation,
    Observe,
    Observing,
    OnStale,
    Reset,
    ResetDone,
    Role,
    Step,
    StepDone,
    Subscribe,
    Subscribed,
    encode,
)
from remote_env.testing import ConnectionPair
from tests.protocol.sayings import welcome, word

A, B = np.array([1, 2, 3], np.float32), np.array([[201, 202], [203, 204]], np.uint8)
LATER = np.array([7, 8, 9], np.float32)


def subscribe(pair, kept):
    """Subscribe to ``a`` and ``b`` and keep some of them."""
    request = pair.client.next_id()
    wish = Subscribe(
        request, streams=("a", "b"), max_ages={}, on_stale=OnStale.FLAG, kept=tuple(kept)
    )
    pair.to_server(wish)
    pair.to_client(Subscribed(request, streams=("a", "b")))
    return pair


def ask(pair, kind):
    request = pair.client.next_id()
    pair.to_server(word(kind, request, pair.client.layouts))
    return request


def done(pair, kind, observation, unchanged=None):
    """Let the client ask, and the server answer with an observation; return what is heard."""
    request = ask(pair, Reset if kind is ResetDone else Step)
    said = replace(word(kind, request, pair.server.layouts), observation=observation)
    if unchanged is not None:
        said = replace(said, unchanged=unchanged)
    return pair.to_client(said)


@pytest.fixture
def pair():
    """Both ends in an episode; the client keeps ``b``, and has A and B."""
    pair = subscribe(ConnectionPair.greeted(welcome()), ["b"])
    done(pair, ResetDone, (A, B))
    return pair


def values(message):
    return [array.tolist() for array in message.observation]


def test_what_is_unchanged_has_no_bytes_and_is_there_all_the_same(pair):
    request = ask(pair, Step)
    said = replace(word(StepDone, request, pair.server.layouts), observation=(LATER, B))
    whole = b"".join(encode(said, pair.server.layouts))
    frame = pair.server.send(replace(said, unchanged=(1,)))

    assert B.tobytes() in whole
    assert B.tobytes() not in b"".join(frame)
    assert values(pair.deliver(frame, pair.client)) == [LATER.tolist(), B.tolist()]


def test_it_is_what_came_last(pair):
    done(pair, StepDone, (A, B + 1))
    assert values(done(pair, StepDone, (A, B + 1), (1,))) == [A.tolist(), (B + 1).tolist()]
    done(pair, ResetDone, (A, B + 2))
    assert values(done(pair, StepDone, (A, B + 2), (1,)))[1] == (B + 2).tolist()


def test_what_the_learner_gets_is_its_own(pair):
    for _ in range(3):
        got = done(pair, StepDone, (A, B), (1,)).observation[1]
        assert got.tolist() == B.tolist()
        got[:] = 99
    got = done(pair, StepDone, (A, B)).observation[1]
    got[:] = 99
    assert done(pair, StepDone, (A, B), (1,)).observation[1].tolist() == B.tolist()


def test_without_copies_it_is_the_same_array_and_read_only():
    pair = ConnectionPair()
    pair.client = Connection(Role.CLIENT, now=pair.clock(), copies=False)
    pair.to_server(word(Hello, 1, Layouts()))
    pair.to_client(welcome())
    subscribe(pair, ["b"])
    first = done(pair, ResetDone, (A, B)).observation
    second = done(pair, StepDone, (A, B), (1,)).observation
    assert second[1] is first[1]
    assert not second[1].flags.writeable
    assert second[0].flags.writeable  # this stream is not kept
    done(pair, StepDone, (A, B + 1))
    assert second[1].tolist() == B.tolist()


def test_all_may_be_unchanged():
    pair = subscribe(ConnectionPair.greeted(welcome()), ["b", "a"])
    done(pair, ResetDone, (A, B))
    assert values(done(pair, StepDone, (A, B), (0, 1))) == [A.tolist(), B.tolist()]


@pytest.mark.parametrize("unchanged", [(0,), (0, 1), (2,), (1, 1), (1, 0)])
def test_what_nobody_keeps_cannot_be_left_out(pair, unchanged):
    with pytest.raises(LocalProtocolError):
        done(pair, StepDone, (A, B), unchanged)


def test_a_client_refuses_what_is_left_out_and_not_kept(pair):
    request = ask(pair, Step)
    pair.server._kept = type(pair.server._kept)((0, 1))
    said = replace(word(StepDone, request, pair.server.layouts), observation=(A, B), unchanged=(0,))
    with pytest.raises(RemoteProtocolError, match="which nobody keeps"):
        pair.to_client(said)


@pytest.fixture
def observing():
    """An observer that keeps ``b`` and has seen nothing yet."""
    pair = subscribe(ConnectionPair.greeted(welcome()), ["b"])
    request = ask(pair, Observe)
    pair.to_client(Observing(request))
    return pair


def show(pair, observation, unchanged=()):
    said = word(Observation, 0, pair.server.layouts)
    return pair.to_client(replace(said, observation=observation, unchanged=unchanged))


def test_an_observer_keeps_too(observing):
    show(observing, (A, B))
    assert values(show(observing, (LATER, B), (1,))) == [LATER.tolist(), B.tolist()]


def test_what_never_came_cannot_be_unchanged(observing):
    with pytest.raises(RemoteProtocolError, match="never came"):
        show(observing, (A, B), (1,))


def test_who_resumes_still_has_it(pair):
    pair.lose_transport(welcome(resumed=True))
    assert values(done(pair, StepDone, (A, B), (1,))) == [A.tolist(), B.tolist()]


def test_who_begins_anew_has_nothing(pair):
    pair.lose_transport(welcome())
    subscribe(pair, ["b"])
    done(pair, ResetDone, (A, B + 5))
    assert values(done(pair, StepDone, (A, B + 5), (1,)))[1] == (B + 5).tolist()


@pytest.mark.parametrize("kept", [("c",), ("nothing",), ("a", "a")])
def test_only_what_is_subscribed_is_kept_and_once(kept):
    pair = ConnectionPair.greeted(welcome())
    with pytest.raises(LocalProtocolError, match="do not exist or come twice"):
        subscribe(pair, kept)


def test_an_answer_that_is_given_again_is_the_same(pair):
    request = ask(pair, Step)
    said = replace(word(StepDone, request, pair.server.layouts), observation=(A, B), unchanged=(1,))
    frame = b"".join(pair.server.send(said))
    asked_again = encode(word(Step, request, pair.client.layouts), pair.client.layouts)
    again = pair.server.receive(bytearray(b"".join(asked_again)), pair.clock())
    assert b"".join(again.frame) == frame
