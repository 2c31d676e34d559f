"""The manifests as a whole: what Kubernetes takes, and which images they name."""

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


def built(overlay: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


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
