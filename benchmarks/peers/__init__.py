"""The same step in the ways that people build it: an action of 7 float32 there, arrays back.

Each module has ``serve(tell, observation, **options)``, which tells its address once and then
answers for ever, and ``connect(address, observation, **options)``, a context that gives a
function from action to observation: a dict of arrays by name. Each is used as its documentation
recommends; ``how`` says in which way. Compression is off where there is any.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from numpy.typing import NDArray

from benchmarks.payloads import Arrays

__all__ = ["OURS", "PEERS", "RAW", "SHARED", "Peer", "Step", "Tell", "all_needs"]

Step: TypeAlias = Callable[[NDArray[Any]], Arrays]
Tell: TypeAlias = Callable[[Any], None]


@dataclass(frozen=True)
class Peer:
    """One way to make a step.

    Attributes:
        name: For tables.
        module: In this package.
        how: In one line, for people who want to judge whether that is fair.
        needs: What must be installed: the name to import, and the name to install.
        options: For ``serve`` and ``connect``.
        malloc: Whether its processes keep large buffers (``mallopt``), which is not the default.
    """

    name: str
    module: str
    how: str
    needs: dict[str, str] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    malloc: bool = False

    @property
    def missing(self) -> str:
        """What would have to be installed; empty if nothing."""
        names = [dist for name, dist in self.needs.items() if not importlib.util.find_spec(name)]
        return ", ".join(names)

    def serve(self, tell: Tell, observation: Arrays) -> None:
        """Answer for ever; tell the address first."""
        self._module().serve(tell, observation, **self.options)

    def connect(self, address: Any, observation: Arrays) -> AbstractContextManager[Step]:
        """Return a context that gives a function from action to observation."""
        found: AbstractContextManager[Step] = self._module().connect(
            address, observation, **self.options
        )
        return found

    def _module(self) -> Any:
        return importlib.import_module(f"benchmarks.peers.{self.module}")


RAW: Final = Peer(
    "raw TCP",
    "raw_tcp",
    "blocking sockets, NODELAY, `sendall` there, `recv_into(MSG_WAITALL)` of the same bytes back "
    "into one buffer; no arrays are made",
)
OURS: Final = Peer(
    "ours",
    "ours",
    "`RemoteRobotEnv(url).step(action)`: action guard, lease, `info` and owned, writable arrays; "
    "over TCP, `REMOTE_ENV_SHARED_MEMORY=0`",
)
SHARED: Final = Peer(
    "ours, shared memory",
    "ours",
    "the same, as it is when learner and robot are on one machine",
    options={"shares": True},
)
_ALL = (
    SHARED,
    Peer(
        "openpi's way",
        "openpi",
        "written by us as openpi does it: `websockets.sync.client` and "
        "`websockets.asyncio.server`, `compression=None, max_size=None`, msgpack with a hook for "
        "numpy (`tobytes`), one message each way",
    ),
    Peer(
        "openpi's way, mallopt",
        "openpi",
        "the same; both processes call `mallopt(M_MMAP_THRESHOLD, 32 MiB)` and "
        "`mallopt(M_TRIM_THRESHOLD, 1 GiB)` first",
        malloc=True,
    ),
    Peer(
        "openpi-client",
        "openpi",
        "the package's own `WebsocketClientPolicy(host, port).infer(...)` and `msgpack_numpy`; "
        "the server as in openpi",
        {"openpi_client": "openpi-client"},
        {"real": True},
    ),
    Peer(
        "gRPC unary",
        "grpc_protobuf",
        "`grpc.server(ThreadPoolExecutor(4))`, insecure channel, no limit of size; protobuf "
        "messages whose arrays are `bytes`, by the C implementation (upb); `np.frombuffer`",
        {"grpc": "grpcio", "google.protobuf": "protobuf"},
    ),
    Peer(
        "gRPC stream",
        "grpc_protobuf",
        "the same, one bidirectional stream for all steps",
        {"grpc": "grpcio", "google.protobuf": "protobuf"},
        {"streams": True},
    ),
    Peer(
        "pyzmq",
        "zeromq",
        "REQ/REP over tcp, multipart: a small msgpack header and one part for each array, "
        "`copy=False` both ways, `np.frombuffer` of the parts",
        {"zmq": "pyzmq"},
    ),
    Peer(
        "websockets, raw bytes",
        "plain_websockets",
        "`websockets.sync.client` and `websockets.asyncio.server`, one binary message of joined "
        "bytes, `np.frombuffer` at offsets that both know: no serialisation at all",
    ),
    Peer(
        "websockets, mallopt",
        "plain_websockets",
        "the same after `mallopt` in both processes",
        malloc=True,
    ),
    Peer(
        "aiohttp",
        "aiohttp_websocket",
        "`web.WebSocketResponse(compress=False)` and `ClientSession.ws_connect`, joined bytes; "
        "the synchronous step is `loop.run_until_complete`",
        {"aiohttp": "aiohttp"},
    ),
    Peer(
        "picows",
        "picows_websocket",
        "`ws_create_server` and `ws_connect` on uvloop, joined bytes; the synchronous step is "
        "`loop.run_until_complete`",
        {"picows": "picows", "uvloop": "uvloop"},
    ),
    Peer(
        "rpyc",
        "rpyc_service",
        "`ThreadedServer`, a service with an exposed `step` that returns tuples of bytes, which "
        "go by value",
        {"rpyc": "rpyc"},
    ),
    Peer(
        "AsyncVectorEnv of one",
        "vector_env",
        "`gymnasium.vector.AsyncVectorEnv([make])`, shared memory and its default copies: no "
        "network, one machine only",
    ),
)
PEERS: Final[dict[str, Peer]] = {peer.name: peer for peer in _ALL}


def all_needs() -> list[str]:
    """Return the names of all packages that peers need."""
    return sorted({dist for peer in _ALL for dist in peer.needs.values()})
