"""Run commands of nextvec with the real huggingface_hub, each in a forked process with its own environment.

    python hub_client.py < jobs

A job is a line of JSON: `env`, `argv` of nextvec or Python `code`, and `folder` for its files. The answer is a line of
JSON: the exit status, and what it printed. huggingface_hub reads its environment when it is imported, so each forked
process imports it anew; the packages that it needs are imported once.
"""

import importlib
import json
import os
import sys
import traceback
from pathlib import Path

from nextvec.cli import main

# Everything that the jobs import late. Without it, a job takes a second more.
for module in (
    *("nextvec.commands.share", "nextvec.commands.use", "nextvec.data.encoders.lsa", "nextvec.inference.export"),
    *("pyarrow.dataset", "rich.markdown", "scipy.signal", "sklearn.feature_extraction.text"),
    *("huggingface_hub._commit_api", "huggingface_hub._snapshot_download", "huggingface_hub.hf_api"),
):
    importlib.import_module(module)
for name in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
    del sys.modules[name]


def work(job) -> int:
    """Run a job with its output in files, and return the exit code."""
    for number, name in ((1, "out"), (2, "err")):
        descriptor = os.open(Path(job["folder"]) / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, number)
    os.environ.update(job["env"])
    (Path(job["folder"]) / "pid").write_text(str(os.getpid()))
    try:
        if "argv" in job:
            return main(job["argv"])
        exec(job["code"], {})
        return 0
    except BaseException:
        traceback.print_exc()
        return 99
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


for line in sys.stdin:
    job = json.loads(line)
    child = os.fork()
    if child == 0:
        os._exit(work(job))
    _, status = os.waitpid(child, 0)
    out, err = ((Path(job["folder"]) / name).read_text() for name in ("out", "err"))
    print(json.dumps([os.waitstatus_to_exitcode(status), out, err]), flush=True)
