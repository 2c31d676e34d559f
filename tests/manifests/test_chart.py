"""The Helm chart: it makes what the overlays make, and what users change arrives.

A chart and an overlay are equal but for this, see `comparable`:
- The overlay has a Namespace. Helm makes it (`--create-namespace`), because a release is stored there first.
- The overlay has a ConfigMap with the settings, whose name has a hash of its content. The chart has each
  setting in the pod template. Both roll out when a setting changes. Compared is the environment of the container.
- The order of objects and of the variables of a container means nothing.
"""

import base64
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HELM_FOLDER = ROOT / "k8s/helm"
CHART = HELM_FOLDER / "llamatower"
VALUES = HELM_FOLDER / "values"
VERSIONS = ["1.32", "1.37"]
# What each overlay is compared with: the file of values, or the chart's own.
OVERLAYS = {"k3s-nodeport": None} | {
    name: VALUES / f"{name}.yaml" for name in ("traefik", "monitoring", "redis", "autoscale")
}


def helm(*arguments: str | Path, fails: bool = False) -> str:
    program = shutil.which("helm") or shutil.which(ROOT / ".check/tools/bin/helm")
    if not program:
        pytest.skip("helm is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert (done.returncode != 0) is fails, done.stdout + done.stderr
    return done.stderr if fails else done.stdout


def rendered(*options: str | Path, chart: Path = CHART, version: str = VERSIONS[0]) -> list[dict]:
    """The objects of the chart in the namespace `backend`."""
    output = helm("template", "backend", chart, "--namespace", "backend", "--kube-version", version, *options)
    return [document for document in yaml.safe_load_all(output) if document]


def with_values(values: dict, tmp_path: Path) -> list[dict]:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return rendered("--values", path)


def only(kind: str, rows: list[dict]) -> dict:
    (found,) = [row for row in rows if row["kind"] == kind]
    return found


def container(rows: list[dict]) -> dict:
    (found,) = only("Deployment", rows)["spec"]["template"]["spec"]["containers"]
    return found


def environment(rows: list[dict]) -> dict[str, Any]:
    """The variables of the container, of which those in `env` win over those in `envFrom`."""
    of_container = container(rows)
    configs = {row["metadata"]["name"]: row.get("data") or {} for row in rows if row["kind"] == "ConfigMap"}
    found: dict[str, Any] = {}
    for source in of_container.get("envFrom", []):
        found |= configs[source["configMapRef"]["name"]]
    for row in of_container["env"]:
        assert row["name"] not in found or "envFrom" in of_container, f"{row['name']} is there twice"
        found[row["name"]] = row.get("value", row.get("valueFrom"))
    return found


def comparable(rows: list[dict]) -> dict[tuple[str, str], dict]:
    """The objects by kind and name, without what the head of this file lists."""
    variables = environment(rows)
    of_container = container(rows)
    settings = {source["configMapRef"]["name"] for source in of_container.pop("envFrom", [])}
    of_container["env"] = variables
    left = [row for row in rows if row["kind"] != "Namespace" and row["metadata"]["name"] not in settings]
    found = {(row["kind"], row["metadata"]["name"]): row for row in left}
    assert len(found) == len(left), "a kind and a name are there twice"
    return found


def overlay(name: str) -> list[dict]:
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    command = ["kubectl", "kustomize", ROOT / "k8s/overlays" / name]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return list(yaml.safe_load_all(done.stdout))


def options(values: Path | None) -> list[str | Path]:
    return ["--values", values] if values else []


@pytest.mark.parametrize(("name", "values"), OVERLAYS.items(), ids=OVERLAYS)
def test_the_chart_makes_the_objects_of_the_overlay(name: str, values: Path | None) -> None:
    chart, expected = comparable(rendered(*options(values))), comparable(overlay(name))
    assert set(chart) == set(expected)
    for what in expected:
        assert chart[what] == expected[what], what


def test_the_settings_of_the_overlay_are_not_left_out_of_the_comparison() -> None:
    rows = overlay("k3s-nodeport")
    (settings,) = [row for row in rows if row["kind"] == "ConfigMap"]
    settings["data"] = {"LLAMATOWER_QUEUE_LENGTH": "7", "OLLAMA_TIMEOUT": "1"}
    variables = comparable(rows)["Deployment", "backend"]["spec"]["template"]["spec"]["containers"][0]["env"]
    assert variables["LLAMATOWER_QUEUE_LENGTH"] == "7"
    assert variables["OLLAMA_TIMEOUT"] == "60", "what the Deployment sets wins"


@pytest.mark.parametrize("name", OVERLAYS)
def test_lint_has_no_complaint(name: str) -> None:
    helm("lint", "--strict", CHART, *options(OVERLAYS[name]))


EVERYTHING = {
    "name": "gateway",
    "replicas": 3,
    "image": {"repository": "registry.example/llamatower", "tag": "git-1a2b3c", "pullPolicy": "Never"},
    "imagePullSecrets": [{"name": "registry"}],
    "settings": {"LLAMATOWER_BODY_MEMORY": 67108864, "LLAMATOWER_PULL": True, "OLLAMA_TIMEOUT": None},
    "secrets": {"existingSecret": "mine", "variables": ["LLAMATOWER_API_KEYS"]},
    "tls": {
        "existingSecret": "tls",
        "certificate": "own.crt",
        "key": "own.key",
        "clientCA": "clients.crt",
        "clientCASecret": "clients",
        "clientCertificates": "optional",
    },
    "keysFile": {"existingSecret": "keys-of-users", "key": "users.toml"},
    "redis": {
        "enabled": True,
        "existingSecret": "shared",
        "passwordKey": "secret",
        "image": {"tag": "8.0.2"},
        "resources": {"limits": {"memory": "512Mi"}},
        "maxMemory": "200mb",
        "storage": "2Gi",
        "storageClassName": "fast",
    },
    "envFrom": [{"configMapRef": {"name": "others"}}],
    "service": {"type": "LoadBalancer", "port": 8080, "annotations": {"a": "b"}},
    "ingress": {"enabled": True, "className": "nginx", "annotations": {"a": "b"}, "host": "llm.example.net", "tlsSecret": ""},
    "monitoring": {"enabled": True, "port": 9100, "namespace": "observability", "dashboardLabels": {"sidecar": "mine"}},
    "networkPolicy": {
        "serverPorts": [11434, 8000],
        "extraIngress": [{"ports": [{"port": 3001, "protocol": "TCP"}]}],
        "extraEgress": [{"ports": [{"port": 6379, "protocol": "TCP"}]}],
    },
    "podDisruptionBudget": {"minAvailable": "50%"},
    "autoscaling": {
        "enabled": True,
        "minReplicas": 3,
        "maxReplicas": 9,
        "targetCPUUtilizationPercentage": 60,
        "extraMetrics": [
            {"type": "Pods", "pods": {"metric": {"name": "a"}, "target": {"type": "AverageValue", "averageValue": "1"}}}
        ],
        "behavior": {"scaleDown": {"stabilizationWindowSeconds": 60}},
    },
    "resources": {"limits": {"memory": "1Gi"}},
    "state": {"sizeLimit": "1Gi"},
    "terminationGracePeriodSeconds": 60,
    "preStopSeconds": 9,
    "podAnnotations": {"c": "d"},
    "nodeSelector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "priorityClassName": "high",
    "extraVolumes": [{"name": "ca", "configMap": {"name": "ca"}}],
    "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
}


def test_what_users_change_arrives(tmp_path: Path) -> None:
    assert set(EVERYTHING) == set(yaml.safe_load((CHART / "values.yaml").read_text())), "each value is changed here"
    rows = with_values(EVERYTHING, tmp_path)
    deployment, of_container = only("Deployment", rows), container(rows)
    pod, variables = deployment["spec"]["template"]["spec"], {row["name"]: row for row in of_container["env"]}
    assert deployment["metadata"]["name"] == "gateway"
    assert deployment["spec"]["selector"] == {"matchLabels": {"app": "gateway"}}
    assert deployment["spec"]["template"]["metadata"] == {"labels": {"app": "gateway"}, "annotations": {"c": "d"}}
    assert "replicas" not in deployment["spec"], "the autoscaler has them"
    assert of_container["image"] == "registry.example/llamatower:git-1a2b3c"
    assert of_container["imagePullPolicy"] == "Never"
    assert variables["LLAMATOWER_BODY_MEMORY"]["value"] == "67108864", "no 6.7108864e+07"
    assert variables["LLAMATOWER_PULL"]["value"] == "true"
    assert "OLLAMA_TIMEOUT" not in variables
    assert variables["OLLAMA_URL"]["value"], "the other defaults stay"
    assert variables["LLAMATOWER_METRICS_LISTEN"]["value"] == "0.0.0.0:9100"
    of_secrets = {name for name, row in variables.items() if "valueFrom" in row}
    assert of_secrets == {"LLAMATOWER_API_KEYS", "REDIS_PASSWORD"}
    assert variables["REDIS_PASSWORD"]["valueFrom"]["secretKeyRef"] == {"name": "shared", "key": "secret"}
    assert variables["LLAMATOWER_REDIS_URL"]["value"] == "redis://:$(REDIS_PASSWORD)@gateway-redis:6379/0"
    assert variables["LLAMATOWER_API_KEYS"]["valueFrom"]["secretKeyRef"]["name"] == "mine"
    assert of_container["envFrom"] == EVERYTHING["envFrom"]
    assert of_container["lifecycle"]["preStop"]["exec"]["command"][-1] == "9"
    assert of_container["resources"]["limits"] == {"memory": "1Gi", "cpu": "500m"}
    assert EVERYTHING["extraVolumeMounts"][0] in of_container["volumeMounts"]
    assert EVERYTHING["extraVolumes"][0] in pod["volumes"]
    assert {"name": "state", "emptyDir": {"sizeLimit": "1Gi"}} in pod["volumes"]
    assert pod["terminationGracePeriodSeconds"] == 60
    for name in ("imagePullSecrets", "nodeSelector", "tolerations", "affinity", "priorityClassName"):
        assert pod[name] == EVERYTHING[name]
    services = {row["metadata"]["name"]: row for row in rows if row["kind"] == "Service"}
    assert services["gateway"]["spec"]["type"] == "LoadBalancer"
    (port,) = services["gateway"]["spec"]["ports"]
    assert (port["port"], "nodePort" in port) == (8080, False)
    assert services["gateway-metrics"]["spec"]["ports"][0]["port"] == 9100
    ingress = only("Ingress", rows)
    assert ingress["spec"]["rules"][0]["host"] == "llm.example.net" and "tls" not in ingress["spec"]
    policies = {row["metadata"]["name"]: row["spec"] for row in rows if row["kind"] == "NetworkPolicy"}
    assert policies["gateway-redis"]["ingress"][0]["from"] == [{"podSelector": {"matchLabels": {"app": "gateway"}}}]
    policy = policies["gateway"]
    assert [port["port"] for rule in policy["ingress"] for port in rule["ports"]] == [3000, 9100, 3001]
    assert [port["port"] for rule in policy["egress"] for port in rule["ports"]] == [53, 53, 11434, 8000, 4318, 443, 6379, 6379]
    assert only("PodDisruptionBudget", rows)["spec"]["minAvailable"] == "50%"
    scaler = only("HorizontalPodAutoscaler", rows)["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"], scaler["scaleTargetRef"]["name"]) == (3, 9, "gateway")
    assert [metric["type"] for metric in scaler["metrics"]] == ["Pods", "Resource"]
    assert scaler["behavior"]["scaleDown"]["stabilizationWindowSeconds"] == 60
    redis = only("StatefulSet", rows)["spec"]
    (server,) = redis["template"]["spec"]["containers"]
    assert server["image"] == "valkey/valkey:8.0.2" and "--maxmemory 200mb" in server["command"][-1]
    assert server["resources"]["limits"]["memory"] == "512Mi"
    (claim,) = redis["volumeClaimTemplates"]
    assert claim["spec"]["storageClassName"] == "fast" and claim["spec"]["resources"]["requests"]["storage"] == "2Gi"


def secret_directories(rows: list[dict]) -> dict[str, str]:
    """The Secrets that the container has as directories, by the path of the directory."""
    volumes = only("Deployment", rows)["spec"]["template"]["spec"]["volumes"]
    secrets = {volume["name"]: volume["secret"]["secretName"] for volume in volumes if "secret" in volume}
    mounts = [mount for mount in container(rows)["volumeMounts"] if mount["name"] in secrets]
    assert len(mounts) == len(secrets) and all(mount["readOnly"] for mount in mounts)
    assert all("subPath" not in mount for mount in mounts), "such a file is never updated"
    return {mount["mountPath"]: secrets[mount["name"]] for mount in mounts}


def schemes(rows: list[dict]) -> set[str | None]:
    probes = [container(rows)[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")]
    assert all(probe["path"] == "/health" for probe in probes)
    return {probe.get("scheme") for probe in probes}


def test_secrets_with_certificates_and_keys_are_directories(tmp_path: Path) -> None:
    rows = with_values(EVERYTHING | {"envFrom": []}, tmp_path)
    of = environment(rows)
    assert secret_directories(rows) == {"/run/tls": "tls", "/run/client-ca": "clients", "/run/keys": "keys-of-users"}
    assert (of["LLAMATOWER_TLS_CERT"], of["LLAMATOWER_TLS_KEY"]) == ("/run/tls/own.crt", "/run/tls/own.key")
    assert (of["LLAMATOWER_TLS_CLIENT_CA"], of["LLAMATOWER_TLS_CLIENT_CERTS"]) == ("/run/client-ca/clients.crt", "optional")
    assert of["LLAMATOWER_KEYS_FILE"] == "/run/keys/users.toml"
    assert of["LLAMATOWER_TLS_LISTENERS"] == "public", "the metrics stay plain"
    assert schemes(rows) == {"HTTPS"}


def test_clients_authorities_can_be_in_the_secret_of_the_certificate(tmp_path: Path) -> None:
    rows = with_values({"tls": {"existingSecret": "tls", "clientCA": "ca.crt"}}, tmp_path)
    assert secret_directories(rows) == {"/run/tls": "tls"}
    assert environment(rows)["LLAMATOWER_TLS_CLIENT_CA"] == "/run/tls/ca.crt"
    assert environment(rows)["LLAMATOWER_TLS_CLIENT_CERTS"] == "required"


def test_without_their_secrets_there_is_no_tls_no_keys_file_and_no_redis() -> None:
    rows = rendered()
    assert secret_directories(rows) == {} and schemes(rows) == {None}
    assert not [name for name in environment(rows) if re.search("TLS|REDIS|KEYS_FILE", name)]
    assert not [row for row in rows if row["kind"] == "StatefulSet"]


def test_a_redis_of_ones_own_comes_from_a_secret_and_starts_none(tmp_path: Path) -> None:
    rows = with_values({"redis": {"urlSecret": "redis-address"}}, tmp_path)
    assert environment(rows)["LLAMATOWER_REDIS_URL"] == {"secretKeyRef": {"name": "redis-address", "key": "url"}}
    assert not [row for row in rows if row["kind"] == "StatefulSet"]
    # Two sources of one address are a mistake.
    path = tmp_path / "both.yaml"
    path.write_text(yaml.safe_dump({"redis": {"enabled": True, "urlSecret": "redis-address"}}))
    told = helm("template", "backend", CHART, "--values", path, "--kube-version", VERSIONS[0], fails=True)
    assert "redis.enabled" in told and "redis.urlSecret" in told


@pytest.mark.parametrize("variable", ["LLAMATOWER_TLS_CERT", "LLAMATOWER_KEYS_FILE", "REDIS_PASSWORD"])
def test_a_variable_that_a_value_makes_is_refused_as_a_setting(variable: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(EVERYTHING | {"settings": {variable: "/else/where"}}))
    assert variable in helm("template", "backend", CHART, "--values", path, "--kube-version", VERSIONS[0], fails=True)


def test_a_changed_setting_changes_the_pod_template(tmp_path: Path) -> None:
    def template(values: dict) -> dict:
        return only("Deployment", with_values(values, tmp_path))["spec"]["template"]

    assert template({"settings": {"LLAMATOWER_QUEUE_LENGTH": "7"}}) != template({"settings": {"LLAMATOWER_QUEUE_LENGTH": "8"}})


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replica": 3}, "replica"),
        ({"image": {"tag": "latest"}}, "tag"),
        ({"settings": {"LLAMATOWER_API_KEYS": "ada=sha256:0"}}, "LLAMATOWER_API_KEYS"),
        ({"settings": {"LLAMATOWER_REDIS_URL": "redis://:secret@redis"}}, "LLAMATOWER_REDIS_URL"),
        ({"tls": {"secret": "tls"}}, "secret"),
        ({"redis": {"image": {"tag": "latest"}}}, "tag"),
        ({"settings": {"OLLAMA_URL": ["http://gpu-1:11434"]}}, "OLLAMA_URL"),
        ({"service": {"nodePort": "30080"}}, "nodePort"),
    ],
)
def test_a_wrong_value_is_refused_by_name(values: dict, told: str, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    assert told in helm("template", "backend", CHART, "--values", path, "--kube-version", VERSIONS[0], fails=True)


def test_no_secret_can_be_given_as_a_setting() -> None:
    text = (ROOT / "k8s/base/settings.env").read_text()
    secrets = re.findall(r"^# {3}(\w+) or \1_FILE:", text, re.MULTILINE)
    assert secrets
    schema = json.loads((CHART / "values.schema.json").read_text())
    assert sorted(secrets) == schema["properties"]["settings"]["propertyNames"]["not"]["enum"]


def test_the_chart_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    manifest = (ROOT / "Cargo.toml").read_text()
    (version,) = re.findall(r'^version = "(.*)"', manifest.partition("[package]\n")[2], re.MULTILINE)[:1]
    assert (chart["version"], chart["appVersion"]) == (version, version)


@pytest.mark.parametrize("name", [*OVERLAYS, "everything"])
@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_takes_the_objects(name: str, version: str, tmp_path: Path) -> None:
    values = OVERLAYS.get(name)
    if name == "everything":
        values = tmp_path / "values.yaml"
        values.write_text(yaml.safe_dump(EVERYTHING))
    # What an operator brings along is not known to Kubernetes itself.
    rows = rendered(*options(values), version=version)
    known = [row for row in rows if "monitoring.coreos.com" not in row["apiVersion"]]
    path = tmp_path / "all.yaml"
    path.write_text(yaml.safe_dump_all(known))
    program = Path(sys.executable).parent / "kubernetes-validate"
    done = subprocess.run([program, "--strict", "-k", version, str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_k3s_gets_the_chart_and_its_values_in_one_object(tmp_path: Path) -> None:
    helm("version")
    program = shutil.which("helm") or str(ROOT / ".check/tools/bin/helm")
    done = subprocess.run(
        [HELM_FOLDER / "helmchart", VALUES / "traefik.yaml"],
        env=os.environ | {"HELM": program}, check=True, capture_output=True, text=True,
    )
    chart = yaml.safe_load(done.stdout)
    assert (chart["apiVersion"], chart["kind"]) == ("helm.cattle.io/v1", "HelmChart")
    assert chart["metadata"]["namespace"] == "kube-system", "k3s looks there"
    assert (chart["spec"]["targetNamespace"], chart["spec"]["createNamespace"]) == ("backend", True)
    package, values = tmp_path / "chart.tgz", tmp_path / "values.yaml"
    package.write_bytes(base64.b64decode(chart["spec"]["chartContent"], validate=True))
    values.write_text(chart["spec"]["valuesContent"])
    assert comparable(rendered("--values", values, chart=package)) == comparable(overlay("traefik"))


def test_the_notes_name_the_way_to_the_gateway(tmp_path: Path) -> None:
    # helm shows notes only after it has reached a cluster. Here a template takes them into an object.
    copy = tmp_path / "llamatower"
    shutil.copytree(CHART, copy)
    (copy / "templates/NOTES.txt").rename(copy / "files/notes")
    (copy / "templates/notes.yaml").write_text(
        'apiVersion: v1\nkind: Notes\nmetadata: {name: notes}\ntext: {{ tpl (.Files.Get "files/notes") . | toJson }}\n'
    )

    def notes(*given: str | Path) -> str:
        return only("Notes", rendered(*given, chart=copy))["text"]

    assert "curl http://<NodeIP>:30080/health" in notes()
    assert "kubectl create secret generic backend-secrets -n backend" in notes()
    assert "kubectl create secret" not in notes("--set-string", "settings.LLAMATOWER_REQUIRE_KEYS=false")
    assert "curl https://llm.example.org/health" in notes("--values", VALUES / "traefik.yaml")
    assert "port-forward -n backend deployment/backend" in notes("--set", "service.type=ClusterIP")
    of_file = notes("--set", "keysFile.existingSecret=keys")
    assert "kubectl create secret generic keys -n backend --from-file=keys.toml" in of_file
    assert "LLAMATOWER_API_KEYS" not in of_file, "one source of keys is enough"
    assert "curl https://<NodeIP>:30080/health" in notes("--set", "tls.existingSecret=tls")
    assert "create secret generic backend-redis -n backend --from-literal=password=" in notes("--values", VALUES / "redis.yaml")
