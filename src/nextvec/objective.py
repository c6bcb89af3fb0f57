"""What training minimises: four terms, and what their weights mean.

Each term is a pure function of unit-length predictions and targets. Their raw sizes have nothing to do with each
other: at D = 768 and cosine 0.55 the mean squared error is 0.0012 and InfoNCE about 2, so that raw weights 0.5 / 0.5
are 1 : 1,000 in truth. By default a weight is therefore a share of influence: the terms' gradients at the prediction
are brought to one norm, then mixed by the weights. `balance = "none"` adds raw values instead.

Letters in names: B windows of a batch, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec.recipe import ObjectiveRecipe

SHORTEST = 1e-6
"""Length below which a prediction has no direction, as in the models' `predict`."""

VANISHED = 1e-6
"""A term whose gradient is this much weaker than that of 1 − cosine is fading out, and so is its share."""


def mse(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Mean squared error over windows and dimensions: Σ (p − t)² / (B·D).

    For unit vectors that is (2 − 2 cos) / D: 0.0012 at cosine 0.55 and D = 768, the runbook's unit.
    """
    return F.mse_loss(prediction_BD, target_BD)


def info_nce(prediction_BD: Tensor, target_BD: Tensor, tau: float, group_B: Tensor | None = None) -> Tensor:
    """Symmetric InfoNCE, in nats, summed over both directions (the runbook's unit).

    −mean log softmax over the batch of p·t / tau at the pair, once among all targets for a prediction and once among
    all predictions for a target. With `group_B`, other pairs of a pair's own group are no negatives to it. A pair
    without negatives adds 0.

    Source: van den Oord et al. 2018, equation 4; both directions as in Radford et al. 2021 (CLIP), figure 3.
    """
    logits_BB = prediction_BD @ target_BD.T / tau
    if group_B is not None:
        same_BB = group_B[:, None] == group_B
        same_BB.fill_diagonal_(False)
        logits_BB = logits_BB.masked_fill(same_BB, -torch.inf)
    pairs = torch.arange(len(logits_BB), device=logits_BB.device)
    return F.cross_entropy(logits_BB, pairs) + F.cross_entropy(logits_BB.T, pairs)


def query_nce(
    query_BD: Tensor, target_BD: Tensor, wrong_BKD: Tensor, any_wrong_B: Tensor, tau: float, group_B: Tensor
) -> Tensor:
    """InfoNCE of the query output, in nats: −mean log softmax of q·t / tau at the window's own target.

    Its negatives are the batch's targets of other groups, and K vectors of the window's own document, `wrong_BKD`,
    where `any_wrong_B` says that there are any: what is hard is to tell the next chunk from its neighbours. All of
    unit length.

    Source: van den Oord et al. 2018, equation 4; hard negatives as in Karpukhin et al. 2020 (DPR), section 3.2.
    """
    logits_BB = query_BD @ target_BD.T / tau
    same_BB = group_B[:, None] == group_B
    same_BB.fill_diagonal_(False)
    hard_BK = torch.einsum("bd,bkd->bk", query_BD, wrong_BKD) / tau
    logits = [logits_BB.masked_fill(same_BB, -torch.inf), hard_BK.masked_fill(~any_wrong_B[:, None], -torch.inf)]
    return F.cross_entropy(torch.cat(logits, dim=1), torch.arange(len(query_BD), device=query_BD.device))


def moment_matching(prediction_BD: Tensor, target_BD: Tensor) -> Tensor:
    """Squared distance between the batch's first two moments: |mean p − mean t|² + |var p − var t|², over D.

    In squared lengths of unit vectors, whatever D is. Variances are those of each dimension over the batch (divided
    by B, so that a batch of one is finite).

    Source: the first two terms of the central moment discrepancy, Zellinger et al. 2017, definition 2, squared.
    """
    means = prediction_BD.mean(dim=0) - target_BD.mean(dim=0)
    variances = prediction_BD.var(dim=0, correction=0) - target_BD.var(dim=0, correction=0)
    return means.square().sum() + variances.square().sum()


def variance_floor(prediction_BD: Tensor) -> Tensor:
    """How far the dimensions' standard deviations over the batch are below 1/√D: mean over D of max(0, 1/√D − std).

    1/√D is the deviation of unit vectors that spread over all directions alike; the value lies between 0 and that.

    Source: the variance term of VICReg, Bardes et al. 2022, equations 1 and 2, with γ = 1/√D instead of 1 (their
    vectors have no fixed length), their ε = 0.0001 scaled by γ², and the variance divided by B.
    """
    floor = prediction_BD.shape[1] ** -0.5
    deviations_D = (prediction_BD.var(dim=0, correction=0) + 1e-4 * floor**2).sqrt()
    return F.relu(floor - deviations_D).mean()


_TINY = torch.finfo(torch.float32).tiny

Number = TypeVar("Number", float, Tensor)


class Objective:
    """The weighted terms of a recipe. Figures are 0-dim tensors on the predictions' device; nothing waits for it.

    balance = "none": the gradient is that of Σ wᵢ·Lᵢ.

    balance = "gradient": it is n · Σ sᵢ · gᵢ / |gᵢ| with gᵢ the gradient of a term at the raw prediction (all windows
    and dimensions of the batch as one vector), sᵢ = wᵢ / Σw its share, and n the norm of the gradient of
    mean(1 − cosine). So the gradient is at most n long whatever D and the mix are, and one learning rate and clipping
    suit them all; with MSE alone it is the gradient of 1 − cosine.

    A term whose gradient is zero adds nothing. One that fades out is not blown up to its share for ever: |gᵢ| counts
    as at least VANISHED · n (terms on the scale of `loss`), which is where float32 rounding would give its direction.
    """

    def __init__(self, recipe: ObjectiveRecipe) -> None:
        self.balance, self.tau, self.mask_same_document = recipe.balance, recipe.tau, recipe.mask_same_document
        self.weights = recipe.weights
        self.query_negatives, self.query_tau = recipe.query_negatives, recipe.query_tau
        total = sum(self.weights.values())
        self.shares = {term: weight / total for term, weight in self.weights.items()}

    def backward(self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """Send the gradient of the objective at the raw prediction back into the model.

        Returns the figures of `values`, and for each weighted term `share_<term>`: its part of the influence on this
        batch, the norm of what it added to the gradient over the sum of these norms.
        """
        leaf_BD = prediction_BD.detach().float().requires_grad_()
        terms, cosine = self._terms(leaf_BD, target_BD, group_B)
        gradients = {term: torch.autograd.grad(value, leaf_BD, retain_graph=True)[0] for term, value in terms.items()}
        mix = self._balanced(gradients) if self.balance == "gradient" else self.weights
        added = {term: gradients[term] * factor for term, factor in mix.items()}
        prediction_BD.backward(torch.stack(list(added.values())).sum(dim=0).to(prediction_BD.dtype))
        influences = torch.stack([gradient.norm() for gradient in added.values()])
        shares = influences / influences.sum().clamp(min=_TINY)
        return _figures(terms, cosine) | {f"share_{term}": share for term, share in zip(added, shares, strict=True)}

    def _balanced(self, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each weighted term's gradient is multiplied by, so that its share of influence is its weight's."""
        scale = {"mse": gradients["mse"].shape[1] / 2, "info": 0.5}
        reference = gradients["mse"].norm() * scale["mse"]
        factors: dict[str, Tensor] = {}
        for term, share in self.shares.items():
            length = torch.maximum(gradients[term].norm(), reference * (VANISHED / scale.get(term, 1.0)))
            factors[term] = reference / length.clamp(min=_TINY) * share
        return factors

    def backward_query(
        self, query_BD: Tensor, target_BD: Tensor, wrong_BKD: Tensor, any_wrong_B: Tensor, group_B: Tensor
    ) -> dict[str, Tensor]:
        """Send the gradient of `query_nce` at the raw query back into the model; returns `loss_query`.

        It moves only what the query is made of, so it needs no weight beside the terms of the prediction.
        """
        with torch.autocast(query_BD.device.type, enabled=False):
            query_BD, target_BD = F.normalize(query_BD.float(), dim=1, eps=SHORTEST), F.normalize(target_BD.float())
            wrong_BKD = F.normalize(wrong_BKD.float(), dim=2)
            loss = query_nce(query_BD, target_BD, wrong_BKD, any_wrong_B, self.query_tau, group_B)
        loss.backward()
        return {"loss_query": loss.detach()}

    @torch.no_grad()
    def values(self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """The figures of a batch, without gradients: `loss_<term>` of MSE and every weighted term, raw, and `cosine`.

        InfoNCE and the batch's moments depend on the size of the batch; compare them between equal sizes.
        """
        return _figures(*self._terms(prediction_BD.float(), target_BD, group_B))

    def loss(self, values: Mapping[str, Number]) -> Number:
        """One number to compare models by, from `values` or from averages of them over batches.

        balance = "none": Σ wᵢ·Lᵢ. balance = "gradient": Σ sᵢ·Lᵢ with MSE and InfoNCE on the scale of one: MSE as
        1 − cosine (D/2 times it), InfoNCE as the mean of its directions (half of it).
        """
        losses = {term: values[f"loss_{term}"] for term in self.weights}
        if self.balance == "none":
            return reduce(add, [losses[term] * weight for term, weight in self.weights.items()])
        if "mse" in losses:
            losses["mse"] = 1 - values["cosine"]
        if "info" in losses:
            losses["info"] = losses["info"] / 2
        return reduce(add, [losses[term] * share for term, share in self.shares.items()])

    def _terms(
        self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor]:
        """The raw value of MSE and of every weighted term, and the mean cosine; float32 even under autocast."""
        with torch.autocast(prediction_BD.device.type, enabled=False):
            unit_BD = F.normalize(prediction_BD, dim=1, eps=SHORTEST)
            target_BD = F.normalize(target_BD.float(), dim=1, eps=SHORTEST)
            terms = {"mse": mse(unit_BD, target_BD)}
            if "info" in self.weights:
                groups = group_B if self.mask_same_document else None
                terms["info"] = info_nce(unit_BD, target_BD, self.tau, groups)
            if "moment" in self.weights:
                terms["moment"] = moment_matching(unit_BD, target_BD)
            if "variance" in self.weights:
                terms["variance"] = variance_floor(unit_BD)
            return terms, (unit_BD * target_BD).sum(dim=1).mean()


def _figures(terms: Mapping[str, Tensor], cosine: Tensor) -> dict[str, Tensor]:
    return {**{f"loss_{term}": value.detach() for term, value in terms.items()}, "cosine": cosine.detach()}
