"""The house: a file imports only from its own folder or from lower floors; reading a run never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "nextvec"
FILES = sorted(SOURCE.rglob("*.py"))

FLOORS = [
    ["errors", "files", "events", "fields", "lights"],
    ["recipe", "runtime", "progress", "kernels"],
    ["data", "models", "objective"],
    ["judge"],
    ["training"],
    ["pages"],
    ["report", "watch"],
    ["verbs", "cli", "__main__"],
]
FLOOR = {name: number for number, names in enumerate(FLOORS) for name in names}
OPEN_FLOORS = (0, len(FLOORS) - 1)
"""On the ground and under the roof neighbours may import each other: they are single files that build one thing."""

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def room(path: Path) -> str:
    """The folder of a file, or its name where it stands in nextvec itself."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Every module that a file imports, wherever in the file."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def may_import(importer: str, imported: str) -> bool:
    if importer == imported:
        return True
    above, below = FLOOR[importer], FLOOR[imported]
    return above > below or (above == below and above in OPEN_FLOORS)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_down(path):
    if path == SOURCE / "__init__.py":
        return
    assert room(path) in FLOOR, f"{room(path)} has no floor yet: give it one in FLOORS"
    for module in imports(ast.parse(path.read_text(encoding="utf-8"))):
        package, *inside = module.split(".")
        if package == "nextvec" and inside and inside[0] != "__version__":
            assert inside[0] in FLOOR, f"{path.name} imports the unknown {module}"
            assert may_import(room(path), inside[0]), f"{path.name} must not import {module}"


def test_the_rule_itself():
    assert may_import("training", "judge") and may_import("judge", "judge") and may_import("cli", "verbs")
    assert not may_import("judge", "training")
    assert not may_import("data", "models") and not may_import("models", "data") and not may_import("recipe", "runtime")
    assert imports(ast.parse("def f():\n    from nextvec.training import loop\n    import nextvec.cli")) == {
        "nextvec.training.loop", "nextvec.cli",
    }  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_nothing_from_a_file_is_ever_executed(path):
    assert not unsafe(ast.parse(path.read_text(encoding="utf-8")))


def unsafe(tree: ast.AST) -> list[str]:
    """What in a file could run code that comes from data."""
    found = [module for module in imports(tree) if module.split(".")[0] in UNSAFE_MODULES]
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        if name in ("eval", "exec", "compile", "__import__") or name.endswith("read_pickle"):
            found.append(name)
        if options.get("allow_pickle", "False") != "False" or options.get("weights_only", "True") != "True":
            found.append(ast.unparse(node))
        if name == "torch.load" and "weights_only" not in options:
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize(
    "code",
    [
        "import pickle", "from joblib import load", "eval('1')", "exec(text)", "np.load(path, allow_pickle=True)",
        "np.load(path, allow_pickle=flag)", "torch.load(path, weights_only=False)", "torch.load(path)",
        "def f():\n    import pickle",
    ],
)  # fmt: skip
def test_unsafe_code_is_seen(code):
    assert unsafe(ast.parse(code))


def test_safe_code_is_let_through():
    code = "model.eval()\nre.compile('x')\nnp.load(path, allow_pickle=False)\ntorch.load(path, weights_only=True)"
    assert not unsafe(ast.parse(code))


@pytest.mark.parametrize(
    "module",
    [
        "nextvec",
        "nextvec.events",
        "nextvec.recipe",
        "nextvec.judge.judgement",
        "nextvec.judge.gates",
        "nextvec.report.table",
        "nextvec.report.leaderboard",
        "nextvec.report.comparison",
        "nextvec.pages.curves",
        "nextvec.watch.terminal",
        "nextvec.watch.web",
        "nextvec.cli",
    ],
)
def test_what_only_reads_a_run_never_loads_torch(module):
    heavy = "torch", "sklearn", "scipy", "plotly", "pyarrow", "sentence_transformers"
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("words", [["--help"], ["watch", "--help"]])
def test_a_help_text_loads_neither_torch_nor_pydantics_models(words):
    """Counted instead of timed: what of the heavy packages, and of nextvec itself, a help text imports."""
    code = (
        "import sys\nfrom nextvec.cli import main\n"
        f"try: main({words!r})\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'scipy', 'plotly', 'pyarrow', 'nextvec.recipe'} & set(sys.modules)\n"
        "sys.stderr.write(repr(sorted(heavy)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "[]"


def test_files_are_short_enough_to_read():
    long = {path.name: count for path in FILES if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long, f"divide these files: {long}"
