"""Whatever is said by whomever, repeated, lost or damaged: both ends agree.

Two real ends, joined by queues of frames. The rule that matters most needs no model: what
one end lets out, the other end takes in.
"""

import collections
import contextlib

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from remote_env.errors import LocalProtocolError, RemoteProtocolError
from remote_env.protocol import (
    MESSAGES,
    OUT_OF_BAND,
    REPLIES,
    Bye,
    Connection,
    Error,
    Heartbeat,
    Hello,
    Message,
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
)
from tests.protocol.frames import frame_of
from tests.protocol.sayings import word

ENDS = st.sampled_from(["client", "server"])
OTHER = {"client": "server", "server": "client"}
CHANNEL_ANSWERS = {Welcome, Subscribed, ResetDone, StepDone}
# What keeps a conversation going is likelier than what ends it.
USUAL = st.sampled_from([Reset, ResetDone, Step, StepDone, Subscribe, Subscribed, Ping, Pong])
ANY = st.sampled_from(list(MESSAGES.values()))
REQUESTS = st.sampled_from([Subscribe, Reset, Reset, Step, Step, Step, Ping, Release])
TURNS = st.tuples(REQUESTS, st.sampled_from([False, False, False, True]))
CHOICES = st.sampled_from([("a", "b"), ("c",), (), ("b", "c", "a"), ("nope",), ("a", "a")])


def snapshot(connection):
    return repr(vars(connection))


class Conversation(RuleBasedStateMachine):
    """See the module."""

    @initialize(is_greeted=st.sampled_from([True, True, True, False]))
    def open(self, is_greeted):
        self.ends = {
            "client": Connection(Role.CLIENT, now=0.0),
            "server": Connection(Role.SERVER, now=0.0),
        }
        self.queues = {"client": collections.deque(), "server": collections.deque()}
        self.asked: dict[int, tuple[type[Message], bytes]] = {}
        self.answers: dict[int, bytes] = {}
        self.delivered: collections.Counter[int] = collections.Counter()
        self.forgotten: set[int] = set()
        self.chosen: dict[int, tuple[str, ...]] = {}
        if is_greeted:
            self.converse([(Hello, False)], ("a", "b"))
            self.hear_everything()
            self.answer_everything(fails=False)

    @property
    def client(self):
        return self.ends["client"]

    @property
    def server(self):
        return self.ends["server"]

    @property
    def is_quiet(self):
        return not any(self.queues.values())

    def latest(self, *, is_channel):
        """Return the newest request on the episode channel, or the newest out of band."""
        of_kind = [
            i for i, (cls, _) in self.asked.items() if (cls not in OUT_OF_BAND) is is_channel
        ]
        return max(of_kind, default=0)

    def fitting_id(self, cls):
        """Return the id with which a message would be right, if any is."""
        if cls in REPLIES:
            return self.client.next_id()
        waiting = [i for i in self.asked if self.server.is_waiting_for(i)]
        if cls is Error:
            return waiting[0] if waiting else 0
        fits = [i for i in waiting if REPLIES[self.asked[i][0]] is cls]
        return fits[0] if fits else 0

    def say(self, end, message):
        """Say it, if it is right; else check that nothing has changed."""
        speaker = self.ends[end]
        before = snapshot(speaker)
        try:
            frame = b"".join(speaker.send(message))
        except LocalProtocolError:
            assert snapshot(speaker) == before
            return False
        self.queues[OTHER[end]].append(frame)
        self.note(message, frame)
        return True

    def note(self, message, frame):
        """Note what was let out; ids are new for requests, and those of requests for answers."""
        cls = type(message)
        if cls in REPLIES:
            assert message.id not in self.asked
            self.asked[message.id] = (cls, frame)
        elif cls in (Heartbeat, Bye) or (cls is Error and message.id == 0):
            assert message.id == 0
        else:
            assert cls in (Error, REPLIES[self.asked[message.id][0]])
            assert self.delivered[message.id] == 1
            assert message.id not in self.answers
            self.answers[message.id] = frame

    # What may happen

    @rule(end=ENDS, cls=USUAL | ANY, wrong=st.integers(0, 12), choice=CHOICES)
    def say_anything(self, end, cls, wrong, choice):
        """Mostly with the right id, at times with any."""
        message_id = self.fitting_id(cls) if wrong < 9 else wrong - 9
        streams = self.chosen.get(message_id, choice) if cls is Subscribed else choice
        if (cls is Bye or cls is Error) and message_id == 0:
            return  # see give_up: it would end nearly every conversation
        if self.say(end, word(cls, message_id, self.ends[end].layouts, streams)):
            self.chosen[message_id] = streams

    @rule(turns=st.lists(TURNS, min_size=4, max_size=12), choice=CHOICES)
    def converse(self, turns, choice):
        """Let the client ask and the server answer, so that they get somewhere."""
        for cls, fails in turns:
            self.hear_everything()
            self.answer_everything(fails=fails)
            self.hear_everything()
            request_id = self.client.next_id()
            if self.say("client", word(cls, request_id, self.client.layouts, choice)):
                self.chosen[request_id] = choice

    def answer_everything(self, *, fails):
        for request_id in [i for i in self.asked if self.server.is_waiting_for(i)]:
            cls = Error if fails else REPLIES[self.asked[request_id][0]]
            streams = self.chosen[request_id]
            self.say("server", word(cls, request_id, self.server.layouts, streams))

    @rule(end=ENDS)
    def hear(self, end):
        """Take the next frame; what the other end let out cannot be wrong."""
        if not self.queues[end]:
            return
        frame = self.queues[end].popleft()
        message = self.ends[end].receive(bytearray(frame), 0.0)
        if isinstance(message, Repeated):
            assert b"".join(message.frame) == self.answers[message.id]
            self.queues["client"].append(self.answers[message.id])
        elif message is not None and type(message) in REPLIES:
            self.delivered[message.id] += 1
            assert self.delivered[message.id] == 1
        elif message is not None and message.id:
            assert message.id not in self.forgotten

    @rule(is_channel=st.booleans())
    def ask_again(self, is_channel):
        """Send the newest request once more, as one does who lost the answer."""
        request_id = self.latest(is_channel=is_channel)
        if request_id and self.server.state is not State.CLOSED:
            self.queues["server"].append(self.asked[request_id][1])

    @rule(is_channel=st.booleans())
    def lose_an_answer(self, is_channel):
        """Lose the answer to the newest request; the client asks again."""
        request_id = self.latest(is_channel=is_channel)
        answer = self.answers.get(request_id)
        # A server that has closed cannot repeat itself; its transport tells the client.
        can_repeat = self.server.state is not State.CLOSED and answer in self.queues["client"]
        if can_repeat and self.client.is_waiting_for(request_id):
            self.queues["client"].remove(answer)
            self.queues["server"].append(self.asked[request_id][1])

    @rule(which=st.integers(0, 5))
    def forget(self, which):
        """Let the client stop waiting for one of its requests."""
        waiting = [i for i in self.asked if self.client.is_waiting_for(i)]
        if waiting:
            request_id = waiting[which % len(waiting)]
            self.client.forget(request_id)
            self.forgotten.add(request_id)

    @rule(
        end=ENDS, damage=st.sampled_from(["cut", "longer", "version", "magic", "reserved", "kind"])
    )
    def hear_damage(self, end, damage):
        """Let an end hear a frame that was damaged on its way."""
        frame = bytearray(frame_of(Ping(id=77)))
        place = {"magic": 0, "version": 3, "kind": 4, "reserved": 5}
        if damage in place:
            frame[place[damage]] ^= 0xF0
        else:
            frame = frame[:-1] if damage == "cut" else frame + b"\0"
        self.check_refusal(end, frame)

    @precondition(lambda self: self.is_quiet)
    @rule(end=ENDS, cls=ANY, message_id=st.integers(0, 12), choice=CHOICES)
    def hear_what_may_not_be_said(self, end, cls, message_id, choice):
        """Let an end hear a well-formed message that the other may not say now."""
        speaker, listener = self.ends[OTHER[end]], self.ends[end]
        message = word(cls, message_id, listener.layouts, choice)
        if self.may_say(speaker, message):
            return
        frame = frame_of(message, listener.layouts)
        self.check_refusal(end, frame, or_ignored=True)

    @precondition(lambda self: len(self.asked) > 3)
    @rule(end=ENDS, cls=st.sampled_from([Bye, Error]))
    def give_up(self, end, cls):
        """Let an end end it."""
        self.say(end, word(cls, 0, self.ends[end].layouts))

    @precondition(lambda self: self.client.state is self.server.state is State.CLOSED)
    @rule()
    def reconnect(self):
        """Begin anew."""
        self.open(is_greeted=True)

    def hear_everything(self):
        while not self.is_quiet:
            self.hear("server")
            self.hear("client")

    def may_say(self, speaker, message):
        """Whether an end could say this now; asks the end and takes it back."""
        saved = {name: value for name, value in vars(speaker).items()}
        copies = {name: value.copy() for name, value in saved.items() if hasattr(value, "copy")}
        try:
            speaker.send(message)
        except LocalProtocolError:
            return False
        else:
            return True
        finally:
            vars(speaker).update(saved)
            vars(speaker).update(copies)

    def check_refusal(self, end, frame, *, or_ignored=False):
        listener = self.ends[end]
        before = snapshot(listener)
        was_open = listener.state is not State.CLOSED
        heard = None
        with contextlib.suppress(RemoteProtocolError):
            heard = listener.receive(bytearray(frame), listener.last_heard)
            assert or_ignored or not was_open
        assert heard is None or isinstance(heard, Repeated)
        assert snapshot(listener) == before

    # What is always so

    @invariant()
    def both_agree_when_nothing_is_on_its_way(self):
        if not self.is_quiet:
            return
        assert self.client.state is self.server.state
        if self.client.state is not State.CLOSED:
            assert self.client.layouts == self.server.layouts
            waiting = {i for i in self.asked if self.server.is_waiting_for(i)}
            client_waits = {i for i in self.asked if self.client.is_waiting_for(i)}
            assert client_waits == waiting - self.forgotten
            assert set(self.delivered) == set(self.asked)

    def teardown(self):
        if not hasattr(self, "ends"):
            return
        self.hear_everything()
        self.both_agree_when_nothing_is_on_its_way()


Conversation.TestCase.settings = settings(stateful_step_count=50)
TestConversation = Conversation.TestCase
TestConversation.__test__ = True


def test_release_and_ping_are_the_only_requests_out_of_band():
    """The machine knows two lanes; a third would need a thought."""
    assert {cls for cls in REPLIES if cls in OUT_OF_BAND} == {Ping, Release}
    assert {REPLIES[cls] for cls in (Ping, Release)} == {Pong, Released}
    assert set(REPLIES.values()) - CHANNEL_ANSWERS == {Pong, Released}
