"""Evaluate a trained model on an ood set, next to every baseline: the runbook's form of `nextvec eval`.

python tools/eval_model_ood.py --model RUN/best_model.pt --ood-data FILE.npz --device mps
"""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description="Evaluate a model on an ood set (nextvec eval MODEL --ood-data FILE).")
parser.add_argument(
    "--model", nargs="+", required=True, help="checkpoint; if several match a pattern, the newest is used"
)
parser.add_argument("--ood-data", required=True, help="an .npz file of windows, or a store")
parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; a missing device falls back to the CPU")
options = parser.parse_args()

try:
    from nextvec.cli import main
except ImportError:
    sys.exit("nextvec is not installed in this Python. Install it with the commands at the top of README.md.")

# The shell expands a pattern such as amn_790k_production_*/best_model.pt to every run.
checkpoints = [path for path in options.model if Path(path).exists()]
newest = max(checkpoints, key=lambda path: Path(path).stat().st_mtime, default=options.model[0])
if len(options.model) > 1:
    sys.stderr.write(f"{len(options.model)} checkpoints match the pattern; evaluating the newest: {newest}\n")
sys.exit(main(["eval", newest, "--ood-data", options.ood_data, "--device", options.device]))
