"""Measure CPU time and peak memory of each stage of a nextvec command.

    python bench/stages.py demo --out /tmp/demo
    python bench/stages.py train amn-790k-production data.store=STORE training.epochs=1
    python bench/stages.py eval RUN

The command runs in this process, and the functions of STAGES are timed. The CPU seconds of a stage are those of all
its threads and child processes, without the stages inside it. The memory of a stage is the peak of this process's
anonymous memory (RssAnon), which includes the code of torch and nextvec but not the memory-mapped vectors.
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

STAGES = (
    # A store from text
    "data.store.staging.stage_chunks",
    "data.store.tables.write_rows",
    "data.store.build._fit_lsa",
    "data.store.build.encode_blocks",
    "data.store.build.finish_build",
    # The start of a run
    "data.checks.check_store",
    "training.baselines.fit_and_save",
    "training.baselines.fit_on",
    "training.baselines.baseline_cosines",
    "training.initial_weights.initialize_weights",
    "training.selection.measure_start",
    "training.saved_state.save_state",
    # Epochs
    "training.loop.train_epoch",
    "training.validation.validate",
    "training.validation._query_metrics",
    "training.loop._save_checkpoints",
    # Evaluation
    "evaluation.latency.measure_latency",
    "evaluation.evaluate.draw_samples",
    "evaluation.offsets.measure_offset_profiles",
    "evaluation.metrics.score_windows",
    "evaluation.retrieval.target_ranks",
    "evaluation.retrieval.in_document_ranks",
    "evaluation.retrieval.measure_contrastive",
    "evaluation.geometry.measure_geometry",
    "evaluation.geometry.measure_target_geometry",
    "evaluation.rollout.measure_rollout",
    "evaluation.ablations.measure_ablations",
    "evaluation.breakdown.measure_breakdown",
    "evaluation.bootstrap.estimate_means",
    "evaluation.seen_data.measure_seen",
    # Files for people
    "inference.coherence.fit_coherence",
    "evaluation.examples.nearest_examples",
    "reports.html.run_report.write_report",
)
SAMPLE_SECONDS = 0.01


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of its ended children."""
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


class Stages:
    """CPU seconds, calls and peak memory by stage; a stage inside another one is not counted twice."""

    def __init__(self) -> None:
        self.open = ["other"]
        self.seconds: dict[str, float] = {"other": 0.0}
        self.calls: dict[str, int] = {"other": 1}
        self.peak: dict[str, int] = {"other": 0}
        self._last = 0.0
        threading.Thread(target=self._sample, daemon=True).start()

    def _sample(self) -> None:
        while True:
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("RssAnon"):
                    stage = self.open[-1]
                    self.peak[stage] = max(self.peak.get(stage, 0), int(line.split()[1]) // 1024)
            time.sleep(SAMPLE_SECONDS)

    def switch(self) -> None:
        """Add the CPU time since the last switch to the stage that is open."""
        now = cpu_seconds()
        self.seconds[self.open[-1]] = self.seconds.get(self.open[-1], 0.0) + now - self._last
        self._last = now

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function as a stage."""

        @functools.wraps(function)
        def stage(*args: Any, **kwargs: Any) -> Any:
            self.switch()
            self.open.append(name)
            self.calls[name] = self.calls.get(name, 0) + 1
            try:
                return function(*args, **kwargs)
            finally:
                self.switch()
                self.open.pop()

        return stage


def install(stages: Stages) -> None:
    """Replace each function of STAGES in every module that has it."""
    import nextvec

    for module in pkgutil.walk_packages(nextvec.__path__, "nextvec."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in STAGES:
        module_name, _, attribute = name.rpartition(".")
        original = getattr(sys.modules[f"nextvec.{module_name}"], attribute, None)
        if original is None:
            print(f"bench/stages.py: no function {name}", file=sys.stderr)
            continue
        replacement = stages.timed(attribute.lstrip("_"), original)
        for module_name, loaded in list(sys.modules.items()):
            if module_name.startswith("nextvec") and getattr(loaded, attribute, None) is original:
                setattr(loaded, attribute, replacement)


def main() -> None:
    """Run the command and print the table."""
    stages = Stages()
    install(stages)
    imports = cpu_seconds()
    stages.switch()
    stages.seconds["other"] = 0.0
    from nextvec.cli import main as run_command

    begin = time.perf_counter()
    imported_mb = stages.peak["other"]
    try:
        sys.argv = ["nextvec", *sys.argv[1:]]
        run_command()
    except SystemExit as error:
        print(f"exit code {error.code}")
    stages.switch()
    wall = time.perf_counter() - begin
    print(f"\nimports of all modules: {imports:.1f} CPU s, {imported_mb} MB")
    print("| stage | calls | CPU s | peak MB |\n| --- | ---: | ---: | ---: |")
    for name, seconds in sorted(stages.seconds.items(), key=lambda item: -item[1]):
        print(f"| {name} | {stages.calls[name]} | {seconds:.2f} | {stages.peak.get(name, 0)} |")
    print(f"| total (wall {wall:.1f} s) | | {sum(stages.seconds.values()):.2f} | {max(stages.peak.values())} |")


if __name__ == "__main__":
    main()
