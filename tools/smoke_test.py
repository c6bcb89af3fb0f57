"""Check an installed nextvec from outside the checkout: command line, recipes, and a tiny run from text to report.

python smoke_test.py

Run it with the Python of an environment that has only the wheel installed. It works in a temporary folder and ends in
about ten seconds. Every failed check raises.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

NEXTVEC = Path(sys.executable).with_name("nextvec")
RECIPES = {"demo", "amn-790k-production", "wiki-minilm"}
"""Some of the recipes that the wheel must contain."""
DOCUMENTS, PARAGRAPHS = 60, 12


def nextvec(*arguments: str, folder: Path) -> str:
    """Run a command, and return its standard output."""
    process = subprocess.run([NEXTVEC, *arguments], cwd=folder, capture_output=True, text=True, check=False)
    if process.returncode:
        sys.exit(f"nextvec {' '.join(arguments)}: exit code {process.returncode}\n{process.stdout}\n{process.stderr}")
    return process.stdout


def write_texts(folder: Path) -> None:
    """Write documents of random sentences; each document prefers 30 words, so that its paragraphs are similar."""
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(3, 9))) for _ in range(400)]
    folder.mkdir()
    for number in range(DOCUMENTS):
        topic = draw.sample(words, 30)
        paragraphs = [" ".join(draw.choices(topic, k=12) + draw.choices(words, k=8)) for _ in range(PARAGRAPHS)]
        (folder / f"{number:02d}.txt").write_text("\n\n".join(paragraphs), encoding="utf-8")


def main() -> None:
    """Run every check."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        import nextvec as package

        package_folder = Path(package.__file__).parent
        assert "site-packages" in package_folder.parts, f"{package_folder}: this is not the installed package"
        missing = RECIPES - {file.stem for file in (package_folder / "recipes").glob("*.toml")}
        assert not missing, f"recipes missing from the wheel: {missing}"
        assert (package_folder / "py.typed").is_file()
        assert "train" in nextvec("--help", folder=folder)

        write_texts(folder / "texts")
        nextvec(
            "data", "build", "texts", "--out", "store", "--val", "0.2", "--dimensions", "16", "--quiet", folder=folder
        )
        command = ["train", "demo", "data.store=store", "training.epochs=2", "training.batch_size=32"]
        result = json.loads(nextvec(*command, "--out", "run", "--quiet", "--json", folder=folder))
        assert result["evaluation"]["splits"]["val"]["best_baseline"]
        for file in ("recipe.toml", "events.jsonl", "best_model.pt", "report.html", "model_card.md"):
            assert (folder / "run" / file).stat().st_size, f"{file} is empty"
    print("smoke test passed")


if __name__ == "__main__":
    main()
