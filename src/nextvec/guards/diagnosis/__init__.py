"""Diagnosis: a table of named pathologies, each a small pure rule over what is recorded of a run. No torch.

A rule reads figures that are there already (recipe, epochs, baselines, judgement, data check, events), says nothing
where they are missing, and otherwise what was seen, how sure it is, and what to do next. The rules are in
`pathologies.py`; docs/diagnosis.md has a section for each name.

The table of pathologies: what is known to go wrong, the rule that sees it, and what to do about it.

Each rule yields (light, sureness, what was seen) for a `Case`, or nothing. Figures of a judgement go before those of
the last epoch. A rule that needs a figure which is missing yields nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from nextvec.core.formatting import STATUSES
from nextvec.guards.diagnosis import rules_data as data
from nextvec.guards.diagnosis import rules_model as predictions
from nextvec.guards.diagnosis import rules_training as training
from nextvec.guards.diagnosis.case import SURENESS, Case, Diagnoses, Diagnosis, Pathology


def diagnose(case: Case) -> Diagnoses:
    """Every pathology that fits the case, the worst and surest first; none where nothing is wrong."""
    from nextvec.guards.diagnosis import PATHOLOGIES

    found = [
        Diagnosis(pathology.name, status, sureness, seen, pathology.advice)
        for pathology in PATHOLOGIES
        for status, sureness, seen in pathology.rule(case)
    ]
    found.sort(key=lambda item: (-STATUSES.index(item.status), SURENESS.index(item.sureness)))
    return Diagnoses(tuple(found))


def _table() -> Iterator[Pathology]:
    yield Pathology(
        "non-finite", training.not_finite, "lower training.lr, or repair the data; the weights before it are kept"
    )
    yield Pathology(
        "train–eval mismatch", training.mismatch, "don't use this checkpoint; report it, and judge epoch_N.pt instead"
    )
    yield Pathology(
        "other space", data.other_space, "make the ood set with the encoder of the training set; don't retrain"
    )
    yield Pathology("leak between splits", data.leak, "drop the repeats, split by document, and build the store again")
    yield Pathology(
        "shuffled targets", data.shuffled_targets, "see where the file was made; look at 'nextvec data check'"
    )
    yield Pathology(
        "documents out of order", data.out_of_order, "see that chunks are stored in the order of their text"
    )
    yield Pathology(
        "gate out of reach",
        data.gate_out_of_reach,
        "see whether it is the right file; for these data 'nextvec gates suggest' proposes gates",
    )
    yield Pathology(
        "sign flip", predictions.sign_flip, "look for wrong weights or a sign in the data; don't retrain before"
    )
    yield Pathology("orthogonal collapse", predictions.orthogonal_collapse, "look for wrong weights or another encoder")
    yield Pathology(
        "copy-last",
        predictions.copy_last,
        "it has learned to repeat; look at the margin, and give regression more weight",
    )
    yield Pathology(
        "backward", predictions.backward, "see that contexts are in order, oldest first, in training as in evaluation"
    )
    yield Pathology(
        "context ignored",
        predictions.context_ignored,
        "it predicts one direction for all: raise training.lr or InfoNCE's weight",
    )
    yield Pathology(
        "collapse to the mean", predictions.collapse_to_the_mean, "give InfoNCE weight; see retrieval, not the cosine"
    )
    for term in training.TERMS:
        yield training.dominated_by(term)
    yield Pathology(
        "InfoNCE off", training.info_off, "give objective.info_nce weight, tau 0.07 and batches of several documents"
    )
    yield Pathology("wrong temperature", training.wrong_temperature, "take objective.tau=0.07")
    yield Pathology(
        "unmasked near-duplicates",
        training.unmasked_neighbours,
        "set objective.mask_same_document=true: what almost is the target is no mistake",
    )
    yield Pathology("learning rate too high", training.rate_too_high, "lower training.lr, or raise training.warmup")
    yield Pathology("learning rate too low", training.rate_too_low, "raise training.lr")
    yield Pathology(
        "stuck plateau",
        training.stuck_plateau,
        "stop; look at the objective's balance, at tau and at the learning rate",
    )
    yield Pathology("overfitting", training.overfitting, "raise model.dropout, stop earlier, or bring more documents")
    yield Pathology("narrow", predictions.narrow, "train on more sources, or don't use it on texts like these")
    yield Pathology("underfitting", training.underfitting, "train for more epochs, or raise training.lr")
    yield Pathology(
        "order ignored", predictions.order_ignored, "nothing was learned from the order; a longer context may show more"
    )
    yield Pathology("easier OOD", data.easier_ood, "an ood score above val's proves nothing here")
    yield Pathology(
        "no gain over a baseline", predictions.no_gain, "use the baseline, or see docs/results.md for recipes that win"
    )


PATHOLOGIES = tuple(_table())
"""All of them; what makes a run worthless stands first."""
