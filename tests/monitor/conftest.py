"""A synthetic event log: 1,000 windows per second, and 110 seconds per epoch with its validation."""

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
from nextvec.monitor.web.app import make_server
from nextvec.monitor.web.broker import Broker
from nextvec.web.listen import bind

Events = list[dict[str, Any]]

START = 1_795_000_000.0
STEPS, EPOCH_SECONDS = 1000, 110.0

GATES = [
    {"epoch": [3, 6, 10], "metric": "val_cosine", "green": 0.48, "red": 0.45, "action": "warn", "advice": "Check tau."},
    {"epoch": [3, 6], "metric": "ood_cosine", "red": 0.30, "action": "stop", "advice": "Diagnose first."},
    {"epoch": [10], "metric": "generalization_gap", "green": 0.02, "action": "warn", "advice": ""},
]
VERDICTS = [
    {
        "epoch": 3, "metric": "val_cosine", "value": 0.47, "status": "amber", "green": 0.48, "red": 0.45,
        "action": "warn", "reason": "val cosine 0.4700 < 0.48, red is < 0.45 (best baseline ridge 0.5326)",
        "advice": "InfoNCE may not work. Check that tau is 0.07 and its loss is not zero.",
    },
    {
        "epoch": 3, "metric": "ood_cosine", "value": 0.57, "status": "green", "green": None, "red": 0.30,
        "action": "stop", "reason": "ood cosine 0.5700 ≥ 0.3 (best baseline decayed-mean 0.8000)", "advice": "",
    },
]  # fmt: skip


def event(kind: str, at: float, epoch: int, step: int, **fields: Any) -> dict[str, Any]:
    return {"time": START + at, "kind": kind, "epoch": epoch, "step": step, **fields}


def start_events(total: int) -> Events:
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


def train_metrics(epoch: int) -> dict[str, float]:
    return {
        "train_loss_mse": 0.0012 / epoch, "train_loss_info": 2.5 / epoch, "train_cosine": 0.45 + 0.01 * epoch,
        "share_mse": 0.25, "share_info": 0.75, "lr": 0.0005 / epoch,
    }  # fmt: skip


def epoch_events(epoch: int, verdicts: Events) -> Events:
    """Return two step reports, the epoch, and its gates."""
    begin, step = 10 + EPOCH_SECONDS * (epoch - 1), STEPS * (epoch - 1)
    val, ood = 0.44 + 0.01 * epoch, 0.60 - 0.01 * epoch
    gates = [verdict for verdict in verdicts if verdict["epoch"] == epoch]
    at_end = begin + EPOCH_SECONDS, epoch, step + STEPS
    return [
        event("step", begin + 25, epoch - 1, step + 250, **train_metrics(epoch)),
        event("step", begin + 50, epoch - 1, step + 500, **train_metrics(epoch)),
        event("epoch", *at_end, **train_metrics(epoch), val_cosine=val, val_gain=val - 0.5326, ood_cosine=ood,
              ood_gain=ood - 0.8, val_best_baseline="ridge 0.5326", ood_best_baseline="decayed-mean 0.8000",
              val_loss_mse=0.0013, val_loss_info=2.6, val_loss=0.55, best=epoch <= 4, seconds=100.0,
              windows_per_second=1000.0, gates=gates),
        *(event("gate", at_end[0], at_end[1], at_end[2], **{k: v for k, v in item.items() if k != "epoch"})
          for item in gates),
    ]  # fmt: skip


@pytest.fixture
def make_events() -> Callable[..., Events]:
    """Return a maker of logs: `make_events(5)` has five finished epochs of ten, and half of the sixth."""

    def make(epochs: int, *, total: int = 10, half: bool = True, verdicts: Events = VERDICTS) -> Events:
        events = start_events(total)
        for epoch in range(1, epochs + 1):
            events += epoch_events(epoch, verdicts)
        return events + (epoch_events(epochs + 1, [])[:2] if half else [])

    return make


TIMEOUT_SECONDS = 20.0


def append(folder: Path, events: Events) -> Path:
    """Append to the log of a run's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / EVENTS_FILE).open("a", encoding="utf-8") as file:
        file.write("".join(json.dumps(event) + "\n" for event in events))
    return folder


class Served:
    """A server of the live page in a thread."""

    def __init__(self, folder: Path, host: str = "127.0.0.1", token: str = "", port: int = 0) -> None:
        self.opened = bind(host, port)
        self.port = self.opened.getsockname()[1]
        self.broker = Broker([], [folder])
        self.server = make_server(self.broker, host, token, poll_seconds=0.05)
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [self.opened]}, daemon=True)
        self.thread.start()

    def ask(self, path: str, **headers: str) -> tuple[int, dict[str, str], str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        connection.request("GET", path, headers={"Host": f"127.0.0.1:{self.port}", **headers})
        response = connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        text = response.read().decode()
        connection.close()
        return response.status, received, text

    def stream(self) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_SECONDS)
        connection.request("GET", "/stream")
        return connection, connection.getresponse()

    def stop(self) -> float:
        """Stop the server and return the seconds that it took."""
        started = time.monotonic()
        self.server.should_exit = True
        self.thread.join(TIMEOUT_SECONDS)
        assert not self.thread.is_alive()
        self.opened.close()
        return time.monotonic() - started

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def wait_for(self, folder: Path) -> str:
        """Wait until the server has read a run, and return its id."""
        deadline, id = time.monotonic() + TIMEOUT_SECONDS, WatchedRun(folder).id
        while not self.broker.version(id):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return id


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Served]]:
    servers: list[Served] = []

    def start(**options: Any) -> Served:
        servers.append(Served(tmp_path / "runs", **options))
        return servers[-1]

    yield start
    for served in servers:
        if served.thread.is_alive():
            served.stop()


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[[str, Events], Path]:
    """Return a function that appends events to the log of a run that `serve` shows."""
    return lambda name, events: append(tmp_path / "runs" / name, events)
