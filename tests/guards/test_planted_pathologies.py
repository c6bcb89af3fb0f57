"""Every planted fault gets its diagnosis, and healthy runs get no red diagnosis."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

from nextvec.commands.train import train
from nextvec.data.synthetic.generate import SyntheticSpec, synthesize
from nextvec.guards.diagnosis import PATHOLOGIES, diagnose
from nextvec.guards.diagnosis.case import Diagnoses
from nextvec.reports.run_summary import case_of

ROOT = Path(__file__).resolve().parents[2]
spec = importlib.util.spec_from_file_location("write_diagnosis", ROOT / "tools/write_diagnosis.py")
assert spec and spec.loader
write_diagnosis = importlib.util.module_from_spec(spec)
sys.modules["write_diagnosis"] = write_diagnosis
spec.loader.exec_module(write_diagnosis)

NOT_PLANTED = {"mse-dominates", "moment-dominates"}
"""The same rule as for the two other terms, which are planted."""


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Diagnoses]:
    return write_diagnosis.plant(tmp_path_factory.mktemp("planted"))


@pytest.mark.parametrize("fault", write_diagnosis.FAULTS, ids=lambda fault: fault.label)
def test_each_planted_fault_is_diagnosed(planted: dict[str, Diagnoses], fault):
    assert fault.id in planted[fault.label].ids


def test_a_healthy_predictor_gets_no_diagnosis(planted: dict[str, Diagnoses]):
    assert planted[write_diagnosis.HEALTHY].items == ()


def test_every_pathology_is_planted():
    assert {fault.id for fault in write_diagnosis.FAULTS} == {pathology.id for pathology in PATHOLOGIES} - NOT_PLANTED


def test_the_generated_page_is_up_to_date(planted: dict[str, Diagnoses]):
    page = write_diagnosis.PAGE.read_text(encoding="utf-8")
    titles = re.findall(r"^## (.*)$", page, flags=re.MULTILINE)
    assert titles == [pathology.title for pathology in PATHOLOGIES] + ["Planted faults"]
    assert all(pathology.advice in page for pathology in PATHOLOGIES), "run: python tools/write_diagnosis.py"
    # Scores differ between CPUs in the last digit, so only the table of diagnoses is compared word by word.
    table = write_diagnosis.make_page(planted).partition("## Planted faults")[2]
    assert table == page.partition("## Planted faults")[2], "run: python tools/write_diagnosis.py"


LARGER = [("lstm", 0), ("lstm", 1), ("lstm", 3), ("gru", 0), ("gru", 2), ("gru", 3)]
LARGER += [("transformer", 0), ("transformer", 2), ("transformer", 3), ("transformer", 4)]
HEALTHY = [("amn", data, 0) for data in range(5)]
HEALTHY += [pytest.param("amn", data, 1, marks=pytest.mark.slow) for data in range(5)]
HEALTHY += [pytest.param(kind, data, 0, marks=pytest.mark.slow) for kind, data in LARGER]
SPECS = [
    SyntheticSpec(
        documents=150,
        vectors=4_000,
        dimensions=32,
        topics=8,
        forward=forward,
        val=0.25,
        coherence=(coherence,),
        ood_documents=25,
        ood_windows=300,
        ood_coherence=(coherence,),
        seed=seed,
    )
    for seed, (forward, coherence) in enumerate([(0.3, 0.5), (0.4, 0.5), (0.3, 0.55), (0.0, 0.5), (0.2, 0.45)])
]


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("healthy")
    return [synthesize(folder / str(number), spec, quiet=True).path for number, spec in enumerate(SPECS)]


@pytest.mark.parametrize(("kind", "data", "seed"), HEALTHY)
def test_healthy_runs_get_no_red_diagnosis(stores: list[Path], tmp_path: Path, kind: str, data: int, seed: int):
    overrides = [
        f"seed={seed}",
        f"data.store={stores[data]}",
        f"model.kind={kind}",
        "model.dropout=0.1",
        "training.batch_size=64",
        f"training.epochs={3 if kind == 'amn' else 8}",
        "training.lr=1e-3",
        "training.keep_epochs=false",
        "evaluation.resamples=100",
        "evaluation.queries=60",
        "runtime.device=cpu",
    ]
    run = train("demo", overrides, out=str(tmp_path / "run"), quiet=True)
    assert [item.line for item in run.diagnoses.items if item.status == "red"] == []
    assert diagnose(case_of(run.path)) == run.diagnoses
