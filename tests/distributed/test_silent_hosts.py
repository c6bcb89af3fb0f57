"""The system probes the connections of a process."""

import os
import socket

from nextvec.distributed.silent_hosts import SILENCE_SECONDS, notice_silent_hosts


def test_all_connections_are_probed_and_stay_open():
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        accepted, _ = server.accept()
        reader, writer = os.pipe()
        notice_silent_hosts()
        for connection in (client, accepted):
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == SILENCE_SECONDS * 1000
            if hasattr(socket, "TCP_KEEPIDLE"):
                probes = [
                    connection.getsockopt(socket.IPPROTO_TCP, getattr(socket, option))
                    for option in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT")
                ]
                assert probes[0] + probes[1] * probes[2] == SILENCE_SECONDS
        # Nothing was closed on the way.
        os.write(writer, b"p")
        client.sendall(b"c")
        assert (os.read(reader, 1), accepted.recv(1)) == (b"p", b"c")
        accepted.close()
        os.close(reader)
        os.close(writer)
