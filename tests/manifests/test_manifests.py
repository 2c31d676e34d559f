"""The manifests: what an existing installation expects, and what Kubernetes takes."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
VERSIONS = ["1.32", "1.37"]


def documents(path: Path) -> list[dict]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def built(overlay: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def deployment() -> dict:
    (document,) = documents(K8S / "base/backend-deployment.yaml")
    return document


@pytest.fixture
def container(deployment: dict) -> dict:
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    return container


def test_the_selector_is_the_one_that_cannot_be_changed(deployment: dict) -> None:
    assert deployment["metadata"]["name"] == "backend"
    assert deployment["spec"]["selector"] == {"matchLabels": {"app": "backend"}}
    assert deployment["spec"]["replicas"] == 2


def test_the_service_has_its_ports(deployment: dict) -> None:
    (service,) = documents(K8S / "base/backend-service.yaml")
    (port,) = service["spec"]["ports"]
    assert service["spec"]["type"] == "NodePort"
    assert service["spec"]["selector"] == {"app": "backend"}
    assert (port["port"], port["targetPort"], port["nodePort"]) == (80, 3000, 30080)


def test_the_variables_of_the_contract_stand_inline(container: dict) -> None:
    given = {row["name"]: row for row in container["env"]}
    url = "http://ollama-service.model-hosting.svc.cluster.local:11434"
    assert given["OLLAMA_URL"]["value"] == url
    assert given["DEFAULT_OLLAMA_MODEL"]["value"] == "qwen2.5-coder:7b"
    assert given["OLLAMA_TIMEOUT"]["value"] == "60"
    assert given["GROQ_API_KEY"]["valueFrom"]["secretKeyRef"]["optional"] is True
    (settings,) = container["envFrom"]
    assert settings["configMapRef"]["optional"] is True, "the file can be applied alone"


def test_probes_resources_and_image_are_those_of_the_contract(container: dict) -> None:
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        assert container[probe]["httpGet"]["path"] == "/health"
    assert container["resources"] == {
        "requests": {"memory": "128Mi", "cpu": "100m"},
        "limits": {"memory": "256Mi", "cpu": "500m"},
    }
    assert container["image"] == "arnoldt04/backend:1.0.0"
    assert container["imagePullPolicy"] == "IfNotPresent"


def test_the_grace_period_is_longer_than_what_happens_in_it(deployment: dict, container: dict) -> None:
    given = {row["name"]: row.get("value") for row in container["env"]}
    drain = int(given["LLAMATOWER_DRAIN_TIMEOUT"].removesuffix("s"))
    pause = int(container["lifecycle"]["preStop"]["exec"]["command"][-1])
    grace = deployment["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]
    assert pause + 1 + drain + 1 < grace


def test_no_image_is_without_a_tag_that_stays() -> None:
    files = [*K8S.rglob("*.yaml"), K8S.parent / "compose.yaml"]
    images = [
        (path, image)
        for path in files
        for image in re.findall(r"^\s*(?:- )?image:\s*(\S+)", path.read_text(), re.MULTILINE)
    ]
    assert len(images) >= 4
    for path, image in images:
        name, _, tag = image.rpartition(":")
        assert name and tag and "/" not in tag and tag != "latest", f"{image} in {path}"


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_each_overlay(overlay: Path, version: str, tmp_path: Path) -> None:
    # What an operator brings along is not known to Kubernetes itself.
    known = [
        document
        for document in yaml.safe_load_all(built(overlay))
        if "monitoring.coreos.com" not in document["apiVersion"]
    ]
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(known))
    arguments = ["--strict", "-k", version, str(path)]
    program = Path(sys.executable).parent / "kubernetes-validate"
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_each_overlay_keeps_the_selector_and_the_restricted_profile(overlay: Path) -> None:
    rows = list(yaml.safe_load_all(built(overlay)))
    (deployment,) = [row for row in rows if row["kind"] == "Deployment"]
    assert deployment["spec"]["selector"] == {"matchLabels": {"app": "backend"}}
    assert deployment["spec"]["template"]["metadata"]["labels"] == {"app": "backend"}
    pod = deployment["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    security = pod["containers"][0]["securityContext"]
    assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
    (namespace,) = [row for row in rows if row["kind"] == "Namespace"]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
