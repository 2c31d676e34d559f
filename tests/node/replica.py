"""What a replica says of itself on its admin listener, which is reachable only inside its pod."""

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from cluster import Cluster


class Replica:
    def __init__(self, cluster: Cluster, pod: str):
        self._cluster, self.pod = cluster, pod

    def __enter__(self) -> "Replica":
        command = shlex.split(f"kubectl port-forward -n backend pod/{self.pod} :3001")
        self._forwarding = subprocess.Popen(command, env=self._cluster.environment, stdout=subprocess.PIPE, text=True)
        assert self._forwarding.stdout
        line = self._forwarding.stdout.readline()
        port = re.search(r"127\.0\.0\.1:(\d+) ", line)
        assert port, f"no port is forwarded to {self.pod}: {line}"
        self._address = f"http://127.0.0.1:{port[1]}"
        return self

    def __exit__(self, *_: object) -> None:
        self._forwarding.terminate()
        self._forwarding.communicate()

    def sharing(self) -> dict[str, Any]:
        return json.loads(self._fetched("/status"))["sharing"]

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the series with this name and these labels."""
        series = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", self._fetched("/metrics"), re.MULTILINE)
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        return sum(float(value) for found, value in series if all(label in found for label in wanted))

    def logged(self, text: str) -> int:
        """How many lines of its log have this text."""
        return self._cluster.kubectl(f"logs pod/{self.pod} -n backend --tail=-1").count(text)

    def _fetched(self, path: str) -> str:
        command = ["curl", "-sS", "--fail", "--max-time", "10", f"{self._address}{path}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, f"{self.pod}{path}: {done.stderr}"
        return done.stdout


@contextmanager
def replicas(cluster: Cluster) -> Iterator[list[Replica]]:
    """All replicas that are not terminating."""
    with ExitStack() as stack:
        names = [pod["metadata"]["name"] for pod in cluster.pods("backend", "backend")]
        yield [stack.enter_context(Replica(cluster, name)) for name in names]
