"""Runs the k3s guide on the node of NODE_KUBECONFIG; the arguments are the images for it."""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import chart
import node
import shared_limits
from cluster import NAMESPACES, ROOT, Cluster, eventually
from figures import MIB, MemoryWatch, limits
from load import KEY, Load, Pressure, Request
from replica import Replica

BASE = ROOT / "k8s" / "base"
LONGEST = int(os.environ.get("NODE_LONGEST_STREAM", "300"))
STATUS = "kubectl rollout status deployment/backend -n backend"


def make_old_installation(cluster: Cluster) -> dict:
    """The starting point of the guide: an older Deployment in front of simulated Ollamas."""
    cluster.kubectl("create namespace model-hosting")
    cluster.kubectl("apply -f tests/node/ollama.yaml")
    assert "Ready" in cluster.guide("kubectl get nodes")
    cluster.guide("kubectl create namespace backend")
    cluster.kubectl("apply -f tests/node/old-installation.yaml -n backend")
    cluster.kubectl("rollout status statefulset/ollama -n model-hosting --timeout=120s")
    cluster.guide(STATUS)
    return cluster.json("get deployment backend -n backend")


def restrict(cluster: Cluster) -> None:
    """Enforces Pod Security from here on; forbidden pods are refused."""
    for mode in ("enforce", "warn"):
        cluster.kubectl(f"label namespace backend pod-security.kubernetes.io/{mode}=restricted")
    refused = subprocess.run(
        ["kubectl", "run", "x", "-n", "backend", "--image=x:1", "--dry-run=server"],
        env=cluster.environment, capture_output=True, text=True,
    )
    assert "violates PodSecurity" in refused.stderr, refused.stderr


def make_key(cluster: Cluster) -> None:
    """The Secret of the guide, with the digest of the key that all requests of the trial show."""
    command = "kubectl create secret generic backend-secrets -n backend --from-literal=LLAMATOWER_API_KEYS='ada=sha256:..'"
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    cluster.guide(command, place={"sha256:..": f"sha256:{digest}"})


def install(cluster: Cluster, old: dict) -> None:
    """Applies the two files over the old installation."""
    cluster.guide("kubectl apply -f backend-deployment.yaml -n backend", BASE)
    cluster.guide("kubectl apply -f backend-service.yaml -n backend", BASE)
    assert "successfully rolled out" in cluster.guide(STATUS)
    new = cluster.json("get deployment backend -n backend")
    assert new["metadata"]["uid"] == old["metadata"]["uid"], "it is the same Deployment"
    (container,) = new["spec"]["template"]["spec"]["containers"]
    assert container["image"] == "arnoldt04/backend:1.0.0"
    assert "OLD_SETTING" not in [row["name"] for row in container["env"]]
    eventually(lambda: len(cluster.pods("backend", "backend")) == 2, "the old pods have left", 60)


def answered(cluster: Cluster, command: str) -> str:
    """The output of a command of the guide, as soon as the pods can be reached."""
    def ask() -> str | None:
        try:
            return cluster.guide(command)
        except AssertionError:
            return None
    return eventually(ask, command, 30)


def look(cluster: Cluster) -> None:
    pods = cluster.guide("kubectl get pods -n backend -o wide")
    assert pods.count("1/1") >= 2 and pods.count("Running") >= 2, pods
    assert "80:30080/TCP" in cluster.guide("kubectl get svc -n backend")
    assert "successfully rolled out" in cluster.guide(STATUS)
    cluster.guide("kubectl rollout restart deployment/backend -n backend")
    assert "successfully rolled out" in cluster.guide(STATUS)
    assert "listening" in cluster.guide("kubectl logs deployment/backend -n backend --tail=200")
    assert "ok" in answered(cluster, "curl http://<NodeIP>:30080/health")
    tags = 'curl -H "Authorization: Bearer $KEY" http://<NodeIP>:30080/api/tags'
    assert "qwen2.5-coder:7b" in cluster.guide(tags, place={"$KEY": KEY})
    assert "backend" in cluster.guide("kubectl describe deployment/backend -n backend")
    assert "OLLAMA_URL" in cluster.guide("kubectl describe pod -n backend")
    assert "Scheduled" in cluster.guide("kubectl get events -n backend")
    forwarding = cluster.background("kubectl port-forward -n backend deployment/backend 3000:3000")
    try:
        assert "ok" in answered(cluster, "curl http://localhost:3000/health")
        assert forwarding.poll() is None, "another program has port 3000"
    finally:
        forwarding.terminate()
        forwarding.wait()


def call_as_the_old_backend(cluster: Cluster) -> None:
    """The call that the existing backend made, word for word, with the key in its address."""
    python = ROOT / ".check" / "venv" / "bin" / "python"
    program = (
        "import requests, sys\n"
        "OLLAMA_URL = sys.argv[1]\n"
        "answer = requests.post(f'{OLLAMA_URL}/api/generate', json={'model': 'qwen2.5-coder:7b', 'prompt': 'x', 'stream': False}, timeout=60)\n"
        "answer.raise_for_status()\n"
        "assert answer.json()['response']\n"
    )
    interpreter = python if python.exists() else sys.executable
    subprocess.run([interpreter, "-c", program, f"http://ada:{KEY}@{cluster.address}:30080"], check=True)


def scale(cluster: Cluster, load: Load) -> None:
    """Scales Ollama up and down: new pods are used, and no request fails when old pods leave."""
    def used_lately(seconds: float = 5) -> set[str]:
        requests = load.since(time.monotonic() - seconds)
        return {request.backend for request in requests if request.kind == "short"} - {""}

    for count in (4, 2):
        cluster.guide(f"kubectl scale statefulset/ollama -n model-hosting --replicas={count}")
        begun = time.monotonic()
        eventually(lambda: len(used_lately()) == count, f"{count} Ollamas are used", 90)
        print(f"{count} Ollamas are used {time.monotonic() - begun:.0f} s after the command", flush=True)


def roll(cluster: Cluster) -> None:
    """Three rollouts and one undo."""
    restart = "kubectl rollout restart deployment/backend -n backend"
    roll_by(cluster, "kubectl set image deployment/backend backend=arnoldt04/backend:1.0.1 -n backend")
    roll_by(cluster, restart)
    roll_by(cluster, restart)
    assert "REVISION" in cluster.guide("kubectl rollout history deployment/backend -n backend")
    roll_by(cluster, "kubectl rollout undo deployment/backend -n backend")


def roll_by(cluster: Cluster, command: str) -> None:
    begun = time.monotonic()
    cluster.guide(command)
    assert "successfully rolled out" in cluster.guide(STATUS)
    print(f"rolled out in {time.monotonic() - begun:.0f} s", flush=True)
    time.sleep(5)


def press(cluster: Cluster) -> None:
    """Sends more than half a CPU can parse, to see the effect of the limits on the replicas."""
    with Pressure(cluster.address, 30080, clients=4) as pressure:
        time.sleep(30)
    print(f"bodies with many values for 30 s: {dict(pressure.statuses)}", flush=True)
    assert set(pressure.statuses) == {"400"}, "each body is parsed and answered"
    show_limits(cluster)


def show_limits(cluster: Cluster) -> None:
    """The kernel enforces the limits of the manifest, and they are sufficient."""
    for pod in cluster.pods("backend", "backend"):
        (status,) = pod["status"]["containerStatuses"]
        assert status["restartCount"] == 0, status
        if (enforced := limits(pod)) is None:
            print("the enforced limits are not visible: the node is another machine")
            return
        print(f"  {pod['metadata']['name']}: {enforced}", flush=True)
        assert (enforced.memory, enforced.cpus) == (256 * MIB, 0.5)


def kill(cluster: Cluster, load: Load) -> None:
    """Kills one pod: its requests end visibly incomplete, and no other request fails."""
    pod = cluster.pods("backend", "backend")[0]["metadata"]["name"]
    with Replica(cluster, pod) as replica:
        under_way = replica.metric("http_server_active_requests")
    killed = time.monotonic()
    cluster.kubectl(f"delete pod {pod} -n backend --force --grace-period=0")
    cluster.guide(STATUS)
    time.sleep(10)
    failures = load.failures()
    older = [request for request in failures if request.begun < killed]
    print(f"a pod was killed with {under_way:.0f} requests in progress: {len(older)} of them failed,", end=" ")
    print(f"and {len(failures) - len(older)} requests that were being sent to it failed", flush=True)
    for request in failures:
        begun, ended = request.begun - killed, request.ended - killed
        print(f"  {request.kind}, {begun:+.1f} s to {ended:+.1f} s: {request.outcome} {request.detail}")
    # Some requests have begun since the count.
    just_begun = [request for request in older if request.begun > killed - 1]
    assert len(older) <= under_way + len(just_begun), "only requests in progress there"
    at_that_time = [request.begun < killed + 2 and request.ended > killed - 1 for request in failures]
    assert all(at_that_time), "no other request fails"
    assert_visible(failures)


def apply_overlay(cluster: Cluster) -> None:
    """Applies the overlay with all optional files."""
    cluster.guide("kubectl apply -k k8s/overlays/k3s-nodeport")
    assert "successfully rolled out" in cluster.guide(STATUS)
    budget = cluster.json("get poddisruptionbudget backend -n backend")
    assert budget["spec"]["minAvailable"] == 1
    cluster.kubectl("apply -k k8s/overlays/traefik --dry-run=server")
    try_autoscale(cluster)
    assert "ok" in answered(cluster, "curl http://<NodeIP>:30080/health")


def try_autoscale(cluster: Cluster) -> None:
    """The API server accepts the overlay, except what only the Prometheus operator brings."""
    command = "kubectl apply -k k8s/overlays/autoscale --server-side --force-conflicts"
    cluster.must_be_documented(command)
    done = subprocess.run(
        [*command.split(), "--dry-run=server"], cwd=ROOT, env=cluster.environment, capture_output=True, text=True
    )
    known = ('no matches for kind "PrometheusRule"', 'no matches for kind "ServiceMonitor"', "ensure CRDs are installed first")
    lines = [line for line in done.stderr.splitlines() if line and not line.startswith("Warning: ")]
    errors = [line for line in lines if not any(text in line for text in known)]
    assert not errors, errors
    assert "horizontalpodautoscaler.autoscaling/backend serverside-applied (server dry run)" in done.stdout, done.stdout


def share_limits(cluster: Cluster) -> None:
    """Applies the overlay with a Redis."""
    is_own = os.environ["NODE_KUBECONFIG"] == str(node.KUBECONFIG)
    if why := shared_limits.missing(cluster, is_own):
        print(f"left out: limits that replicas share, {why}")
        return
    shared_limits.run_under_load(cluster)


def take_over_by_chart(cluster: Cluster) -> None:
    """Helm takes over the installation of the overlay."""
    if not chart.program():
        print("left out: the Helm chart, helm is not installed; ./check manifests installs it")
        return
    with tempfile.TemporaryDirectory() as folder:
        chart.install_upgrade_and_remove(cluster, Path(folder))


def assert_visible(failures: list[Request]) -> None:
    assert all(request.outcome in ("cut", "told") for request in failures), failures[:10]


def run_under_load(cluster: Cluster) -> None:
    streams = dict.fromkeys({5, 20, 40, LONGEST}, 6)
    with Load(cluster.address, 30080, streams) as load:
        time.sleep(5)
        scale(cluster, load)
        roll(cluster)
        longest = f"stream of {max(streams)} s"
        eventually(lambda: load.ended(longest) >= 6, "those that began before the first rollout ended", LONGEST + 120)
        print(f"two scale commands, three rollouts and an undo: {load.figures()}", flush=True)
        assert not load.failures(), load.failures()[:10]
        show_limits(cluster)
        kill(cluster, load)
    print(f"in total: {load.figures()}")
    assert_visible(load.failures())


def show_memory(memory: MemoryWatch) -> None:
    for name, most in sorted(memory.most.items()):
        # The kubelet has no data for pods that ended early.
        if most:
            print(f"  {name}: a working set of at most {most / MIB:.1f} MiB")


def main() -> None:
    cluster = Cluster(os.environ["NODE_KUBECONFIG"])
    taken = [name for name in NAMESPACES if cluster.has_namespace(name)]
    if taken:
        print(f"skipped: the node has namespaces that the test would remove: {', '.join(taken)}")
        return
    for archive in sys.argv[1:]:
        subprocess.run(f"{os.environ['NODE_LOAD_IMAGE']} {Path(archive)}", shell=True, check=True, stdout=subprocess.DEVNULL)
    try:
        old = make_old_installation(cluster)
        restrict(cluster)
        make_key(cluster)
        install(cluster, old)
        look(cluster)
        call_as_the_old_backend(cluster)
        with MemoryWatch(cluster, "backend") as memory:
            run_under_load(cluster)
            press(cluster)
            apply_overlay(cluster)
            share_limits(cluster)
        take_over_by_chart(cluster)
        show_memory(memory)
    finally:
        cluster.remove_namespaces()
    print("1 passed, 0 failed")


if __name__ == "__main__":
    main()
