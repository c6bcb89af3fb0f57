"""The folder of a run before its first saved training state.

A run that is killed there has lost nothing: everything in its folder follows from its recipe. `resume` starts such a
run again, and a new run may use its folder.
"""

from __future__ import annotations

import errno
import itertools
import os
import secrets
import shutil
import time
from pathlib import Path

from nextvec.core.files import make_folder, remove_leftovers, write_text, writing
from nextvec.core.run_paths import (
    BASELINES_FILE,
    CHECKSUMS_FILE,
    ENCODER_FOLDER,
    EVENTS_FILE,
    HISTORY_FILE,
    RECIPE_FILE,
    SENTINEL_LOG,
    TIME,
    TIME_FORMAT,
    TRAINING_LOG,
)
from nextvec.data.store.writer import require_new
from nextvec.errors import RecipeError
from nextvec.recipe import Recipe, load_recipe

_WRITTEN_AGAIN = (EVENTS_FILE, TRAINING_LOG, SENTINEL_LOG, HISTORY_FILE, BASELINES_FILE, CHECKSUMS_FILE, ENCODER_FOLDER)
"""What a start from the recipe writes before the first training state."""


def is_worthless(path: Path) -> bool:
    """Return whether a folder is empty, or contains only what a start from its recipe writes again.

    A recipe that nextvec did not write belongs to the user and is of value.
    """
    if not path.is_dir():
        return False
    names = {entry.name for entry in path.iterdir()}
    if not all(name in (RECIPE_FILE, *_WRITTEN_AGAIN) or (name[0] == "." and name.endswith(".tmp")) for name in names):
        return False
    # nextvec writes every field of a recipe; a user's file is shorter, or has another order.
    recipe = path / RECIPE_FILE
    try:
        return not recipe.exists() or load_recipe(recipe).to_toml() == recipe.read_text(encoding="utf-8")
    except (RecipeError, OSError, ValueError):
        return False


def require_usable(path: Path) -> None:
    """Raise OutputError if `path` exists and is not a worthless folder; nothing of value is ever overwritten."""
    if not is_worthless(path):
        require_new(path)


def make_run_folder(path: Path, recipe: Recipe) -> Path:
    """Make the folder of a run together with its recipe: a run killed at any later moment can be resumed.

    `{time}` in the name becomes the time, with a number if that name is in use: of several runs that start at once,
    each gets its own folder. Raises OutputError if it can't be made, or if another process has made it meanwhile.
    """
    make_folder(path.parent)
    name = path.name.replace(TIME, time.strftime(TIME_FORMAT))
    temporary = path.with_name(f".{name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    make_folder(temporary, new=True)
    try:
        write_text(temporary / RECIPE_FILE, recipe.to_toml())
        for number in itertools.count(1):
            folder = path.with_name(f"{name}_{number}" if number > 1 else name)
            with writing(folder):
                try:
                    temporary.rename(folder)  # fails if the folder exists, because it has a recipe
                    return folder
                except OSError as error:
                    if TIME not in path.name or error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                        raise
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    raise AssertionError("unreachable: the numbers do not end")


def clear_run_folder(path: Path) -> None:
    """Remove what an earlier start wrote into a worthless folder, except its recipe.

    Raises OutputError if the folder contains anything of value, such as a training state of another process.
    """
    require_usable(path)
    for name in _WRITTEN_AGAIN:
        entry = path / name
        with writing(entry):
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
    remove_leftovers(path)
