"""How a suite or a sweep uses a Ray cluster: the options of `--engine ray`. Does not import Ray or torch."""

from __future__ import annotations

from dataclasses import dataclass

from nextvec.distributed.ray_cluster import uses_ray
from nextvec.errors import InputError
from nextvec.recipe import Recipe


@dataclass(frozen=True)
class RayOptions:
    """Where the runs are trained, how many at a time, and what each of them occupies."""

    address: str = ""
    """As in `ray.init`; empty: RAY_ADDRESS, else a cluster started on this machine."""
    concurrency: int | None = None
    """Runs at a time at most; None: as many as the cluster has room for."""
    cpus_per_run: int | None = None
    """None: `runtime.threads` of the recipe, else 1."""
    gpus_per_run: float | None = None
    """Share of a GPU, or a number of GPUs. None: one GPU if the cluster has any. Recipes on the CPU get none."""

    @property
    def argv(self) -> list[str]:
        """The options as they are written on the command line."""
        values = (
            ("--address", self.address or None),
            ("--concurrency", self.concurrency),
            ("--cpus-per-run", self.cpus_per_run),
            ("--gpus-per-run", self.gpus_per_run),
        )
        return [
            "--engine",
            "ray",
            *(word for flag, value in values if value is not None for word in (flag, f"{value}")),
        ]

    def cpus(self, recipe: Recipe) -> int:
        """Return the number of CPUs of a run, which is also its number of threads unless its recipe sets that."""
        return self.cpus_per_run or recipe.runtime.threads or 1

    def gpus(self, recipe: Recipe, has_gpus: bool) -> float:
        """Return the share of a GPU that a run gets, in a cluster with or without GPUs.

        Raises InputError if the recipe names one GPU of a machine: Ray chooses it.
        """
        # "cuda:1" is a GPU of one machine; a run may start on any.
        kind, _, number = recipe.runtime.device.partition(":")
        if number:
            raise InputError(
                f"recipe {recipe.name}: runtime.device is '{recipe.runtime.device}', but Ray chooses the GPU. Set "
                f"runtime.device={kind}."
            )
        if kind not in ("auto", "cuda"):
            return 0.0
        return float(has_gpus) if self.gpus_per_run is None else self.gpus_per_run


def ray_options(
    engine: str, address: str, concurrency: int | None, cpus_per_run: int | None, gpus_per_run: float | None
) -> RayOptions | None:
    """Return the options of the engine `ray`; None for `local`. Raises InputError if they are invalid."""
    values = {"--concurrency": concurrency, "--cpus-per-run": cpus_per_run, "--gpus-per-run": gpus_per_run}
    if not uses_ray(engine, {"--address": address, **values}):
        return None
    for flag, number in values.items():
        if number is not None and flag != "--gpus-per-run" and number < 1:
            raise InputError(f"{flag} {number}: must be at least 1")
    # Ray shares one GPU among runs, or gives a run whole ones.
    if gpus_per_run is not None and not (0 <= gpus_per_run <= 1 or (gpus_per_run > 1 and gpus_per_run.is_integer())):
        raise InputError(f"--gpus-per-run {gpus_per_run:g}: must be from 0 to 1, or a whole number")
    return RayOptions(address, concurrency, cpus_per_run, gpus_per_run)
