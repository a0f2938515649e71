"""Messages that fit a moment of a conversation, for the tests of connections."""

import numpy as np

from remote_env.protocol import (
    ArraySpec,
    Bye,
    Error,
    Heartbeat,
    Hello,
    Layouts,
    Message,
    Ping,
    Pong,
    Release,
    Released,
    Reset,
    ResetDone,
    Step,
    StepDone,
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


def welcome(*, subscribed: tuple[str, ...] = ("a", "b"), frame_size: int = 1 << 17) -> Welcome:
    """Return the answer to the hello with the id 1."""
    return word(Welcome, 1, Layouts(), subscribed, frame_size)


def word(
    message_class: type[Message],
    message_id: int,
    layouts: Layouts,
    streams: tuple[str, ...] = ("a", "b"),
    frame_size: int = 1 << 17,
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
        "info": {},
        "remote": {},
        "observation": observation,
    }
    match message_class.__name__:
        case "Hello":
            return Hello(message_id, role="control", token=None, owner="o", process="p", client="c")
        case "Welcome":
            return Welcome(
                id=message_id,
                session="s",
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
            return Subscribe(message_id, streams=streams)
        case "Subscribed":
            return Subscribed(message_id, streams=streams)
        case "Reset":
            return Reset(message_id, seed=None, options=None, take=False)
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
    assert message_class in (Release, Released, Ping, Heartbeat)
    return message_class(message_id)
