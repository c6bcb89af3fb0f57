"""A `nextvec` for tests that starts in milliseconds instead of seconds: a fork of a process that has imported it.

`write_program` writes the program, which can be used wherever `nextvec` is typed. It asks the server, which
`python fork_server.py SOCKET` starts, for a fork with its arguments, folder, environment and standard streams, hands
on the signals that it gets, and ends as the fork ends. If it is killed, so is the fork.
"""

import atexit
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import stat
import sys
import threading
from contextlib import suppress
from pathlib import Path

import nextvec
from narrow_networks import narrow
from nextvec.cli import main

PROGRAM = """#!{python} -IS
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect({path!r})
socket.send_fds(connection, [b"s"], [0, 1, 2])
request = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(number) != signal.SIG_IGN:
        signal.signal(number, lambda number, _: connection.sendall(bytes([number])))
connection.sendall(json.dumps(request).encode() + b"\\n")
code = int(connection.recv(16) or 70)
if code < 0:
    signal.signal(-code, signal.SIG_DFL) if code not in (-9, -19) else None
    os.kill(os.getpid(), -code)
os._exit(code)
"""
NARROW = "NEXTVEC_TESTS_NARROW"
"""A command with this variable in its environment has narrow networks (narrow_networks.py)."""


def write_program(path: Path, address: Path) -> None:
    """Write the program that has its commands run by the server at an address."""
    path.write_text(PROGRAM.format(python=sys.executable, path=str(address)), encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def serve(address: str) -> None:
    """Fork for each program that connects, until standard input is closed."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(address)
        server.listen()
        print("ready", flush=True)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a keeper
        while sys.stdin not in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            if not os.fork():
                server.close()
                keep(connection)
            connection.close()


def keep(connection: socket.socket) -> None:
    """Fork a command, hand its signals on to it, and say how it ended; only the command's process returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _, streams, _, _ = socket.recv_fds(connection, 1, 3)
    request = b""
    while not request.endswith(b"\n"):
        request += connection.recv(1 << 16)
    command = os.fork()
    if not command:
        connection.close()
        run(json.loads(request), streams)
    for stream in streams:
        os.close(stream)

    def hand_on() -> None:
        with suppress(ProcessLookupError):
            while numbers := connection.recv(1):
                os.kill(command, numbers[0])
            os.kill(command, signal.SIGKILL)

    threading.Thread(target=hand_on, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])
    with suppress(BrokenPipeError):  # the program was killed
        connection.sendall(str(code).encode())
    os._exit(0)


def run(request: dict, streams: list[int]) -> None:
    """Become the command, to its end. Only what the interpreter frees is left to the system: that takes seconds."""
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if NARROW in os.environ:
        narrow(setattr)
    sys.argv[:] = ["nextvec", *request["words"]]
    code = main()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(code)


def import_everything() -> None:
    """Import what commands import when they need it, apart from the packages of services and trackers."""
    importlib.import_module("torch._dynamo")  # by every optimizer
    for module in pkgutil.walk_packages(nextvec.__path__, "nextvec."):
        if not {"__main__", "serving", "trackers"} & set(module.name.split(".")):
            importlib.import_module(module.name)


if __name__ == "__main__":
    import_everything()
    serve(sys.argv[1])
