"""The files for Slurm: their syntax, and the way a job takes back into the queue."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import takewhile
from pathlib import Path

import pytest

SLURM = Path(__file__).resolve().parents[2] / "examples" / "slurm"
FILES = sorted(SLURM.glob("*.sbatch"))
TRAINING_FILES = [file for file in FILES if file.name.startswith("train")]
OPTION = re.compile(r"#SBATCH --([a-z-]+)(?:=(\S+))?")
VALUES = {
    "job-name": r"[\w-]+", "nodes": r"\d+", "ntasks": r"\d+", "ntasks-per-node": r"\d+", "cpus-per-task": r"\d+",
    "gpus": r"\d+", "gpus-per-node": r"\d+", "mem": r"\d+[MG]", "time": r"\d\d:\d\d:\d\d",
    "signal": r"B:USR1@\d+", "open-mode": "append", "output": r"[\w%./-]+", "array": r"[\d%-]+",
}  # fmt: skip
"""Options of sbatch → what their values look like."""
FLAGS = {"requeue", "exclusive"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_bash_and_sbatch_can_read_the_file(file):
    subprocess.run(["bash", "-n", str(file)], check=True)
    lines = file.read_text(encoding="utf-8").splitlines()
    # sbatch ignores its options after the first command.
    head = list(takewhile(lambda line: line.startswith("#"), lines))
    options = {}
    for line in (line for line in lines if "SBATCH" in line):
        match = OPTION.fullmatch(line)
        assert match and line in head, line
        options[match[1]] = match[2]
        assert match[1] in FLAGS if match[2] is None else re.fullmatch(VALUES[match[1]], match[2]), line
    assert {"job-name", "time", "signal", "requeue", "open-mode"} <= options.keys()


TRAINING = """#!/usr/bin/env bash
# Stands for nextvec and torchrun: records its arguments and its signal, and then ends like an interrupted run.
echo "$*" >> "$RECORD"
[[ $* == *resume* ]] && exit 0
trap 'sleep 0.2; echo signal >> "$RECORD"; exit 130' USR1 TERM
echo started > "$RECORD.started"
while :; do sleep 0.05; done
"""
SCHEDULER = """#!/usr/bin/env bash
[[ $1 == show ]] && tr , '\\n' <<< "$3" || echo "scontrol $*" >> "$RECORD"
"""
STEP = """#!/usr/bin/env bash
exec "$@"
"""
RAY_STEP = """#!/usr/bin/env bash
# Stands for srun: records what it would start on which machines, and runs as long as that. The head listens.
echo "srun $*" >> "$RECORD.steps"
[[ $* != *--head* ]] && exec sleep 60
exec "$PYTHON" -c 'import socket, time; server = socket.create_server(("127.0.0.1", 20007)); time.sleep(60)'
"""

HOSTNAME = """#!/usr/bin/env bash
[[ $1 == --ip-address ]] && echo 127.0.0.1 192.0.2.9
"""


def make_job(folder, tools, hosts):
    """Return the environment of a job with stand-ins for `tools`, and the file that they write to."""
    scripts, record = folder / "bin", folder / "record"
    scripts.mkdir()
    for name, text in tools.items():
        (scripts / name).write_text(text, encoding="utf-8")
        (scripts / name).chmod(0o755)
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": hosts, "SLURM_JOB_NUM_NODES": "2", "SLURM_GPUS_ON_NODE": "8"}
    variables = {**os.environ, **job, "SLURM_CPUS_PER_TASK": "16", "RECORD": str(record), "PYTHON": sys.executable}
    return variables | {"PATH": f"{scripts}:{os.environ['PATH']}"}, record


@pytest.mark.parametrize("file", TRAINING_FILES, ids=lambda file: file.name)
def test_a_job_at_its_time_limit_is_requeued_and_resumes(file, tmp_path):
    """Slurm sends SIGUSR1 to the script alone (`B:`); the script waits for the run to save, and requeues the job."""
    tools = {"nextvec": TRAINING, "torchrun": TRAINING, "scontrol": SCHEDULER, "srun": STEP}
    environment, record = make_job(tmp_path, tools, "localhost")
    run = tmp_path / "run"
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


def test_a_ray_cluster_of_all_machines_runs_the_command_and_ends_with_it(tmp_path):
    environment, record = make_job(
        tmp_path,
        {"nextvec": TRAINING, "scontrol": SCHEDULER, "srun": RAY_STEP, "hostname": HOSTNAME},
        "node1,node2,node3",
    )
    command = ["bash", str(SLURM / "ray.sbatch"), "data", "build", "texts", "--out", "store"]
    script = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    steps = Path(f"{record}.steps")
    while not Path(f"{record}.started").exists() or steps.read_text(encoding="utf-8").count("\n") < 2:
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    assert script.communicate(timeout=60)[1] == "" and script.returncode == 130
    assert record.read_text(encoding="utf-8").splitlines() == [
        "data build texts --out store --engine ray --address 127.0.0.1:20007",
        "signal",
        "scontrol requeue 7",
    ]
    head, workers = sorted(steps.read_text(encoding="utf-8").splitlines())
    assert head.startswith("srun --nodes=1 --ntasks=1 --nodelist=node1 ray start --head --node-ip-address=127.0.0.1 ")
    assert "--port=20007 --num-cpus=16" in head and head.endswith("--block")
    assert workers == (
        "srun --nodes=2 --ntasks=2 --exclude=node1 ray start --address=127.0.0.1:20007 --num-cpus=16 --block"
    )
    # Nothing of the job is left, as soon as the system has noticed.
    until = time.monotonic() + 20
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(script.pid, 0)
            time.sleep(0.02)


def test_the_ray_job_names_its_missing_command(tmp_path):
    environment, _ = make_job(tmp_path, {}, "node1")
    done = subprocess.run(["bash", str(SLURM / "ray.sbatch")], env=environment, capture_output=True, text=True)
    assert done.returncode and "the arguments are a nextvec command" in done.stderr


def test_a_task_of_an_array_encodes_its_slice_and_is_requeued_at_its_time_limit(tmp_path):
    environment, record = make_job(tmp_path, {"nextvec": TRAINING, "scontrol": SCHEDULER}, "node1")
    command = ["bash", str(SLURM / "encode.sbatch"), "16", "wiki", "articles.jsonl", "--encoder", "minilm"]
    script = subprocess.Popen(command, env=environment | {"SLURM_ARRAY_TASK_ID": "3"})
    while not Path(f"{record}.started").exists():
        assert script.poll() is None
        time.sleep(0.02)
    script.send_signal(signal.SIGUSR1)
    assert script.wait(timeout=60) == 130
    assert record.read_text(encoding="utf-8").splitlines() == [
        "data build articles.jsonl --encoder minilm --out wiki --shard 3/16 --quiet",
        "signal",
        "scontrol requeue 7",
    ]
