"""The Helm chart on a node: over an existing installation, a changed setting, and back to nothing.

    NODE_KUBECONFIG=.. python3 tests/node/chart.py [IMAGE-ARCHIVE..]

installs it alone, into a node where the images are or are loaded by NODE_LOAD_IMAGE.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cluster import ROOT, Cluster, eventually

STATUS = "kubectl rollout status deployment/backend -n backend"
INSTALL = "helm upgrade --install backend k8s/helm/llamatower -n backend --create-namespace -f my-values.yaml"


def program() -> str | None:
    """The program helm, of the system or of ./check."""
    return shutil.which("helm") or shutil.which(ROOT / ".check/tools/bin/helm")


def helm(cluster: Cluster, command: str, place: dict[str, str] | None = None) -> str:
    """Runs a command of the guide with helm."""
    cluster.must_be_documented(command)
    shown = command
    for placeholder, value in (place or {}).items():
        shown = shown.replace(placeholder, value)
    print(f"$ {shown}", flush=True)
    words = [program() or "helm", *shlex.split(shown)[1:]]
    done = subprocess.run(words, cwd=ROOT, env=cluster.environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{shown}: {done.stderr}"
    return done.stdout


def healthy(cluster: Cluster) -> bool:
    command = ["curl", "-sS", "--max-time", "5", f"http://{cluster.address}:30080/health"]
    return '"ok"' in subprocess.run(command, capture_output=True, text=True).stdout


def names(cluster: Cluster) -> set[str]:
    return {pod["metadata"]["name"] for pod in cluster.pods("backend", "backend")}


def install_upgrade_and_remove(cluster: Cluster, folder: Path) -> None:
    """A setting that changes replaces the pods; one that does not, leaves them."""
    values = folder / "values.yaml"
    values.write_text('settings:\n  LLAMATOWER_REQUIRE_KEYS: "false"\n')
    place = {"my-values.yaml": str(values)}
    is_there = cluster.succeeds("get deployment backend -n backend")
    command = f"{INSTALL} --take-ownership" if is_there else INSTALL
    notes = helm(cluster, command, place)
    assert "curl http://<NodeIP>:30080/health" in notes, notes
    assert "successfully rolled out" in cluster.guide(STATUS)
    eventually(lambda: healthy(cluster), "the gateway of the chart answers on the port of the node", 30)
    first = names(cluster)

    helm(cluster, INSTALL, place)
    assert "successfully rolled out" in cluster.guide(STATUS)
    assert names(cluster) == first, "nothing has changed"

    values.write_text(values.read_text() + "  LLAMATOWER_MAX_CONNECTIONS: 1000\n")
    helm(cluster, INSTALL, place)
    assert "successfully rolled out" in cluster.guide(STATUS)
    second = eventually(lambda: len(now := names(cluster)) == 2 and now, "the old pods have left", 60)
    assert not second & first, "a changed setting replaces each pod"
    pod = cluster.pods("backend", "backend")[0]
    (container,) = pod["spec"]["containers"]
    assert {"name": "LLAMATOWER_MAX_CONNECTIONS", "value": "1000"} in container["env"]
    eventually(lambda: healthy(cluster), "the new pods answer on the port of the node", 30)

    helm(cluster, "helm rollback backend -n backend")
    assert "successfully rolled out" in cluster.guide(STATUS)
    helm(cluster, "helm uninstall backend -n backend")
    assert not cluster.succeeds("get deployment backend -n backend")


def main() -> None:
    cluster = Cluster(os.environ["NODE_KUBECONFIG"])
    for archive in sys.argv[1:]:
        subprocess.run(f"{os.environ['NODE_LOAD_IMAGE']} {Path(archive)}", shell=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        install_upgrade_and_remove(cluster, Path(folder))


if __name__ == "__main__":
    main()
