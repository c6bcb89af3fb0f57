"""Diagnosis of a run, in plain words."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tyro.conf import Positional

if TYPE_CHECKING:
    from nextvec.judge.diagnose import Diagnoses


def diagnose(run: Positional[str]) -> Diagnoses:
    """Say what is wrong with a run, how sure that is, and what to do next, from what its folder holds.

    Args:
        run: Folder of the run, finished or not.
    """
    from nextvec.judge.diagnose import diagnose as find
    from nextvec.report.runfacts import case_of

    return find(case_of(Path(run)))
