"""A run's input data: a store and, if the recipe names one, a separate set in place of its ood split.

Either may be an .npz file of windows. Such a file is imported once into a store beside it (NAME.store), which is reused
until the file changes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nextvec.core.formatting import Status
from nextvec.core.urls import is_url, mask_url
from nextvec.data.checks import CheckReport, check_store
from nextvec.data.checks.findings import Finding, make_finding
from nextvec.data.encoders import LSA, Encoder, open_encoder
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.npz.cache import find_store, is_npz, open_npz
from nextvec.data.space import difference
from nextvec.data.splits import SPLITS
from nextvec.data.store import ENCODER, Store, open_store
from nextvec.data.store.manifest import verify_store
from nextvec.data.windows import WindowSet, index_windows
from nextvec.errors import RecipeError, SpaceError, StoreError
from nextvec.recipe import DataRecipe

SYNTHETIC_NOTE = "SYNTHETIC data: these scores say nothing about real text"
UNLABELLED_NOTE = (
    "an .npz file does not name the documents of its windows: intervals are over blocks of consecutive windows and may "
    "be too narrow"
)


@dataclass(frozen=True)
class Dataset:
    """An open store, and the set that replaces its ood split."""

    store: Store
    ood: Store | None = None
    """None: the ood split of `store` is used."""

    @property
    def store_hash(self) -> str:
        """Hash of the training data."""
        return self.store.store_hash

    @property
    def ood_store_hash(self) -> str:
        """Hash of the separate ood set; empty if there is none."""
        return self.ood.store_hash if self.ood else ""

    @property
    def synthetic(self) -> bool:
        """Whether any of the vectors are synthetic."""
        return any(store.synthetic for store in self._stores)

    @property
    def _stores(self) -> list[Store]:
        return [self.store] if self.ood is None else [self.store, self.ood]

    def store_of(self, finding: Finding) -> Store:
        """Return the store that a finding is about: the ood set if the finding names it or its split."""
        measured = finding.measured
        is_ood = measured.get("split") == "ood" or measured.get("where", "").lower().startswith("ood set")
        return self._store_of("ood" if is_ood else "train")

    def _store_of(self, split: str) -> Store:
        return self.ood if split == "ood" and self.ood else self.store

    @property
    def notes(self) -> list[str]:
        """Caveats that apply to every score on these data."""
        notes = [SYNTHETIC_NOTE] if self.synthetic else []
        if not all(self.knows_documents(split) for split in SPLITS):
            notes.append(UNLABELLED_NOTE)
        # What an import of .npz windows found wrong with them.
        findings = (finding for store in self._stores for finding in store.manifest.get("findings", ()))
        return notes + [finding["message"] for finding in findings if finding["status"] == Status.RED]

    def knows_documents(self, split: str) -> bool:
        """Return whether the documents of a split's windows are known; .npz files may lack them."""
        return self._store_of(split).manifest.get("has_documents") is not False

    def check(self, context: int, min_context: int | None, encoder: str = "") -> CheckReport:
        """Check all splits; if an encoder is named, also whether it made the vectors.

        Raises the errors of `open_encoder` if the encoder is not available, StoreError if it is "lsa" and the store has
        no lsa encoder.
        """
        opened: Encoder | None = None
        if encoder == LSA:  # fitted on the corpus and saved in the store
            if self.store.space.encoder != LSA:
                raise StoreError(
                    f"store {self.store.name}: has no lsa encoder; its vectors are from {self.store.space}. "
                    "Name that encoder."
                )
            opened = LsaEncoder.load(self.store.path / ENCODER)
        elif encoder:
            opened = open_encoder(encoder)
        space = None if opened is None else opened.space
        return check_store(self.store, context, min_context, ood=self.ood, encoder=space)

    def windows(self, context: int, min_context: int | None, device: torch.device) -> dict[str, WindowSet]:
        """Return the windows of each split that has any, on a device."""
        # Move each store to the device once; the splits in it share the tensor.
        tensors = {store.path: torch.from_numpy(store.vectors).to(device) for store in self._stores}
        sets = {}
        for split in SPLITS:
            store = self._store_of(split)
            index = index_windows(store.documents, split, context, min_context)
            if len(index):
                sets[split] = WindowSet(split, tensors[store.path], store.documents, index.to(device))
        return sets


def open_dataset(data: DataRecipe, *, quiet: bool = False) -> Dataset:
    """Open the data of a recipe.

    Raises RecipeError if it names no store, StoreError for missing or damaged data, SpaceError if the ood set is known
    to be in another embedding space.
    """
    if not data.store:
        raise RecipeError("data.store is empty. Name a vector store by its folder or URL, or an .npz file of windows.")
    store = open_data(data.store, quiet=quiet)
    return Dataset(store, open_ood(data.ood, store, quiet=quiet) if data.ood else None)


def verify_data(data: DataRecipe, *, quiet: bool = False) -> tuple[Finding, ...]:
    """Compare the files of the stores of a recipe with their checksums, and return a finding for each store.

    Raises StoreError that names the first file that has changed. An .npz file has its own checksums, which are compared
    whenever it is read.
    """
    findings = []
    for name in filter(None, (data.store, data.ood)):
        if is_url(name):
            store = open_data(name, quiet=quiet)
            remedy = f"Remove {store.path}, the local copy of {store.name}, and run the command again."
            findings.append(
                make_finding("files verified", Status.GREEN, count=verify_store(store.path, remedy), store=store.name)
            )
            continue
        # Of an .npz file, verify the store that it was imported as, if there is one.
        path = find_store(Path(name))
        if not is_npz(Path(name)) or path.exists():
            findings.append(make_finding("files verified", Status.GREEN, count=verify_store(path), store=str(path)))
    return tuple(findings)


def check_data(
    store: str,
    ood: str = "",
    *,
    context: int = 5,
    min_context: int | None = None,
    encoder: str = "",
    deep: bool = False,
    quiet: bool = False,
) -> CheckReport:
    """Check a store, or an .npz file of windows, before training. `deep` also compares every file with its checksum."""
    data = DataRecipe(store=store, ood=ood, context=context, min_context=min_context)
    verified = verify_data(data, quiet=quiet) if deep else ()
    report = open_dataset(data, quiet=quiet).check(context, data.least_context, encoder)
    return replace(report, findings=(*verified, *report.findings))


def open_data(name: str, split: str = "train", *, quiet: bool = False) -> Store:
    """Open a store by its folder or URL, or an .npz file of windows, which is imported once as `split`."""
    path = Path(name)
    if is_url(name):
        if is_npz(path):
            raise StoreError(
                f"data {mask_url(name)}: .npz files are read from this machine only. Copy it here first, or import it "
                "and copy the store with 'nextvec data copy'."
            )
        return open_store(name, quiet=quiet)
    if not is_npz(path):
        return open_store(path)
    if not path.is_file():
        raise StoreError(f"data {path}: no such file. {MISSING}")
    return open_npz(path, split, quiet=quiet)


MISSING = (
    "Make it with 'nextvec data build' or 'nextvec data import' and name it with --data, or dry-run the recipe on "
    "synthetic vectors with 'nextvec rehearse RECIPE'."
)


def open_ood(name: str, store: Store, *, quiet: bool = False) -> Store:
    """Open an ood set for `store`. If it has no ood split, all of its documents are ood.

    Raises SpaceError if it is in another embedding space than `store`.
    """
    ood = open_data(name, "ood", quiet=quiet)
    # Scores of a model on vectors of another space are meaningless, so refuse a known difference.
    if ood.dimensions != store.dimensions:
        raise SpaceError(
            f"ood set {name}: is {ood.dimensions}-D, but store {store.name} is {store.dimensions}-D. "
            "Make the ood set with the encoder of the training set."
        )
    reason = difference(store.space, ood.space)
    if reason is not None:
        raise SpaceError(
            f"ood set {name}: is in another embedding space than store {store.name} ({reason}). "
            "Make the ood set with the encoder of the training set."
        )
    # A separate set without an ood split was probably built with the default splits: use all of it.
    number, documents = SPLITS.index("ood"), ood.documents
    if (documents.splits == number).any():
        return ood
    return ood.with_documents(replace(documents, splits=np.full(len(documents), number, np.int8)))
