"""Layers: a file imports only from its own package or from lower layers; reading a run never loads torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "nextvec"
FILES = sorted(SOURCE.rglob("*.py"))

LAYERS = [
    ["errors"],
    ["core"],
    ["recipe", "ops", "distributed", "web"],
    ["data", "models", "losses"],
    ["evaluation"],
    ["guards"],
    ["inference"],
    ["training"],
    ["trackers", "reports"],
    ["monitor", "serving"],
    ["experiments"],
    ["commands"],
    ["cli"],
    ["__main__"],
]
"""Packages and single files, low to high. Neighbors in one layer do not import each other."""

LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}

UNSAFE_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def package_of(path: Path) -> str:
    """Return the top-level package of a file, or its own name if it lies directly in nextvec."""
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> set[str]:
    """Return every module or name that a file imports, lazy imports included, as `module.name`."""
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            imported |= {f"{node.module}.{alias.name}" for alias in node.names}
    return imported


def may_import(importer: str, imported: str) -> bool:
    return importer == imported or LAYER[importer] > LAYER[imported]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(SOURCE).as_posix())
def test_imports_go_down(path):
    if path == SOURCE / "__init__.py":
        return
    assert package_of(path) in LAYER, f"{package_of(path)} has no layer: add it to LAYERS"
    for module in imports(ast.parse(path.read_text(encoding="utf-8"))):
        package, *inside = module.split(".")
        if package == "nextvec" and inside and inside[0] != "__version__":
            assert inside[0] in LAYER, f"{path.name} imports the unknown {module}"
            assert may_import(package_of(path), inside[0]), f"{path.name} must not import {module}"


def test_the_rule_itself():
    assert may_import("training", "evaluation") and may_import("evaluation", "evaluation")
    assert may_import("cli", "commands") and not may_import("evaluation", "training")
    assert not may_import("data", "models") and not may_import("models", "data") and not may_import("recipe", "ops")
    assert imports(ast.parse("def f():\n    from nextvec.training import loop\n    import nextvec.cli")) == {
        "nextvec.training.loop",
        "nextvec.cli",
    }


def module_name(path: Path) -> str:
    """Return the dotted name of a source file."""
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parents(module: str) -> list[str]:
    """Return the packages around a module, the root package left out."""
    parts = module.split(".")
    return [".".join(parts[:end]) for end in range(2, len(parts))]


def import_graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Return module → imported modules of the same source tree; `files` maps module names to source text.

    Lazy imports count; imports under TYPE_CHECKING do not, since they never run. Importing a module also runs the
    `__init__` of each package around it, so these count too, apart from packages that the importer lies in itself.
    """
    graph: dict[str, set[str]] = {}
    for name, text in files.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = []
        targets = imports(tree)
        modules = {target if target in files else target.rpartition(".")[0] for target in targets}
        around = {package for module in modules for package in parents(module) if not name.startswith(f"{package}.")}
        graph[name] = {module for module in modules | around if module in files and module != name}
    return graph


def find_cycles(graph: dict[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components with more than one module."""

    def reachable(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for module in graph[waiting.pop()] - seen:
                seen.add(module)
                waiting.append(module)
        return seen

    reach = {name: reachable(name) for name in graph}
    components = {frozenset(other for other in reach[name] if name in reach[other]) for name in graph}
    return [set(component) for component in components if len(component) > 1]


def test_no_import_cycles():
    """No two files need each other, not even through an import inside a function."""
    assert not find_cycles(import_graph({module_name(path): path.read_text(encoding="utf-8") for path in FILES}))


def test_cycles_are_found():
    lazy = {"a": "def f():\n    from b import g", "b": "import c", "c": "from a import f"}
    assert find_cycles(import_graph(lazy)) == [{"a", "b", "c"}]
    package = {"r.p": "import r.q", "r.p.m": "", "r.q": "from r.p.m import f"}
    assert find_cycles(import_graph(package)) == [{"r.p", "r.q"}]
    types_only = {"a": "if TYPE_CHECKING:\n    import b", "b": "import a"}
    assert not find_cycles(import_graph(types_only))


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


READERS = (
    "nextvec",
    "nextvec.core.events",
    "nextvec.recipe",
    "nextvec.evaluation.verdict",
    "nextvec.guards.gates",
    "nextvec.reports.tables",
    "nextvec.reports.leaderboard",
    "nextvec.reports.comparison",
    "nextvec.reports.html.panels",
    "nextvec.monitor.run_list",
    "nextvec.monitor.terminal",
    "nextvec.monitor.web.app",
    "nextvec.cli",
)
HELP = [], ["--help"], ["watch", "--help"], ["train", "--help"]


def test_what_only_reads_a_run_never_loads_torch():
    """One process imports all, and says after which of them a heavy package has been loaded."""
    code = (
        "import importlib, sys\n"
        "heavy = {'torch', 'sklearn', 'scipy', 'plotly', 'pyarrow', 'sentence_transformers'}\n"
        f"for module in {READERS!r}:\n"
        "    importlib.import_module(module)\n"
        "    print([(module, name) for name in sorted(heavy & set(sys.modules))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["[]"] * len(READERS)


def test_a_help_text_loads_neither_torch_nor_pydantic():
    """Counted instead of timed: the heavy packages that help texts import."""
    code = (
        "import sys\nfrom nextvec.cli import main\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'scipy', 'plotly', 'pyarrow', 'pydantic', 'docutils'}\n"
        f"for words in {HELP!r}:\n"
        "    main(words)\n"
        "    sys.stderr.write(f'{sorted(heavy & set(sys.modules))}\\n')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["[]"] * len(HELP)


def test_files_are_short_enough_to_read():
    long = {path.name: count for path in FILES if (count := len(path.read_text(encoding="utf-8").splitlines())) > 400}
    assert not long, f"divide these files: {long}"
