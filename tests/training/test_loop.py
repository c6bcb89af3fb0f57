"""Training: the files of a run, exact resume, interruption, and what stops a run."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from equality import assert_same_runs, assert_same_values, events_of
from nextvec.core.events import read_events
from nextvec.core.run_paths import BEST_MODEL, RESUME_STATE
from nextvec.data.order import ORDER_VERSION
from nextvec.data.store import Store
from nextvec.data.windows import Batch, WindowSet
from nextvec.errors import (
    CheckpointError,
    Interrupted,
    NotFiniteError,
    OutputError,
    RecipeError,
    StoppedError,
    StoreError,
)
from nextvec.models.checkpoint import read_checkpoint
from nextvec.recipe import Recipe, make_recipe
from nextvec.training import loop
from nextvec.training import step as training_step
from nextvec.training.checkpoint import save_checkpoint
from nextvec.training.evaluate import evaluate_best, evaluate_checkpoint
from nextvec.training.resume import resume_run
from nextvec.training.run import Run
from nextvec.training.saved_state import restore_state, save_state
from nextvec.training.setup import start_run
from nextvec.training.signals import STOP_SIGNALS
from nextvec.training.validation import validate

pytestmark = pytest.mark.usefixtures("small_networks")


def changed(recipe: Recipe, *overrides: str) -> Recipe:
    return make_recipe(recipe.model_dump(exclude_none=True), overrides)


def trained(recipe: Recipe, path: Path) -> Run:
    run = start_run(recipe, path, quiet=True)
    loop.train(run)
    return run


def test_a_run_writes_the_files_of_the_runbook(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(toy_recipe, tmp_path / "run")
    names = {file.name for file in run.path.iterdir()}
    assert names >= {
        "recipe.toml", "events.jsonl", "training.log", "training_history.json", "best_model.pt", "epoch_1.pt",
        "epoch_2.pt", "epoch_3.pt", "resume.pt", "baselines.pt", "checkpoints.json",
    }  # fmt: skip
    assert not [name for name in names if name.endswith(".tmp")]
    history = json.loads((run.path / "training_history.json").read_text())
    assert history["status"] == "trained" and [record["epoch"] for record in history["epochs"]] == [1, 2, 3]
    assert {"train_cosine", "train_loss_mse", "train_loss_info", "val_cosine", "val_loss", "ood_cosine"} <= set(
        history["epochs"][0]
    )
    kinds = [event["kind"] for event in read_events(run.path)]
    assert kinds[:3] == ["started", "checked", "baselines"] and kinds.count("epoch") == 3


def test_the_runbooks_greps_work_on_training_log(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(toy_recipe, tmp_path / "run")

    def shell(command: str) -> list[str]:
        done = subprocess.run(["bash", "-c", command], cwd=run.path, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    trend = shell('grep "val_cosine" training.log | tail -10')
    assert len(trend) == 3
    for epoch, record in enumerate(run.state.history, start=1):
        (line,) = shell(f'grep "Epoch {epoch}/" training.log -A 5 | grep val_cosine')
        match = re.search(r"val_cosine=(\S+)", line)
        assert match and float(match[1]) == pytest.approx(record["val_cosine"], abs=5e-5)
    losses = shell(r'grep "loss_info\|loss_mse" training.log | tail -20')
    assert any("train_loss_mse=" in line and "train_loss_info=" in line for line in losses)


def test_the_seed_determines_the_weights(toy_recipe: Recipe, tmp_path: Path) -> None:
    first, second = trained(toy_recipe, tmp_path / "a"), trained(toy_recipe, tmp_path / "b")
    other = trained(changed(toy_recipe, "seed=1"), tmp_path / "c")
    assert_same_values(first.model.state_dict(), second.model.state_dict())
    assert not torch.equal(
        torch.cat([p.flatten() for p in first.model.parameters()]),
        torch.cat([p.flatten() for p in other.model.parameters()]),
    )


@pytest.fixture(scope="module")
def train_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Recipe], Run]:
    """Trains a recipe without interruption, each only once."""
    runs: dict[str, Run] = {}

    def train_recipe(recipe: Recipe) -> Run:
        if recipe.recipe_hash not in runs:
            runs[recipe.recipe_hash] = trained(recipe, tmp_path_factory.mktemp("train_once") / "run")
        return runs[recipe.recipe_hash]

    return train_recipe


@pytest.mark.parametrize("stop_at", [2, 7, 8], ids=["mid-epoch", "epoch's end", "right after"])
@pytest.mark.parametrize("kind", ["amn", "lstm", "gru", "transformer"])
def test_a_resumed_run_is_bit_equal_to_an_uninterrupted_run(
    toy_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    train_once: Callable[[Recipe], Run],
    kind: str,
    stop_at: int,
) -> None:
    """Weights, optimizer, history, events and log are equal to the last bit, wherever the run was interrupted."""
    recipe = changed(
        toy_recipe, f"model.kind={kind}", "model.dropout=0.1", "training.epochs=2", "training.keep_epochs=false", GATES
    )
    uninterrupted = train_once(recipe)
    assert uninterrupted.steps_per_epoch == 7

    interrupted = start_run(recipe, tmp_path / "broken", quiet=True)
    interrupt(interrupted, monkeypatch, stop_at)
    resumed = resume_run(tmp_path / "broken", quiet=True)
    assert resumed.state.step == stop_at
    loop.train(resumed)
    assert_same_runs(uninterrupted.path, interrupted.path)


def test_equal_weights_give_equal_gradient_shares_at_every_step(
    toy_recipe: Recipe, tmp_path: Path, train_once: Callable[[Recipe], Run]
) -> None:
    """With weights 0.5 and 0.5 each term has about half of the gradient, and val_cosine stays close to MSE alone."""
    epochs = ("training.epochs=6", "training.lr=0.003", "model.query=false")
    halves = train_once(changed(toy_recipe, "objective.mse=0.5", "objective.info_nce=0.5", *epochs))
    alone = train_once(changed(toy_recipe, "objective.mse=1", "objective.info_nce=0", *epochs))
    steps = events_of(halves.path, "step") + events_of(halves.path, "epoch")
    assert len(steps) > 20
    for event in steps:
        assert 0.45 <= event["share_mse"] <= 0.55 and 0.45 <= event["share_info"] <= 0.55
    best = [max(record["val_cosine"] for record in run.state.history) for run in (halves, alone)]
    assert best[0] > best[1] - 0.02  # orders of windows alone change either by 0.012 (standard deviation)


def test_windows_with_shorter_contexts_are_used_for_training_only(
    toy_recipe: Recipe, tmp_path: Path, train_once: Callable[[Recipe], Run]
) -> None:
    plain = train_once(toy_recipe)
    recipe = changed(toy_recipe, "data.train_min_context=1", "training.epochs=1")
    run = trained(recipe, tmp_path / "run")
    missing = sum(
        min(4, rows - 1) for rows in run.sets["train"].documents.rows[run.sets["train"].documents.splits == 0]
    )
    assert len(run.train_windows) == len(plain.train_windows) + missing
    assert f"train_windows_with_shorter_contexts={len(run.train_windows):,}" in (run.path / "training.log").read_text()
    assert len(run.sets["val"]) == len(plain.sets["val"]) and run.baseline_cosines == plain.baseline_cosines


def test_reverse_augmentation_is_used_in_the_first_steps_only(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(
        changed(toy_recipe, "training.reverse_augmentation=0.5", "training.epochs=2"), tmp_path / "run", quiet=True
    )
    counts: list[int] = []
    batch = WindowSet.batch

    def counted(self: WindowSet, index: torch.Tensor, mirrored: int = 0) -> Batch:
        if self is run.train_windows:
            counts.append(mirrored)
        return batch(self, index, mirrored)

    monkeypatch.setattr(WindowSet, "batch", counted)
    loop.train(run)
    half = run.recipe.training.batch_size // 2
    assert counts == [half] * (run.total_steps // 2) + [0] * (run.total_steps - run.total_steps // 2)


@pytest.mark.parametrize(("share", "mirror", "learned"), [("0.25", "0", 8), ("1", "0", 32), ("1", "1", 16)])
def test_the_query_learns_from_its_fraction_of_the_windows_read_forward(
    toy_recipe: Recipe, tmp_path: Path, share: str, mirror: str, learned: int
) -> None:
    changes = f"objective.query_batch_fraction={share}", f"training.reverse_augmentation={mirror}", "training.epochs=1"
    run = start_run(changed(toy_recipe, *changes), tmp_path / "run", quiet=True)
    backward, counts = run.objective.backward_query, set()

    def counted(query_QD: torch.Tensor, target_BD: torch.Tensor, *rest: torch.Tensor) -> dict[str, torch.Tensor]:
        counts.add((len(query_QD), len(target_BD), len(rest[0])))
        return backward(query_QD, target_BD, *rest)

    run.objective.backward_query = counted  # type: ignore[method-assign]
    loop.train(run)
    assert counts == {(learned, 32, learned)}


def test_a_run_interrupted_three_times_is_bit_equal_to_an_uninterrupted_run(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_once: Callable[[Recipe], Run]
) -> None:
    recipe = changed(toy_recipe, "model.dropout=0.1", *HELPS, GATES)
    uninterrupted = train_once(recipe)
    interrupted = start_run(recipe, tmp_path / "broken", quiet=True)
    for stop_at in (3, 9, 15):
        interrupt(interrupted, monkeypatch, stop_at)
        interrupted = resume_run(tmp_path / "broken", quiet=True)
    loop.train(interrupted)
    assert_same_runs(uninterrupted.path, interrupted.path)


HELPS = ("training.ema_decay=0.9", "training.reverse_augmentation=0.5", "data.train_min_context=1")

GATES = (
    'gates=[{epoch=[1, 2], metric="val_cosine", green=2.0, red=1.5}, {epoch=[1, 2, 3], metric="ood_cosine", red=-2.0}]'
)
"""Gates that report and do not stop the run."""


def interrupt(run: Run, monkeypatch: pytest.MonkeyPatch, stop_at: int) -> None:
    """Train until step `stop_at`, where the user presses Ctrl-C."""
    interrupt_at(monkeypatch, stop_at)
    with pytest.raises(Interrupted, match="nextvec resume"):
        loop.train(run)
    monkeypatch.undo()
    torch.rand(7)  # random numbers drawn in between must not matter


STOP = 'gates=[{epoch=2, metric="ood_cosine", red=0.99, action="stop", advice="check the data"}]'


def test_the_best_checkpoint_scores_exactly_as_in_training(
    toy_recipe: Recipe, train_once: Callable[[Recipe], Run]
) -> None:
    run = train_once(toy_recipe)
    evaluated = evaluate_best(run).splits["val"].predictors["amn"].cosine.value
    assert evaluated == read_checkpoint(run.path / BEST_MODEL).values["metrics"]["val_cosine"]


def test_a_red_gate_saves_everything_and_reports_the_reason(
    toy_recipe: Recipe, tmp_path: Path, train_once: Callable[[Recipe], Run]
) -> None:
    recipe = changed(toy_recipe, STOP)
    run = start_run(recipe, tmp_path / "run", quiet=True)
    with pytest.raises(
        StoppedError, match=r"by the sentinel after epoch 2: ood cosine 0\.\d+ is below 0\.99.*--force$"
    ) as stop:
        loop.train(run)
    assert stop.value.exit_code == 3 and "\n" not in str(stop.value)
    assert "Unreachable gate (certain): The gate is red below ood cosine 0.99" in str(stop.value)
    history = json.loads((run.path / "training_history.json").read_text())
    assert history["status"] == "stopped" and history["stopped"] in str(stop.value)
    assert [gate["status"] for gate in history["epochs"][-1]["gates"]] == ["red"]
    last = read_events(run.path)[-1]
    assert last["kind"] == "stopped" and last["diagnosis"].startswith("Unreachable gate")
    checks = (run.path / "ood_sentinel.log").read_text().splitlines()
    assert checks[0].startswith("baselines on ood: copy-last") and checks[1].startswith(
        "epoch 2 ■ red gate: ood cosine"
    )
    assert "stopped by the sentinel after epoch 2" in (run.path / "training.log").read_text()
    assert (
        read_checkpoint(run.path / RESUME_STATE).values["epoch"]
        == read_checkpoint(run.path / "epoch_2.pt").values["epoch"]
    )

    with pytest.raises(StoppedError, match="was stopped: ood cosine"):
        resume_run(run.path, quiet=True)
    resumed = resume_run(run.path, force=True, quiet=True)
    loop.train(resumed)
    assert_same_values(train_once(toy_recipe).model.state_dict(), resumed.model.state_dict())


def test_a_red_gate_with_action_warn_does_not_stop_the_run(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(changed(toy_recipe, STOP.replace("stop", "warn")), tmp_path / "run")
    assert run.state.is_done and "■ red gate: ood cosine" in (run.path / "training.log").read_text()


def test_recipe_warnings_are_logged_before_the_first_epoch(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(changed(toy_recipe, "objective.loss_weighting=raw", "training.epochs=1"), tmp_path / "run")
    opening = (run.path / "training.log").read_text().partition("Epoch 1/")[0]
    assert "objective.loss_weighting is raw" in opening
    assert [event["text"] for event in read_events(run.path) if event["kind"] == "warning"]


def test_a_run_killed_in_its_first_epoch_can_be_resumed(toy_recipe: Recipe, tmp_path: Path) -> None:
    uninterrupted = trained(toy_recipe, tmp_path / "whole")
    start_run(toy_recipe, tmp_path / "killed", quiet=True)  # what a kill in the first epoch leaves
    resumed = resume_run(tmp_path / "killed", quiet=True)
    loop.train(resumed)
    assert_same_values(uninterrupted.model.state_dict(), resumed.model.state_dict())


def interrupt_at(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Send this process SIGINT right before the rate of step `step` is set, as Ctrl-C would."""
    ask = training_step.learning_rate_at

    def learning_rate_at(at: int, *rest: object) -> float:
        if at == step - 1:
            os.kill(os.getpid(), signal.SIGINT)
        return ask(at, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(training_step, "learning_rate_at", learning_rate_at)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_signals_save_the_state_and_restore_the_handlers(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    before = [signal.getsignal(name) for name in STOP_SIGNALS]
    run = start_run(toy_recipe, tmp_path / "run", quiet=True)
    monkeypatch.setattr(training_step, "set_learning_rate", lambda *_: os.kill(os.getpid(), number))
    with pytest.raises(Interrupted):
        loop.train(run)
    assert [signal.getsignal(name) for name in STOP_SIGNALS] == before
    assert read_events(run.path)[-1]["kind"] == "interrupted"
    assert json.loads((run.path / "training_history.json").read_text())["status"] == "interrupted"
    assert read_checkpoint(run.path / RESUME_STATE).values["step"] == 1


def test_golden_losses_of_the_toy_recipe(toy_recipe: Recipe, tmp_path: Path) -> None:
    """Recorded when the recipe was written; another CPU may change late digits, another method changes more."""
    golden = {
        "train_loss_mse": (0.050034, 0.045264, 0.044783),
        "train_loss_info": (2.010025, 1.366923, 1.354086),
        "train_cosine": (0.599731, 0.637885, 0.641732),
        "val_loss_mse": (0.051723, 0.051428, 0.051940),
        "val_loss_info": (1.671900, 1.710973, 1.773053),
        "val_cosine": (0.586215, 0.588580, 0.584480),
        "ood_cosine": (0.642223, 0.641228, 0.641794),
    }
    run = trained(changed(toy_recipe, "model.variant=original"), tmp_path / "run")
    for figure, values in golden.items():
        assert [record[figure] for record in run.state.history] == pytest.approx(values, rel=2e-3), figure
    baselines = {"copy-last": 0.445666, "context-mean": 0.596813, "decayed-mean": 0.596813, "ridge": 0.742710}
    for name, cosine in baselines.items():
        assert run.baseline_cosines["val"][name] == pytest.approx(cosine, abs=2e-4), name


def test_validation_does_not_change_training(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = changed(toy_recipe, "model.kind=lstm", "training.epochs=2")
    with_validation = trained(recipe, tmp_path / "with")
    figures = {"val_cosine": 0.5, "val_gain": 0.0, "val_margin": 0.0, "val_best_baseline": "none", "val_loss": 0.5}
    monkeypatch.setattr(loop, "validate", lambda run, split: figures if split == "val" else {})
    without = trained(recipe, tmp_path / "without")
    assert_same_values(with_validation.model.state_dict(), without.model.state_dict())


def test_an_untrained_original_amn_scores_as_the_context_mean(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = start_run(changed(toy_recipe, "model.variant=original"), tmp_path / "run", quiet=True)
    figures = validate(run, "val")
    assert figures["val_cosine"] == pytest.approx(run.baseline_cosines["val"]["context-mean"], abs=1e-6)


def test_an_lstm_learns_from_random_weights(toy_recipe: Recipe, tmp_path: Path) -> None:
    """An LSTM starts at random, so its score on unseen documents is learned."""
    recipe = changed(toy_recipe, "model.kind=lstm", "training.lr=0.003", "training.epochs=4", "objective.info_nce=0")
    run = trained(recipe, tmp_path / "run")
    assert run.state.history[-1]["val_cosine"] > run.baseline_cosines["val"]["train-mean"] + 0.3


def test_the_best_checkpoint_is_that_of_the_best_epoch(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(changed(toy_recipe, "training.epochs=4", "training.lr=0.01"), tmp_path / "run")
    best = max([run.state.start, *run.state.history], key=lambda record: record["val_cosine"])
    saved = read_checkpoint(run.path / BEST_MODEL)
    assert saved.values["epoch"] == best["epoch"] and saved.values["metrics"]["val_cosine"] == best["val_cosine"]
    evaluation = evaluate_best(run)
    assert evaluation.splits["val"].predictors["amn"].cosine.value == best["val_cosine"]
    assert "mismatch" not in [event["kind"] for event in read_events(run.path)]


def test_best_by_val_loss_and_early_stop(toy_recipe: Recipe, tmp_path: Path) -> None:
    recipe = changed(
        toy_recipe, "training.best_metric=val_loss", "training.early_stop=2", "training.epochs=40", "training.lr=0.05"
    )  # fmt: skip
    run = trained(recipe, tmp_path / "run")
    losses = [record["val_loss"] for record in run.state.history]
    assert len(losses) < 40 and losses.index(min(losses)) == len(losses) - 3
    candidates = [run.state.start["val_loss"], *losses]
    assert read_checkpoint(run.path / BEST_MODEL).values["epoch"] == candidates.index(min(candidates))
    assert "stopped early" in (run.path / "training.log").read_text()


def test_a_non_finite_gradient_stops_the_run_before_the_update(
    toy_recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start_run(toy_recipe, tmp_path / "run", quiet=True)
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    monkeypatch.setattr(training_step, "gradient_norm", lambda *_: torch.tensor(float("nan")))
    with pytest.raises(NotFiniteError, match="epoch 1, step 0"):
        loop.train(run)
    assert_same_values(before, run.model.state_dict())
    assert read_events(run.path)[-1]["kind"] == "failed"


def test_a_warm_start_begins_with_the_weights_of_the_other_run(toy_recipe: Recipe, tmp_path: Path) -> None:
    first = trained(changed(toy_recipe, "training.epochs=5", "training.lr=0.005"), tmp_path / "first")
    recipe = changed(toy_recipe, f"training.init_from='{first.path}'")
    second = start_run(recipe, tmp_path / "second", quiet=True)
    assert_same_values(second.model.state_dict(), read_checkpoint(first.path).weights)
    assert "warm start from" in (second.path / "training.log").read_text()


def test_files_of_the_original_trainer_can_be_used(toy_recipe: Recipe, tmp_path: Path) -> None:
    """The original trainer's files have three keys, no space, no recipe, and layers under other numbers."""
    recipe = changed(toy_recipe, "model.variant=original")
    first = trained(changed(recipe, "training.epochs=1"), tmp_path / "first")
    weights = first.model.state_dict()
    layers = {"0": "0", "2": "2", "3": "4", "5": "6", "6": "8"}  # dropout layers are numbered in between
    renamed = {
        re.sub(r"^residual_net\.(\d)", lambda match: f"residual_net.{layers[match[1]]}", name): value
        for name, value in weights.items()
    }
    file = tmp_path / "original.pt"
    torch.save({"model_type": "amn", "model_config": {"input_dim": 16}, "model_state_dict": renamed}, file)
    with pytest.raises(CheckpointError, match=r"of the original amn, .* Set model\.variant=original"):
        start_run(changed(toy_recipe, f"training.init_from='{file}'"), tmp_path / "second", quiet=True)
    second = start_run(changed(recipe, f"training.init_from='{file}'"), tmp_path / "second", quiet=True)
    assert_same_values(second.model.state_dict(), weights)
    evaluation = evaluate_checkpoint(file, data=toy_recipe.data.store, context=None, device="cpu", quiet=True)
    assert evaluation.splits["val"].predictors["amn"].cosine.value == first.state.history[-1]["val_cosine"]
    with pytest.raises(CheckpointError, match="Use --data STORE"):
        evaluate_checkpoint(file, data="", context=None, device="cpu", quiet=True)


def test_warm_start_refuses_another_model_or_dimension(
    toy_recipe: Recipe, tmp_path: Path, other_store: Callable[..., Store]
) -> None:
    first = trained(changed(toy_recipe, "training.epochs=1"), tmp_path / "first")
    warm = f"training.init_from='{first.path}'"
    with pytest.raises(CheckpointError, match="model 'amn', the recipe's is 'lstm'"):
        start_run(changed(toy_recipe, warm, "model.kind=lstm"), tmp_path / "x", quiet=True)
    other = other_store(dimensions=8)
    with pytest.raises(CheckpointError, match=r"16-D, but store .* is 8-D"):
        start_run(changed(toy_recipe, warm, f"data.store='{other.path}'"), tmp_path / "x", quiet=True)
    assert not (tmp_path / "x").exists()


def test_resume_refuses_changed_data(toy_recipe: Recipe, tmp_path: Path, other_store: Callable[..., Store]) -> None:
    run = start_run(toy_recipe, tmp_path / "run", quiet=True)
    save_state(run)
    run.close()
    other = other_store(seed=1)
    text = (run.path / "recipe.toml").read_text().replace(toy_recipe.data.store, str(other.path))
    (run.path / "recipe.toml").write_text(text)
    with pytest.raises(StoreError, match=r"it has changed since run .* started"):
        resume_run(run.path, quiet=True)


def test_resume_state_names_what_is_missing(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = trained(changed(toy_recipe, "training.epochs=1"), tmp_path / "run")
    with pytest.raises(CheckpointError, match="the training state is incomplete"):
        restore_state(run, read_checkpoint(run.path / BEST_MODEL))


def test_a_state_saved_in_another_order_of_windows_is_refused(toy_recipe: Recipe, tmp_path: Path) -> None:
    run = start_run(toy_recipe, tmp_path / "run", quiet=True)
    save_state(run)
    run.close()
    saved = read_checkpoint(run.path / RESUME_STATE).values
    assert saved["training"]["order_version"] == ORDER_VERSION
    for version in (1, None, ORDER_VERSION + 1):
        del saved["training"]["order_version"]  # version 1 was not saved
        if version != 1:
            saved["training"]["order_version"] = version
        save_checkpoint(run.path / RESUME_STATE, saved)
        with pytest.raises(CheckpointError, match=rf"version {version} of the order of windows.*Train the run again"):
            resume_run(run.path, quiet=True)
        saved["training"]["order_version"] = version


def test_unusable_input_is_refused_before_a_folder_is_made(
    toy_recipe: Recipe, toy_store: Store, tmp_path: Path
) -> None:
    path = tmp_path / "run"
    for override, message in (
        ("training.batch_size=5000", "training.batch_size is 5000, but there are only"),
        ("data.store=''", "data.store is empty"),
        ("data.min_context=19", "no train windows with context|val has"),
        ("model.kind=lstn", "Did you mean 'lstm'"),
        ("runtime.device=tpu", "device 'tpu' is unknown"),
    ):
        with pytest.raises((RecipeError, StoreError, ValueError), match=message):
            start_run(changed(toy_recipe, override), path, quiet=True)
        assert not path.exists(), override
    path.mkdir()
    (path / "notes.txt").write_text("of the user")
    with pytest.raises(OutputError, match="already exists"):
        start_run(toy_recipe, path, quiet=True)


def test_the_query_does_not_change_the_prediction(toy_recipe: Recipe, tmp_path: Path) -> None:
    """The query loss falls, and a run without a query ends with the same prediction weights."""
    recipe = changed(
        toy_recipe, "model.dropout=0", "objective.info_nce=0", "objective.query_tau=0.3",
        "objective.query_batch_fraction=1",
        "training.lr=0.005", "training.epochs=6",
    )  # fmt: skip
    run = trained(recipe, tmp_path / "with")
    losses = [record["train_loss_query"] for record in run.state.history]
    assert losses[-1] < losses[0] - 0.05
    fresh = start_run(recipe, tmp_path / "fresh", quiet=True).model
    alone = start_run(changed(recipe, "model.query=false"), tmp_path / "without", quiet=True)
    alone.model.load_state_dict({name: value for name, value in fresh.state_dict().items() if "query_head" not in name})
    loop.train(alone)
    assert "train_loss_query" not in alone.state.history[-1]
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value)


def test_a_run_that_stopped_early_trains_on_or_reports_why_not(
    toy_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With early stopping off a forced resume trains on; with fewer epochs it does not train forever."""
    early = changed(toy_recipe, "training.epochs=4", "training.early_stop=1", "training.lr=1e-12")
    run = trained(early, tmp_path / "run")
    run.close()
    assert run.state.is_done and run.state.epoch == 2
    resume_run(run.path, quiet=False).close()
    reason = "nothing to train: early stopping ended it: val_cosine has not improved for 1 epochs"
    assert reason in (run.path / "training.log").read_text() and reason in capsys.readouterr().err
    for change in (("early_stop = 1", "early_stop = 0"), ("epochs = 4", "epochs = 3")):
        text = (run.path / "recipe.toml").read_text()
        (run.path / "recipe.toml").write_text(text.replace(*change))
        with pytest.raises(CheckpointError, match="training differs"):
            resume_run(run.path, quiet=True)
        resumed = resume_run(run.path, force=True, quiet=True)
        loop.train(resumed)
        resumed.close()
        assert len(events_of(run.path, "epoch")) == 4 and len(events_of(run.path, "trained")) == 1
    assert "nothing to train: all 4 epochs are trained" in (run.path / "training.log").read_text()
