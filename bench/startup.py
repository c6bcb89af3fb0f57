"""Measure the start-up time of `nextvec --help` and `nextvec watch --help`.

python bench/startup.py
"""

from __future__ import annotations

import resource
import subprocess
import sys

from common import arguments, finish, summary


def main():
    """Measure both commands in turns, in CPU seconds of the child process."""
    options = arguments(__doc__)
    commands = {"nextvec --help": ["--help"], "nextvec watch --help": ["watch", "--help"]}
    seconds = {name: [] for name in commands}
    for _ in range(options.rounds):
        for name, argv in commands.items():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-m", "nextvec", *argv], capture_output=True, check=True)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    rows = []
    for name, times in seconds.items():
        statistics = summary(times)
        rows.append(
            {
                "command": name,
                "seconds": statistics["median"],
                "spread": statistics["spread"],
                "lowest": min(times),
            }
        )
    finish("startup", rows)


if __name__ == "__main__":
    main()
