"""The files for Slurm: their syntax, and the way a job takes back into the queue."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "examples" / "slurm"
FILES = sorted(SLURM.glob("*.sbatch"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_bash_can_read_the_file(file):
    subprocess.run(["bash", "-n", str(file)], check=True)
    text = file.read_text(encoding="utf-8")
    assert "#SBATCH --signal=B:USR1@" in text
    assert "#SBATCH --requeue" in text


TRAINING = """#!/usr/bin/env bash
# Stands for nextvec and torchrun: records its arguments and its signal, and then ends like an interrupted run.
echo "$*" >> "$RECORD"
[[ $* == *resume* ]] && exit 0
trap 'sleep 0.2; echo signal >> "$RECORD"; exit 130' USR1 TERM
echo started > "$RECORD.started"
while :; do sleep 0.05; done
"""
SCHEDULER = """#!/usr/bin/env bash
[[ $1 == show ]] && echo localhost || echo "scontrol $*" >> "$RECORD"
"""
STEP = """#!/usr/bin/env bash
exec "$@"
"""


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_job_at_its_time_limit_is_requeued_and_resumes(file, tmp_path):
    """Slurm sends SIGUSR1 to the script alone (`B:`); the script waits for the run to save, and requeues the job."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name, text in {"nextvec": TRAINING, "torchrun": TRAINING, "scontrol": SCHEDULER, "srun": STEP}.items():
        (tools / name).write_text(text, encoding="utf-8")
        (tools / name).chmod(0o755)
    record, run = tmp_path / "record", tmp_path / "run"
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "a", "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    environment = {**os.environ, **job, "PATH": f"{tools}:{os.environ['PATH']}", "RECORD": str(record)}
    command = ["bash", str(file), "amn", str(run), "training.epochs=3"]

    script = subprocess.Popen(command, env=environment)
    while not Path(f"{record}.started").exists():
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    script.wait(timeout=60)
    started, *rest = record.read_text(encoding="utf-8").splitlines()
    assert f"train amn training.epochs=3 --out {run}" in started
    assert rest == ["signal", "scontrol requeue 7"]

    # The next start finds the run's folder.
    run.mkdir()
    (run / "recipe.toml").touch()
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert f"resume {run}" in record.read_text(encoding="utf-8").splitlines()[-1]
