"""Splits: by document, stable when documents are added or removed, and unambiguous."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nextvec.data.splits import SPLITS, SplitPlan, assign_splits, hash_share
from nextvec.errors import StoreError

IDS = st.text(min_size=1, max_size=8)
SHARES = st.tuples(st.floats(0, 0.5), st.floats(0, 0.49))


@given(st.lists(IDS, unique=True, max_size=30), st.lists(IDS, unique=True, max_size=30), SHARES)
def test_adding_documents_does_not_move_others(first: list[str], more: list[str], shares: tuple[float, float]) -> None:
    plan = SplitPlan(*shares)
    both = list(dict.fromkeys([*more, *first]))  # the new ones before the old
    before = dict(zip(first, assign_splits(first, ["a"] * len(first), plan), strict=True))
    after = dict(zip(both, assign_splits(both, ["a"] * len(both), plan), strict=True))
    assert all(after[name] == split for name, split in before.items())


@given(st.lists(IDS, unique=True, max_size=30), st.floats(0, 0.5), st.floats(0, 0.49))
def test_a_larger_fraction_keeps_the_documents_of_a_smaller_one(ids: list[str], share: float, more: float) -> None:
    small, large = (assign_splits(ids, ["a"] * len(ids), SplitPlan(val=value)) for value in (share, share + more))
    assert all(b == "val" for a, b in zip(small, large, strict=True) if a == "val")


@pytest.mark.parametrize(("val", "ood"), [(0.1, 0.0), (0.1, 0.2), (0.5, 0.3), (0.0, 0.01)])
def test_fractions_are_close_to_the_plan(val: float, ood: float) -> None:
    count = 20_000
    splits = assign_splits([f"doc-{n}" for n in range(count)], ["a"] * count, SplitPlan(val=val, ood=ood))
    for split, share in (("val", val), ("ood", ood), ("train", 1 - val - ood)):
        tolerance = 4.5 * (share * (1 - share) / count) ** 0.5  # 4.5 standard deviations of a fair draw
        assert abs(splits.count(split) / count - share) <= tolerance, split


def test_the_hash_never_changes() -> None:
    """Every version must split the same way: the fraction is blake2b-64 of the id over 2**64."""
    assert hash_share("enwiki-1") == int(hashlib.blake2b(b"enwiki-1", digest_size=8).hexdigest(), 16) / 2**64
    assert [SplitPlan(val=0.5).split_of(name, "") for name in "abcdef"] == [
        "val",
        "train",
        "val",
        "train",
        "val",
        "val",
    ]


@given(st.lists(st.tuples(IDS, st.sampled_from("ABC")), max_size=40), SHARES)
def test_a_group_is_never_divided(documents: list[tuple[str, str]], shares: tuple[float, float]) -> None:
    """The group's name replaces the document's id, so all of its documents get one split."""
    keys = [group for _, group in documents]
    splits = assign_splits(keys, ["one source"] * len(keys), SplitPlan(*shares))
    assert all(len({s for k, s in zip(keys, splits, strict=True) if k == group}) <= 1 for group in "ABC")


def test_a_group_over_two_sources_with_different_splits_is_refused() -> None:
    with pytest.raises(StoreError, match=r"group 'book': would be in train and ood\. Keep its documents in one source"):
        assign_splits(["book", "book"], ["here", "there"], SplitPlan(val=0, ood_sources=("there",)))


def test_rules_apply_in_order() -> None:
    plan = SplitPlan(
        val=0.0, ood=0.99, val_ids=frozenset({"15"}), val_range=("20", "29"), ood_range=("10", "19"), val_sources=("s",)
    )
    assert plan.split_of("15", "t") == "val"  # listed, although its range is ood
    assert plan.split_of("16", "s") == "ood"  # in a range, although its source is val
    assert plan.split_of("25", "t") == "val"
    assert plan.split_of("99", "s") == "val"  # its source, although the fraction says ood
    assert plan.split_of("99", "t") == "ood"


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(0, 10**12))
def test_ranges_compare_numbers_by_value(a: int, b: int, number: int) -> None:
    low, high = sorted((a, b))
    plan = SplitPlan(val=0, ood_range=(str(low), str(high)))
    assert (plan.split_of(str(number), "") == "ood") == (low <= number <= high)


@given(IDS, IDS, IDS)
def test_ranges_compare_other_ids_alphabetically_after_numbers(a: str, b: str, name: str) -> None:
    texts = [text for text in (a, b) if not text.isdecimal()]
    if len(texts) < 2 or name.isdecimal():
        return
    low, high = sorted(texts)
    plan = SplitPlan(val=0, val_range=(low, high))
    assert (plan.split_of(name, "") == "val") == (low <= name <= high)
    assert plan.split_of("7", "") == "train"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"val": -0.1}, "split fractions"),
        ({"val": 0.6, "ood": 0.4}, "must be at least 0 and sum to less than 1"),
        ({"val_ids": frozenset("ab"), "ood_ids": frozenset("bc")}, "documents b are in both val and ood"),
        ({"val_sources": ("x",), "ood_sources": ("x", "y")}, "sources x are in both"),
        ({"val_range": ("9", "10"), "ood_range": ("10", "11")}, "id ranges of val and ood overlap"),
        ({"val_range": ("b", "a")}, r"range b\.\.a: is empty"),
        ({"ood_range": ("10", "9")}, r"range 10\.\.9: is empty"),
    ],
)
def test_impossible_plans_are_refused(options: dict, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        SplitPlan(**options)
    assert "\n" not in str(caught.value)


def test_adjacent_ranges_are_allowed() -> None:
    plan = SplitPlan(val=0, val_range=("1", "9"), ood_range=("10", "19"))
    assert [plan.split_of(name, "") for name in ("9", "10", "20")] == ["val", "ood", "train"]


def test_a_plan_in_the_manifest_counts_its_ids() -> None:
    values = SplitPlan(val_ids=frozenset("abc"), ood_range=("1", "2")).to_dict()
    assert values["val_ids"] == 3
    assert values["ood_range"] == ["1", "2"]
    assert set(SPLITS) == {"train", "val", "ood"}
