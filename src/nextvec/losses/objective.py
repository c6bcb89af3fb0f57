"""The objective of training: a weighted sum of four loss terms, and the loss of the query output.

Each term is a pure function of unit-length predictions and targets. Raw values of different terms are not comparable:
at D = 768 and cosine 0.55, the mean squared error is 0.0012 and InfoNCE about 2, so that raw weights of 0.5 and 0.5 act
like 1 : 1,000. By default a weight is therefore a gradient share: the terms' gradients at the prediction are scaled to
one norm, then mixed by the weights. `loss_weighting = "raw"` adds the raw values instead.

A batch may be shared by several processes: each has the raw predictions of its own windows, `processes.share` of the
batch, and the targets and groups of all. Metrics are those of the whole batch everywhere.

Letters in names: B windows of a batch, P of them of this process (all if it is alone), Q of these with a query,
K negatives of a window, D dimensions, T terms.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial, reduce
from operator import add
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec import ops
from nextvec.distributed.process_group import ALONE, ProcessGroup
from nextvec.losses.gradients import (
    Directions,
    TermGradient,
    batch_gradients,
    gradient_norms,
    info_nce_gradient,
    mix_gradients,
    mse_gradient,
    query_nce_gradient,
    shared_info_nce_gradient,
)
from nextvec.losses.terms import info_nce, moment_matching, mse, variance_floor
from nextvec.recipe import ObjectiveRecipe

MIN_GRADIENT_RATIO = 1e-6
"""A term whose gradient is this much weaker than that of 1 − cosine fades out, and so does its share. Below this ratio
float32 rounding determines the direction of the gradient."""

PER_WINDOW_TERMS = ("mse", "info")
"""Terms that are means over windows; the others compare the moments of the batch."""

_TINY = torch.finfo(torch.float32).tiny

Number = TypeVar("Number", float, Tensor)


class Objective:
    """The weighted terms of a recipe.

    With `loss_weighting = "raw"` the gradient is that of Σ wᵢ·Lᵢ.

    With `loss_weighting = "gradient_norm"` it is n · Σ sᵢ · gᵢ / |gᵢ|. gᵢ is the gradient of a term at the raw
    prediction, with all windows and dimensions of the batch as one vector; sᵢ = wᵢ / Σw is the share that its weight
    asks for; n is the norm of the gradient of mean(1 − cosine). The norm of the sum is thus at most n for any D and any
    mix, so that one learning rate and one clipping norm suit all. With MSE alone it is the gradient of 1 − cosine.

    A term whose gradient is zero adds nothing. A term that fades out is not rescaled indefinitely to its target share:
    |gᵢ| counts as at least MIN_GRADIENT_RATIO · n, with the terms on the scale of `loss`.

    Metrics are 0-dim tensors on the predictions' device, so that the host never waits for them. InfoNCE's matrix
    products run in `matmul_dtype` with sums in float32.
    """

    def __init__(
        self,
        recipe: ObjectiveRecipe,
        matmul_dtype: torch.dtype = torch.float32,
        processes: ProcessGroup = ALONE,
    ) -> None:
        self.matmul_dtype, self.processes = matmul_dtype, processes
        self.loss_weighting = recipe.loss_weighting
        self.tau, self.mask_same_document = recipe.tau, recipe.mask_same_document
        self.info_nce_block = recipe.info_nce_block
        self.weights, self.shares = recipe.weights, recipe.requested_shares
        self.query_negatives, self.query_tau = recipe.query_negatives, recipe.query_tau
        self._kept_constants: dict[object, tuple[Tensor, Tensor]] = {}

    def backward(self, prediction_PD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """Backpropagate the objective's gradient from the raw prediction; return the metrics of `gradient`."""
        gradient_PD, metrics = self.gradient(prediction_PD.detach(), target_BD, group_B)
        prediction_PD.backward(gradient_PD.to(prediction_PD.dtype))
        return metrics

    @torch.no_grad()
    def gradient(
        self, prediction_PD: Tensor, target_BD: Tensor, group_B: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the objective's gradient (P, D) at the raw prediction, and metrics.

        The metrics are those of `values`, and `share_<term>` for each weighted term: its gradient share in this batch,
        which is the norm of what it added to the gradient over the sum of these norms.
        """
        with torch.autocast(prediction_PD.device.type, enabled=False):
            directions = Directions.of(prediction_PD)
            target_BD, _ = ops.normalize(target_BD)
            terms, cosine = self._term_gradients(directions, target_BD, group_B)
            gradients = list(terms.values())
            value_T, norm_T = (
                torch.stack([gradient.value for gradient in gradients]),
                gradient_norms(directions, gradients),
            )
            if not self.processes.is_alone:
                value_T, norm_T, cosine = self._of_whole_batch(tuple(terms), value_T, norm_T, cosine)
            factor_T = self._factors(tuple(terms), norm_T, target_BD.shape[1])
            own_target_PD = self.processes.share(target_BD).contiguous()
            gradient_PD = mix_gradients(directions, own_target_PD, gradients, factor_T)
            # What each term added to the gradient, as a fraction of all.
            added_T = norm_T * factor_T
            share_T = added_T / added_T.sum().clamp(min=_TINY)
        metrics = _as_metrics(dict(zip(terms, value_T.unbind(), strict=True)), cosine)
        shares = zip(terms, share_T.unbind(), strict=True)
        metrics |= {f"share_{term}": share for term, share in shares if term in self.weights}
        return gradient_PD, metrics

    def _of_whole_batch(
        self, terms: Sequence[str], value_T: Tensor, norm_T: Tensor, cosine: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the terms' values, their gradients' norms and the mean cosine of the batch, from those of each share.

        Every process already has the whole value of the terms that are made of the batch's moments.
        """
        sums = self.processes.sum_(torch.cat([value_T, norm_T.square(), cosine[None]]))
        count = len(terms)
        whole = [sums[i] if term in PER_WINDOW_TERMS else value_T[i] for i, term in enumerate(terms)]
        return torch.stack(whole), sums[count:-1].sqrt(), sums[-1]

    def _term_gradients(
        self, directions: Directions, target_BD: Tensor, group_B: Tensor | None
    ) -> tuple[dict[str, TermGradient], Tensor]:
        """Return the gradients of MSE and of every weighted term, and the mean cosine."""
        unit_PD, own_target_PD = directions.unit_BD, self.processes.share(target_BD).contiguous()
        cosine_P, distance_P, square_P = ops.compare_rows(unit_PD, own_target_PD)
        # MSE is always needed: its gradient is the reference of the others, and its value is logged.
        gradients = {
            "mse": mse_gradient(target_BD.numel(), distance_B=distance_P, square_B=square_P, cosine_B=cosine_P)
        }
        if "info" in self.weights:
            groups = group_B if self.mask_same_document else None
            share = info_nce_gradient if self.processes.is_alone else partial(shared_info_nce_gradient, self.processes)
            gradients["info"] = share(
                unit_PD,
                target_BD,
                tau=self.tau,
                group_B=groups,
                matmul_dtype=self.matmul_dtype,
                block=self.info_nce_block,
            )
        if "moment" in self.weights or "variance" in self.weights:
            gradients |= batch_gradients(unit_PD, target_BD, self.weights, self.processes)
        return gradients, cosine_P.mean() if self.processes.is_alone else cosine_P.sum() / len(target_BD)

    def _factors(self, terms: tuple[str, ...], norm_T: Tensor, dimensions: int) -> Tensor:
        """Return what each term's gradient is multiplied by (T,); a term without a weight has the factor zero.

        By default its gradient share is then the one of its weight.
        """
        weight_T, floor_T = self._constants(terms, norm_T, dimensions)
        if self.loss_weighting == "raw":
            return weight_T
        # The gradient of 1 − cosine is D/2 times that of MSE, the first term.
        reference = norm_T[0] * (dimensions / 2)
        # A term that fades out is not amplified beyond MIN_GRADIENT_RATIO.
        return reference / torch.maximum(norm_T, reference * floor_T).clamp_(min=_TINY) * weight_T

    def _constants(self, terms: tuple[str, ...], like: Tensor, dimensions: int) -> tuple[Tensor, Tensor]:
        """Return the weights or shares (T,), and the smallest norm (T,) as a fraction of that of 1 − cosine.

        They are kept, because a copy to a GPU would wait for it in every step.
        """
        key = (terms, like.device, like.dtype, dimensions)
        if key not in self._kept_constants:
            weights = self.weights if self.loss_weighting == "raw" else self.shares
            # `loss` takes half of InfoNCE's two directions.
            scale = {"mse": dimensions / 2, "info": 0.5}
            numbers = (
                [weights.get(term, 0.0) for term in terms],
                [MIN_GRADIENT_RATIO / scale.get(term, 1.0) for term in terms],
            )
            weight_T, floor_T = torch.tensor(numbers, dtype=like.dtype, device=like.device)
            self._kept_constants[key] = weight_T, floor_T
        return self._kept_constants[key]

    def backward_query(
        self,
        query_QD: Tensor,
        target_BD: Tensor,
        negative_QKD: Tensor,
        has_negatives_Q: Tensor,
        group_B: Tensor,
        total: int | None = None,
    ) -> dict[str, Tensor]:
        """Backpropagate the gradient of `query_nce` from the raw query into the model; return `loss_query`.

        The gradient reaches only the query head, so this term needs no weight relative to those of the prediction.
        `total` is the number of queries in all processes; the loss is the part of these queries.
        """
        gradient_QD, loss = self.query_gradient(
            query_QD.detach(), target_BD, negative_QKD, has_negatives_Q, group_B, total
        )
        query_QD.backward(gradient_QD.to(query_QD.dtype))
        return {"loss_query": loss}

    @torch.no_grad()
    def query_gradient(
        self,
        query_QD: Tensor,
        target_BD: Tensor,
        negative_QKD: Tensor,
        has_negatives_Q: Tensor,
        group_B: Tensor,
        total: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient (Q, D) of `query_nce` at the raw query, and its value.

        The queries belong to the first Q of this process's windows.
        """
        with torch.autocast(query_QD.device.type, enabled=False):
            # The closed form gives the gradient at the unit-length query; project it to the raw query.
            directions = Directions.of(query_QD)
            target_BD, _ = ops.normalize(target_BD)
            loss, unit_gradient_QD = query_nce_gradient(
                directions.unit_BD,
                target_BD,
                negative_QKD,
                has_negatives_Q,
                tau=self.query_tau,
                group_B=group_B,
                matmul_dtype=self.matmul_dtype,
                own_Q=self._own_positions(len(target_BD), target_BD.device)[: len(query_QD)],
                total=total,
            )
            return directions.project(unit_gradient_QD), loss

    def _own_positions(self, batch: int, device: torch.device) -> Tensor:
        """Return the positions (P,) of this process's windows in the batch."""
        return self.processes.share(torch.arange(batch, device=device))

    @torch.no_grad()
    def values(self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """Return `loss_<term>` of MSE and of every weighted term, raw, and `cosine`, without any gradient.

        InfoNCE and the batch's moments depend on the batch size; compare them between batches of one size.
        """
        return _as_metrics(*self._term_values(prediction_BD.float(), target_BD, group_B))

    def loss(self, values: Mapping[str, Number]) -> Number:
        """Return one number to compare models by, from `values` or from their averages over batches.

        With "raw" weighting it is Σ wᵢ·Lᵢ. With "gradient_norm" it is Σ sᵢ·Lᵢ, with 1 − cosine instead of MSE (D/2
        times as large) and the mean of InfoNCE's two directions instead of their sum.
        """
        # Terms in the units that the weights multiply: raw values, or values of comparable scale.
        losses = {term: values[f"loss_{term}"] for term in self.weights}
        if self.loss_weighting == "raw":
            return reduce(add, [losses[term] * weight for term, weight in self.weights.items()])
        if "mse" in losses:
            losses["mse"] = 1 - values["cosine"]
        if "info" in losses:
            losses["info"] = losses["info"] / 2
        return reduce(add, [losses[term] * share for term, share in self.shares.items()])

    def _term_values(
        self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the raw value of MSE and of every weighted term, and the mean cosine; float32 even under autocast."""
        with torch.autocast(prediction_BD.device.type, enabled=False):
            unit_BD = F.normalize(prediction_BD, dim=1, eps=ops.MIN_LENGTH)
            target_BD = F.normalize(target_BD.float(), dim=1, eps=ops.MIN_LENGTH)
            # MSE is always computed, because it is logged even without a weight.
            terms = {"mse": mse(unit_BD, target_BD)}
            if "info" in self.weights:
                groups = group_B if self.mask_same_document else None
                terms["info"] = info_nce(unit_BD, target_BD, self.tau, groups, self.info_nce_block)
            if "moment" in self.weights:
                terms["moment"] = moment_matching(unit_BD, target_BD)
            if "variance" in self.weights:
                terms["variance"] = variance_floor(unit_BD)
            return terms, (unit_BD * target_BD).sum(dim=1).mean()


def _as_metrics(terms: Mapping[str, Tensor], cosine: Tensor) -> dict[str, Tensor]:
    return {**{f"loss_{term}": value.detach() for term, value in terms.items()}, "cosine": cosine.detach()}
