"""The live page under attack: nothing but listed runs is ever told, nothing breaks it, and the others are still served.

The full count of requests runs with `pytest -m long tests/watch`.
"""

import json
import random
import socket
from pathlib import Path

import pytest

SECRET = "the canary of test_attacks"
QUICK, LONG = 400, 10_000
CLIMBS = (
    "..", "../..", "../secret.txt", "../../secret.txt", "..\\secret.txt", "....//secret.txt", "..;/secret.txt",
    "%2e%2e/secret.txt", "%2e%2e%2fsecret.txt", "..%2fsecret.txt", "..%5csecret.txt", "%252e%252e%252fsecret.txt",
    "..%c0%afsecret.txt", "..%ef%bc%8fsecret.txt", "%c0%ae%c0%ae/secret.txt", "..%00/secret.txt", "secret.txt%00.js",
    "./secret.txt", "/secret.txt", "//secret.txt", "\\\\secret.txt", "/etc/passwd", "../../../../../../etc/passwd",
    "file:///etc/passwd", "/proc/self/environ", "../events.jsonl", "events.jsonl", "recipe.toml", "best_model.pt",
    "link/secret.txt", "~/secret.txt", "$HOME/secret.txt", "`cat secret.txt`", "|cat secret.txt", "secret.txt?x=.js",
    "secret.txt#page.css", "page.css/../../secret.txt", "page.css%2f..%2fsecret.txt", "a/../../secret.txt", "%2f%2e%2e",
)  # fmt: skip


@pytest.fixture
def home(make_events, write_run, tmp_path) -> Path:
    """One listed run; secrets beside it, above it, and behind links."""
    run = write_run("listed", make_events(2))
    outside = tmp_path / "secret.txt"
    outside.write_text(SECRET)
    (run / "secret.txt").write_text(SECRET)
    (run.parent / "secret.txt").write_text(SECRET)
    (run / "link").symlink_to(tmp_path)
    (run / "report.html").symlink_to(outside)
    return run


def speak(port: int, request: bytes, patience: float = 20.0) -> bytes:
    """What the server says to some bytes before it closes, or falls silent after they have ended."""
    with socket.create_connection(("127.0.0.1", port), timeout=patience) as connection:
        answer = b""
        try:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(2**16):
                answer += part
                if len(answer) > 2**24:
                    break
        except (ConnectionError, TimeoutError):
            pass  # closed in the middle of a request, as it may
        return answer


def status_of(answer: bytes) -> int | None:
    """The status of an answer; None where there is none."""
    return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/1.1 ") else None


def get(port: int, target: str) -> bytes:
    line = f"GET {target} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n"
    return speak(port, line.encode("latin-1", "replace"))


@pytest.mark.parametrize("climb", CLIMBS)
def test_no_name_leads_out_of_what_is_listed(serve, home, climb):
    served = serve()
    listed = served.wait_for(home)
    asked = [
        f"/assets/{climb}", f"/{climb}", f"/report?id={climb}", f"/report?id={listed}/{climb}", f"/api/run?id={climb}",
        f"/api/run?id={listed}/{climb}", f"/report?id={listed}",
    ]  # fmt: skip
    for target in asked:
        answer = get(served.port, target)
        status = status_of(answer)
        assert SECRET.encode() not in answer, target
        assert b"root:" not in answer, target
        # A browser would have dropped what follows the mark; then it is the page itself that is asked for.
        assert status is None or 400 <= status < 500 or target.split("?")[0].split("#")[0] in ("/", "//"), target
    overlay = get(served.port, f"/api/overlay?id={climb}")
    assert SECRET.encode() not in overlay
    if status_of(overlay) == 200:
        assert json.loads(overlay.partition(b"\r\n\r\n")[2])["stamps"] == {}


def test_there_are_forty_of_them():
    assert len(set(CLIMBS)) == len(CLIMBS) == 40


METHODS = (b"GET", b"GET", b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"TRACE", b"PATCH", b"", b"G\0T")
PATHS = (b"/", b"/stream/", b"/api/run", b"/api/overlay", b"/report", b"/assets/", b"/assets/page.css", b"*", b"")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/9", b"", b"http")


def draw_request(dice: random.Random, port: int) -> bytes:
    """A request that is wrong in some places."""

    def noise(most: int) -> bytes:
        return bytes(dice.randrange(256) for _ in range(dice.randrange(most)))

    target = dice.choice(PATHS)
    if dice.random() < 0.5:
        target += b"?id=" + dice.choice([noise(40).hex().encode(), noise(20), b"%" + noise(3), b"&id=" * 50])
    if dice.random() < 0.2:
        target += noise(30)
    if dice.random() < 0.02:
        target += b"a" * 100_000
    own = f"127.0.0.1:{port}".encode()
    host = dice.choice([own] * 6 + [b"evil.example", b"127.0.0.1.evil.example", b"[::", b"", noise(12), b"localhost:x"])
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
def test_requests_drawn_at_random_never_break_it(serve, home, count):
    served = serve()
    served.wait_for(home)
    dice = random.Random(count)
    for number in range(count):
        request = draw_request(dice, served.port)
        answer = speak(served.port, request)
        status = status_of(answer)
        assert SECRET.encode() not in answer, (number, request[:300])
        assert status is None or status < 500, (number, request[:300], answer[:300])
    assert served.ask("/")[0] == 200


def test_slow_clients_and_fifty_streams_hold_up_nobody(serve, home, make_events, write_run):
    """Half a request a client, and nothing more; whoever comes after them is served, and hears what is new."""
    served = serve()
    served.wait_for(home)
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
        assert line, "a stream ended before it told of the new run"
        connection.close()
    for connection in slow:
        connection.close()


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example", "0x7f000001", "[::"]
)
def test_a_foreign_host_is_told_nothing(serve, home, host):
    served = serve()
    listed = served.wait_for(home)
    for target in ("/", f"/api/run?id={listed}", "/stream", "/assets/page.css"):
        request = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode()
        answer = speak(served.port, request)
        assert status_of(answer) in (400, 421) and b"listed" not in answer
