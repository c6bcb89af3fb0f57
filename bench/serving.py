"""Measure the HTTP service: /v1/predict under 200 concurrent clients, next to an empty endpoint on the same server.

python bench/serving.py [--rounds N] [--requests N] [--clients N] [--threads 1]

The empty endpoint is a bare FastAPI application on the same uvicorn server: it reads the same bodies and returns {}.
Both take turns in one server process, which runs an untrained AMN with D = 768 and five context vectors. Each client
sends its next request when it has the answer to the last one. Ratios are given in wall-clock time, which the load
generator shares, and in CPU seconds of the server process. Bodies are JSON lists of the shortest decimals of float32,
JSON lists of their 17 digits, or .npy files.
"""

from __future__ import annotations

import argparse
import io
import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import orjson
import torch
from common import OUT, finish
from fastapi import FastAPI, Request

from nextvec.core.files import make_folder
from nextvec.data.space import Space
from nextvec.inference.model import LatentVectorModel
from nextvec.models.registry import model_from_config
from nextvec.serving.access_log import AccessLog
from nextvec.serving.app import make_app
from nextvec.serving.run import make_server
from nextvec.serving.service import Service
from nextvec.web.listen import bind

DIMENSIONS, CONTEXT, BODIES = 768, 5, 32
EMPTY, PREDICT = "/empty", "/v1/predict"


def make_model() -> LatentVectorModel:
    """Return an untrained AMN."""
    torch.manual_seed(0)
    network = model_from_config({"kind": "amn", "variant": "residual", "dimensions": DIMENSIONS})
    return LatentVectorModel(network, "amn", Space("toy", "1", DIMENSIONS), CONTEXT)


def run_server(threads: int) -> None:
    """Serve both endpoints until SIGTERM; print the port first."""
    torch.set_num_threads(threads)
    bare = FastAPI()

    @bare.post(EMPTY)
    async def empty(request: Request) -> dict:
        await request.body()
        return {}

    make_folder(OUT)
    service = Service()
    full = make_app(service, log=AccessLog(OUT / "serving-access.jsonl"))

    async def app(scope, receive, send) -> None:
        await (bare if scope["path"] == EMPTY else full)(scope, receive, send)

    listener = bind("127.0.0.1", 0)
    print(listener.getsockname()[1], flush=True)
    make_server(service, lambda: service.load(make_model(), None, "cpu"), app).run(sockets=[listener])


def make_bodies(kind: str) -> list[bytes]:
    """Return the bodies of several requests: JSON with short or long numbers, or .npy files."""
    vectors = np.random.default_rng(0).normal(size=(BODIES, CONTEXT, DIMENSIONS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=-1, keepdims=True)
    if kind == "npy":
        buffers = [io.BytesIO() for _ in vectors]
        for buffer, context in zip(buffers, vectors, strict=True):
            np.save(buffer, context)
        return [buffer.getvalue() for buffer in buffers]
    if kind == "json":
        return [orjson.dumps({"vectors": context}, option=orjson.OPT_SERIALIZE_NUMPY) for context in vectors]
    return [orjson.dumps({"vectors": context.tolist()}) for context in vectors]


class Client:
    """One keep-alive connection that sends a request whenever it has the answer to the last one."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.started, self.received, self.expected = 0.0, bytearray(), 0

    def send(self, request: bytes) -> None:
        """Send the next request."""
        self.started, self.received, self.expected = time.perf_counter(), bytearray(), 0
        self.socket.sendall(request)

    def read(self) -> bool:
        """Read what has arrived; return whether the response is complete. Raises ConnectionError if it was closed."""
        part = self.socket.recv(2**18)
        if not part:
            raise ConnectionError("closed")
        self.received += part
        if not self.expected and (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = bytes(self.received[:end]).lower()
            self.expected = end + 4 + int(head.partition(b"content-length:")[2].split(b"\r\n")[0])
        return bool(self.expected) and len(self.received) >= self.expected


def load(port: int, path: str, bodies: list[bytes], kind: str, clients: int, requests: int) -> tuple[float, list, int]:
    """Return the seconds, the latencies and the number of errors of `requests` requests."""
    media = "application/octet-stream" if kind == "npy" else "application/json"
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: {media}\r\nContent-Length: "
    messages = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
    selector, latencies, errors, sent = selectors.DefaultSelector(), [], 0, 0
    for _ in range(clients):
        client = Client(port)
        selector.register(client.socket, selectors.EVENT_READ, client)
    begin = time.perf_counter()
    for key in list(selector.get_map().values()):
        key.data.send(messages[sent % len(messages)])
        sent += 1
    while len(latencies) < requests:
        for key, _ in selector.select(30):
            client = key.data
            if not client.read():
                continue
            latencies.append(time.perf_counter() - client.started)
            errors += not client.received.startswith(b"HTTP/1.1 200")
            if sent < requests:
                client.send(messages[sent % len(messages)])
                sent += 1
            else:
                selector.unregister(client.socket)
                client.socket.close()
    return time.perf_counter() - begin, latencies, errors


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Return the memory of a process in MB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def measure(port: int, pid: int, kind: str, options: argparse.Namespace) -> dict:
    """Return the row of one kind of bodies: both endpoints in turns."""
    bodies = make_bodies(kind)
    rates, cpu, latencies, errors = {EMPTY: [], PREDICT: []}, {EMPTY: [], PREDICT: []}, [], 0
    for path in (EMPTY, PREDICT):
        load(port, path, bodies, kind, options.clients, 2 * options.clients)  # warms up
    memory = resident_mb(pid)
    for _ in range(options.rounds):
        for path in (EMPTY, PREDICT):
            before = cpu_seconds(pid)
            seconds, times, failed = load(port, path, bodies, kind, options.clients, options.requests)
            rates[path].append(options.requests / seconds)
            cpu[path].append(1e6 * (cpu_seconds(pid) - before) / options.requests)
            errors += failed
            latencies += times if path == PREDICT else []
    p50, p99 = np.percentile(latencies, [50, 99])
    middle = {path: (float(np.median(rates[path])), float(np.median(cpu[path]))) for path in rates}
    return {
        "body": kind,
        "bytes": len(bodies[0]),
        "empty req/s": middle[EMPTY][0],
        "predict req/s": middle[PREDICT][0],
        "of empty": middle[PREDICT][0] / middle[EMPTY][0],
        "empty CPU µs": middle[EMPTY][1],
        "predict CPU µs": middle[PREDICT][1],
        "of empty, CPU": middle[EMPTY][1] / middle[PREDICT][1],
        "p50 ms": 1000 * p50,
        "p99 ms": 1000 * p99,
        "p99 / p50": p99 / p50,
        "predict requests": len(latencies),
        "errors": errors,
        "MB before": memory,
        "MB after": resident_mb(pid),
    }


def main() -> None:
    """Measure and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true", help="run the server only")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--requests", type=int, default=4000, help="requests per round and endpoint")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="threads of the model")
    parser.add_argument("--bodies", nargs="*", default=["json", "long-json", "npy"])
    options, _ = parser.parse_known_args()
    if options.serve:
        run_server(options.threads)
        return
    command = [sys.executable, __file__, "--serve", "--threads", str(options.threads)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        wait_until_ready(port)
        rows = [measure(port, server.pid, kind, options) for kind in options.bodies]
    finally:
        server.terminate()
        server.wait(10)
    finish("serving", rows, clients=options.clients, rounds=options.rounds)


def wait_until_ready(port: int) -> None:
    """Wait until the model is loaded."""
    for _ in range(600):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(f"GET /readyz HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
            if connection.recv(2**16).startswith(b"HTTP/1.1 200"):
                return
        time.sleep(0.1)
    raise RuntimeError("the server did not start")


if __name__ == "__main__":
    main()
