"""Several processes that share a batch compute the losses and the gradient that one process computes."""

import pytest
import torch

from distributed.thread_group import run_together
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.losses import Objective
from nextvec.models.base import unit
from nextvec.recipe import ObjectiveRecipe

MIXES = {
    "mse": {"mse": 1.0},
    "info": {"mse": 0.0, "info_nce": 1.0},
    "moment": {"mse": 0.0, "moment": 1.0},
    "variance": {"mse": 0.0, "variance": 1.0},
    "all": {"mse": 0.5, "info_nce": 0.5, "moment": 0.1, "variance": 0.2},
    "all, raw": {"mse": 0.5, "info_nce": 0.5, "moment": 0.1, "variance": 0.2, "loss_weighting": "raw"},
}


@pytest.fixture(scope="module")
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """23 raw predictions and targets of a few documents, so that no number of processes divides them evenly."""
    generator = torch.Generator().manual_seed(1)
    target_BD = unit(torch.randn(23, 16, generator=generator) + 0.5)
    prediction_BD = 2 * target_BD + torch.randn(23, 16, generator=generator)
    return prediction_BD, target_BD, torch.randint(0, 6, (23,), generator=generator).int()


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("mix", MIXES)
def test_the_gradient_is_that_of_one_process(mix, size, batch):
    prediction_BD, target_BD, group_B = batch
    recipe = ObjectiveRecipe(**MIXES[mix])
    gradient_BD, metrics = Objective(recipe).gradient(prediction_BD, target_BD, group_B)

    def work(processes: ProcessGroup):
        objective = Objective(recipe, processes=processes)
        return objective.gradient(processes.share(prediction_BD).contiguous(), target_BD, group_B)

    for rank, (own_gradient_PD, own_metrics) in enumerate(run_together(size, work)):
        torch.testing.assert_close(own_gradient_PD, gradient_BD[rank::size], rtol=1e-5, atol=1e-7)
        assert own_metrics.keys() == metrics.keys()
        for name, value in metrics.items():
            torch.testing.assert_close(own_metrics[name], value, rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("queries", [2, 11, 23])
def test_the_gradient_of_the_query_is_that_of_one_process(queries, size, batch):
    """With 2 queries and 3 processes, the last process has none."""
    query_BD, target_BD, group_B = batch
    generator = torch.Generator().manual_seed(2)
    negatives_QKD = torch.randn(queries, 5, 16, generator=generator)
    has_negatives_Q = torch.rand(queries, generator=generator) > 0.2
    gradient_QD, loss = Objective(ObjectiveRecipe()).query_gradient(
        query_BD[:queries], target_BD, negatives_QKD, has_negatives_Q, group_B
    )

    def work(processes: ProcessGroup):
        own_QD = processes.share(query_BD[:queries])
        negatives = processes.share(negatives_QKD).contiguous(), processes.share(has_negatives_Q)
        objective = Objective(ObjectiveRecipe(), processes=processes)
        if not len(own_QD):
            return own_QD, torch.zeros(())
        return objective.query_gradient(own_QD.contiguous(), target_BD, *negatives, group_B, queries)

    parts = run_together(size, work)
    for rank, (own_gradient_QD, _) in enumerate(parts):
        torch.testing.assert_close(own_gradient_QD, gradient_QD[rank::size], rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(sum(part for _, part in parts), loss, rtol=1e-5, atol=1e-6)


def test_sharing_changes_no_digit_of_a_run_in_one_process(batch):
    """The processes' share of a batch is the batch itself if there is only one."""
    prediction_BD, target_BD, group_B = batch
    assert ALONE.share(target_BD).data_ptr() == target_BD.data_ptr()
    assert ALONE.is_main
    assert ALONE.gather_values("x") == ["x"]
    assert ALONE.broadcast("order") == "order"
    objective = Objective(ObjectiveRecipe(**MIXES["all"]))
    first, second = (objective.gradient(prediction_BD, target_BD, group_B)[0] for _ in range(2))
    assert torch.equal(first, second)
