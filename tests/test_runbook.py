"""The operator's runbook, command by command: docs/runbook.md is run from top to bottom on a small set.

The set has the production set's form (npz files of windows at their places) in 64 dimensions. Commands are typed as
they stand on the page; `SHORTENED` adds what makes a long one short.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fork_server import NARROW
from nextvec.commands import train as training_commands
from nextvec.commands.train import TrainerFlags
from nextvec.core.events import read_events
from nextvec.core.files import sha256_of
from nextvec.data.npz.export import export_npz
from nextvec.data.synthetic.generate import SyntheticSpec, rehearsal_spec, synthesize
from nextvec.errors import CheckpointError, InputError, SpaceError, StoppedError
from nextvec.experiments.single_run import TrainedRun

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "runbook.md"
BIN = Path(sys.executable).parent
MODELS = "artifacts/lvm/models"
LOG = f"{MODELS}/amn_790k_production_*/training.log"

CONTRACT = [
    "bash scripts/train_amn_790k_production.sh",
    "bash scripts/train_gru_790k.sh",
    "bash scripts/train_lstm_790k.sh",
    "bash scripts/train_transformer_790k.sh",
    f"bash tools/monitor_training_live.sh {LOG}",
    f"tail -20 {LOG}",
    f"tail -f {MODELS}/amn_790k_production_*/ood_sentinel.log",
    f'grep "val_cosine" {LOG} | tail -10',
    rf'grep "loss_info\|loss_mse" {LOG} | tail -20',
    *(f'grep "Epoch {epoch}/" {LOG} -A 5 | grep val_cosine' for epoch in (3, 6, 10, 20, 30)),
    f"python tools/eval_model_ood.py --model {MODELS}/amn_790k_production_*/best_model.pt "
    "--ood-data artifacts/lvm/wikipedia_ood_test_ctx5.npz --device mps",
]
"""What the operator's contract says can be typed, letter by letter."""

FAST = "runtime.threads=1 evaluation.ridge_windows=500 evaluation.resamples=100 evaluation.queries=100"
SHORT = f"--epochs 1 --batch-size 256 {FAST}"
SHORTENED = {
    r"nextvec rehearse .*": f" --scale 0.0016 training.epochs=1 training.batch_size=128 {FAST}",
    r"bash scripts/train_amn.*": f" model.dropout=0.5 {FAST}",
    r"bash scripts/train_.*": f" --data artifacts/lvm/training_sequences_ctx5_584k.npz {SHORT}",
    r"tail -f .*": " & sleep 0.5; kill $!",
    r"nextvec suite .*": f" --overrides training.epochs=1 training.batch_size=256 {FAST}",
}
"""What is added to commands of the page so that they take seconds."""


def commands() -> list[str]:
    """Every command of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.splitlines() if line]


class Book:
    """A folder that looks like a checkout with data, and what each command of the page printed there."""

    def __init__(self, home: Path, programs: Path = BIN) -> None:
        self.home = home
        self.programs = programs
        self.printed: dict[str, subprocess.CompletedProcess[str]] = {}
        for folder in ("scripts", "tools"):
            (home / folder).symlink_to(ROOT / folder)

    def type(self, command: str, *, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Type a command into a shell at the book's root."""
        paths = os.pathsep.join([str(self.programs), str(BIN), os.environ["PATH"]])
        environment = {**os.environ, "PATH": paths, "OMP_NUM_THREADS": "1", "COLUMNS": "120", NARROW: "1"}
        environment.pop("NEXTVEC", None)
        return subprocess.run(
            ["bash", "-c", command],
            cwd=folder or self.home,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )

    def lines(self, command: str) -> list[str]:
        """What a command of the page printed on standard output."""
        return self.printed[command].stdout.splitlines()

    @property
    def run(self) -> Path:
        (path,) = (self.home / MODELS).glob("amn_790k_production_*")
        return path

    @property
    def history(self) -> dict:
        return json.loads((self.run / "training_history.json").read_text(encoding="utf-8"))


SPEC = replace(rehearsal_spec("production", 0.002), dimensions=64, topics=4, ood_documents=30, ood_windows=200, seed=3)
"""The fewest windows on which the production recipe ends green."""


def write_windows(folder: Path, spec: SyntheticSpec, **names: str) -> None:
    store = synthesize(folder / "store", spec, quiet=True)
    for split, name in names.items():
        export_npz(store, split, folder / name, quiet=True)
    shutil.rmtree(folder / "store")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The three files of the contract, small, and a smaller production set."""
    folder = tmp_path_factory.mktemp("lvm")
    write_windows(folder, SPEC, train="training_sequences_ctx5.npz", ood="wikipedia_ood_test_ctx5.npz")
    older = replace(SPEC, documents=30, vectors=700, windows=None)
    write_windows(folder, older, train="training_sequences_ctx5_584k.npz")
    write_windows(folder, replace(older, vectors=650), train="smaller.npz")
    return folder


def shrink_production_set(folder: Path) -> None:
    """Replace the production set by the smaller one: only the production recipe's gates need so many windows."""
    shutil.rmtree(folder / "training_sequences_ctx5.store")
    (folder / "smaller.npz").replace(folder / "training_sequences_ctx5.npz")


@pytest.fixture(scope="module")
def book(data: Path, nextvec_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Book:
    """The page, run from top to bottom; every command must end well. Recurrent networks and transformers are narrow."""
    book = Book(tmp_path_factory.mktemp("book"), nextvec_program.parent)
    (book.home / "artifacts").mkdir()
    shutil.copytree(data, book.home / "artifacts/lvm")
    for command in commands():
        if command.startswith("nextvec suite"):
            shrink_production_set(book.home / "artifacts/lvm")
        short = next((more for pattern, more in SHORTENED.items() if re.fullmatch(pattern, command)), "")
        book.printed[command] = done = book.type(command + short)
        assert done.returncode in (0, 143), f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        assert "Traceback" not in done.stderr, command
    return book


def test_the_page_holds_every_command_of_the_contract():
    assert [command for command in CONTRACT if command not in commands()] == []


def test_the_run_leaves_what_the_runbook_names(book: Book):
    files = {file.name for file in book.run.iterdir()}
    assert {"best_model.pt", "training.log", "ood_sentinel.log", "training_history.json"} <= files
    assert {f"epoch_{epoch}.pt" for epoch in range(1, 31)} <= files
    assert re.fullmatch(r"amn_790k_production_\d{8}_\d{6}", book.run.name)


def test_the_greps_give_the_right_epochs(book: Book):
    cosines = {record["epoch"]: record["val_cosine"] for record in book.history["epochs"]}
    for epoch in (3, 6, 10, 20, 30):
        (line,) = book.lines(f'grep "Epoch {epoch}/" {LOG} -A 5 | grep val_cosine')
        assert f"val_cosine={cosines[epoch]:.4f} " in line and "val_best_baseline=" in line
    trend = book.lines(f'grep "val_cosine" {LOG} | tail -10')
    assert [re.search(r"val_cosine=(\S+)", line)[1] for line in trend] == [f"{cosines[n]:.4f}" for n in range(21, 31)]
    parts = book.lines(rf'grep "loss_info\|loss_mse" {LOG} | tail -20')
    assert len(parts) == 20, "train and val of ten epochs"
    assert all(
        "train_loss_mse=" in line and "train_loss_info=" in line and "train_cosine=" in line for line in parts[::2]
    )
    assert all("val_loss_mse=" in line and "val_loss_info=" in line for line in parts[1::2])


def test_the_tails_show_the_end(book: Book):
    tail = book.lines(f"tail -20 {LOG}")
    assert "success criteria: 4 of 4 met" in "\n".join(tail)
    checks = book.lines(f"tail -f {MODELS}/amn_790k_production_*/ood_sentinel.log")
    assert [line.split()[1] for line in checks if "ood cosine" in line] == ["3", "6", "10", "20", "30"]
    assert all("best baseline" in line for line in checks if "ood cosine" in line)


def test_the_healthy_recipe_ends_green(book: Book):
    """Every gate with the runbook's thresholds is green, and all four criteria are met."""
    verdicts = [gate for record in book.history["epochs"] for gate in record["gates"]]
    assert {gate["epoch"] for gate in verdicts} == {1, 3, 6, 10, 20, 30}
    scores = [
        gate
        for gate in verdicts
        if gate["metric"] in ("val_cosine", "ood_cosine", "min_gradient_share_ratio", "baseline_gap_closed")
    ]
    assert len(scores) == 12 and {gate["status"] for gate in scores} == {"green"}
    assert not [gate for gate in verdicts if gate["status"] == "red"]
    assert book.history["status"] == "finished" and book.history["success"]["passed"]
    assert len(book.history["success"]["criteria"]) == 4


def test_everything_says_that_the_data_is_synthetic(book: Book):
    assert book.history["synthetic"] is True
    assert (book.run / "training.log").read_text().startswith("SYNTHETIC data")
    monitor = book.printed[f"bash tools/monitor_training_live.sh {LOG}"].stdout
    board = (book.home / "artifacts/lvm/leaderboard.md").read_text()
    suite = (book.home / "artifacts/suite/comparison.md").read_text()
    report = (book.run / "report.html").read_text()
    evaluated = book.printed[CONTRACT[-1]].stdout
    for text in (monitor, board, suite, report, evaluated):
        assert "synthetic" in text.lower()


def test_the_monitor_shows_epoch_trend_losses_and_lights(book: Book):
    shown = book.printed[f"bash tools/monitor_training_live.sh {LOG}"].stdout
    for wanted in ("finished", "val", "ood", "info", "mse", "●", "best baseline", "val cosine", "█"):
        assert wanted in shown, wanted


def test_the_evaluation_falls_back_to_the_cpu_and_shows_the_baselines(book: Book):
    done = book.printed[CONTRACT[-1]]
    assert "device 'mps' is not available here; using cpu" in done.stderr
    for predictor in ("amn", "ridge", "context-mean", "decayed-mean", "copy-last", "train-mean"):
        assert re.search(rf"^{predictor} +0\.\d{{4}}", done.stdout, flags=re.MULTILINE), predictor
    assert "ood: 200 windows" in done.stdout and "val:" not in done.stdout.partition("note:")[0]


def test_the_leaderboard_has_rows_of_the_contracts_form(book: Book):
    rows = (book.home / "artifacts/lvm/leaderboard.md").read_text().splitlines()
    (row,) = [row for row in rows if row.startswith("| AMN_")]
    form = r"\| AMN_1k-synthetic \| 0\.\d{3} \| 0\.\d{3} \| \d+\.\d\dms \| \d+K \| MSE\+InfoNCE \| \d{4}-\d\d-\d\d \|"
    assert re.fullmatch(form, row) and any("(baseline)" in row for row in rows)
    assert "AMN_1k-synthetic" in book.printed["nextvec leaderboard show --sort ood"].stdout


def test_the_comparison_and_the_suite_cover_all_models_on_both_sets(book: Book):
    compared = book.printed[f"nextvec compare {MODELS}/amn_790k_production_* --baseline 584k"].stdout
    assert "AMN 584k (published)" in compared and "0.5597" in compared
    recovery = (book.home / "artifacts/suite/recovery.log").read_text().splitlines()
    names = ["amn-584k", "amn-790k-production", "gru-790k", "lstm-790k", "transformer-790k"]
    for name in names:
        assert any(f"[x] train {name}" in line for line in recovery), name
    comparison = (book.home / "artifacts/suite/comparison.md").read_text()
    for store in ("training_sequences_ctx5.store", "training_sequences_ctx5_584k.store"):
        part = comparison.partition(store)[2]
        assert all(name in part for name in names), store


def test_suggested_gates_can_be_pasted_into_a_recipe(book: Book):
    printed = next(done.stdout for command, done in book.printed.items() if command.startswith("nextvec gates"))
    (book.home / "mine.toml").write_text(f'extends = "amn-790k-production"\nname = "mine"\n{printed}', encoding="utf-8")
    done = book.type("nextvec train mine.toml data.store=none")
    assert done.returncode == 2 and "store none: has no manifest.json" in done.stderr


def test_the_scripts_work_from_any_folder_and_take_flags_and_environment(book: Book, tmp_path: Path):
    out = tmp_path / "run"
    done = book.type(
        f"DEVICE=cpu bash {book.home}/scripts/train_lstm_790k.sh {SHORT} --output-dir {out}", folder=tmp_path
    )
    assert done.returncode == 0, done.stderr
    recipe = (out / "recipe.toml").read_text()
    assert (
        'kind = "lstm"' in recipe
        and "epochs = 1\n" in recipe
        and "batch_size = 256" in recipe
        and 'device = "cpu"' in recipe
    )
    done = book.type(f"OOD_DATA=none.npz bash {book.home}/scripts/train_amn_790k_production.sh", folder=tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("nextvec: data none.npz: no such file. Make it with")


def test_missing_data_is_one_line_that_says_what_to_do(tmp_path: Path):
    empty = Book(tmp_path)
    done = empty.type("bash scripts/train_amn_790k_production.sh")
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "artifacts/lvm/training_sequences_ctx5.npz: no such file" in line
    assert "nextvec data build" in line and "nextvec data import" in line and "nextvec rehearse" in line
    assert not (tmp_path / "artifacts").exists()
    done = empty.type(f"bash tools/monitor_training_live.sh {LOG}")
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1


# What the guards stop.


@pytest.fixture
def train(data: Path, tmp_path: Path) -> Callable[..., TrainedRun]:
    """Trains a recipe on the small set, with changes."""
    shutil.copytree(data, tmp_path / "lvm")
    home = tmp_path / "lvm"

    def train(recipe: str, *overrides: str, out: str = "run", **options) -> TrainedRun:
        words = [f"data.store={home}/training_sequences_ctx5.npz", f"data.ood={home}/wikipedia_ood_test_ctx5.npz"]
        words += ["training.epochs=3", "training.keep_epochs=false", *FAST.split(), *overrides]
        return training_commands.train(recipe, words, out=str(tmp_path / out), quiet=True, **options)

    return train


def change_windows(path: Path, change: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
    """Write an ood file anew, with changed contexts and targets."""
    with np.load(path) as file:
        contexts, targets = change(file["context_sequences"], file["target_vectors"])
    np.savez(path, context_sequences=contexts, target_vectors=targets)


def test_the_unbalanced_failure_demo_is_stopped_with_the_right_reason(train, tmp_path: Path):
    with pytest.raises(
        StoppedError,
        match=r"after epoch 1: min gradient share ratio 0\.\d+ is below 0\.1\. InfoNCE dominates \(certain\)",
    ):
        train("amn-790k-unbalanced")
    assert (
        "objective.loss_weighting is raw, so weights are not gradient shares"
        in (tmp_path / "run/training.log").read_text()
    )


def test_the_mse_only_failure_demo_is_explained_before_the_first_step(train, tmp_path: Path):
    run = train("amn-790k-broken-mse-only")
    log = (run.path / "training.log").read_text()
    assert "warning: InfoNCE has no weight" in log.partition("Epoch 1/")[0]
    verdict = run.evaluation.verdict
    assert verdict is not None and verdict.status != "green"
    assert "is not significantly different from the best baseline in cosine on val" in verdict.sentence
    assert verdict.sentence in log


@pytest.mark.parametrize(
    ("demo", "warning"),
    [
        ("amn-790k-tau-too-small", "tau is 0.005, too small"),
        ("amn-790k-unmasked", "mask_same_document is off, so a document's own chunks are negatives"),
    ],
)
def test_failure_demos_of_the_objective_are_warned_of_and_diagnosed(train, demo: str, warning: str):
    run = train(demo, "training.epochs=1")
    log = (run.path / "training.log").read_text()
    assert f"warning: {warning}" in log.partition("Epoch 1/")[0]
    id = {"amn-790k-tau-too-small": "temperature-out-of-range", "amn-790k-unmasked": "unmasked-near-duplicates"}[demo]
    (diagnosis,) = (item for item in run.diagnoses.items if item.id == id)
    assert warning in diagnosis.evidence


def test_the_failure_demo_of_a_dominant_variance_term_is_stopped_with_the_right_reason(train):
    with pytest.raises(
        StoppedError,
        match=r"after epoch 1: supervised gradient share 0\.0\d+ is below 0\.5\. Variance term dominates \(certain\)",
    ):
        train("amn-790k-variance-dominated")


def test_a_poisoned_ood_set_is_stopped_by_the_sentinel_and_named(train, tmp_path: Path):
    """Targets of other documents: nothing can be predicted there, which is the file's fault, not the model's."""
    change_windows(tmp_path / "lvm/wikipedia_ood_test_ctx5.npz", lambda contexts, targets: (contexts, -targets))
    with pytest.raises(
        StoppedError, match=r"by the sentinel after epoch 3: ood cosine -?0\.\d+ is below 0\.3 .*Shuffled targets"
    ):
        train("amn-790k-production", force=True)
    run = tmp_path / "run"
    assert json.loads((run / "training_history.json").read_text())["status"] == "stopped"
    assert "■ red gate: ood cosine" in (run / "ood_sentinel.log").read_text()
    assert read_events(run)[-1]["kind"] == "stopped" and (run / "resume.pt").is_file()
    page = (run / "report.html").read_text()
    assert (
        "stopped by the sentinel after epoch 3" in page and "Shuffled targets" in page and "Gates and sentinel" in page
    )
    assert "Cosine · Out of distribution" in page and "No model was evaluated" not in page


def test_an_ood_set_of_another_space_is_named_before_the_training(train, tmp_path: Path):
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(64, 64)))[0].astype(np.float32)
    change_windows(
        tmp_path / "lvm/wikipedia_ood_test_ctx5.npz", lambda contexts, targets: (contexts @ turn, targets @ turn)
    )
    with pytest.raises(InputError, match="ood is in another embedding space"):
        train("amn-790k-production")
    assert not (tmp_path / "run").exists()


def test_an_ood_set_of_a_known_other_space_is_refused(train, tmp_path: Path):
    (tmp_path / "lvm/wikipedia_ood_test_ctx5.npz").unlink()
    write_windows(tmp_path / "lvm", replace(SPEC, seed=1), ood="wikipedia_ood_test_ctx5.npz")
    with pytest.raises(SpaceError, match=r"is in another embedding space than store .* \(synthetic@"):
        train("amn-790k-production")
    assert not (tmp_path / "run").exists()


def test_a_changed_npz_file_is_not_mistaken_for_the_imported_one(train, tmp_path: Path):
    train("amn-790k-production", "training.epochs=1")
    change_windows(
        tmp_path / "lvm/wikipedia_ood_test_ctx5.npz", lambda contexts, targets: (contexts[:300], targets[:300])
    )
    with pytest.raises(InputError, match=r"store .*wikipedia_ood_test_ctx5\.store: was not made from the current"):
        train("amn-790k-production", out="again")


# Warm start.


def test_a_warm_start_takes_the_weights_of_another_run(train, tmp_path: Path):
    first = train("amn-790k-production", "training.epochs=1")
    before = sha256_of(first.path / "best_model.pt")
    flags = TrainerFlags(init_from=str(first.path / "best_model.pt"), lr=2.5e-4, epochs=1)
    second = train("amn-790k-production", out="warm", flags=flags)
    log = (second.path / "training.log").read_text()
    assert re.search(r"warm start from .*best_model\.pt: (\d+) of \1 tensors loaded", log)
    assert "lr = 0.00025" in (second.path / "recipe.toml").read_text()
    assert sha256_of(first.path / "best_model.pt") == before
    with pytest.raises(CheckpointError, match="it is of model 'amn', the recipe's is 'gru'"):
        train("gru-790k", out="wrong", flags=flags)
