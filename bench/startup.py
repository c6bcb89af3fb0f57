"""Row: start-up of `nextvec --help` and `nextvec watch --help`, and that neither loads torch.

python bench/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

from common import arguments, finish, summary


def main():
    """Time both, in turns, by the processor time of the child."""
    chosen = arguments(__doc__)
    words = {"nextvec --help": ["--help"], "nextvec watch --help": ["watch", "--help"]}
    seconds = {name: [] for name in words}
    for _ in range(chosen.rounds):
        for name, arguments_ in words.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "nextvec", *arguments_], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    rows = [{"command": name, "seconds": summary(found)["median"], **_spread(found)} for name, found in seconds.items()]
    finish("startup", rows)


def _spread(found):
    return {"spread": summary(found)["spread"], "lowest": min(found)}


if __name__ == "__main__":
    main()
