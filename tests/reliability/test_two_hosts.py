"""Two machines train together: network namespaces with a name and an address each, joined by a virtual cable."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nextvec.core.run_paths import RESUME_STATE, TRAINING_LOG
from nextvec.data.store import Store
from nextvec.distributed.silent_hosts import SILENCE_SECONDS
from nextvec.experiments.single_run import resume_folder, train_recipe
from training.test_processes import assert_equal_runs, recipe_of, wait_for, write_recipe

pytestmark = pytest.mark.long

ADDRESSES = ("10.77.0.1", "10.77.0.2")


class Hosts:
    """Two machines, host1 and host2."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = [f"nextvec{os.getpid()}{letter}" for letter in "ab"]
        (folder / "hosts").write_text("127.0.0.1 localhost\n10.77.0.1 host1\n10.77.0.2 host2\n")

    def connect(self) -> None:
        """Raises CalledProcessError if the system does not permit it."""
        for name in self._names:
            _ip("netns", "add", name)
        first, second = self._names
        _ip("-n", first, "link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", second)
        for name, address in zip(self._names, ADDRESSES, strict=True):
            _ip("-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", "cable", "up")

    def cut_cable(self) -> None:
        _ip("-n", self._names[1], "link", "set", "cable", "down")

    def remove(self) -> None:
        for name in self._names:
            for process in subprocess.run(["ip", "netns", "pids", name], capture_output=True, text=True).stdout.split():
                subprocess.run(["kill", "-9", process], check=False)
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def start(self, number: int, *arguments: str) -> subprocess.Popen[str]:
        """Start torchrun on host `number`, 1 or 2; its output is in a file, because nobody reads it meanwhile."""
        prepare = f'hostname host{number} && mount --bind {self._folder / "hosts"} /etc/hosts && exec "$@"'
        torchrun = [
            "-m",
            "torch.distributed.run",
            "--nnodes",
            "2",
            "--rdzv-backend",
            "c10d",
            "--rdzv-endpoint",
            "host1:29500",
        ]
        command = [sys.executable, *torchrun, "-m", "nextvec", *arguments, "--quiet"]
        namespace = ["ip", "netns", "exec", self._names[number - 1]]
        with self.output(number).open("w") as output:
            return subprocess.Popen(
                [*namespace, "unshare", "--mount", "--uts", "sh", "-c", prepare, "sh", *command],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def output(self, number: int) -> Path:
        return self._folder / f"host{number}.txt"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    hosts = Hosts(tmp_path)
    try:
        try:
            hosts.connect()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"needs the command ip and permission to make network namespaces: {error}")
        yield hosts
    finally:
        hosts.remove()


def test_two_hosts_train_and_evaluate_like_one_process(hosts: Hosts, toy_store: Store, tmp_path: Path) -> None:
    recipe = recipe_of(toy_store)
    train_recipe(recipe, out=str(tmp_path / "alone"), quiet=True)
    arguments = ("train", write_recipe(recipe, tmp_path), "--out", str(tmp_path / "run"))
    for torchrun in [hosts.start(number, *arguments) for number in (1, 2)]:
        assert torchrun.wait(timeout=300) == 0, hosts.output(1).read_text() + hosts.output(2).read_text()
    assert "processes=2" in (tmp_path / "run" / TRAINING_LOG).read_text(encoding="utf-8")
    assert_equal_runs(tmp_path / "alone", tmp_path / "run", tolerance=1e-5)


def test_a_host_that_is_cut_off_ends_the_run_with_a_position_to_resume(
    hosts: Hosts, toy_store: Store, tmp_path: Path
) -> None:
    """No connection is closed: the other host only stops answering."""
    run = tmp_path / "run"
    recipe = write_recipe(recipe_of(toy_store, epochs=3000, keep_epochs=False, checkpoint_interval_s=1), tmp_path)
    first, second = (hosts.start(number, "train", recipe, "--out", str(run)) for number in (1, 2))
    wait_for(run / TRAINING_LOG, "Epoch 3/", (first, second))
    hosts.cut_cable()
    start = time.monotonic()
    assert first.wait(timeout=SILENCE_SECONDS + 120) == 1
    assert time.monotonic() - start > SILENCE_SECONDS / 4  # it was silence that ended it
    assert (
        "nextvec: another of the 2 processes of this run has ended, or its machine can't be reached. To continue from "
        f"the last saved state: nextvec resume {run}\n"
    ) in hosts.output(1).read_text()
    # The last saved state loads, and the run ends at the epoch after it.
    assert (run / RESUME_STATE).is_file()
    text = (run / "recipe.toml").read_text(encoding="utf-8")
    epochs = (run / TRAINING_LOG).read_text(encoding="utf-8").count("\nEpoch ") + 1
    (run / "recipe.toml").write_text(text.replace("epochs = 3000", f"epochs = {epochs + 1}"), encoding="utf-8")
    assert resume_folder(str(run), force=True, quiet=True).evaluation.verdict is not None
