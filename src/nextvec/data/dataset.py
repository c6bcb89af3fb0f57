"""What a run reads: a store and, where the recipe names one, another set in place of its ood split.

Either may be given as an .npz file of windows. Such a file is imported once, into a store beside it (NAME.store), which
is used again as long as the file is the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from nextvec.core.formatting import Status
from nextvec.data.checks import CheckReport, check_store
from nextvec.data.checks.findings import Finding, make_finding
from nextvec.data.encoders import LSA, Encoder, open_encoder
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.npz.convert import import_npz
from nextvec.data.npz.format import npz_hash
from nextvec.data.space import difference
from nextvec.data.splits import SPLITS
from nextvec.data.store import ENCODER, Store, open_store, verify_store
from nextvec.data.windows import WindowSet, index_windows
from nextvec.errors import RecipeError, SpaceError, StoreError
from nextvec.recipe import DataRecipe

NPZ = ".npz"

SYNTHETIC_NOTE = "SYNTHETIC data: a rehearsal; these scores say nothing about real text"
UNLABELLED_NOTE = (
    "an .npz file does not say which documents its windows are of: intervals go over blocks of windows that follow "
    "each other, and may be too narrow"
)


@dataclass(frozen=True)
class Dataset:
    """An open store, and the set that takes the place of its ood split (None: the store's own)."""

    store: Store
    ood: Store | None = None

    @property
    def store_hash(self) -> str:
        """What a run says that it was trained on."""
        return self.store.store_hash

    @property
    def ood_store_hash(self) -> str:
        """What a run says that its ood scores are of; empty where the store's own split is used."""
        return self.ood.store_hash if self.ood else ""

    @property
    def synthetic(self) -> bool:
        """Whether any of the vectors were drawn, not made from text."""
        return any(home.synthetic for home in (self.store, self.ood) if home is not None)

    @property
    def notes(self) -> list[str]:
        """What every score on these data has to be read with."""
        notes = [SYNTHETIC_NOTE] if self.synthetic else []
        if not all(self.knows_documents(split) for split in SPLITS):
            notes.append(UNLABELLED_NOTE)
        return notes

    def knows_documents(self, split: str) -> bool:
        """Whether the windows of a split come with their documents; .npz files may lack them."""
        home = self.ood if split == "ood" and self.ood else self.store
        return home.manifest.get("documents_given") is not False

    def check(self, context: int, min_context: int | None, encoder: str = "") -> CheckReport:
        """The preflight of all splits; where an encoder is named, also whether it made the vectors.

        Raises as `open_encoder` if that encoder is not at hand, StoreError if the store keeps no lsa encoder.
        """
        opened: Encoder | None = None
        if encoder == LSA:  # fitted on a corpus: it lies in the store
            if self.store.space.encoder != LSA:
                raise StoreError(
                    f"store {self.store.path} is of {self.store.space}, it keeps no lsa encoder; name that one"
                )
            opened = LsaEncoder.load(self.store.path / ENCODER)
        elif encoder:
            opened = open_encoder(encoder)
        space = None if opened is None else opened.space
        return check_store(self.store, context, min_context, ood=self.ood, encoder=space)

    def windows(self, context: int, min_context: int | None, device: torch.device) -> dict[str, WindowSet]:
        """The windows of each split that has any, on a device."""
        tensors = {home.path: torch.from_numpy(home.vectors).to(device) for home in (self.store, self.ood) if home}
        sets = {}
        for split in SPLITS:
            home = self.ood if split == "ood" and self.ood else self.store
            index = index_windows(home.documents, split, context, min_context)
            if len(index):
                sets[split] = WindowSet(split, tensors[home.path], home.documents, index.to(device))
        return sets


def open_dataset(data: DataRecipe, *, quiet: bool = False) -> Dataset:
    """Open what a recipe's data section names.

    Raises RecipeError if it names nothing, StoreError for what is missing or damaged, SpaceError if the ood set is
    known to be of another embedding space.
    """
    if not data.store:
        raise RecipeError("data.store is empty; name the folder of a vector store, or an .npz file of windows")
    store = open_data(data.store, quiet=quiet)
    return Dataset(store, open_ood(data.ood, store, quiet=quiet) if data.ood else None)


def verify_data(data: DataRecipe) -> tuple[Finding, ...]:
    """Compare the files of the stores in a recipe's data section with their checksums: a finding for each store.

    Raises StoreError that names the first file that is not what was written. An .npz file keeps checksums of its own,
    which are compared whenever it is read.
    """
    findings = []
    for name in filter(None, (data.store, data.ood)):
        path = Path(name) if Path(name).suffix != NPZ else Path(name).with_suffix(".store")
        if Path(name).suffix != NPZ or path.exists():
            findings.append(make_finding("files verified", Status.GREEN, count=verify_store(path), store=str(path)))
    return tuple(findings)


def open_data(name: str, split: str = "train", *, quiet: bool = False) -> Store:
    """Open a store, or an .npz file of windows, which is imported as `split` if that was not done before."""
    path = Path(name)
    if path.suffix != NPZ:
        return open_store(path)
    home = path.with_suffix(".store")
    if not path.is_file():
        raise StoreError(f"data {path}: no such file; {MISSING}")
    file_hash = npz_hash(path)
    if not home.exists():
        return import_npz({split: path}, home, quiet=quiet)
    store = open_store(home)
    if store.manifest.get("npz") != {split: file_hash}:
        raise StoreError(
            f"store {home}: not made from the present {path.name} as {split}; remove that folder, and it is made again"
        )
    return store


MISSING = (
    "make it with 'nextvec data build' or 'nextvec data import' and name it (--data), or dry-run the recipe on "
    "synthetic vectors: 'nextvec rehearse RECIPE'"
)


def open_ood(name: str, store: Store, *, quiet: bool = False) -> Store:
    """Open an ood set that fits `store`: of a store the ood split, or all of it where it has none."""
    ood = open_data(name, "ood", quiet=quiet)
    if ood.dimensions != store.dimensions:
        raise SpaceError(
            f"ood set {name}: {ood.dimensions}-D, but store {store.path} is {store.dimensions}-D: another "
            "embedding space; make the ood set with the encoder of the training set"
        )
    reason = difference(store.space, ood.space)
    if reason is not None:
        raise SpaceError(
            f"ood set {name} and store {store.path} are of different embedding spaces: {reason}; make the ood set with "
            "the encoder of the training set"
        )
    number = SPLITS.index("ood")
    documents = ood.documents
    if (documents.splits == number).any():
        return ood
    return ood.with_documents(replace(documents, splits=np.full(len(documents), number, np.int8)))
