"""A small store that every test of training and judging can use: documents that drift, with a forward direction."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers that each take all cores wait for each other: the whole suite takes three times as long.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, str(max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))))

import numpy as np
import pytest
from hypothesis import settings

import nextvec
from fork_server import write_program
from narrow_networks import narrow
from nextvec.data.space import Space
from nextvec.data.splits import SPLITS
from nextvec.data.store import VECTORS, DocumentTable, Store
from nextvec.data.store.writer import finish_store, write_documents
from nextvec.recipe import Recipe, make_recipe

# What must pass before a change lands (.ci/run) must not hang on luck; elsewhere hypothesis finds new cases each time.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def write_toy_store(
    path: Path, *, documents: int = 60, dimensions: int = 16, seed: int = 0, encoder: str = "toy"
) -> Store:
    """Documents of 3 to 20 vectors; each vector leans on the two before it and on the document's own topic."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(dimensions, dimensions)))
    rows = rng.integers(3, 21, documents)
    vectors = []
    for count in rows:
        topic, state = rng.normal(size=dimensions), rng.normal(size=dimensions)
        for _ in range(count):
            state = 0.7 * turn @ state + 0.7 * rng.normal(size=dimensions)
            vector = topic + state
            vectors.append(vector / np.linalg.norm(vector))
    splits = np.array(
        [SPLITS.index(("train", "train", "train", "val", "ood")[n % 5]) for n in range(documents)], np.int8
    )
    names = [f"document-{n}" for n in range(documents)]
    table = DocumentTable(names, names, ["toy"] * documents, splits, np.cumsum(rows) - rows, rows, np.arange(documents))
    folder = path.with_name(path.name + ".unfinished")
    folder.mkdir(parents=True)
    np.save(folder / VECTORS, np.array(vectors, np.float32))
    write_documents(folder, table)
    return finish_store(
        folder, path, Space(encoder, "1", dimensions), {"documents": documents, "chunks": int(rows.sum())}
    )


LONG_FILES = "export", "displays", "planted_pathologies", "sweep", "kills", "ceiling", "ops", "page", "hub", "build"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The runbook first, then Ray: one worker takes the long rehearsal, the other one all tests that need a cluster.

    Then the other long files, so that no worker waits in the end for one that another one has just begun.
    """

    def place(item: pytest.Item) -> tuple[bool, bool, bool]:
        name = item.path.stem.removeprefix("test_")
        return name != "runbook", "ray" not in name.split("_"), name not in LONG_FILES

    items.sort(key=place)


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return write_toy_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture
def other_store(tmp_path: Path) -> Callable[..., Store]:
    """Writes a toy store of another seed or dimension: ``other_store(dimensions=8)``."""
    return lambda **options: write_toy_store(tmp_path / f"other_store_{len(list(tmp_path.iterdir()))}", **options)


@pytest.fixture(scope="session")
def make_store() -> Callable[..., Store]:
    """`write_toy_store`, for tests that change a store of their own."""
    return write_toy_store


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 20 text files with 8 paragraphs of random words each."""
    rng = np.random.default_rng(0)
    words = np.array([first + second for first in ("ka", "lo", "mi", "ru", "se") for second in ("ban", "dor", "fel")])
    folder = tmp_path_factory.mktemp("texts") / "texts"
    folder.mkdir()
    for number in range(20):
        paragraphs = [" ".join(rng.choice(words, 16)) + "." for _ in range(8)]
        (folder / f"{number}.txt").write_text("\n\n".join(paragraphs))
    return folder


TOPICS = ("harbor boats tide gull rope sail", "oven flour yeast crust bake loaf", "orbit comet lens moon star dust")
VERBS = ["carries", "moves", "finds", "keeps", "turns", "marks", "leaves", "holds", "meets", "follows"]


def make_documents(count: int = 40, seed: int = 0) -> list[dict[str, object]]:
    """Documents about one topic each, with paragraphs that no other document has."""
    rng = np.random.default_rng(seed)
    documents = []
    for number in range(count):
        words = TOPICS[number % len(TOPICS)].split()
        paragraphs = []
        for position in range(9):
            chosen = [*rng.choice(words, 4), *rng.choice(VERBS, 2), f"note{number}x{position}"]
            paragraphs.append("The " + " ".join(chosen) + " beside the old stone wall today.")
        documents.append({"id": f"d{number}", "title": f"Document {number}", "source": "s", "paragraphs": paragraphs})
    return documents


@pytest.fixture(scope="session")
def text_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A text store with its own encoder."""
    folder = tmp_path_factory.mktemp("inference")
    source = folder / "texts.jsonl"
    source.write_text("".join(json.dumps(document) + "\n" for document in make_documents()))
    return nextvec.data_build([source], out=folder / "store", val=0.2, dimensions=12, quiet=True)


@pytest.fixture(scope="session")
def text_run(text_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on `text_store`."""
    values = {
        "name": "texts",
        "data": {"store": str(text_store.path), "context": 4, "min_context": 1},
        "training": {"epochs": 1, "batch_size": 32},
        "evaluation": {"resamples": 100, "ridge_windows": 1000},
        "runtime": {"device": "cpu", "threads": 1},
    }
    run = tmp_path_factory.mktemp("runs") / "texts"
    nextvec.train(values, out=run, force=True, quiet=True)
    return run


@pytest.fixture(scope="session")
def paragraphs(text_store: Store) -> list[str]:
    """The paragraphs of the first document of the store."""
    return text_store.texts(range(int(text_store.documents.rows[0])))


@pytest.fixture
def toy_recipe(toy_store: Store) -> Recipe:
    return make_recipe(
        {
            "name": "toy",
            "data": {"store": str(toy_store.path)},
            "objective": {"mse": 0.5, "info_nce": 0.5},
            "training": {"epochs": 3, "batch_size": 32, "precision": "fp32"},
            "evaluation": {"resamples": 100, "ridge_windows": 1000},
            "runtime": {"device": "cpu", "threads": 1},
        }
    )


@pytest.fixture
def small_networks() -> Iterator[None]:
    """Make the recurrent networks and the transformers narrow, for tests whose subject is not their size."""
    with pytest.MonkeyPatch.context() as patch:  # of its own: tests undo theirs
        narrow(patch.setattr)
        yield


@pytest.fixture(scope="session")
def nextvec_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A `nextvec` that starts in milliseconds; a test of the start itself uses ``python -m nextvec``."""
    folder = tmp_path_factory.mktemp("bin")
    with tempfile.TemporaryDirectory(prefix="nextvec") as short:  # the path of a socket has at most 107 characters
        address = Path(short) / "socket"
        write_program(folder / "nextvec", address)
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, Path(__file__).with_name("fork_server.py"), address]
        with subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"
            yield folder / "nextvec"


@pytest.fixture
def history() -> list[dict[str, Any]]:
    """The records of three epochs."""
    return [
        {
            "epoch": epoch, "train_cosine": 0.57 + 0.01 * epoch, "val_cosine": 0.56 + 0.008 * epoch,
            "ood_cosine": 0.55 + 0.007 * epoch, "train_loss_mse": 0.0013 / epoch, "val_loss_mse": 0.0014 / epoch,
            "train_loss_info": 2.5 / epoch, "val_loss_info": "nan" if epoch == 2 else 2.6 / epoch,
            "best": epoch < 3, "lr": 0.0005,
        }
        for epoch in (1, 2, 3)
    ]  # fmt: skip


CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """A real headless Chromium; tests of pages are skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs the package playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
                "--disable-component-update", "--disable-sync"]  # fmt: skip
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=switches)
        yield opened
        opened.close()


class Visit:
    """A page in a browser, what it asked for, and what went wrong in it."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.asked: list[str] = []
        self.errors: list[str] = []
        page.set_default_timeout(15_000)
        page.on("request", lambda request: self.asked.append(request.url))
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: self.errors.append(f"dialog: {dialog.message}"))

    def wait_for(self, script: str) -> Any:
        """What a script says, as soon as that is true."""
        until = time.monotonic() + 15
        while not (said := self.page.evaluate(script)):  # playwright's own waiting is what the page's policy forbids
            assert time.monotonic() < until, f"{script} in {self.page.inner_text('body')[:2000]}; {self.errors}"
            time.sleep(0.03)
        return said


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Visit]]:
    """Opens a page: ``visit(url, width=390, color_scheme="dark")``; it must not have failed in the end."""
    opened: list[tuple[Any, Visit]] = []

    def open_page(url: str, *, width: int = 1200, height: int = 900, **options: Any) -> Visit:
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        opened.append((context, Visit(context.new_page())))
        opened[-1][1].page.goto(url)
        return opened[-1][1]

    yield open_page
    for context, found in opened:
        context.close()
        assert not found.errors


@pytest.fixture(scope="session")
def local_ray() -> Iterator[Any]:
    """A Ray cluster of two CPUs on this machine, which takes seconds to start."""
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield ray
    ray.shutdown()
