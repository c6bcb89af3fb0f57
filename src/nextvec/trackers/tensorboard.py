"""TensorBoard's files of a run, for those who look there: scalars for each epoch, and the hyperparameters.

They are written from the epochs' records after each epoch is saved, so that they can't change what is learned. A run
that is resumed purges what lies beyond its position.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from nextvec.errors import MissingExtraError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

    from nextvec.training.run import Run


FOLDER = "tensorboard"
GROUPS = ("train", "val", "ood", "share")
"""First words of figures that become groups of charts; all others are in `run`."""


def require_tensorboard() -> None:
    """Raise MissingExtraError where TensorBoard is not installed."""
    try:
        import tensorboard  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("tensorboard", "tensorboard", "--tensorboard") from error


@contextmanager
def board(run: Run, *, wanted: bool) -> Iterator[Callable[[Run], None] | None]:
    """What to call after each epoch, or None where no board is wanted; the end writes what is left."""
    if not wanted:
        yield None
        return
    from torch.utils.tensorboard import SummaryWriter

    done = len(run.state.history)
    writer = SummaryWriter(str(run.path / FOLDER), purge_step=done + 1 if done else None)

    def write(run: Run) -> None:
        nonlocal done
        for record in run.state.history[done:]:
            for name, value in scalars(record).items():
                writer.add_scalar(name, value, record["epoch"], walltime=None)
        done = len(run.state.history)
        writer.flush()

    try:
        yield write
    finally:
        write(run)  # the epoch after which a gate has ended the run
        _write_hyperparameters(writer, run)
        writer.close()


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of an epoch's record by their names on the board: ``{"val/cosine": 0.52}``."""
    found = {}
    for key, value in record.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and key not in ("epoch", "step"):
            group, _, rest = key.partition("_")
            found[f"{group}/{rest}" if group in GROUPS and rest else f"run/{key}"] = float(value)
    return found


def hyperparameters(recipe: Mapping[str, Any]) -> dict[str, bool | str | int | float]:
    """The recipe's fields as one level of names and plain values: ``{"training.lr": 0.0005}``."""
    flat: dict[str, bool | str | int | float] = {}
    for name, value in recipe.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}.{field}": inner for field, inner in hyperparameters(value).items()}
        elif isinstance(value, bool | str | int | float):
            flat[name] = value
    return flat


def _write_hyperparameters(writer: SummaryWriter, run: Run) -> None:
    """The recipe beside the best epoch's figures, in this run's own files: the board's table of runs."""
    from torch.utils.tensorboard.summary import hparams

    best = run.state.record(run.state.selected["prediction"].epoch)
    figures = {
        f"best/{name}": float(best[name])
        for name in ("val_cosine", "val_gain", "ood_cosine", "ood_gain")
        if name in best and math.isfinite(best[name])
    }
    values = hyperparameters(run.recipe.model_dump(exclude_none=True))
    files: Any = writer.file_writer
    for summary in hparams(values, figures):
        files.add_summary(summary)
    for name, value in figures.items():
        writer.add_scalar(name, value, best["epoch"])
