"""Diagnosis: named faults of a run, each detected by a small pure rule. Needs no torch.

A rule reads numbers that a run has recorded: recipe, epoch metrics, baselines, evaluation, data check and events. It
returns evidence with a confidence, or None if the fault is absent or a number is missing. Rules that read the
evaluation prefer it over the last epoch. docs/reference/diagnosis.md has a section for each pathology.
"""

from __future__ import annotations

from nextvec.core.formatting import STATUSES
from nextvec.guards.diagnosis import rules_data as data
from nextvec.guards.diagnosis import rules_model as model
from nextvec.guards.diagnosis import rules_training as training
from nextvec.guards.diagnosis.case import CONFIDENCES, Case, Diagnoses, Diagnosis, Pathology

_USE_SHARES = "Set `objective.loss_weighting=gradient_norm`, so that weights are gradient shares."

PATHOLOGIES = (
    # Faults that make a run or its scores worthless.
    Pathology(
        "non-finite",
        "Non-finite values",
        training.not_finite,
        "Lower `training.lr`, or repair the data. The run folder keeps the last finite weights.",
    ),
    Pathology(
        "train-eval-mismatch",
        "Train–eval mismatch",
        training.train_eval_mismatch,
        "Do not use this checkpoint. Evaluate `epoch_N.pt` instead, and report the mismatch as a bug.",
    ),
    Pathology(
        "embedding-space-mismatch",
        "Embedding-space mismatch",
        data.space_mismatch,
        "Build the OOD set with the encoder of the training set. Do not retrain.",
    ),
    Pathology(
        "data-leakage",
        "Data leakage",
        data.data_leakage,
        "Remove the repeated rows, split by document, and rebuild the store. Start from weights that have not seen val "
        "or OOD.",
    ),
    Pathology(
        "shuffled-targets",
        "Shuffled targets",
        data.shuffled_targets,
        "Check how the data file was made. Run `nextvec data check`.",
    ),
    Pathology(
        "wrong-chunk-order",
        "Wrong chunk order",
        data.wrong_chunk_order,
        "Store the chunks in the order of their text, and rebuild the store.",
    ),
    Pathology(
        "unreachable-gate",
        "Unreachable gate",
        data.unreachable_gate,
        "Check that the right data file was used. Run `nextvec gates suggest` for thresholds that fit these data.",
    ),
    # Faults of the predictions.
    Pathology(
        "sign-flip",
        "Sign flip",
        model.sign_flip,
        "Check that the right weights were loaded and that the vectors have the right sign. Do not retrain before the "
        "cause is found.",
    ),
    Pathology(
        "orthogonal-collapse",
        "Orthogonal collapse",
        model.orthogonal_collapse,
        "Check that the right weights were loaded, and that model and data use the same encoder.",
    ),
    Pathology(
        "copy-last",
        "Copy-last",
        model.copy_last,
        "The model copies the last input. Compare `val_margin` with copy-last; increase `objective.mse`.",
    ),
    Pathology(
        "backward-predictions",
        "Backward predictions",
        model.backward_predictions,
        "Check that contexts are ordered oldest first, in training and in evaluation.",
    ),
    Pathology(
        "context-ignored",
        "Context ignored",
        model.context_ignored,
        "The model predicts one direction for every context. Increase `training.lr` or `objective.info_nce`.",
    ),
    Pathology(
        "collapse-to-mean",
        "Collapse to the mean",
        model.collapse_to_mean,
        "Increase `objective.info_nce`. Judge the model by retrieval rather than cosine.",
    ),
    # Faults of the objective.
    Pathology("mse-dominates", "MSE dominates", training.dominates("mse"), _USE_SHARES),
    Pathology("info-nce-dominates", "InfoNCE dominates", training.dominates("info"), _USE_SHARES),
    Pathology(
        "moment-dominates",
        "Moment term dominates",
        training.dominates("moment"),
        f"{_USE_SHARES} Set `objective.moment` near 0.",
    ),
    Pathology(
        "variance-dominates",
        "Variance term dominates",
        training.dominates("variance"),
        f"{_USE_SHARES} Set `objective.variance` near 0.",
    ),
    Pathology(
        "inactive-info-nce",
        "Inactive InfoNCE",
        training.inactive_info_nce,
        "Increase `objective.info_nce`, set `objective.tau=0.07`, and use batches with several documents.",
    ),
    Pathology(
        "temperature-out-of-range",
        "Temperature out of range",
        training.temperature_out_of_range,
        "Set `objective.tau=0.07`.",
    ),
    Pathology(
        "unmasked-near-duplicates",
        "Unmasked near-duplicates",
        training.unmasked_near_duplicates,
        "Set `objective.mask_same_document=true`. A near-duplicate of the target is not an error.",
    ),
    # Faults of the optimization.
    Pathology(
        "learning-rate-too-high",
        "Learning rate too high",
        training.learning_rate_too_high,
        "Lower `training.lr`, or increase `training.warmup`.",
    ),
    Pathology(
        "learning-rate-too-low", "Learning rate too low", training.learning_rate_too_low, "Increase `training.lr`."
    ),
    Pathology(
        "stuck-plateau",
        "Stuck plateau",
        training.stuck_plateau,
        "Stop the run. Check `objective.loss_weighting`, `objective.tau` and `training.lr`.",
    ),
    Pathology(
        "overfitting",
        "Overfitting",
        training.overfitting,
        "Increase `model.dropout`, stop earlier, or add documents.",
    ),
    # Limits of a model that works.
    Pathology(
        "poor-ood-generalization",
        "Poor OOD generalization",
        model.poor_ood_generalization,
        "Train on more sources, or do not use the model on texts like the OOD set.",
    ),
    Pathology(
        "underfitting",
        "Underfitting",
        training.underfitting,
        "Train for more epochs, or increase `training.lr`.",
    ),
    Pathology(
        "order-ignored",
        "Order ignored",
        model.order_ignored,
        "The model uses its context as an unordered set. Increase `data.context` and train again.",
    ),
    Pathology(
        "ood-easier-than-val",
        "OOD easier than val",
        data.ood_easier_than_val,
        "Compare gains, not cosines. An OOD cosine above val proves nothing here.",
    ),
    Pathology(
        "no-gain-over-baseline",
        "No gain over the baseline",
        model.no_gain_over_baseline,
        "Use the baseline, or start from a recipe that beats it: see docs/benchmarks/quality.md.",
    ),
    Pathology(
        "poor-retrieval",
        "Poor retrieval",
        model.poor_retrieval,
        "Retrieve with the baseline. To train for retrieval, use a model with a query (`model.variant=residual`), or "
        "increase `objective.info_nce`.",
    ),
)
"""All pathologies. Those that make a run worthless come first."""


def diagnose(case: Case) -> Diagnoses:
    """Return all diagnoses of a case, the most severe and most confident first; none for a healthy run."""
    items = [
        Diagnosis(pathology.id, pathology.title, *evidence, pathology.advice)
        for pathology in PATHOLOGIES
        if (evidence := pathology.rule(case)) is not None
    ]
    # The sort is stable: pathologies of equal status and confidence keep the order of the table.
    items.sort(key=lambda item: (-STATUSES.index(item.status), CONFIDENCES.index(item.confidence)))
    return Diagnoses(tuple(items), has_epochs=bool(case.history) or case.evaluation is not None)
