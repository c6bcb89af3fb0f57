"""Attacks on the live page: path traversal, malformed requests, slow clients and foreign hosts.

The full number of random requests runs with `pytest -m long tests/monitor`.
"""

import json
import random
import socket
from pathlib import Path

import pytest

SECRET = "the canary of test_attacks"
QUICK, LONG = 400, 10_000
TRAVERSALS = (
    "..", "../..", "../secret.txt", "../../secret.txt", "..\\secret.txt", "....//secret.txt", "..;/secret.txt",
    "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "..%2fsecret.txt", "..%5csecret.txt", "%252e%252e%252fsecret.txt",
    "..%c0%afsecret.txt", "..%ef%bc%8fsecret.txt", "%c0%ae%c0%ae/secret.txt", "..%00/secret.txt", "secret.txt%00.js",
    "./secret.txt", "/secret.txt", "//secret.txt", "\\\\secret.txt", "/etc/passwd", "../../../../../../etc/passwd",
    "file:///etc/passwd", "/proc/self/environ", "../events.jsonl", "events.jsonl", "recipe.toml", "best_model.pt",
    "link/secret.txt", "~/secret.txt", "$HOME/secret.txt", "`cat secret.txt`", "|cat secret.txt", "secret.txt?x=.js",
    "secret.txt#page.css", "page.css/../../secret.txt", "page.css%2f..%2fsecret.txt", "a/../../secret.txt", "%2f%2e%2e",
)  # fmt: skip


@pytest.fixture
def listed_run(make_events, write_run, tmp_path) -> Path:
    """Return a listed run with secrets in it, next to it, above it, and behind links."""
    run = write_run("listed", make_events(2))
    outside = tmp_path / "secret.txt"
    outside.write_text(SECRET)
    (run / "secret.txt").write_text(SECRET)
    (run.parent / "secret.txt").write_text(SECRET)
    (run / "link").symlink_to(tmp_path)
    (run / "report.html").symlink_to(outside)
    return run


def send(port: int, request: bytes, timeout: float = 20.0) -> bytes:
    """Send bytes to the server and return its response."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
                if len(answer) > 2**24:
                    break
        except (ConnectionError, TimeoutError):
            pass  # the server may close the connection in the middle of a request
        return answer


def status_of(answer: bytes) -> int | None:
    """Return the status of a response; None if there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def get(port: int, target: str) -> bytes:
    line = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    return send(port, line.encode("latin-1", "replace"))


@pytest.mark.parametrize("path", TRAVERSALS)
def test_path_traversal_reaches_no_file(serve, listed_run, path):
    served = serve()
    listed = served.wait_for(listed_run)
    targets = [
        f"/assets/{path}", f"/{path}", f"/report?id={path}", f"/report?id={listed}/{path}", f"/api/run?id={path}",
        f"/api/run?id={listed}/{path}", f"/report?id={listed}",
    ]  # fmt: skip
    for target in targets:
        answer = get(served.port, target)
        status = status_of(answer)
        assert SECRET.encode() not in answer, target
        assert b"root:" not in answer, target
        # A browser drops a fragment before it sends the request; then the target is the page itself.
        assert status is None or 400 <= status < 500 or target.split("?")[0].split("#")[0] in ("/", "//"), target
    overlay = get(served.port, f"/api/overlay?id={path}")
    assert SECRET.encode() not in overlay
    if status_of(overlay) == 200:
        assert json.loads(overlay.partition(b"\r\n\r\n")[2])["versions"] == {}


METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"", b"G\0T")
PATHS = (b"/", b"/stream/", b"/api/run", b"/api/overlay", b"/report", b"/assets/", b"/assets/page.css", b"*", b"")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"http")


def draw_request(dice: random.Random, port: int) -> bytes:
    """Return a request with random errors."""

    def noise(max_bytes: int) -> bytes:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(max_bytes)))

    target = dice.choice(PATHS)
    if dice.random() < 0.5:
        target += b"?id=" + dice.choice([noise(40).hex().encode(), noise(20), b"%" + noise(3), b"&id=" * 50])
    if dice.random() < 0.2:
        target += noise(30)
    if dice.random() < 0.02:
        target += b"a" * 100_000
    loopback = f"127.0.0.1:{port}".encode()
    host = dice.choice(
        [loopback] * 6 + [b"evil.example", b"127.0.0.1.evil.example", b"[::", b"", noise(12), b"localhost:x"]
    )
    headers = [b"Host: " + host, b"Connection: close"]
    extra = (
        b"Content-Length: 5", b"Content-Length: -1", b"Content-Length: 99999999999999999999",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: identity, chunked", b"Cookie: " + noise(40), b"Range: bytes=0-", b"Upgrade: websocket",
        b"Expect: 100-continue", b"X: " + noise(60), b"If-None-Match: *", b"Accept-Encoding: gzip", noise(20),
    )  # fmt: skip
    headers += dice.sample(extra, dice.randrange(4))
    if dice.random() < 0.02:
        headers += [b"X-%d: y" % number for number in range(2000)]
    if dice.random() < 0.1:
        return noise(200)
    line = b" ".join([dice.choice(METHODS), target, dice.choice(VERSIONS)])
    return b"\r\n".join([line, *headers, b"", noise(30) if dice.random() < 0.3 else b""])


@pytest.mark.parametrize("count", [QUICK, pytest.param(LONG, marks=pytest.mark.long)])
def test_random_requests_never_cause_an_internal_error(serve, listed_run, count):
    served = serve()
    served.wait_for(listed_run)
    dice = random.Random(count)
    for number in range(count):
        request = draw_request(dice, served.port)
        answer = send(served.port, request)
        status = status_of(answer)
        assert SECRET.encode() not in answer, (number, request[:300])
        assert status is None or status < 500, (number, request[:300], answer[:300])
    assert served.ask("/")[0] == 200


def test_slow_clients_and_fifty_streams_do_not_block_others(serve, listed_run, make_events, write_run):
    """Fifty clients send half a request and then nothing; others are still served and get changes."""
    served = serve()
    served.wait_for(listed_run)
    slow = [socket.create_connection(("127.0.0.1", served.port), timeout=20) for _ in range(50)]
    for number, connection in enumerate(slow):
        connection.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: 1"[: 1 + number])
    streams = [served.stream() for _ in range(50)]
    assert served.ask("/")[0] == 200
    new = served.wait_for(write_run("new", make_events(1))).encode()
    for connection, answer in streams:
        while line := answer.readline():
            if new in line:
                break
        assert line, "a stream ended before it reported the new run"
        connection.close()
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0x7f000001", "[::"]
)
def test_a_foreign_host_header_gets_no_data(serve, listed_run, host):
    served = serve()
    listed = served.wait_for(listed_run)
    for target in ("/", f"/api/run?id={listed}", "/stream", "/assets/page.css"):
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        answer = send(served.port, request)
        assert status_of(answer) in (400, 421) and b"listed" not in answer
