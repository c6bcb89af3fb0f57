"""The files for Ray clusters: KubeRay's and Ray's required fields, one image, one volume, and commands that exist."""

import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

from nextvec.cli import make_app
from nextvec.serving.replica import read_arguments
from nextvec.serving.run import TOKEN_VARIABLE

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
KUBERNETES, AWS = EXAMPLES / "kubernetes", EXAMPLES / "ray" / "aws.yaml"
IMAGE = "registry.example.com/nextvec:ray"
RAY_VERSION = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)[1]

SPEC_FIELDS = {
    "RayJob": {"entrypoint", "shutdownAfterJobFinishes", "backoffLimit", "rayClusterSpec", "ttlSecondsAfterFinished"},
    "RayService": {"serveConfigV2", "rayClusterConfig"},
}
GROUP_FIELDS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
"""Fields of KubeRay's API ray.io/v1 that the files may use. Kubernetes drops a field that it does not know."""


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def volume():
    return load(KUBERNETES / "shared-volume.yaml")


def check_pod(template, volume):
    """Check that a pod runs the image of the Dockerfile and mounts the shared folder."""
    (container,) = template["spec"]["containers"]
    assert container["image"] == IMAGE and container["name"] and container["resources"]["limits"].keys() == {
        "cpu", "memory",
    }  # fmt: skip
    (mounted,), (claimed,) = container["volumeMounts"], template["spec"]["volumes"]
    assert mounted == {"name": claimed["name"], "mountPath": "/shared"}
    assert claimed["persistentVolumeClaim"] == {"claimName": volume["metadata"]["name"]}
    assert template["spec"].keys() <= {"containers", "volumes", "securityContext"}


@pytest.mark.parametrize("name", ["rayjob", "rayservice"])
def test_kuberay_finds_what_it_requires(name, volume):
    manifest = load(KUBERNETES / f"{name}.yaml")
    assert manifest.keys() == {"apiVersion", "kind", "metadata", "spec"} and manifest["metadata"].keys() == {"name"}
    assert manifest["apiVersion"] == "ray.io/v1" and manifest["kind"].lower() == name
    spec = manifest["spec"]
    assert spec.keys() <= SPEC_FIELDS[manifest["kind"]]
    cluster = spec.get("rayClusterSpec") or spec["rayClusterConfig"]
    assert cluster.keys() == {"rayVersion", "headGroupSpec", "workerGroupSpecs"}
    assert cluster["rayVersion"] == RAY_VERSION, "the version of constraints.txt, which the Dockerfile installs"
    assert cluster["headGroupSpec"].keys() == {"rayStartParams", "template"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay takes strings only"
        check_pod(group["template"], volume)
    for group in cluster["workerGroupSpecs"]:
        assert group.keys() == GROUP_FIELDS
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def test_the_shared_volume_can_be_mounted_by_all_pods(volume):
    assert (volume["apiVersion"], volume["kind"]) == ("v1", "PersistentVolumeClaim")
    assert volume["spec"]["accessModes"] == ["ReadWriteMany"] and volume["spec"]["resources"]["requests"]["storage"]


def test_ray_serve_can_read_the_service_and_the_cluster_holds_its_replicas(monkeypatch):
    schema = pytest.importorskip("ray.serve.schema", reason="needs the extra 'ray'")
    spec = load(KUBERNETES / "rayservice.yaml")["spec"]
    config = schema.ServeDeploySchema.model_validate(yaml.safe_load(spec["serveConfigV2"]))
    (application,) = config.applications
    module, _, function = application.import_path.partition(":")
    assert callable(getattr(importlib.import_module(module), function))
    (variable,) = spec["rayClusterConfig"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]
    assert variable["name"] == TOKEN_VARIABLE and variable["valueFrom"]["secretKeyRef"]
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")
    arguments = read_arguments(application.args)
    (workers,) = spec["rayClusterConfig"]["workerGroupSpecs"]
    cpus = int(workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert arguments.replicas <= workers["replicas"] * cpus
    assert arguments.host == load(KUBERNETES / "rayservice.yaml")["metadata"]["name"] + "-serve-svc"


def test_ray_up_can_read_the_cluster():
    """Ray's own check, after it has filled in its defaults."""
    util = pytest.importorskip("ray.autoscaler._private.util", reason="needs the extra 'ray'")
    config = load(AWS)
    util.validate_config(util.prepare_config(config))
    assert config["docker"]["image"] == IMAGE and config["provider"]["region"] in "".join(
        config["initialization_commands"]
    )
    with pytest.raises(Exception, match="initialisation_commands"):
        util.validate_config(util.prepare_config(config | {"initialisation_commands": []}))


def shown_commands():
    """(file, command) for each nextvec command of the examples; arguments of a job stand for themselves."""
    found = [(KUBERNETES / "rayjob.yaml", load(KUBERNETES / "rayjob.yaml")["spec"]["entrypoint"])]
    found += [(AWS, command) for command in re.findall(r"ray exec aws\.yaml '(.+)'", AWS.read_text(encoding="utf-8"))]
    for path in sorted((EXAMPLES / "slurm").glob("*.sbatch")):
        text = path.read_text(encoding="utf-8")
        usage = re.search(r"^#   sbatch \S+ (.+)$", text, re.MULTILINE)[1].replace("[SECTION.FIELD=VALUE ...]", "")
        for call in re.findall(r"^\s*(?:srun .*)?(nextvec .+?) &$", text, re.MULTILINE):
            words = "argument" if re.search(r"nextvec [a-z]", call) else usage
            found.append((path, call.replace('"$@"', words)))
    return found


def test_the_examples_show_commands_and_options_that_exist():
    app, commands = make_app(), shown_commands()
    assert {path.name for path, _ in commands} >= {"rayjob.yaml", "aws.yaml", "ray.sbatch", "train.sbatch"}
    for path, command in commands:
        program, *words = shlex.split(command)
        assert program == "nextvec", path
        function, arguments, _ = app.parse_args(words)
        assert function and arguments.arguments, f"{path.name}: {command}"


def test_the_image_has_what_the_clusters_start():
    image = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    assert f"docker build -t {IMAGE.partition('/')[2]} --build-arg EXTRAS=ray,serve,minilm ." in image
    assert '"/src${EXTRAS:+[$EXTRAS]}"' in image and "/opt/nextvec/bin" in image.partition("ENV PATH=")[2]
