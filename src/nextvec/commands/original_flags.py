"""The flags of the original trainer that `nextvec train` does not take, each with its answer.

The flags that it takes are in `nextvec.commands.train.TrainerFlags`. An answer names the counterpart in nextvec, or the
reason why the runbook's runs do not need the flag.
"""

from __future__ import annotations

from collections.abc import Sequence

_COMMANDS = ("train", "rehearse", "suite", "sweep")
"""Commands that train, which a script of the original project could call with its flags."""

_MOMENTS = "objective.moment (--lambda-moment) compares means and variances of predictions and targets over the batch"
_CYCLE = "nextvec trains on stored vectors alone, without a service that decodes and encodes text"
_DIRECTION = (
    "no loss for the direction in time; val_margin and the offset curve measure it in every evaluation, and "
    "model.query with objective.query_negatives ranks the target above later chunks of its document"
)
_COPYING = (
    "no separate loss; objective.query_negatives ranks the target above later chunks of its document, and a gate on "
    "val_margin reports a model that copies the last input"
)
_FUTURE = "no separate loss; objective.query_negatives includes the chunks after the target"
_ROLLOUT = "no rollout loss; every evaluation measures rollout@8"
_SCHEDULE = "every loss term is active from the first step, with the gradient share of its weight"
_POSITION = "model.variant=residual weighs the context by position; every evaluation measures what shuffling it costs"
_CURRICULUM = "every epoch uses all training windows, in an order that depends on the seed and the epoch"
_LAST_BIAS = "model.variant=residual learns the weights of the context vectors, the last one included"
_NOISE = "model.dropout (and data.train_min_context, for shorter contexts) regularizes the input"
_OFFSETS = "val_margin of every epoch and the offset curve of every evaluation use all windows"

UNSUPPORTED_FLAGS = {
    "--lambda-mmd": _MOMENTS,
    "--mmd-anchors": _MOMENTS,
    "--lambda-stat": _MOMENTS,
    "--cycle-pct": _CYCLE,
    "--cycle-lambda": _CYCLE,
    "--cycle-steps": _CYCLE,
    "--cycle-timeout": _CYCLE,
    "--decoder-endpoint": _CYCLE,
    "--encoder-endpoint": _CYCLE,
    "--residual-next": "model.variant=residual, the default: the network corrects a learned mean of the context",
    "--guards-start-epoch": _SCHEDULE,
    "--warmup-epochs": f"{_SCHEDULE}; training.warmup is the warm-up of the learning rate",
    "--ramp-epochs": _SCHEDULE,
    "--lambda-dir": _DIRECTION,
    "--margin-dir": _DIRECTION,
    "--adaptive-dir": _DIRECTION,
    "--dir-gamma": _DIRECTION,
    "--dir-margin": _DIRECTION,
    "--dir-warmup-epochs": _DIRECTION,
    "--p6b-directional": _DIRECTION,
    "--p6b-v21": _DIRECTION,
    "--p6b-v22": _DIRECTION,
    "--p6b-v23": _DIRECTION,
    "--lambda-ac": _COPYING,
    "--margin-ac": _COPYING,
    "--lambda-fut": _FUTURE,
    "--margin-fut": _FUTURE,
    "--rollout-h": _ROLLOUT,
    "--lambda-roll": _ROLLOUT,
    "--rollout-start-epoch": _ROLLOUT,
    "--use-positional": _POSITION,
    "--pos-scale": _POSITION,
    "--positional-scalar": _POSITION,
    "--positional-ramp-epochs": _POSITION,
    "--curriculum": _CURRICULUM,
    "--curriculum-scores": _CURRICULUM,
    "--attn-last-bias-max": _LAST_BIAS,
    "--attn-last-bias-warmup-epochs": _LAST_BIAS,
    "--context-drop-p": _NOISE,
    "--last-slot-noise-p": _NOISE,
    "--last-slot-noise-sigma": _NOISE,
    "--last-slot-swap-p": _NOISE,
    "--fivecat-every-epoch": _OFFSETS,
    "--fivecat-max-samples": _OFFSETS,
    "--mini5cat-max-samples": _OFFSETS,
    "--gate-min-margin": "a gate of the recipe: metric = 'val_margin', red = 0.02, action = 'stop'",
    "--gate-min-r-at5": "no gate on recall; every evaluation reports recall at k and MRR next to the baselines",
    "--gate-min-rollout": "no gate on rollouts; every evaluation measures rollout@8",
}
"""Flag → its counterpart, or why no run of the runbook needs it."""


def answer_original_flag(argv: Sequence[str]) -> str | None:
    """Return one line about the first flag that only the original trainer has; None if there is none."""
    words = [word for word in argv if not word.startswith("-")]
    if not words or words[0] not in _COMMANDS:
        return None
    # argparse also takes `--flag=value`.
    for name in (word.partition("=")[0].replace("_", "-") for word in argv):
        if name in UNSUPPORTED_FLAGS:
            return (
                f"{words[0]}: {name} of the original trainer is not supported. In nextvec: {UNSUPPORTED_FLAGS[name]}. "
                "Remove the flag."
            )
    return None
