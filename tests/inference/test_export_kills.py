"""An export that is killed at any file operation leaves no folder, or a complete one."""

import json
import signal
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest

KILLER = Path(__file__).with_name("export_killer.py")


@pytest.mark.parametrize("step", [3, pytest.param(1, marks=pytest.mark.long)])
def test_an_export_killed_at_any_file_operation_leaves_nothing_half_written_that_loads(text_run, tmp_path, step):
    """At every third operation, or at every one."""
    command = [sys.executable, str(KILLER), str(text_run), str(tmp_path), str(step)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *killed, last = json.loads(done.stdout)
    assert len(killed) >= 15 / step and {result["code"] for result in killed} == {-signal.SIGKILL} and last["code"] == 0
    for point, result in zip(count(step=step), [*killed, last], strict=False):
        assert result["exists"] == result["loads"], f"event {point}: the folder exists but does not load"
        assert result["unfinished"] is not False, f"event {point}: an unfinished folder loads as another model"
        assert result["again"], f"event {point}: a new export fails"
    assert last["loads"] and not killed[0]["exists"]
