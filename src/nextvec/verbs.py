"""What nextvec does: one function for each verb of the command line, with the same name and arguments.

    nextvec data build my-texts --out my-store        nextvec.data_build(["my-texts"], "my-store")
    nextvec train demo data.store=my-store            nextvec.train("demo", ["data.store=my-store"])

Functions import what they need when they are called, so that importing this module costs nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.data.check import CheckReport
    from nextvec.data.store import Store
    from nextvec.judge.judgement import Judgement
    from nextvec.training.run import Run

JUDGEMENT_FILE, REPORT_FILE = "judgement.json", "report.html"


@dataclass(frozen=True)
class TrainedRun:
    """What training leaves: the run's folder and the judgement of its best model."""

    path: Path
    judgement: Judgement

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for --json."""
        return {"run": str(self.path), "judgement": self.judgement.to_dict()}


def demo(
    out: str = "artifacts/demo", overrides: Positional[tuple[str, ...]] = (), *, quiet: bool = False
) -> TrainedRun:
    """The whole job on real text that is already here: the documentation of the installed Python packages.

    Reads docstrings (numpy, torch and scikit-learn to learn from, the standard library as another source), fits the
    built-in encoder, trains AMN and judges it beside every baseline. Offline, about two minutes on two cores.

    Args:
        out: Folder for the vector store and the runs; a store that is there already is used again.
        overrides: Changes to the recipe `demo`, such as training.epochs=3.
        quiet: Show no progress.
    """
    from nextvec.data.build import build_store
    from nextvec.data.split import SplitPlan
    from nextvec.data.store import MANIFEST

    store = Path(out) / "store"
    if not (store / MANIFEST).is_file():
        plan = SplitPlan(val=0.1, ood_sources=("stdlib",))
        build_store(["builtin:python-docs"], store, encoder="lsa", split=plan, min_chunks=8, quiet=quiet)
    return train(
        "demo", (f"data.store={store}", *overrides), out=str(_new_folder(Path(out) / "runs", "demo")), quiet=quiet
    )


def data_build(
    sources: Positional[tuple[str, ...]],
    out: str,
    *,
    encoder: str = "lsa",
    val: float = 0.1,
    ood: float = 0.0,
    val_source: tuple[str, ...] = (),
    ood_source: tuple[str, ...] = (),
    val_list: str = "",
    ood_list: str = "",
    val_range: tuple[str, str] | None = None,
    ood_range: tuple[str, str] | None = None,
    unit: Literal["paragraph", "sentences"] = "paragraph",
    min_chars: int = 40,
    max_chars: int = 2000,
    language: str = "en",
    min_chunks: int = 1,
    columns: tuple[str, ...] = (),
    vectors: tuple[str, ...] = (),
    dimensions: int = 768,
    dtype: Literal["float16", "float32"] = "float16",
    limit: int | None = None,
    device: str = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    quiet: bool = False,
) -> Store:
    """Make a vector store from text. A build that was killed goes on where it was when the command is run again.

    Args:
        sources: Folders of .txt/.md files, .jsonl(.gz), .parquet, a Wikipedia dump (.xml.bz2), hf:NAME, or
            builtin:python-docs.
        out: Folder of the new store.
        encoder: lsa (built in), minilm, gtr-t5-base, or any sentence-transformers model by name or folder.
        val: Share of the documents for validation, by a hash of their ids.
        ood: Share of the documents for ood, likewise.
        val_source: Sources whose documents are all val.
        ood_source: Sources whose documents are all ood.
        val_list: Text file with one document id a line: these are val.
        ood_list: Text file with one document id a line: these are ood.
        val_range: First and last id of a range that is val.
        ood_range: First and last id of a range that is ood.
        unit: What a chunk is: a paragraph, or sentences packed up to max_chars.
        min_chars: Shorter chunks are dropped and counted.
        max_chars: Longer paragraphs are divided at sentences.
        language: Language of the text, for finding sentences.
        min_chunks: Documents with fewer chunks are left out and counted.
        columns: Names of fields where they differ, such as title=headline group=book.
        vectors: .npy files of vectors made before, one for each source, a row for each paragraph.
        dimensions: D of the lsa encoder.
        dtype: Number format of the stored vectors.
        limit: Read at most that many documents of each source.
        device: Where a neural encoder runs: auto, cpu, cuda, mps.
        precision: Format of its matrix products.
        quiet: Show no progress.
    """
    from nextvec.data.build import build_store
    from nextvec.data.chunk import Chunker
    from nextvec.data.split import SplitPlan

    plan = SplitPlan(
        val, ood, tuple(val_source), tuple(ood_source), _read_ids(val_list), _read_ids(ood_list), val_range, ood_range
    )
    return build_store(
        sources, out, encoder=encoder, split=plan, chunker=Chunker(unit, min_chars, max_chars, language),
        columns=_columns(columns), dimensions=dimensions, vectors=vectors, dtype=dtype, min_chunks=min_chunks,
        limit=limit, device=device, precision=precision, quiet=quiet,
    )  # fmt: skip


def data_import(
    train: Positional[str],
    out: str,
    *,
    val_file: str = "",
    ood_file: str = "",
    val: float = 0.1,
    documents: str = "",
    encoder: str = "unknown",
    dtype: Literal["keep", "float16", "float32"] = "keep",
    allow_shared: bool = False,
    quiet: bool = False,
) -> Store:
    """Make a vector store from .npz files of windows (context_sequences, target_vectors).

    Windows that share a vector are linked: vectors are stored once, and no split can leak.

    Args:
        train: The .npz file of the training windows.
        out: Folder of the new store.
        val_file: A .npz file whose windows are all val; left out, a share of the train file's documents is.
        ood_file: A .npz file whose windows are all ood.
        val: Share of the train file's documents that become val where there is no val_file.
        documents: .npy file with one integer a window of the train file: windows of other documents are never linked.
        encoder: What made the vectors, if it is known.
        dtype: Number format of the stored vectors.
        allow_shared: Import although files share vectors, which is a leak between splits.
        quiet: Show no progress.
    """
    from nextvec.data.interchange import import_npz

    files = {"train": train, "val": val_file, "ood": ood_file}
    return import_npz(
        {split: Path(file) for split, file in files.items() if file}, Path(out), val=val,
        documents=Path(documents) if documents else None, dtype=None if dtype == "keep" else dtype, encoder=encoder,
        allow_shared=allow_shared, quiet=quiet,
    )  # fmt: skip


def data_export(
    store: Positional[str],
    out: str,
    *,
    split: Literal["train", "val", "ood"] = "train",
    context: int = 5,
    quiet: bool = False,
) -> Path:
    """Write the windows of a split as an .npz file for other tools (context_sequences, target_vectors, article_index).

    Args:
        store: Folder of the store.
        out: The .npz file to write.
        split: Which windows.
        context: S, vectors before each target.
        quiet: Show no progress.
    """
    from nextvec.data.interchange import export_npz
    from nextvec.data.store import open_store

    return export_npz(open_store(store), split, Path(out), context, quiet=quiet)


def data_synth(
    out: Positional[str], *, preset: str = "small", scale: float = 1.0, seed: int = 0, quiet: bool = False
) -> Store:
    """Make a store of synthetic vectors whose best reachable cosine is known (it stands in the manifest).

    Args:
        out: Folder of the new store.
        preset: small, linear, production (the production set's size and statistics) or production-584k.
        scale: Share of the preset's documents.
        seed: Decides every number.
        quiet: Show no progress.
    """
    from dataclasses import replace

    from nextvec.data.synthetic import PRESETS, scaled, synthesise
    from nextvec.errors import InputError, did_you_mean

    if preset not in PRESETS:
        raise InputError(f"preset '{preset}' is unknown.{did_you_mean(preset, PRESETS)}")
    return synthesise(Path(out), replace(scaled(PRESETS[preset], scale), seed=seed), quiet=quiet)


def data_check(store: Positional[str], *, context: int = 5, min_context: int | None = None) -> CheckReport:
    """Look a store over before training: broken vectors, repeats, leaks between splits, unlike splits.

    Args:
        store: Folder of the store.
        context: S, the context length that will be trained.
        min_context: Fewest vectors before a target; left out, all of context.
    """
    from nextvec.data.check import check_store
    from nextvec.data.store import open_store

    return check_store(open_store(store), context, min_context)


def train(
    recipe: Positional[str],
    overrides: Positional[tuple[str, ...]] = (),
    *,
    out: str = "",
    force: bool = False,
    quiet: bool = False,
) -> TrainedRun:
    """Train a model as a recipe says, and judge it beside the baselines.

    Args:
        recipe: Path of a TOML file, or the name of a recipe that comes with nextvec.
        overrides: Changes to the recipe, such as data.store=my-store training.epochs=3.
        out: Folder of the run; left out, artifacts/runs/NAME_TIME.
        force: Train although the data check is red.
        quiet: Show no progress.
    """
    from nextvec.recipe import load_recipe

    loaded = load_recipe(recipe, overrides)
    from nextvec.training.loop import train as train_loop  # after the recipe: a typo is told before torch loads
    from nextvec.training.start import start_run

    folder = Path(out) if out else _new_folder(Path("artifacts/runs"), loaded.name)
    run = start_run(loaded, folder, force=force, quiet=quiet)
    train_loop(run)
    return _judge_run(run)


def resume(run: Positional[str], *, quiet: bool = False) -> TrainedRun:
    """Go on with an interrupted run, to the end that it would have had without the interruption.

    Args:
        run: Folder of the run.
        quiet: Show no progress.
    """
    from nextvec.training.loop import train as train_loop
    from nextvec.training.start import resume_run

    resumed = resume_run(Path(run), quiet=quiet)
    train_loop(resumed)
    return _judge_run(resumed)


def eval(
    checkpoint: Positional[str],
    *,
    data: str = "",
    context: int | None = None,
    device: str = "auto",
    quiet: bool = False,
) -> Judgement:
    """Judge a checkpoint beside every baseline on the val and ood splits of a store.

    Args:
        checkpoint: A .pt file (of nextvec or of the original trainer) or the folder of a run.
        data: Folder of the store; left out, the one that it was trained on.
        context: S; left out, what the checkpoint says, else 5.
        device: auto, cpu, cuda or mps.
        quiet: Show no progress.
    """
    from nextvec.training.judging import judge_checkpoint

    return judge_checkpoint(Path(checkpoint), data=data, context=context, device=device, quiet=quiet)


def _judge_run(run: Run) -> TrainedRun:
    """Judge the best checkpoint as it lies on the disk, and write what the run leaves for people."""
    from nextvec.files import write_json
    from nextvec.report.page import write_report
    from nextvec.report.table import judgement_markdown
    from nextvec.training.judging import judge_best

    judgement = judge_best(run)
    write_json(run.path / JUDGEMENT_FILE, judgement.to_dict())
    write_report(run.path / REPORT_FILE, **_report_facts(run, judgement))
    run.event("judged", judgement=judgement.to_dict())
    run.say("", *judgement_markdown(judgement).splitlines())
    run.event("finished")
    run.write_history("finished", verdict=judgement.to_dict()["verdict"])
    return TrainedRun(run.path, judgement)


def _report_facts(run: Run, judgement: Judgement) -> dict[str, Any]:
    from nextvec.events import read_events

    started = next(event for event in read_events(run.path) if event["kind"] == "started")
    return {
        "title": run.recipe.name,
        "recipe": run.recipe.model_dump(exclude_none=True),
        "judgement": judgement,
        "history": run.position.history,
        "check": run.check.to_dict(),
        "versions": started["versions"],
    }


def _new_folder(parent: Path, name: str) -> Path:
    """A folder's path that does not exist yet: the name and the time, and a number if that is taken."""
    stem = f"{name}_{time.strftime('%Y%m%d_%H%M%S')}"
    path, number = parent / stem, 1
    while path.exists():
        number += 1
        path = parent / f"{stem}_{number}"
    return path


def _read_ids(path: str) -> frozenset[str]:
    from nextvec.errors import InputError

    if not path:
        return frozenset()
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"list {path}: cannot be read ({error}); give a text file with one document id a line"
        ) from error
    return frozenset(line.strip() for line in lines if line.strip())


def _columns(assignments: Sequence[str]) -> Any:
    """Columns from ``field=name`` words."""
    from dataclasses import fields

    from nextvec.data.corpus import Columns
    from nextvec.errors import InputError, did_you_mean

    known = {field.name for field in fields(Columns)}
    names: dict[str, str] = {}
    for assignment in assignments:
        field, equals, name = assignment.partition("=")
        if not equals:
            raise InputError(f"column '{assignment}': write it as field=name, such as title=headline")
        if field not in known:
            raise InputError(f"column '{field}' is unknown.{did_you_mean(field, known)}")
        names[field] = name
    return Columns(**names)
