"""Messages that fit a moment of a conversation, for the tests of connections."""

import numpy as np

from remote_env.protocol import (
    ArraySpec,
    Bye,
    Cancel,
    EmergencyStop,
    EmergencyStopped,
    Error,
    GetStatistics,
    Heartbeat,
    Hello,
    Layouts,
    Message,
    Observation,
    Observe,
    Observing,
    OnStale,
    Ping,
    Pong,
    Probe,
    Probed,
    Progress,
    Release,
    Released,
    ReleaseStop,
    Reset,
    ResetDone,
    Statistics,
    Step,
    StepDone,
    StopReleased,
    Subscribe,
    Subscribed,
    Welcome,
)

__all__ = ["STREAMS", "welcome", "word"]

STREAMS = (
    ArraySpec("a", np.dtype("<f4"), (3,)),
    ArraySpec("b", np.dtype("|u1"), (2, 2)),
    ArraySpec("c", np.dtype("<i8"), ()),
)


def welcome(
    *,
    subscribed: tuple[str, ...] = ("a", "b"),
    frame_size: int = 1 << 17,
    resumed: bool = False,
) -> Welcome:
    """Return the answer to the hello with the id 1."""
    return word(Welcome, 1, Layouts(), subscribed, frame_size, resumed=resumed)


def word(
    message_class: type[Message],
    message_id: int,
    layouts: Layouts,
    streams: tuple[str, ...] = ("a", "b"),
    frame_size: int = 1 << 17,
    *,
    resumed: bool = False,
    asking: int = 0,
) -> Message:
    """Return a message of this class whose arrays are those agreed."""
    observation = tuple(np.zeros(spec.shape, spec.dtype) for spec in layouts.observation)
    outcome = {
        "id": message_id,
        "episode": 1,
        "tick": 3,
        "time": 0.5,
        "sequences": (),
        "stamps": (),
        "received": 10.0,
        "sent": 10.5,
        "durations": (),
        "info": {},
        "remote": {},
        "observation": observation,
    }
    match message_class.__name__:
        case "Hello":
            names = {"role": "control", "owner": "o", "process": "p", "client": "c"}
            return Hello(message_id, **names, token=None, resume=None, asking=asking)
        case "Welcome":
            return Welcome(
                id=message_id,
                session="s",
                resumed=resumed,
                server="s",
                spec_hash="h",
                capabilities=(),
                max_frame_size=frame_size,
                streams=STREAMS,
                subscribed=streams,
                action=STREAMS[:1],
                metadata={},
            )
        case "Subscribe":
            return Subscribe(message_id, streams=streams, max_ages={}, on_stale=OnStale.FLAG)
        case "Subscribed":
            return Subscribed(message_id, streams=streams)
        case "Reset":
            return Reset(message_id, seed=None, options=None, take=False, max_steps=None)
        case "ResetDone":
            return ResetDone(**outcome)
        case "Step":
            action = tuple(np.zeros(spec.shape, spec.dtype) for spec in layouts.action)
            return Step(message_id, episode=1, step=1, tick=3, dtypes=(), action=action)
        case "StepDone":
            ends = {"terminated": False, "truncated": False, "end_reason": None}
            return StepDone(**outcome, **ends, step=1, reward=0.0)
        case "Pong":
            return Pong(message_id, time=0.5)
        case "Error":
            return Error(message_id, code="robot", message="no", retryable=False)
        case "Bye":
            return Bye(reason="", id=message_id)
        case "Cancel":
            return Cancel(request=2, id=message_id)
        case "Progress":
            return Progress(message_id, fraction=0.5, text="homing")
        case "EmergencyStop":
            return EmergencyStop(message_id, reason="")
        case "StopReleased":
            return StopReleased(message_id, was_pressed=True)
        case "Statistics":
            return Statistics(message_id, values={})
        case "Probe":
            return Probe(message_id, size=3)
        case "Probed":
            return Probed(message_id, padding=bytes(3))
        case "Observe":
            return Observe(message_id, hz=30.0)
        case "Observation":
            seen = {name: outcome[name] for name in outcome.keys() & _SEEN}
            return Observation(**seen, step=1, dropped=0)
    assert message_class in _PLAIN
    return message_class(message_id)


_SEEN = {"id", "episode", "time", "sequences", "stamps", "sent", "remote", "observation"}
_PLAIN = {
    *(Release, Released, Ping, Heartbeat),
    *(EmergencyStopped, ReleaseStop, GetStatistics, Observing),
}
