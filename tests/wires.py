"""What is below a connection, of either way to carry frames: its socket, and what waits for it."""

import os

import numpy as np


class ByHand:
    """A peer whose bytes are written by hand.

    Has a ``sock``, and in ``_reading`` the library's protocol for what comes.
    """

    def say(self, *pieces):
        for piece in pieces:
            self.sock.sendall(piece)

    def hear(self, count=1):
        """Return the next frames; breaks if what comes is not one after the other."""
        frames = self._reading.events_received()
        while len(frames) < count:
            data = self.sock.recv(1 << 20)
            assert data, f"the end, after {frames}"
            self._reading.receive_data(data)
            assert self._reading.parser_exc is None
            frames += self._reading.events_received()
        return frames


def client_socket(link):
    """The socket of a link."""
    return link._sock if hasattr(link, "_sock") else link._connection.socket


def server_sockets(server):
    """The sockets of all connections to a server."""
    return [
        connection.sock
        if hasattr(connection, "sock")
        else connection.transport.get_extra_info("socket")
        for connection in list(server._listeners[0]._connections)
    ]


def waiting_for(sink):
    """How many bytes wait in this process to be sent to a peer."""
    if hasattr(sink, "_outbox"):
        return sink._outbox.size
    return sink._connection.transport.get_write_buffer_size()


def knows_its_end(link):
    """Whether a link that ended knows it; in the fast lane that is when it is used."""
    return hasattr(link, "_sock") or link._connection.protocol.close_code is not None


def mappings(pid="self"):
    """How often a process has a segment of shared memory mapped or open."""
    with open(f"/proc/{pid}/maps") as maps:
        count = maps.read().count("memfd:remote-env")
    for file in os.listdir(f"/proc/{pid}/fd"):
        try:
            count += "memfd:remote-env" in os.readlink(f"/proc/{pid}/fd/{file}")
        except FileNotFoundError:  # that of the listing
            continue
    return count


def lies_in_shared_memory(frame):
    """Whether a frame, or an array, lies in memory that both ends share."""
    place = np.asarray(frame).ctypes.data
    with open("/proc/self/maps") as maps:
        for line in maps:
            first, last = (int(end, 16) for end in line.split()[0].split("-"))
            if first <= place < last:
                return "memfd:remote-env" in line
    return False
