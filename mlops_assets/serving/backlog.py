"""How many connections wait in the kernel to be accepted. A busy event loop of libuv accepts one in each turn, so that a flood of
new callers waits there, out of sight.
"""

import signal
import socket
import struct
import sys

import uvicorn

# tcpi_unacked in Linux's `struct tcp_info`, which of a listening socket is the length of its queue.
_UNACKED = struct.Struct("24xI")


def waiting_connections() -> int:
    """On the listening sockets of the uvicorn server that runs this process; 0 where there is none, or it cannot be told."""
    # Nobody hands the server to its application; it takes the signals.
    server = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    if sys.platform != "linux" or not isinstance(server, uvicorn.Server):
        return 0
    filenos = [one.fileno() for listening in getattr(server, "servers", ()) for one in listening.sockets]
    return sum(queue_length(fileno) for fileno in filenos if fileno >= 0)


def queue_length(fileno: int) -> int:
    """Connections that wait to be accepted on a listening TCP socket (Linux)."""
    with socket.fromfd(fileno, socket.AF_INET, socket.SOCK_STREAM) as listening:
        info = listening.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNACKED.size)
    return int(_UNACKED.unpack(info)[0])
