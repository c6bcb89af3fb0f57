"""How far a tracker is: the id of its tracked run, and the epochs that were sent."""

from __future__ import annotations

import json
import secrets
from pathlib import Path

from nextvec.core.events import count, mapping, words
from nextvec.core.files import make_folder, write_json
from nextvec.core.run_paths import tracker_file


class Position:
    """The id of a tracked run and the epochs that were sent, in the file trackers/NAME.json of the run."""

    def __init__(self, folder: Path, name: str) -> None:
        """Read the file, or begin it: a run that is killed at any later moment continues its trackers."""
        self._file = tracker_file(folder, name)
        self.id, self.epochs = read_position(self._file)
        if not self.id:
            self.id = secrets.token_hex(4)
            make_folder(self._file.parent)
            self._save()

    def advance(self, epoch: int) -> None:
        """Save that an epoch was sent."""
        self.epochs = epoch
        self._save()

    def _save(self) -> None:
        write_json(self._file, {"id": self.id, "epochs": self.epochs})


def read_position(file: Path) -> tuple[str, int]:
    """Return the id and the number of epochs in a tracker's file; empty and 0 if it is missing or damaged."""
    try:
        values = mapping(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return "", 0
    return words(values.get("id")), count(values.get("epochs"))
