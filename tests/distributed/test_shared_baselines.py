"""Several processes that share the training windows fit the baselines that one process fits."""

import numpy as np
import pytest
import torch

from distributed.thread_group import run_together
from nextvec.data.splits import SPLITS
from nextvec.data.store import DocumentTable
from nextvec.data.windows import WindowSet, index_windows
from nextvec.distributed.process_group import ProcessGroup
from nextvec.models.base import unit
from nextvec.models.ridge import WINDOWS_PER_PRODUCT, RidgeFit, divide_windows, is_held_out
from nextvec.training.baselines import fit_on

CONTEXT, DIMENSIONS = 3, 8


@pytest.fixture(scope="module")
def train() -> WindowSet:
    """Windows for three full products and a fourth; some contexts are short."""
    rng = np.random.default_rng(0)
    rows = rng.integers(3, 21, 1000)
    names = [f"{number}" for number in range(len(rows))]
    splits = np.full(len(rows), SPLITS.index("train"), np.int8)
    table = DocumentTable(names, names, names, splits, np.cumsum(rows) - rows, rows, np.arange(len(rows)))
    # Vectors lean on the one before, so that ridge has something to find.
    steps = torch.from_numpy(rng.normal(size=(int(rows.sum()), DIMENSIONS)).astype(np.float32))
    train = WindowSet("train", unit(steps + steps.roll(1, 0) + 1), table, index_windows(table, "train", CONTEXT, 1))
    assert len(train) * 0.8 > 3 * WINDOWS_PER_PRODUCT
    return train


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_moments_are_those_of_one_process(size: int, train: WindowSet) -> None:
    """With 7 processes some have no windows."""

    def moments(processes: ProcessGroup) -> list[torch.Tensor]:
        fit = RidgeFit(DIMENSIONS, CONTEXT, train.vectors.mean(dim=0))
        # Batches of another size than the products.
        for index_B in divide_windows(train.windows.groups, processes.size)[processes.rank].split(300):
            batch = train.batch(index_B)
            fit.add(batch.context_BSD, batch.target_BD, batch.mask_BS, batch.group_B)
        fit.finish(processes)
        return [t for m in (fit.fit_moments, fit.held_out_moments) for t in (m.gram, m._cross, m._counts)]

    expected = moments(ProcessGroup())
    for parts in run_together(size, moments):
        for part, whole in zip(parts, expected, strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-12, atol=1e-12 * float(whole.abs().max()))


def test_the_baselines_are_those_of_one_process(train: WindowSet) -> None:
    expected = fit_on(train, 9000, 0, quiet=True)
    main, *others = run_together(3, lambda processes: fit_on(train, 9000, 0, processes=processes, quiet=True))
    assert others == [{}, {}]
    assert main.keys() == expected.keys()
    for name, baseline in expected.items():
        # The weights of ridge may differ in the last digit of float32.
        torch.testing.assert_close(main[name].state_dict(), baseline.state_dict(), rtol=2e-7, atol=1e-8, msg=name)


@pytest.mark.parametrize("parts", [1, 2, 4, 5, 30])
def test_the_windows_are_divided_evenly_and_in_whole_products(parts: int, train: WindowSet) -> None:
    groups = train.windows.groups
    divided = divide_windows(groups, parts)
    assert len(divided) == parts
    assert torch.cat(divided).sort().values.tolist() == list(range(len(groups)))
    sizes = [len(part) for part in divided]
    assert max(sizes) - min(sizes) <= max(WINDOWS_PER_PRODUCT, int(is_held_out(groups).sum()))
    fit_counts = [int((~is_held_out(groups[part])).sum()) for part in divided]
    assert sum(count % WINDOWS_PER_PRODUCT != 0 for count in fit_counts) <= 1
    assert sum(bool(is_held_out(groups[part]).any()) for part in divided) == 1
