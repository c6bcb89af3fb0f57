"""A build of a LanceDB table that is killed anywhere leaves the old table or the new one, and can be repeated."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.inference.numbered_store import write_numbered_store

pytest.importorskip("lancedb", reason="the extra lancedb is not installed")
KILLER = Path(__file__).with_name("index_killer.py")


@pytest.mark.parametrize("count", [3, pytest.param(60, marks=pytest.mark.long)])
def test_a_build_killed_anywhere_leaves_a_whole_table_or_none(count, tmp_path):
    first = write_numbered_store(tmp_path / "first", range(4, 34))
    second = write_numbered_store(tmp_path / "second", range(30))
    command = [sys.executable, "-W", "ignore", str(KILLER), str(first.path), str(second.path), str(tmp_path), "3"]
    done = subprocess.run([*command, str(count)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout)
    assert len(results) >= min(count, 40) and all(result["mended"] for result in results), results
    for result in results:
        # A child that was to be killed after a time may have been faster.
        assert result["code"] == -signal.SIGKILL or result["point"] < 0, result
        whole = {"before", "after"} if result["update"] else {"none", "after"}
        assert result["left"] in whole, result
