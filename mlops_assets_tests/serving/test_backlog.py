"""Connections that wait to be accepted."""

import socket
import sys
from contextlib import ExitStack

import pytest

from mlops_assets.serving.backlog import queue_length, waiting_connections


@pytest.mark.skipif(sys.platform != "linux", reason="the length of the queue is told by Linux alone")
def test_those_that_are_not_accepted_yet_are_counted():
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=50))
        for _ in range(20):
            stack.enter_context(socket.create_connection(listening.getsockname()))
        assert queue_length(listening.fileno()) == 20
        stack.enter_context(listening.accept()[0])
        assert queue_length(listening.fileno()) == 19


def test_without_a_server_nobody_waits():
    assert waiting_connections() == 0
