"""The manifests as a whole: what Kubernetes takes, and what each overlay opens."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

K8S = Path(__file__).parents[2] / "k8s"
OVERLAYS = sorted(path.parent for path in K8S.glob("overlays/*/kustomization.yaml"))
VERSIONS = ["1.32", "1.37"]
METRICS = Path(__file__).parents[1] / "telemetry" / "metrics.tsv"


def built(overlay: Path) -> str:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", str(overlay)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def rows_of(overlay: Path) -> list[dict]:
    return list(yaml.safe_load_all(built(overlay)))


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_each_overlay(overlay: Path, version: str, tmp_path: Path) -> None:
    # What an operator brings along is not known to Kubernetes itself.
    known = [
        document
        for document in rows_of(overlay)
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
    rows = rows_of(overlay)
    (deployment,) = [row for row in rows if row["kind"] == "Deployment"]
    assert deployment["spec"]["selector"] == {"matchLabels": {"app": "backend"}}
    assert deployment["spec"]["template"]["metadata"]["labels"] == {"app": "backend"}
    for workload in (row for row in rows if row["kind"] in {"Deployment", "StatefulSet"}):
        pod = workload["spec"]["template"]["spec"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        security = container["securityContext"]
        assert security["readOnlyRootFilesystem"] and security["capabilities"] == {"drop": ["ALL"]}
        assert security["allowPrivilegeEscalation"] is False
        assert set(container["resources"]) == {"requests", "limits"}
    (budget,) = [row["spec"] for row in rows if row["kind"] == "PodDisruptionBudget"]
    assert budget == {"minAvailable": 1, "selector": deployment["spec"]["selector"]}
    (namespace,) = [row for row in rows if row["kind"] == "Namespace"]
    labels = namespace["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"


# Whom each overlay lets in, by the port that is asked.
ANYONE = {3000: None}
TRAEFIK = {
    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}},
    "podSelector": {"matchLabels": {"app.kubernetes.io/name": "traefik"}},
}
PROMETHEUS = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}}
LETS_IN = {
    "k3s-nodeport": ANYONE,
    "monitoring": ANYONE | {9090: [PROMETHEUS]},
    "autoscale": ANYONE | {9090: [PROMETHEUS]},
    "redis": ANYONE,
    "traefik": {3000: [TRAEFIK]},
}
# What the gateway connects to beyond the base.
LETS_OUT = {"redis": [6379]}


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda path: path.name)
def test_each_overlay_opens_what_it_needs_and_no_more(overlay: Path) -> None:
    policies = [row for row in rows_of(overlay) if row["kind"] == "NetworkPolicy"]
    (policy,) = [row for row in policies if row["metadata"]["name"] == "backend"]
    assert policy["spec"]["podSelector"] == {"matchLabels": {"app": "backend"}}
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"]
    rules = policy["spec"]["ingress"]
    let_in = {port["port"]: rule.get("from") for rule in rules for port in rule["ports"]}
    assert let_in == LETS_IN[overlay.name]
    let_out = [port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]]
    assert let_out == [53, 53, 11434, 4318, 443, *LETS_OUT.get(overlay.name, [])]


def test_redis_is_open_to_the_gateways_alone_and_needs_a_password_from_a_secret() -> None:
    rows = rows_of(K8S / "overlays" / "redis")
    (policy,) = [row for row in rows if row["kind"] == "NetworkPolicy" and row["metadata"]["name"] == "backend-redis"]
    (rule,) = policy["spec"]["ingress"]
    assert rule["from"] == [{"podSelector": {"matchLabels": {"app": "backend"}}}]
    assert [port["port"] for port in rule["ports"]] == [6379]
    assert policy["spec"]["policyTypes"] == ["Ingress", "Egress"] and not policy["spec"]["egress"]
    (server,) = [row for row in rows if row["kind"] == "StatefulSet"]
    pod = server["spec"]["template"]["spec"]
    assert server["spec"]["template"]["metadata"]["labels"] == policy["spec"]["podSelector"]["matchLabels"]
    (container,) = pod["containers"]
    password = {"secretKeyRef": {"name": "backend-redis", "key": "password"}}
    assert container["env"] == [{"name": "REDIS_PASSWORD", "valueFrom": password}]
    assert "noeviction" in container["command"][-1], "a limit must not be evicted"
    (gateway,) = [row for row in rows if row["kind"] == "Deployment"]
    variables = gateway["spec"]["template"]["spec"]["containers"][0]["env"]
    names = [row["name"] for row in variables]
    assert names.index("REDIS_PASSWORD") < names.index("LLAMATOWER_REDIS_URL"), "it is a part of the other"
    (service,) = [row for row in rows if row["kind"] == "Service" and row["metadata"]["name"] == "backend-redis"]
    url = next(row["value"] for row in variables if row["name"] == "LLAMATOWER_REDIS_URL")
    assert url == f"redis://:$(REDIS_PASSWORD)@{service['metadata']['name']}:6379/0"


def test_the_autoscaler_owns_the_number_of_replicas_and_asks_for_a_metric_that_the_adapter_has() -> None:
    overlay = K8S / "overlays" / "autoscale"
    rows = rows_of(overlay)
    (deployment,) = [row for row in rows if row["kind"] == "Deployment"]
    assert "replicas" not in deployment["spec"], "an apply would reset what the autoscaler has set"
    (scaler,) = [row["spec"] for row in rows if row["kind"] == "HorizontalPodAutoscaler"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}
    assert 2 == scaler["minReplicas"] < scaler["maxReplicas"], "the disruption budget needs two"
    (external,) = [metric["external"] for metric in scaler["metrics"] if metric["type"] == "External"]
    (rule,) = yaml.safe_load((overlay / "adapter-values.yaml").read_text())["rules"]["external"]
    assert rule["name"]["as"] == external["metric"]["name"]
    (series,) = [row.split("\t")[3] for row in METRICS.read_text().splitlines() if row.startswith("llamatower.queue_depth\t")]
    assert rule["seriesQuery"].startswith(series + "{")


def test_the_example_of_a_secret_makes_none() -> None:
    example = K8S / "base" / "backend-secrets.example"
    assert not any(yaml.safe_load_all(example.read_text())), "there is nothing in it to apply"
    assert example.suffix not in {".yaml", ".yml", ".json"}, "a folder is applied without it"
    kinds = [row["kind"] for overlay in OVERLAYS for row in rows_of(overlay)]
    assert kinds and "Secret" not in kinds


def test_replicas_are_spread_where_there_are_nodes_enough() -> None:
    (deployment,) = [row for row in rows_of(K8S / "base") if row["kind"] == "Deployment"]
    (spread,) = deployment["spec"]["template"]["spec"]["topologySpreadConstraints"]
    assert spread["topologyKey"] == "kubernetes.io/hostname"
    assert spread["whenUnsatisfiable"] == "ScheduleAnyway", "one node is enough"
    assert spread["labelSelector"] == {"matchLabels": {"app": "backend"}}


def test_the_example_of_ollama_is_the_headless_service_that_the_gateway_asks() -> None:
    rows = list(yaml.safe_load_all((K8S / "ollama" / "ollama.yaml").read_text()))
    (service,) = [row for row in rows if row["kind"] == "Service"]
    assert (service["metadata"]["name"], service["metadata"]["namespace"]) == ("ollama-service", "model-hosting")
    assert service["spec"]["clusterIP"] == "None"
    assert [port["port"] for port in service["spec"]["ports"]] == [11434]
    (pods,) = [row for row in rows if row["kind"] == "StatefulSet"]
    assert pods["spec"]["template"]["metadata"]["labels"] == service["spec"]["selector"]
