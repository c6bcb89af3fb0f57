"""A job on Ray starts only if every node has the same nextvec and sees the job's folder."""

import pytest

import nextvec
from nextvec.distributed import ray_nodes
from nextvec.errors import InputError


def test_nodes_that_can_run_the_job_are_accepted(local_ray, tmp_path):
    ray_nodes.check_nodes(local_ray, tmp_path / "new" / "folder")
    assert not list((tmp_path / "new" / "folder").iterdir()), "the marker is removed"


def _fail_to_import(marker: str) -> None:
    raise ModuleNotFoundError("No module named 'nextvec'")


@pytest.mark.parametrize(
    ("probe", "message"),
    [
        (lambda marker: ("0.0.1", True), rf"has nextvec 0\.0\.1, but this machine has {nextvec.__version__}\. Install"),
        (lambda marker: (nextvec.__version__, False), r"does not see the folder .*/shared\. Choose one"),
        (_fail_to_import, r"cannot run nextvec .* \(No module named 'nextvec'\)\. Install it there"),
    ],
    ids=["another version", "another folder", "no nextvec"],
)
def test_a_node_that_cannot_is_named(probe, message, local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_nodes, "_probe", probe)
    _fail_to_import.__module__ = "__main__"  # Ray then sends the code: the node can't import this test
    with pytest.raises(InputError, match=rf"^Ray node \S+ \([\d.]+\): {message}"):
        ray_nodes.check_nodes(local_ray, tmp_path / "shared")
    assert not list((tmp_path / "shared").iterdir())


def test_a_node_that_does_not_answer_is_named(local_ray, tmp_path, monkeypatch):
    monkeypatch.setattr(ray_nodes, "PROBE_SECONDS", 0.0)
    with pytest.raises(InputError, match=r"^Ray node .*: no answer in 0 s"):
        ray_nodes.check_nodes(local_ray, tmp_path)


def test_a_node_that_joins_later_needs_the_folder_too(tmp_path):
    ray_nodes.require_folder(tmp_path)
    with pytest.raises(InputError, match=r"^Ray node \S+: does not see the folder .*/absent\."):
        ray_nodes.require_folder(tmp_path / "absent")
