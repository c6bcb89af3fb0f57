"""Each tracker with its real library, offline: what was written is read back with the library's own reader."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nextvec.core.events import EventLog, read_events
from nextvec.recipe import Recipe
from nextvec.trackers.process import follow
from nextvec.trackers.tracker import open_tracker

EPOCHS = {1: 0.51, 2: 0.52, 3: 0.53}
"""Epoch → val cosine."""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for the files of all libraries, which read their variables once."""
    home = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(home))
        patch.setenv("WANDB_SILENT", "true")
        patch.setenv("MLFLOW_TRACKING_URI", (home / "mlruns").as_uri())
        patch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        patch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        patch.setenv("TRACKIO_DIR", str(home / "trackio"))
        for name in ("WANDB_PROJECT", "MLFLOW_EXPERIMENT_NAME", "TRACKIO_PROJECT", "TRACKIO_SPACE_ID"):
            patch.delenv(name, raising=False)
        yield home


def track_three_epochs(name: str, folder: Path) -> list[dict[str, Any]]:
    """Track a run that is interrupted after epoch 2 and resumed; the position after epoch 2 was lost in a kill."""
    folder.mkdir()
    log = EventLog(folder / "events.jsonl")
    recipe = Recipe(name="toy").model_dump(exclude_none=True)
    log.write("started", name="toy", recipe=recipe, device="cpu", versions={"nextvec": "0.1.0"}, windows={"val": 64})
    log.write("baselines", cosines={"val": {"ridge": 0.4}})
    reports: list[dict[str, Any]] = []
    for epoch in (1, 2):
        log.write("epoch", epoch=epoch, step=epoch, val_cosine=EPOCHS[epoch], best=True)
    log.write("interrupted", epoch=2, step=2)
    follow(open_tracker(name), name, folder, ["epochs 2", "end"], lambda **values: reports.append(values))
    file = folder / f"trackers/{name}.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "epochs": 1 if name != "wandb" else 2}))

    log.write("resumed", epoch=2, step=2)
    log.write("epoch", epoch=3, step=3, val_cosine=EPOCHS[3], best=True)
    cosine = {"value": 0.53, "low": 0.5, "high": 0.56}
    val = {"gain": cosine, "predictors": {"amn": {"cosine": cosine}}}
    verdict = {"status": "green", "sentence": "amn beats ridge."}
    log.write("evaluated", evaluation={"splits": {"val": val}, "verdict": verdict})
    log.write("finished", epoch=3, step=3)
    log.close()
    follow(open_tracker(name), name, folder, ["epochs 3", "end"], lambda **values: reports.append(values))
    assert reports[-1] == {"ended": True} and read_events(folder)
    return reports


def read_tensorboard(home: Path, folder: Path, identity: str) -> tuple[dict[int, float], Any]:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = accumulators.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    assert b"training.batch_size" in found.PluginTagToContent("hparams")["_hparams_/session_start_info"]
    assert "amn beats ridge." in found.Tensors("outcome")[-1].tensor_proto.string_val[0].decode()
    assert found.Scalars("evaluation/val/gain_low")[-1].value == 0.5
    points = [(item.step, item.value) for item in found.Scalars("val/cosine")]
    assert len(points) == 3
    return dict(points), None


def read_trackio(home: Path, folder: Path, identity: str) -> tuple[dict[int, float], Any]:
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    (run,) = (run for run in trackio.Api().runs("nextvec") if run.name == f"toy run-trackio {identity}")
    rows = SQLiteStorage.get_logs("nextvec", run.name)
    assert rows[-1]["verdict"] == "amn beats ridge." and rows[-1]["evaluation/val/gain_high"] == 0.56
    points = [(row["step"], row["val/cosine"]) for row in rows if "val/cosine" in row]
    assert len(points) == 3
    return dict(points), run.config["training.batch_size"]


def read_mlflow(home: Path, folder: Path, identity: str) -> tuple[dict[int, float], Any]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient()
    experiment = client.get_experiment_by_name("nextvec")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED" and run.info.run_name == "toy run-mlflow"
    assert run.data.tags["verdict"] == "amn beats ridge." and run.data.tags["amn"] == "true"
    assert run.data.metrics["evaluation/val/gain_low"] == 0.5
    assert not {"mlflow.user", "mlflow.source.name", "mlflow.source.git.commit"} & set(run.data.tags)
    points = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "val/cosine")]
    assert len(points) == 3
    return dict(points), int(run.data.params["training.batch_size"])


def wandb_records(file: Path) -> Iterator[Any]:
    """Yield the records of an offline run: a LevelDB log of protobuf messages, for which wandb has no public reader."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = file.read_bytes(), 7, b""
    while position + 7 <= len(content):
        if (left := 32768 - position % 32768) < 7:  # a header never crosses a block
            position += left
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield Record.FromString(record)
            record = b""


def read_wandb(home: Path, folder: Path, identity: str) -> tuple[dict[int, float], Any]:
    points, summary, config = [], {}, {}
    files = sorted((home / "wandb").glob(f"offline-run-*-{identity}/*.wandb"))
    assert len(files) == 2, "one file for each process"
    for file in files:
        # wandb's service closes the file some time after `finish` has returned.
        ends = time.monotonic() + 30
        while (records := list(wandb_records(file)))[-1:] == [] or not records[-1].HasField("exit"):
            assert time.monotonic() < ends
            time.sleep(0.1)
        for record in records:
            values = {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
            if "val/cosine" in values:
                points.append((values["_step"], values["val/cosine"]))
            summary |= {item.key: json.loads(item.value_json) for item in record.summary.update if item.key}
            config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
    assert summary["verdict"] == "amn beats ridge." and summary["evaluation/val/gain_low"] == 0.5
    assert len(points) == 3
    assert not list((home / "wandb").rglob("wandb-metadata.json")), "no data of the machine"
    assert not list((home / "wandb").rglob("requirements.txt"))
    return dict(points), config["training.batch_size"]


@pytest.mark.parametrize("read", [read_tensorboard, read_trackio, read_wandb, read_mlflow])
def test_a_library_has_each_epoch_once_in_one_run(read: Callable[..., Any], home: Path, tmp_path: Path) -> None:
    name = read.__name__.removeprefix("read_")
    pytest.importorskip(name)
    folder = tmp_path / f"run-{name}"
    reports = track_three_epochs(name, folder)
    places = [report["place"] for report in reports if "place" in report]
    assert len(places) == 2 and all(places)
    identity = json.loads((folder / f"trackers/{name}.json").read_text())["id"]
    cosines, batch_size = read(home, folder, identity)
    assert cosines == pytest.approx(EPOCHS)
    assert batch_size in (None, Recipe(name="toy").training.batch_size)
