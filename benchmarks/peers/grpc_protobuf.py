"""gRPC with protobuf, unary or as a stream.

The messages are described in Python, as protoc would describe them, so no compiler is needed;
the classes and the method handlers are those that generated code would have.
"""

from __future__ import annotations

import contextlib
import functools
import queue
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from numpy.typing import NDArray

from benchmarks.payloads import Arrays
from benchmarks.peers import Step, Tell

SERVICE = "bench.Robot"
NO_LIMIT = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
Field = descriptor_pb2.FieldDescriptorProto


@functools.cache
def messages() -> tuple[Any, Any]:
    """Return the classes of an action and of an answer."""
    file = descriptor_pb2.FileDescriptorProto(name="bench.proto", package="bench", syntax="proto3")
    fields: dict[str, tuple[tuple[str, Any, bool, str], ...]] = {
        "Array": (
            ("name", Field.TYPE_STRING, False, ""),
            ("dtype", Field.TYPE_STRING, False, ""),
            ("shape", Field.TYPE_INT64, True, ""),
            ("data", Field.TYPE_BYTES, False, ""),
        ),
        "Action": (("array", Field.TYPE_MESSAGE, False, ".bench.Array"),),
        "StepDone": (
            ("arrays", Field.TYPE_MESSAGE, True, ".bench.Array"),
            ("reward", Field.TYPE_DOUBLE, False, ""),
            ("terminated", Field.TYPE_BOOL, False, ""),
            ("truncated", Field.TYPE_BOOL, False, ""),
        ),
    }
    for name, described in fields.items():
        message = file.message_type.add(name=name)
        for number, (field, kind, is_repeated, type_name) in enumerate(described, 1):
            label = Field.LABEL_REPEATED if is_repeated else Field.LABEL_OPTIONAL
            refers = {"type_name": type_name} if type_name else {}
            message.field.add(name=field, number=number, type=kind, label=label, **refers)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"bench.{name}") for name in ("Action", "StepDone")]
    action, done = (message_factory.GetMessageClass(one) for one in found)
    return action, done


def serve(tell: Tell, observation: Arrays, streams: bool = False) -> None:
    """Serve both methods."""
    action_class, done_class = messages()

    def answer(request: Any, context: Any) -> Any:
        np.frombuffer(request.array.data, request.array.dtype)
        done = done_class(reward=0.0)
        for name, array in observation.items():
            data = array.tobytes()
            done.arrays.add(name=name, dtype=array.dtype.str, shape=array.shape, data=data)
        return done

    def answer_all(requests: Iterator[Any], context: Any) -> Iterator[Any]:
        for request in requests:
            yield answer(request, context)

    ends = {
        "request_deserializer": action_class.FromString,
        "response_serializer": done_class.SerializeToString,
    }
    handlers = {
        "Step": grpc.unary_unary_rpc_method_handler(answer, **ends),
        "Steps": grpc.stream_stream_rpc_method_handler(answer_all, **ends),
    }
    server = grpc.server(ThreadPoolExecutor(max_workers=4), options=NO_LIMIT)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tell(port)
    threading.Event().wait()


@contextlib.contextmanager
def connect(address: int, observation: Arrays, streams: bool = False) -> Iterator[Step]:
    """Call one of them."""
    action_class, done_class = messages()
    ends = {
        "request_serializer": action_class.SerializeToString,
        "response_deserializer": done_class.FromString,
    }

    def request_of(action: NDArray[Any]) -> Any:
        array = {"dtype": action.dtype.str, "shape": action.shape, "data": action.tobytes()}
        return action_class(array=array)

    with grpc.insecure_channel(f"127.0.0.1:{address}", options=NO_LIMIT) as channel:
        if not streams:
            unary = channel.unary_unary(f"/{SERVICE}/Step", **ends)
            yield lambda action: _arrays(unary(request_of(action)))
            return
        requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        replies = channel.stream_stream(f"/{SERVICE}/Steps", **ends)(iter(requests.get, None))

        def step(action: NDArray[Any]) -> Arrays:
            requests.put(request_of(action))
            return _arrays(next(replies))

        yield step
        requests.put(None)


def _arrays(done: Any) -> Arrays:
    return {
        one.name: np.frombuffer(one.data, one.dtype).reshape(tuple(one.shape))
        for one in done.arrays
    }
