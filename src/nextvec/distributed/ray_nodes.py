"""The nodes of a Ray cluster: whether each has this nextvec, and sees the folder that a job writes to."""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import Any

import nextvec
from nextvec.core.files import make_folder, writing
from nextvec.errors import InputError, one_line

PROBE_SECONDS = 120.0
"""How long a node may take to answer: it starts a Python process first, on a slow disk perhaps."""


def check_nodes(ray: Any, folder: Path) -> None:
    """Raise InputError if a node with CPUs lacks this version of nextvec, or doesn't see `folder`.

    The folder is made if necessary. A node that is lost meanwhile is left out: nothing will run on it.
    """
    make_folder(folder)
    # A folder of the same name may exist on every node: only this file shows that it is the same one.
    marker = folder.resolve() / f".{secrets.token_hex(8)}.tmp"
    with writing(marker):
        marker.touch()
    try:
        nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]
        probes = {_ask(ray, node["NodeID"], marker): node for node in nodes}
        # All nodes are asked at once, so that a slow one costs its own time only.
        done, _ = ray.wait(list(probes), num_returns=len(probes), timeout=PROBE_SECONDS) if probes else ([], [])
        for probe, node in probes.items():
            name = f"Ray node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
            if (
                problem := _read(ray, probe, folder)
                if probe in done
                else f"no answer in {PROBE_SECONDS:.0f} s. Start it again."
            ):
                raise InputError(f"{name}: {problem}")
    finally:
        marker.unlink(missing_ok=True)


def require_folder(folder: Path) -> None:
    """Raise InputError if this node doesn't see a folder of the job: a node may join after `check_nodes`."""
    if not folder.is_dir():
        raise InputError(f"Ray node {socket.gethostname()}: {_not_shared(folder)}")


def _ask(ray: Any, node: str, marker: Path) -> Any:
    """Return the future answer of a node: its version of nextvec, and whether it sees the marker."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    strategy = NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(_probe).options(num_cpus=0, max_retries=0, scheduling_strategy=strategy).remote(str(marker))


def _probe(marker: str) -> tuple[str, bool]:
    """Return this node's version of nextvec, and whether it sees the marker."""
    return nextvec.__version__, Path(marker).is_file()


def _read(ray: Any, probe: Any, folder: Path) -> str:
    """Return what is wrong with a node according to its answer; empty if nothing is, or if the node is lost."""
    lost = ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError
    try:
        version, sees_folder = ray.get(probe)
    except lost:
        return ""
    except (ray.exceptions.RayError, ImportError) as error:
        # Without nextvec, or with one that lacks this module, the node can't load the question.
        cause = one_line(getattr(error, "cause", None) or error)
        return f"cannot run nextvec {nextvec.__version__} ({cause}). Install it there, with the same Python."
    if version != nextvec.__version__:
        return f"has nextvec {version}, but this machine has {nextvec.__version__}. Install the same version on both."
    return "" if sees_folder else _not_shared(folder)


def _not_shared(folder: Path) -> str:
    return f"does not see the folder {folder}. Choose one on a file system that all nodes share."
