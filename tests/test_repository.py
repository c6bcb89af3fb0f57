"""Files that other tools read (workflows, forms, citation, packaging) parse and agree with each other."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def load(path: str) -> Any:
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def test_the_citation_has_what_the_format_requires_and_the_version_of_the_package() -> None:
    citation = load("CITATION.cff")
    assert {"cff-version", "message", "title", "authors", "version", "license"} <= citation.keys()
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"]
    assert [author["name"] for author in citation["authors"]] == [author["name"] for author in PROJECT["authors"]]


@pytest.mark.parametrize("name", ["ci", "release"])
def test_every_job_of_a_workflow_has_a_runner_and_steps(name: str) -> None:
    workflow = load(f".github/workflows/{name}.yml")
    assert workflow["name"] and workflow[True], "YAML reads the key `on` as true"
    assert workflow["jobs"]
    for job in workflow["jobs"].values():
        assert job["runs-on"]
        assert all(("uses" in step) != ("run" in step) for step in job["steps"])
        assert {job["needs"]} <= workflow["jobs"].keys() if "needs" in job else True


def test_ci_tests_the_oldest_and_the_newest_python_on_linux_and_macos() -> None:
    jobs = load(".github/workflows/ci.yml")["jobs"]
    versions = [name.rsplit(" ", 1)[1] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", name)]
    for job in ("linux", "macos"):
        assert jobs[job]["strategy"]["matrix"]["python"] == [versions[0], versions[-1]]
    assert any(step.get("run") == "bash .ci/run" for step in jobs["linux"]["steps"])


def test_only_the_publishing_job_of_a_release_may_ask_for_a_token() -> None:
    workflow = load(".github/workflows/release.yml")
    assert workflow["permissions"] == {"contents": "read"}
    assert {name for name, job in workflow["jobs"].items() if "permissions" in job} == {"publish"}
    assert workflow["jobs"]["publish"]["permissions"] == {"id-token": "write"}
    assert workflow[True] == {"push": {"tags": ["v*"]}}


@pytest.mark.parametrize("name", ["bug", "feature"])
def test_an_issue_form_has_unique_fields_with_labels(name: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"]
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names) > 0
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_pre_commit_runs_tools_of_the_dev_environment() -> None:
    hooks = [hook for repo in load(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]]
    tools = {re.split(r"[>=<]", requirement)[0] for requirement in PROJECT["optional-dependencies"]["dev"]}
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "mypy"} <= tools
    assert {hook["language"] for hook in hooks} == {"system"}


def test_the_image_is_not_run_as_root_and_gets_every_file_that_it_installs() -> None:
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert re.search(r"^USER (?!root)", image, re.MULTILINE)
    assert 'ENTRYPOINT ["/opt/nextvec/bin/nextvec"]' in image
    kept = set(re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(encoding="utf-8"), re.MULTILINE))
    assert kept >= {"src", "recipes", "pyproject.toml", PROJECT["readme"], *PROJECT["license-files"], "constraints.txt"}
    assert all((ROOT / name).exists() for name in kept)


def test_every_extra_is_pinned() -> None:
    """CI installs with constraints.txt: a requirement without a pin may change from one day to the next."""
    pins = {
        re.split("==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if not line.startswith("#")
    }
    extras = PROJECT["optional-dependencies"]
    wanted = [*PROJECT["dependencies"], *(line for name in ("dev", "docs", "minilm", "hub") for line in extras[name])]
    assert [name for line in wanted if (name := re.split(r"[>=<\[]", line)[0].lower()) not in pins] == []


def test_the_readme_shows_both_setup_commands_and_its_images_have_absolute_addresses() -> None:
    """PyPI shows the README without the repository around it."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    setup = "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt"
    assert f"    {setup} . && .venv/bin/nextvec demo\n" in readme
    assert f"    {setup} -e '.[dev]' && .venv/bin/pytest -n 2\n" in readme
    images = re.findall(r"!\[[^]]*\]\(([^)]+)\)", readme)
    base = "https://raw.githubusercontent.com/nextvec/nextvec/main/"
    assert images
    assert all(image.startswith(base) and (ROOT / image.removeprefix(base)).is_file() for image in images)


def test_the_readme_lists_every_extra() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("## Installation")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(\w+)`", table)) >= PROJECT["optional-dependencies"].keys()
