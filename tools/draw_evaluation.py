"""Draw the evaluation and diagnosis of a run as they look in a terminal: the picture of docs/index.md.

python tools/draw_evaluation.py RUN docs/images/demo.svg
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

from rich.console import Console

from nextvec.evaluation.results import Evaluation
from nextvec.guards.diagnosis import diagnose
from nextvec.reports.run_summary import case_of
from nextvec.reports.tables import diagnoses_view, evaluation_view


def draw_evaluation(run: Path, image: Path) -> None:
    """Write the evaluation of a run as an SVG without external resources."""
    evaluation = Evaluation.from_dict(json.loads((run / "evaluation.json").read_text(encoding="utf-8")))
    console = Console(record=True, width=100, force_terminal=True, color_system="truecolor", file=io.StringIO())
    console.print(evaluation_view(evaluation))
    console.print(diagnoses_view(diagnose(case_of(run))))
    svg = console.export_svg(title="nextvec demo")
    # rich links a web font; without it the viewer's monospace font is used.
    image.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    draw_evaluation(Path(sys.argv[1]), Path(sys.argv[2]))
