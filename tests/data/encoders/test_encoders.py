"""Names of encoders, and the encoder of a store."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nextvec.data import encoders
from nextvec.data.encoders import ENCODERS, Encoder, full_name, open_encoder, share_encoder, store_encoder
from nextvec.data.encoders.lsa import LsaEncoder
from nextvec.data.space import UNKNOWN, Space
from nextvec.data.store import ENCODER, Store
from nextvec.errors import InputError, MissingExtraError, SpaceError, StoreError


class Named:
    """An encoder that has only a space."""

    unknown_texts = truncated_texts = 0

    def __init__(self, space: Space, name: str = "") -> None:
        self.space, self.settings = space, {"name": name}

    def encode(self, texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), self.space.dimensions), np.float32)


def a_store(path: Path, space: Space, **manifest: object) -> Store:
    return Store(path, dict(manifest), space, np.zeros((0, space.dimensions), np.float16))


def test_names_have_a_canonical_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert full_name("lsa") == "lsa"
    assert full_name("minilm") == "minilm"
    assert full_name("gtr-t5-base") == "sentence-transformers/gtr-t5-base"
    assert full_name("BAAI/bge-small-en-v1.5") == "BAAI/bge-small-en-v1.5"
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert full_name("models/mine") == str((tmp_path / "models" / "mine").resolve())  # a folder goes before the hub


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("minillm", r"encoder 'minillm' is unknown; hub models are OWNER/NAME. Did you mean 'minilm'\?"),
        ("gtr-t5", "Did you mean 'gtr-t5-base'"),
        ("zzz", "Known: gtr-t5-base, lsa, minilm."),
        ("", "is unknown"),
        ("./nowhere", "no such folder"),
        ("/not/a/folder", "no such folder"),
        ("a/b/c", "no such folder"),
    ],
)
def test_unknown_names_are_input_errors(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        open_encoder(name)


def test_every_known_name_is_described() -> None:
    assert set(ENCODERS) == {"lsa", "minilm", "gtr-t5-base"}
    assert all(ENCODERS.values())


def test_lsa_is_not_opened_by_name() -> None:
    with pytest.raises(InputError, match=r"fitted on a corpus\. Build a store with it"):
        open_encoder("lsa")


def test_float16_is_refused_as_a_precision() -> None:
    with pytest.raises(InputError, match="precision 'fp16' is unknown"):
        open_encoder("minilm", precision="fp16")


def test_a_missing_package_names_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "sentence_transformers", None)
    with pytest.raises(MissingExtraError, match=r"the encoder 'minilm' needs .*pip install 'nextvec\[minilm\]'"):
        open_encoder("minilm")
    with pytest.raises(MissingExtraError, match=r"needs .*sentence-transformers: pip install 'nextvec\[encoders\]'"):
        open_encoder("gtr-t5-base")


def test_the_encoder_of_an_lsa_store_is_loaded_from_it(tmp_path: Path) -> None:
    encoder = LsaEncoder.fit(["the sea and the rain", "the function returns", "a bar of the violin"], 3)
    encoder.save(tmp_path / ENCODER)
    loaded = store_encoder(a_store(tmp_path, encoder.space))
    assert np.array_equal(loaded.encode(["rain and violin"]), encoder.encode(["rain and violin"]))
    other = LsaEncoder.fit(["the sea", "the function the function", "a rain a rain in the sea"], 3)
    with pytest.raises(SpaceError, match="have different embedding spaces"):
        store_encoder(a_store(tmp_path, other.space))
    with pytest.raises(StoreError, match="is missing or damaged"):
        store_encoder(a_store(tmp_path / "nowhere", encoder.space))


def test_the_encoder_of_another_store_is_opened_by_the_name_in_its_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    space = Space("mine", "1", 3)

    def fake(name: str, **options: str) -> Encoder:
        opened.append(name)
        return Named(space, name)

    monkeypatch.setattr(encoders, "open_sentence_encoder", fake)
    store_encoder(a_store(tmp_path, space, encoder={"name": "owner/mine"}))
    store_encoder(a_store(tmp_path, Space("gtr-t5-base", "", 3)))  # imported vectors: a short name, no revision
    assert opened == ["owner/mine", "sentence-transformers/gtr-t5-base"]
    for other in (Space("mine", "2", 3), Space("mine", "1", 4)):
        with pytest.raises(SpaceError, match="have different embedding spaces"):
            store_encoder(a_store(tmp_path, other, encoder={"name": "owner/mine"}))


@pytest.mark.parametrize("name", [UNKNOWN, "synthetic"])
def test_encoding_for_a_store_of_an_unknown_encoder_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="the encoder of its vectors is unknown"):
        store_encoder(a_store(tmp_path, Space(name, "", 3)))


def test_stores_share_an_encoder_if_it_made_them_from_text_and_its_vectors_agree(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    probes = random.standard_normal((8, 6)).astype(np.float16)

    def text_store(name: str, space: Space, **encoder: object) -> Store:
        return a_store(tmp_path / name, space, origin="text", encoder={"name": space.encoder, **encoder})

    space = Space("me/model", "1", 6, probes=probes)
    first, again = text_store("first", space), text_store("again", Space("me/renamed", "2", 6, probes=probes * 2))
    assert share_encoder(first, first) and share_encoder(first, again)
    # A name that lies, no fingerprint, precomputed vectors and imported files prove nothing.
    lying = Space("me/model", "1", 6, probes=random.standard_normal((8, 6)).astype(np.float16))
    assert not share_encoder(first, text_store("lying", lying))
    assert not share_encoder(first, text_store("bare", Space("me/model", "1", 6)))
    precomputed = text_store("precomputed", space, precomputed=["v.npy"])
    imported = a_store(tmp_path / "imported", space, origin="npz")
    for store in (precomputed, imported):
        assert not share_encoder(first, store) and not share_encoder(store, store)


def test_fitted_encoders_are_shared_by_revision(tmp_path: Path) -> None:
    def lsa_store(name: str, revision: str) -> Store:
        space = Space("lsa", revision, 4, probes=np.ones((8, 4), np.float16))
        return a_store(tmp_path / name, space, origin="text", encoder={"name": "lsa"})

    first = lsa_store("first", "a1")
    assert share_encoder(first, lsa_store("second", "a1"))
    # Probe texts without any known term get the mean direction in every lsa.
    assert not share_encoder(first, lsa_store("third", "b2"))


def test_a_folder_without_a_model_is_named_even_if_the_package_is_missing(tmp_path, monkeypatch):
    """The extra would not help: the folder is the fault."""
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"has no modules\.json"):
        open_encoder(str(tmp_path))
