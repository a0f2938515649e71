"""Both ends of a connection to the fast lane's listener, for its tests: a raw socket, a handler."""

import contextlib
import queue
import socket
import threading

from websockets.client import ClientProtocol
from websockets.frames import Close, Frame, Opcode
from websockets.protocol import OPEN
from websockets.uri import parse_uri
from wires import ByHand

from remote_env_server.mailbox import Mailbox

MOST = 1 << 20
REQUEST = (
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
    b"Sec-WebSocket-Protocol: remote-robot-env\r\n%s\r\n"
)
MUCH = 32 << 20  # more than the buffers of the system hold


class ServerEnd:
    """A handler that remembers what it is told, and answers if it is told to."""

    def __init__(self, sink):
        self.sink = sink
        self.frames = queue.SimpleQueue()
        self.ended = threading.Event()
        self.reason = ""

    def on_frame(self, frame):
        if frame == b"fail":
            raise ValueError("a bug, on purpose")
        self.frames.put(bytes(frame))

    def on_close(self, reason):
        assert not self.ended.is_set(), "told twice"
        self.reason = reason
        self.ended.set()
        if reason == "fail (3000)":
            raise ValueError("another bug, on purpose")

    def get(self):
        return self.frames.get(timeout=5)


class Follower:
    """A thread that reads what peers send, whenever it is lent to it."""

    def __init__(self):
        self.mailbox = Mailbox()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name="follower")
        self._thread.start()

    @property
    def ident(self):
        return self._thread.ident

    def _run(self):
        while not self._is_over:
            self.mailbox.get()
        self.mailbox.close()

    def stop(self):
        self._is_over = True
        self.mailbox.put(None)
        self._thread.join()


class Peer(ByHand):
    """A client by hand."""

    def __init__(self, listener, *, shakes=True, headers=b""):
        self.sock = socket.create_connection((listener.host, listener.port), timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        uri = parse_uri("ws://127.0.0.1")
        self._reading = ClientProtocol(uri, state=OPEN, max_size=MUCH + 1)
        if shakes:
            self.sock.sendall(REQUEST % headers)
            self.hear_answer()
            self.end = listener.ends.get(timeout=5)

    def hear_answer(self):
        """Read the answer to the handshake; return its first line."""
        data = b""
        while b"\r\n\r\n" not in data:
            some = self.sock.recv(4096)
            assert some, data
            data += some
        head, _, behind = data.partition(b"\r\n\r\n")
        self._reading.receive_data(behind)
        return head.split(b"\r\n")[0]

    def hear_close(self):
        (frame,) = self.hear()
        assert frame.opcode is Opcode.CLOSE
        close = Close.parse(frame.data)
        return close.code, close.reason

    def hear_end(self):
        """Wait for the end, whichever it is."""
        with contextlib.suppress(ConnectionResetError):
            while self.sock.recv(1 << 20):
                pass


def frame(data=b"", opcode=Opcode.BINARY, fin=True):
    return Frame(opcode, data, fin).serialize(mask=True)


def payload_of_close(code):
    return Close(code, "").serialize()
