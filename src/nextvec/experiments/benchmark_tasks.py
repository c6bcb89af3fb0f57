"""The tasks of the benchmark: which text and windows a model is evaluated on, fixed so that results stay comparable.

A task is a TOML file. Tasks on text that packages carry come with nextvec; `add_task` makes one from any store. A
task is *frozen*: `content` is the hash of its documents, splits and texts (or vectors), and whoever runs it compares
the data with it. Text of installed packages changes with their versions, so a result names the content that it is of.
"""

from __future__ import annotations

import hashlib
import platform
import re
import tomllib
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Annotated, Any

import tomli_w
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from nextvec.core.cache_folder import cache_folder
from nextvec.core.display import Displayable
from nextvec.core.files import make_folder, write_text
from nextvec.core.locks import exclusive
from nextvec.core.table import Cell, Column, Row, Table, View
from nextvec.data.splits import SPLITS, SplitPlan
from nextvec.data.store import MANIFEST, Store, open_store
from nextvec.data.store.build import build_store
from nextvec.data.store.build_config import BuildConfig
from nextvec.errors import InputError, did_you_mean, one_line
from nextvec.recipe.schema import Positive, Section

TASKS = "tasks"
"""The folder of task files, in the package (a checkout has it at its root) and in a benchmark's folder."""

_NAME = re.compile(r"[\w.+-]+")
_TEXT_PACKAGES = ("torch", "numpy", "scikit-learn")
"""The packages whose documentation built-in text contains; the standard library comes with Python."""

Texts = Annotated[tuple[str, ...], BeforeValidator(lambda texts: tuple(texts) if isinstance(texts, list) else texts)]


def _require_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise ValueError("it becomes a file name; use letters, digits and . + - _ only")
    return name


class TaskText(Section):
    """Text that is made into a store: options of `nextvec data build`."""

    sources: Annotated[Texts, Field(min_length=1)]
    """Sources of text, such as builtin:python-docs."""
    encoder: str = "lsa"
    """Encoder of the chunks."""
    dimensions: Positive = 768
    """D of the lsa encoder."""
    val: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Fraction of the documents for val."""
    ood_sources: Texts = ()
    """Sources of the ood split."""
    min_chunks: Positive = 6
    """Minimum number of chunks of a document."""


class Task(Section):
    """A task of the benchmark."""

    name: Annotated[str, AfterValidator(_require_name)]
    description: str = ""
    """One sentence about the task."""
    version: Positive = 1
    """Raised whenever anything below changes. Results of different versions are never in one table."""
    text: TaskText | None = None
    """Text to make a store of; either this or `store`."""
    store: str = ""
    """Folder or URL of a store."""
    content: str = ""
    """SHA-256 of documents, splits and texts or vectors, in 64 digits."""
    min_context: Positive = 5
    """Minimum number of vectors before a target: the same targets for every model, however long its context is."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Seed of the sample of queries, of the resamples and of the baselines."""
    queries: Positive = 10_000
    """Maximum number of windows of a split used as retrieval queries."""
    resamples: Annotated[int, Field(ge=100)] = 2_000
    """Bootstrap resamples over documents."""

    @model_validator(mode="after")
    def _has_data(self) -> Task:
        if (self.text is None) == (not self.store):
            raise ValueError("a task has either [text] or store")
        return self


def known_tasks(folder: Path | None = None) -> dict[str, Path]:
    """Return the tasks that come with nextvec, and those of a benchmark's folder: name → file, sorted by name."""
    package = Path(__file__).resolve().parents[1]
    folders = [package / TASKS, package.parents[1] / TASKS, *([folder / TASKS] if folder else [])]
    files = {file.stem: file for parent in folders for file in parent.glob("*.toml")}
    return dict(sorted(files.items()))


@dataclass(frozen=True)
class TaskList(Displayable):
    """Tasks of the benchmark."""

    tasks: tuple[Task, ...]

    def view(self) -> View:
        """Return the tasks as a table."""
        columns = (
            Column("task", "left", "fold"),
            Column("data", "left", "fold"),
            Column("min. context"),
            Column("content", "left"),
            Column("description", "left", "fold"),
        )
        rows = []
        for task in self.tasks:
            data = f"{', '.join(task.text.sources)} ({task.text.encoder})" if task.text else task.store
            texts = (f"{task.name} (version {task.version})", data, str(task.min_context), task.content[:8])
            rows.append(Row(tuple(map(Cell, (*texts, task.description)))))
        return View((Table("", columns, tuple(rows)),))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return {"tasks": [task.model_dump(mode="json", exclude_none=True) for task in self.tasks]}


def list_tasks(folder: Path | None = None) -> TaskList:
    """Return the tasks that come with nextvec, and those of a benchmark's folder."""
    return TaskList(tuple(load_task(name, folder) for name in known_tasks(folder)))


def load_task(name: str, folder: Path | None = None) -> Task:
    """Return a task by its name or by the path of its file. Raises InputError if it is unknown or malformed."""
    known = known_tasks(folder)
    path = Path(name) if name.endswith(".toml") else known.get(name)
    if path is None:
        raise InputError(f"task '{name}' is unknown.{did_you_mean(name, known)}")
    if not path.is_file():
        raise InputError(f"task {path}: no such file. 'nextvec benchmark tasks' lists the known ones.")
    try:
        return Task(**tomllib.loads(path.read_text(encoding="utf-8-sig")))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise InputError(f"task {path}: {field + ': ' if field else ''}{first['msg']}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, TypeError) as error:
        raise InputError(f"task {path}: cannot be read ({one_line(error)})") from error


def add_task(store_name: str, folder: Path, *, name: str, description: str, min_context: int) -> Path:
    """Freeze a store as a task of a benchmark's folder and return the task's file.

    Raises InputError if the folder has a task of that name with another content, or if the store has no train or val.
    """
    store = open_store(store_name)
    splits = {SPLITS[number] for number in store.documents.splits.tolist()}
    if missing := {"train", "val"} - splits:
        raise InputError(
            f"store {store.name}: it has no {' and no '.join(sorted(missing))} split, which a task needs: baselines "
            "are fitted on train, and models are scored on val. Build it with --val."
        )
    location = store.url or str(store.path.resolve())
    try:
        task = Task(
            name=name or store.path.name,
            description=description,
            store=location,
            content=content_hash(store),
            min_context=min_context,
        )
    except ValidationError as error:
        raise InputError(f"task '{name or store.path.name}': {error.errors(include_url=False)[0]['msg']}") from error
    if task.name in known_tasks() or (task.name in known_tasks(folder) and load_task(task.name, folder) != task):
        raise InputError(f"task '{task.name}' exists with other content. Choose another --name.")
    file = folder / TASKS / f"{task.name}.toml"
    make_folder(file.parent)
    write_text(file, tomli_w.dumps(task.model_dump(exclude_none=True)))
    return file


def open_task(task: Task, *, quiet: bool = False) -> tuple[Store, str]:
    """Return the store of a task, built from its text at first use, and the hash of its content.

    The hash of a task on text may differ from `task.content`, if other versions of the packages are installed. Raises
    InputError if the store of a task on vectors has changed.
    """
    if task.text is None:
        store = open_store(task.store, quiet=quiet)
        content = content_hash(store)
        if content != task.content:
            raise InputError(
                f"task {task.name}: the store {task.store} is not the one that was frozen (its content differs). "
                "Restore it, or add it as another task."
            )
        return store, content
    path = _text_store(task)
    # One process builds the store, and others that start meanwhile use it.
    with exclusive(path):
        if not (path / MANIFEST).is_file():
            text = task.text
            config = BuildConfig(
                text.sources,
                text.encoder,
                SplitPlan(val=text.val, ood_sources=text.ood_sources),
                dimensions=text.dimensions,
                min_chunks=text.min_chunks,
                drop_near_duplicates=True,
            )
            build_store(config, path, quiet=quiet)
    store = open_store(path)
    return store, content_hash(store)


def _text_store(task: Task) -> Path:
    """Return the folder, in the user's cache, of a task's store for the versions of the packages that are installed."""
    installed = {"python": platform.python_version()}
    for package in (*_TEXT_PACKAGES, "sentencex", "nextvec"):
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = ""
    digest = hashlib.sha256(repr((task.text, sorted(installed.items()))).encode()).hexdigest()
    return cache_folder() / "benchmark" / f"{task.name}-{digest[:12]}"


def content_hash(store: Store) -> str:
    """Return the SHA-256 of a store's documents, splits and texts; of its vectors if it was not made from text.

    Texts identify a store made by an encoder better than its vectors, whose last digits depend on the machine.
    """
    documents, digest = store.documents, hashlib.sha256()
    for row in zip(documents.ids, documents.sources, documents.rows.tolist(), documents.splits.tolist(), strict=True):
        _add(digest, *map(str, row))
    if store.is_encoded and store.has_texts:
        for text in store.texts(range(len(store.vectors))):
            _add(digest, text)
    else:
        _add(digest, store.store_hash)
    return digest.hexdigest()


def _add(digest: Any, *texts: str) -> None:
    """Add texts to a hash, each with its length, so that no two lists of texts have the same bytes."""
    for text in texts:
        content = text.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "little") + content)
