"""Judge a trained model on an ood set, beside every baseline: the runbook's command, a thin line to `nextvec eval`.

python tools/eval_model_ood.py --model RUN/best_model.pt --ood-data FILE.npz --device mps
"""

import argparse
import sys
from pathlib import Path

parser = argparse.ArgumentParser(description="Judge a model on an ood set (nextvec eval MODEL --ood-data FILE).")
parser.add_argument(
    "--model", nargs="+", required=True, help="a checkpoint; of several (a pattern) the newest is taken"
)
parser.add_argument("--ood-data", required=True, help="an .npz file of windows, or a store")
parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps; falls back to the cpu with a notice")
words = parser.parse_args()

try:
    from nextvec.cli import main
except ImportError:
    sys.exit("nextvec is not installed in this Python: see the two commands at the top of README.md")

there = [path for path in words.model if Path(path).exists()]
model = max(there, key=lambda path: Path(path).stat().st_mtime, default=words.model[0])
if len(words.model) > 1:
    sys.stderr.write(f"{len(words.model)} models fit the pattern; judging the newest: {model}\n")
sys.exit(main(["eval", model, "--ood-data", words.ood_data, "--device", words.device]))
