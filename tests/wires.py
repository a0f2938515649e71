"""What is below a connection, of either way to carry frames: its socket, and what waits for it."""


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
