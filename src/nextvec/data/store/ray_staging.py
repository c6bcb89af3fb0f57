"""Read and chunk the sources of a build on a Ray cluster; see `ray_jobs`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nextvec.data.store.ray_jobs import Pool, RayJob, RayWorker, make_pieces
from nextvec.data.store.staging import StagingJob, Unit, stage_unit, unit_facts
from nextvec.errors import InputError


@dataclass(frozen=True)
class UnitJob(RayJob):
    """What a worker needs to read sources."""

    staging: StagingJob
    units: tuple[Unit, ...]
    cwd: Path
    """The folder to which the names of the sources are relative."""


class UnitWorker(RayWorker[UnitJob]):
    """An actor that reads and chunks the sources of units."""

    def facts(self, piece: int) -> dict[str, Any] | None:
        """Return the number of documents and the notes of a complete unit; None if it is missing."""
        return unit_facts(self.job.pieces, piece)

    def make(self, piece: int) -> None:
        """Read and chunk the sources of a unit, and write its staged files."""
        unit = next(unit for unit in self.job.units if unit.number == piece)
        for _, source in unit.sources:
            if not (self.job.cwd / source).exists():
                raise InputError(f"does not see {self.job.cwd / source}. Put it on a file system that all nodes share.")
        self.is_able = True
        # Messages name the sources as the user did.
        folder = self.job.cwd if self.job.cwd.is_dir() else Path.cwd()
        with contextlib.chdir(folder):
            stage_unit(replace(self.job.staging, before_write=self.job.require_current), unit)


def stage_on_ray(ray: Any, job: UnitJob, pool: Pool) -> Iterator[int]:
    """Stage the missing units, and yield the number of documents of each. Raises the errors of `make_pieces`."""

    def missing() -> list[int]:
        return [unit.number for unit in job.units if unit_facts(job.pieces, unit.number) is None]

    for facts in make_pieces(ray, UnitWorker, job, missing, pool):
        yield int(facts["documents"])
