"""What training minimises: four terms, and what their weights mean.

Each term is a pure function of unit-length predictions and targets. Their raw sizes have nothing to do with each
other: at D = 768 and cosine 0.55 the mean squared error is 0.0012 and InfoNCE about 2, so that raw weights 0.5 / 0.5
are 1 : 1,000 in truth. By default a weight is therefore a share of influence: the terms' gradients at the prediction
are brought to one norm, then mixed by the weights. `loss_weighting = "raw"` adds raw values instead.

Letters in names: B windows of a batch, Q of them that the query learns from, K negatives of a window, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from operator import add
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from nextvec import ops
from nextvec.losses.gradients import (
    Gradient,
    Raw,
    batch_gradients,
    info_nce_gradient,
    mix,
    mse_gradient,
    query_nce_gradient,
)
from nextvec.losses.terms import SHORTEST, info_nce, moment_matching, mse, variance_floor
from nextvec.recipe import ObjectiveRecipe

VANISHED = 1e-6
"""A term whose gradient is this much weaker than that of 1 − cosine is fading out, and so is its share."""

_TINY = torch.finfo(torch.float32).tiny

Number = TypeVar("Number", float, Tensor)


class Objective:
    """The weighted terms of a recipe. Figures are 0-dim tensors on the predictions' device; nothing waits for it.

    loss_weighting = "raw": the gradient is that of Σ wᵢ·Lᵢ.

    loss_weighting = "gradient_norm": it is n · Σ sᵢ · gᵢ / |gᵢ| with gᵢ the gradient of a term at the raw prediction
    (all windows and dimensions of the batch as one vector), sᵢ = wᵢ / Σw its share, and n the norm of the gradient of
    mean(1 − cosine). So the gradient is at most n long whatever D and the mix are, and one learning rate and clipping
    suit them all; with MSE alone it is the gradient of 1 − cosine.

    `products` is the format that InfoNCE's products multiply in; they add up in float32.

    A term whose gradient is zero adds nothing. One that fades out is not blown up to its share for ever: |gᵢ| counts
    as at least VANISHED · n (terms on the scale of `loss`), which is where float32 rounding would give its direction.
    """

    def __init__(self, recipe: ObjectiveRecipe, products: torch.dtype = torch.float32) -> None:
        self.products = products
        self.loss_weighting, self.tau, self.mask_same_document = (
            recipe.loss_weighting,
            recipe.tau,
            recipe.mask_same_document,
        )
        self.weights = recipe.weights
        self.query_negatives, self.query_tau = recipe.query_negatives, recipe.query_tau
        self.shares = recipe.requested_shares

    def backward(self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """Send the gradient of the objective at the raw prediction back into the model; return `gradient`'s figures."""
        gradient_BD, figures = self.gradient(prediction_BD.detach(), target_BD, group_B)
        prediction_BD.backward(gradient_BD.to(prediction_BD.dtype))
        return figures

    @torch.no_grad()
    def gradient(
        self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the gradient (B, D) of the objective at the raw prediction, and figures.

        The figures are those of `values`, and for each weighted term `share_<term>`: its part of the influence on this
        batch, the norm of what it added to the gradient over the sum of these norms.
        """
        with torch.autocast(prediction_BD.device.type, enabled=False):
            raw = Raw.of(prediction_BD)
            target_BD, _ = ops.normalise(target_BD, SHORTEST)
            gradients, cosine = self._gradients(raw, target_BD, group_B)
            norms = {term: gradient.norm(raw) for term, gradient in gradients.items()}
            factors = (
                self._gradient_norm_factors(norms, target_BD.shape[1])
                if self.loss_weighting == "gradient_norm"
                else self.weights
            )
            mixed_BD = mix(raw, target_BD, ((gradients[term], factor) for term, factor in factors.items()))
            influences = torch.stack([norms[term] * factor for term, factor in factors.items()])
            shares = influences / influences.sum().clamp(min=_TINY)
        figures = _figures({term: gradient.value for term, gradient in gradients.items()}, cosine)
        figures |= {f"share_{term}": share for term, share in zip(factors, shares, strict=True)}
        return mixed_BD, figures

    def _gradients(self, raw: Raw, target_BD: Tensor, group_B: Tensor | None) -> tuple[dict[str, Gradient], Tensor]:
        """The gradients of MSE and of every weighted term, and the mean cosine."""
        cosine_B, distance_B, square_B = ops.compare(raw.unit_BD, target_BD)
        found = {"mse": mse_gradient(raw.unit_BD, distance_B, square_B, cosine_B)}
        if "info" in self.weights:
            groups = group_B if self.mask_same_document else None
            found["info"] = info_nce_gradient(raw.unit_BD, target_BD, self.tau, groups, self.products)
        if "moment" in self.weights or "variance" in self.weights:
            found |= batch_gradients(raw.unit_BD, target_BD, self.weights)
        return found, cosine_B.mean()

    def _gradient_norm_factors(self, norms: Mapping[str, Tensor], dimensions: int) -> dict[str, Tensor]:
        """What each weighted term's gradient is multiplied by, so that its share of influence is its weight's."""
        scale = {"mse": dimensions / 2, "info": 0.5}
        reference = norms["mse"] * scale["mse"]
        factors: dict[str, Tensor] = {}
        for term, share in self.shares.items():
            length = torch.maximum(norms[term], reference * (VANISHED / scale.get(term, 1.0)))
            factors[term] = reference / length.clamp(min=_TINY) * share
        return factors

    def backward_query(
        self, query_QD: Tensor, target_BD: Tensor, wrong_QKD: Tensor, any_wrong_Q: Tensor, group_B: Tensor
    ) -> dict[str, Tensor]:
        """Send the gradient of `query_nce` at the raw query back into the model; return `loss_query`.

        It moves only what the query is made of, so it needs no weight beside the terms of the prediction.
        """
        gradient_QD, loss = self.query_gradient(query_QD.detach(), target_BD, wrong_QKD, any_wrong_Q, group_B)
        query_QD.backward(gradient_QD.to(query_QD.dtype))
        return {"loss_query": loss}

    @torch.no_grad()
    def query_gradient(
        self, query_QD: Tensor, target_BD: Tensor, wrong_QKD: Tensor, any_wrong_Q: Tensor, group_B: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradient (Q, D) of `query_nce` at the raw query, and its value.

        The queries are those of the first Q of the B windows.
        """
        with torch.autocast(query_QD.device.type, enabled=False):
            raw = Raw.of(query_QD)
            target_BD, _ = ops.normalise(target_BD, SHORTEST)
            loss, gradient_QD = query_nce_gradient(
                raw.unit_BD, target_BD, wrong_QKD, any_wrong_Q, self.query_tau, group_B, self.products
            )
            along_Q1 = (gradient_QD * raw.unit_BD).sum(dim=1, keepdim=True) * raw.turns_B[:, None]
            return gradient_QD.addcmul_(raw.unit_BD, along_Q1, value=-1).div_(raw.length_B1), loss

    @torch.no_grad()
    def values(self, prediction_BD: Tensor, target_BD: Tensor, group_B: Tensor | None = None) -> dict[str, Tensor]:
        """The figures of a batch, without gradients: `loss_<term>` of MSE and every weighted term, raw, and `cosine`.

        InfoNCE and the batch's moments depend on the size of the batch; compare them between equal sizes.
        """
        return _figures(*self._terms(prediction_BD.float(), target_BD, group_B))

    def loss(self, values: Mapping[str, Number]) -> Number:
        """One number to compare models by, from `values` or from averages of them over batches.

        loss_weighting = "raw": Σ wᵢ·Lᵢ. loss_weighting = "gradient_norm": Σ sᵢ·Lᵢ with MSE as 1 − cosine
        (D/2 times it) and InfoNCE as the mean of its directions (half of it).
        """
        losses = {term: values[f"loss_{term}"] for term in self.weights}
        if self.loss_weighting == "raw":
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
