"""The log of a made-up run, epoch by epoch: 1,000 windows a second, an epoch takes 110 seconds with its validation."""

import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nextvec.core.run_paths import EVENTS_FILE
from nextvec.monitor.discovery import WatchedRun
from nextvec.monitor.web.app import bind, make_server
from nextvec.monitor.web.broker import Hub

Events = list[dict[str, Any]]

START = 1_795_000_000.0
STEPS, EPOCH_SECONDS = 1000, 110.0

GATES = [
    {"epoch": [3, 6, 10], "metric": "val_cosine", "green": 0.48, "red": 0.45, "action": "warn", "advice": "see tau"},
    {"epoch": [3, 6], "metric": "ood_cosine", "red": 0.30, "action": "stop", "advice": "diagnose first"},
    {"epoch": [10], "metric": "generalization_gap", "green": 0.02, "action": "warn", "advice": ""},
]
VERDICTS = [
    {
        "epoch": 3, "metric": "val_cosine", "value": 0.47, "status": "amber", "green": 0.48, "red": 0.45,
        "action": "warn", "reason": "val cosine 0.4700 < 0.48, red is < 0.45 (best baseline ridge 0.5326)",
        "advice": "InfoNCE may not be working: see that tau is 0.07 and its loss is not zero",
    },
    {
        "epoch": 3, "metric": "ood_cosine", "value": 0.57, "status": "green", "green": None, "red": 0.30,
        "action": "stop", "reason": "ood cosine 0.5700 ≥ 0.3 (best baseline decayed-mean 0.8000)", "advice": "",
    },
]  # fmt: skip


def event(kind: str, at: float, epoch: int, step: int, **fields: Any) -> dict[str, Any]:
    return {"time": START + at, "kind": kind, "epoch": epoch, "step": step, **fields}


def beginning(total: int) -> Events:
    recipe = {
        "name": "amn-790k-production", "data": {"store": "s", "context": 5}, "model": {"kind": "amn"},
        "objective": {"mse": 0.5, "info_nce": 0.5, "moment": 0.0, "variance": 0.0},
        "training": {"epochs": total, "batch_size": 100}, "gates": GATES,
    }  # fmt: skip
    findings = [
        {"name": "finite values", "status": "green", "message": "All vectors are finite.", "remedy": ""},
        {
            "name": "ood windows",
            "status": "amber",
            "message": "ood has 143 windows in 3 documents.",
            "remedy": "Add documents to ood.",
        },
    ]
    baselines = {"val": {"copy-last": 0.45, "ridge": 0.5326}, "ood": {"ridge": 0.76, "decayed-mean": 0.8}}
    facts = {"space": "gtr@1 (768-D)", "windows": {"train": 100_000, "val": 9000}, "parameters": 1_510_912}
    return [
        event("started", 0, 0, 0, name="amn-790k-production", recipe=recipe, steps_per_epoch=STEPS, device="cpu",
              precision="bfloat16", synthetic=True, **facts),
        event("checked", 0, 0, 0, findings=findings, status="amber"),
        event("baselines", 10, 0, 0, cosines=baselines),
    ]  # fmt: skip


def figures(epoch: int) -> dict[str, float]:
    return {
        "train_loss_mse": 0.0012 / epoch, "train_loss_info": 2.5 / epoch, "train_cosine": 0.45 + 0.01 * epoch,
        "share_mse": 0.25, "share_info": 0.75, "lr": 0.0005 / epoch,
    }  # fmt: skip


def epoch_events(epoch: int, verdicts: Events) -> Events:
    """Two reports of steps, the epoch, and its gates."""
    begin, step = 10 + EPOCH_SECONDS * (epoch - 1), STEPS * (epoch - 1)
    val, ood = 0.44 + 0.01 * epoch, 0.60 - 0.01 * epoch
    own = [verdict for verdict in verdicts if verdict["epoch"] == epoch]
    at_end = begin + EPOCH_SECONDS, epoch, step + STEPS
    return [
        event("step", begin + 25, epoch - 1, step + 250, **figures(epoch)),
        event("step", begin + 50, epoch - 1, step + 500, **figures(epoch)),
        event("epoch", *at_end, **figures(epoch), val_cosine=val, val_gain=val - 0.5326, ood_cosine=ood,
              ood_gain=ood - 0.8, val_best_baseline="ridge 0.5326", ood_best_baseline="decayed-mean 0.8000",
              val_loss_mse=0.0013, val_loss_info=2.6, val_loss=0.55, best=epoch <= 4, seconds=100.0,
              windows_per_second=1000.0, gates=own),
        *(event("gate", at_end[0], at_end[1], at_end[2], **{k: v for k, v in item.items() if k != "epoch"})
          for item in own),
    ]  # fmt: skip


@pytest.fixture
def make_events() -> Callable[..., Events]:
    """``make_events(5)``: five finished epochs of ten, and half of the sixth."""

    def make(epochs: int, *, total: int = 10, half: bool = True, verdicts: Events = VERDICTS) -> Events:
        events = beginning(total)
        for epoch in range(1, epochs + 1):
            events += epoch_events(epoch, verdicts)
        return events + (epoch_events(epochs + 1, [])[:2] if half else [])

    return make


PATIENCE = 20.0  # seconds after which a test gives up


def append(folder: Path, events: Events) -> Path:
    """Append to the log of a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(event) + "\n" for event in events))
    return folder


class Served:
    """A server in a thread of its own."""

    def __init__(self, home: Path, host: str = "127.0.0.1", token: str = "", port: int = 0) -> None:
        self.opened = bind(host, port)
        self.port = self.opened.getsockname()[1]
        self.hub = Hub([], [home])
        self.server = make_server(self.hub, host, token, poll=0.05)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.opened]}, daemon=True)
        self.thread.start()

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{self.port}", **headers})
        answer = connection.getresponse()
        found = {name.lower(): value for name, value in answer.getheaders()}
        text = answer.read().decode()
        connection.close()
        return answer.status, found, text

    def stream(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        connection.request("GET", "/stream")
        return connection, connection.getresponse()

    def stop(self) -> float:
        """Seconds that it took."""
        begun = time.monotonic()
        self.server.should_exit = True
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.opened.close()
        return time.monotonic() - begun

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def wait_for(self, folder: Path) -> str:
        """The id of a run, when the server has read it."""
        until, id = time.monotonic() + PATIENCE, WatchedRun(folder).id
        while not self.hub.stamp(id):
            assert time.monotonic() < until
            time.sleep(0.02)
        return id


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    open_ones: list[Served] = []

    def start(**options: Any) -> Served:
        open_ones.append(Served(tmp_path / "runs", **options))
        return open_ones[-1]

    yield start
    for served in open_ones:
        if served.thread.is_alive():
            served.stop()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[[str, Events], Path]:
    """Appends to the log of a run in the home that `serve` follows: ``write_run("one", events)``."""
    return lambda name, events: append(tmp_path / "runs" / name, events)
