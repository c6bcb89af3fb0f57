"""The server of the live page: access, what it serves and what not, ports, tokens, and a quick shutdown."""

import http.client
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from nextvec import cli
from nextvec.core.run_paths import EVENTS_FILE
from nextvec.monitor.discovery import WatchedRun
from nextvec.web.listen import bind


def next_message(response: http.client.HTTPResponse, kind: str = "runs") -> dict[str, Any]:
    """Return the next message of a kind in a stream."""
    event = ""
    while line := response.readline().decode():
        if line.startswith("event: "):
            event = line.removeprefix("event: ").strip()
        elif line.startswith("data: ") and event == kind:
            return json.loads(line.removeprefix("data: "))
    raise AssertionError("the stream has ended")


def id_of(folder: Path) -> str:
    return WatchedRun(folder).id


def test_a_stream_sends_all_runs_and_then_changes(serve, make_events, write_run, tmp_path):
    events = make_events(5)
    run = write_run("one", events[:-8])
    served = serve()
    served.wait_for(run)
    connection, stream = served.stream()
    first = next_message(stream)
    assert first["everything"] and [run["id"] for run in first["runs"]] == [id_of(run)]
    write_run("one", events[-8:])
    changed = next_message(stream)
    assert not changed["everything"] and changed["runs"][0]["epoch"] == 5
    other = write_run("another", make_events(2))
    assert next_message(stream)["runs"][0]["id"] == id_of(other), "a run that starts later appears"
    (other / EVENTS_FILE).unlink()
    other.rmdir()
    assert next_message(stream)["removed"] == [id_of(other)]
    assert served.ask(f"/api/run?id={id_of(other)}")[0] == 404
    connection.close()


def test_a_run_in_detail(serve, make_events, write_run, tmp_path):
    run = write_run("one", make_events(5))
    served = serve()
    status, _, text = served.ask(f"/api/run?id={served.wait_for(run)}")
    found = json.loads(text)
    assert status == 200 and found["status_text"].startswith("running (stalled? last event "), "its log is old"
    assert found["status"] == "amber"
    assert [line["split"] for line in found["scores"]] == ["val", "ood", "train"]
    assert found["scores"][0]["baseline"] == "0.5326 ridge"
    assert {panel["key"] for panel in found["panels"]} == {
        "val_cosine", "ood_cosine", "gain", "loss_mse", "loss_info", "loss_total", "shares", "lr", "windows_per_second",
    }  # fmt: skip
    assert [gate["sentinel"] for gate in found["gates"]] == [False, True]
    assert found["upcoming"][0] == {"epoch": 6, "text": "val cosine: green ≥ 0.48, red < 0.45"}
    assert found["losses"][0]["share"] == "25.0 %" and found["losses"][0]["requested"] == "50.0 %"


def test_several_runs_share_one_chart(serve, make_events, write_run, tmp_path):
    folders = [write_run(name, make_events(epochs)) for name, epochs in (("a", 3), ("b", 5))]
    served = serve()
    ids = [served.wait_for(folder) for folder in folders]
    found = json.loads(served.ask(f"/api/overlay?id={ids[0]}&id={ids[1]}&id=000000000000")[2])
    assert found["runs"] == ["amn-790k-production (1)", "amn-790k-production (2)"], "equal names get a number"
    lines = next(panel for panel in found["panels"] if panel["key"] == "val_gain")["figure"]["data"]
    assert [len(line["x"]) for line in lines] == [3, 5]
    styles = [(line["line"]["color"], line["line"]["dash"], line["marker"]["symbol"]) for line in lines]
    assert all(first != second for first, second in zip(*styles, strict=True)), "color, dash and symbol differ"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "[::1", "169.254.1.1"]
)
def test_foreign_hosts_are_refused(serve, host):
    served = serve()
    for path in ("/", "/stream", "/api/run?id=x", "/assets/watch.js"):
        assert served.ask(path, Host=host)[0] == 421, path


def test_loopback_hosts_are_served_on_any_port(serve):
    served = serve()
    for host in ("localhost", "localhost:9999", f"127.0.0.1:{served.port}", "[::1]:80"):  # through a tunnel
        assert served.ask("/", Host=host)[0] == 200


def test_every_response_has_a_strict_security_policy(serve):
    served = serve()
    for path in ("/", "/assets/watch.js", "/api/run?id=x", "/nothing"):
        headers = served.ask(path)[1]
        policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'none'" and policy["script-src"] == policy["connect-src"] == "'self'"
        assert "http" not in headers["content-security-policy"] and "unsafe-eval" not in str(policy)
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"


def test_only_files_of_listed_runs_are_served(serve, make_events, write_run, tmp_path):
    run = write_run("one", make_events(2))
    secret = tmp_path / "secret.html"
    secret.write_text("secret")
    served = serve()
    id = served.wait_for(run)
    assert served.ask(f"/report?id={id}")[0] == 404, "the run has no report yet"
    (run / "report.html").symlink_to(secret)
    assert served.ask(f"/report?id={id}")[0] == 404, "a symbolic link out of the folder is not followed"
    (run / "report.html").unlink()
    (run / "report.html").write_text("<p>mine")
    status, headers, text = served.ask(f"/report?id={id}")
    assert status == 200 and text == "<p>mine" and headers["content-security-policy"].startswith("sandbox ")
    for path in (
        "/assets/../auth.py", "/assets/%2e%2e/auth.py", "/assets/page.py", f"/report?id={run}", "/report?id=../one",
        "/assets//etc/passwd", f"/api/run?id={tmp_path}",
    ):  # fmt: skip
        assert served.ask(path)[0] == 404, path


def test_a_token_is_required_unless_the_server_is_local(serve):
    served = serve(host="0.0.0.0", token="t0ken")
    assert served.ask("/", Authorization="Bearer t0ken")[0] == 200 and served.ask("/", Authorization="t0ken")[0] == 401
    for path in ("/", "/?token=wrong", "/stream", "/assets/watch.js", "/?token="):
        assert served.ask(path)[0] == 401, path
    assert served.ask("/", Host="evil.example")[0] == 421
    status, headers, _ = served.ask("/?token=t0ken")
    assert status == 303 and headers["location"] == "/", "the token is removed from the address bar"
    cookie = headers["set-cookie"].partition(";")[0]
    assert "HttpOnly" in headers["set-cookie"] and "samesite=strict" in headers["set-cookie"].lower()
    assert (
        served.ask("/", Cookie=cookie)[0] == 200 == served.ask("/", Cookie=cookie, Host=f"192.168.1.7:{served.port}")[0]
    )


def test_twenty_open_streams_do_not_delay_the_shutdown(serve, make_events, write_run, tmp_path):
    run = write_run("one", make_events(2))
    served = serve()
    served.wait_for(run)
    streams = [served.stream() for _ in range(20)]
    assert all(next_message(stream)["runs"] for _, stream in streams)
    assert served.stop() < 2
    for connection, stream in streams:
        assert stream.read() is not None, "each stream ended properly"
        connection.close()


def test_a_port_in_use_gives_the_next_free_one(monkeypatch, tmp_path, capsys):
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    following = bind("127.0.0.1", port, max_tries=100)
    assert port < following.getsockname()[1] < port + 100
    following.close()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("nextvec.monitor.web.app.serve_page", lambda *words, **options: None)
    assert cli.main(["watch", "--web", "--port", str(port)]) == 0
    output = capsys.readouterr().err
    assert f"port {port} is in use; using " in output and "http://127.0.0.1:" in output and "token" not in output
    assert cli.main(["watch", "--web", "--host", "0.0.0.0", "--port", "0"]) == 0
    output = capsys.readouterr().err
    assert "warning: other machines can reach this page" in output and "?token=" in output
    taken.close()


def test_once_and_web_exclude_each_other(capsys):
    assert cli.main(["watch", "--web", "--once"]) == 2
    assert "choose one" in capsys.readouterr().err


def test_a_run_without_events_and_one_with_a_torn_line_are_served(serve, make_events, write_run, tmp_path):
    empty = tmp_path / "runs/empty"
    empty.mkdir(parents=True)
    (empty / "recipe.toml").touch()
    torn = write_run("torn", make_events(2))
    with (torn / EVENTS_FILE).open("ab") as file:
        file.write(b'{"time": 1, "kind": "epo\xff')
    served = serve()
    found = json.loads(served.ask(f"/api/run?id={served.wait_for(empty)}")[2])
    assert found["status_text"] == "no events yet" and found["panels"] == [] and found["scores"] == []
    assert json.loads(served.ask(f"/api/run?id={served.wait_for(torn)}")[2])["epoch"] == 2


def test_a_log_of_ten_thousand_epochs_gives_a_small_response(serve, make_events, write_run, tmp_path):
    run = write_run("long", make_events(10_000, total=10_000, half=False))
    served = serve()
    id = served.wait_for(run)
    text = served.ask(f"/api/run?id={id}")[2]
    panels = json.loads(text)["panels"]
    assert max(len(trace["x"]) for panel in panels for trace in panel["figure"]["data"]) <= 800
    assert panels[0]["figure"]["data"][0]["x"][-1] == 10_000 and len(text) < 2_000_000
    assert sum(event["kind"] == "step" for event in served.broker.run(id).events) < 10, "old step reports are dropped"


def test_the_socket_is_closed_after_the_shutdown(serve):
    served = serve()
    served.stop()
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", served.port), timeout=1)
