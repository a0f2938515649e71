"""Whatever is said by whomever, repeated, lost or damaged: both ends agree.

Two real ends, joined by queues of frames. The rule that matters most needs no model: what
one end lets out, the other end takes in. When the transport is lost, what was on its way is
lost with it; two new ends go on, and the request without an answer is asked again.
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
    Cancel,
    Connection,
    EmergencyStop,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Message,
    Observation,
    Observe,
    Ping,
    Pong,
    Probe,
    Progress,
    Release,
    ReleaseStop,
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
# What keeps a conversation going is likelier than what ends it.
USUAL = st.sampled_from(
    [Reset, Progress, ResetDone, Step, StepDone, Subscribe, Subscribed, Ping, Pong]
)
ANY = st.sampled_from(list(MESSAGES.values()))
REQUESTS = st.sampled_from(
    [Subscribe, Reset, Reset, Step, Step, Step, Ping, Release, EmergencyStop, GetStatistics]
)
UNASKED = (Heartbeat, Bye, Cancel, Observation)
TURNS = st.tuples(REQUESTS, st.sampled_from([False, False, False, True]))
CHOICES = st.sampled_from([("a", "b"), ("c",), (), ("b", "c", "a"), ("nope",), ("a", "a")])


LANES = st.sampled_from(["hello", "channel", "out of band"])


def lane_of(request_class):
    if request_class is Hello:
        return "hello"
    return "out of band" if request_class in OUT_OF_BAND else "channel"


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
        # Asked over a transport that was lost: what need not come, and what nobody waits for.
        self.lost: set[int] = set()
        self.given_up: set[int] = set()
        self.said_bye = False
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

    def latest(self, lane):
        """Return the newest request of a lane that may be asked again."""
        of_lane = [
            i
            for i, (cls, _) in self.asked.items()
            if lane_of(cls) == lane and i not in self.given_up
        ]
        return max(of_lane, default=0)

    def fitting_id(self, cls):
        """Return the id with which a message would be right, if any is."""
        if cls in REPLIES:
            return self.client.next_id()
        waiting = [i for i in self.asked if self.server.is_waiting_for(i)]
        if cls is Error:
            return waiting[0] if waiting else 0
        request = {Progress: ResetDone}.get(cls, cls)
        fits = [i for i in waiting if REPLIES[self.asked[i][0]] is request]
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
        elif cls in UNASKED or (cls is Error and message.id == 0):
            assert message.id == 0
            self.said_bye |= cls is Bye
        elif cls is Progress:
            assert self.asked[message.id][0] is Reset
            assert message.id not in self.answers
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
            streams = self.chosen.get(request_id, ("a", "b"))
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

    @rule(lane=LANES)
    def ask_again(self, lane):
        """Send the newest request once more, as one does who lost the answer."""
        request_id = self.latest(lane)
        if request_id and self.server.state is not State.CLOSED:
            self.queues["server"].append(self.asked[request_id][1])

    @rule(lane=LANES)
    def lose_an_answer(self, lane):
        """Lose the answer to the newest request; the client asks again."""
        request_id = self.latest(lane)
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

    @precondition(lambda self: self.client.layouts.action and not self.said_bye)
    @rule(
        is_resumed=st.sampled_from([True, True, True, False]),
        also_lost=st.lists(st.sampled_from(["hello", "welcome"]), max_size=2),
        presses_stop=st.booleans(),
        closes=st.booleans(),
    )
    def lose_the_transport(self, is_resumed, also_lost, presses_stop, closes):
        """Lose all that is on its way; go on with new ends, or begin anew.

        Args:
            is_resumed: Whether the server still knows the session.
            also_lost: Handshakes that are lost as well, by what was lost of them.
            presses_stop: Whether the client presses the emergency stop before the Welcome.
            closes: Whether the client noted that the transport is gone.
        """
        if closes:
            self.client.close()
        self.lose_what_is_on_its_way()
        for fate in [*also_lost, "arrives"]:
            self.greet_again(is_resumed, fate, presses_stop=presses_stop)
        self.check_resumed(is_resumed)

    def lose_what_is_on_its_way(self):
        for queue in self.queues.values():
            queue.clear()
        for i, (cls, _) in self.asked.items():
            if cls is Observe or lane_of(cls) != "channel":
                self.given_up.add(i)
                if not self.delivered[i]:
                    self.lost.add(i)

    def greet_again(self, is_resumed, fate, *, presses_stop):
        """Let two new ends greet each other; what is lost of that, the next two make good."""
        before, client = self.server, Connection(Role.CLIENT, now=0.0)
        asking = self.client.unanswered
        self.waited_for = asking
        client.adopt(self.client, asking=asking)
        self.ends["client"] = client
        hello_id = client.next_id()
        self.say("client", word(Hello, hello_id, client.layouts, asking=asking))
        if presses_stop:
            self.say("client", word(EmergencyStop, client.next_id(), client.layouts))
        if fate == "hello":
            self.lose_what_is_on_its_way()
            return
        self.ends["server"] = Connection(Role.SERVER, now=0.0)
        self.hear("server")
        if is_resumed:
            self.server.adopt(before, asking=asking)
        self.say("server", word(Welcome, hello_id, self.server.layouts, resumed=is_resumed))
        if fate == "welcome":
            if presses_stop:
                self.hear("server")
            self.lose_what_is_on_its_way()
            return
        self.hear("client")

    def check_resumed(self, is_resumed):
        """What had no answer is asked again; where nobody knows of it, it is forgotten."""
        if not is_resumed:
            assert self.client.state is self.server.state is State.READY
            known = [i for i in self.asked if self.client.is_waiting_for(i)]
            newest = max(i for i, (cls, _) in self.asked.items() if cls is Hello)
            assert all(i > newest for i in known)
            self.given_up |= {i for i in self.asked if i < newest}
            self.lost |= {i for i in self.asked if i < newest and not self.delivered[i]}
        elif self.waited_for:
            assert self.client.unanswered == self.waited_for
            self.queues["server"].append(self.asked[self.waited_for][1])
        else:
            assert self.client.state is self.server.state

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
            assert client_waits == waiting - self.forgotten - self.given_up
            assert set(self.delivered) == set(self.asked) - self.lost

    def teardown(self):
        if not hasattr(self, "ends"):
            return
        self.hear_everything()
        self.both_agree_when_nothing_is_on_its_way()


Conversation.TestCase.settings = settings(stateful_step_count=50)
TestConversation = Conversation.TestCase
TestConversation.__test__ = True


def test_these_are_the_requests_out_of_band():
    """The machine knows three lanes; a fourth would need a thought."""
    out_of_band = {cls for cls in REPLIES if cls in OUT_OF_BAND}

    assert out_of_band == {Ping, Release, EmergencyStop, ReleaseStop, GetStatistics, Probe}
    assert {lane_of(cls) for cls in set(REPLIES) - out_of_band} == {"hello", "channel"}
