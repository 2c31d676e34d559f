"""A Kubernetes node that may be used for a test, and the commands of the guide."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "k3s.md"
NAMESPACES = ("backend", "model-hosting")


def documented() -> set[str]:
    """The commands of the guide, without the shown output."""
    # The marks of a fenced block would be taken for those of a command in a sentence.
    text = re.sub(r"^```.*?^```$", "", GUIDE.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    in_a_sentence = re.findall(r"`([^`]+)`", text)
    return {line.split("  #")[0].strip() for line in lines} | set(in_a_sentence)


def eventually(condition: Callable[[], Any], what: str, limit: float) -> Any:
    end = time.monotonic() + limit
    while not (value := condition()):
        assert time.monotonic() < end, f"this did not happen within {limit:.0f} s: {what}"
        time.sleep(0.5)
    return value


class Cluster:
    def __init__(self, kubeconfig: str):
        self.environment = os.environ | {"KUBECONFIG": kubeconfig}
        self._guide = documented()
        node = self.json("get nodes")["items"][0]
        addresses = {row["type"]: row["address"] for row in node["status"]["addresses"]}
        self.node, self.address = node["metadata"]["name"], addresses["InternalIP"]

    def kubectl(self, arguments: str, stdin: str | None = None, folder: Path = ROOT) -> str:
        """Runs kubectl and returns its output. Raises an error with its standard error output."""
        done = subprocess.run(
            ["kubectl", *shlex.split(arguments)],
            cwd=folder, env=self.environment, input=stdin, capture_output=True, text=True,
        )
        assert done.returncode == 0, f"kubectl {arguments}: {done.stderr}"
        return done.stdout

    def succeeds(self, arguments: str) -> bool:
        command = ["kubectl", *shlex.split(arguments)]
        return subprocess.run(command, env=self.environment, capture_output=True).returncode == 0

    def json(self, arguments: str) -> Any:
        return json.loads(self.kubectl(f"{arguments} -o json"))

    def must_be_documented(self, command: str) -> None:
        assert command in self._guide, f"not in {GUIDE.name}: {command}"

    def guide(
        self, command: str, folder: Path = ROOT, place: dict[str, str] | None = None
    ) -> str:
        """Runs a command that must be in the guide word for word, after the replacements in `place`."""
        self.must_be_documented(command)
        shown = command.replace("<NodeIP>", self.address)
        for placeholder, value in (place or {}).items():
            shown = shown.replace(placeholder, value)
        print(f"{time.monotonic():.0f} $ {shown}", flush=True)
        program, _, arguments = shown.partition(" ")
        if program == "kubectl":
            return self.kubectl(arguments, folder=folder)
        done = subprocess.run(shlex.split(shown) + ["-sS"], capture_output=True, text=True, timeout=30)
        assert done.returncode == 0, f"{shown}: {done.stderr}"
        return done.stdout

    def background(self, command: str) -> subprocess.Popen:
        """Starts a command of the guide that runs until it is stopped."""
        self.must_be_documented(command)
        print(f"$ {command} &", flush=True)
        return subprocess.Popen(shlex.split(command), env=self.environment, stdout=subprocess.DEVNULL)

    def pods(self, namespace: str, app: str) -> list[dict]:
        """The pods that exist and are not terminating."""
        items = self.json(f"get pods -n {namespace} -l app={app}")["items"]
        return [pod for pod in items if "deletionTimestamp" not in pod["metadata"]]

    def memory(self, namespace: str) -> dict[str, int]:
        """The working set of each pod in bytes, from the kubelet."""
        page = json.loads(self.kubectl(f"get --raw /api/v1/nodes/{self.node}/proxy/stats/summary"))
        rows = [pod for pod in page["pods"] if pod["podRef"]["namespace"] == namespace]
        return {
            row["podRef"]["name"]: row.get("memory", {}).get("workingSetBytes", 0) for row in rows
        }

    def has_namespace(self, name: str) -> bool:
        names = [item["metadata"]["name"] for item in self.json("get namespaces")["items"]]
        return name in names

    def remove_namespaces(self) -> None:
        for name in NAMESPACES:
            for what in (
                # The controllers go first, because they would start the pods again; then the pods need no drain.
                f"deployments,statefulsets --all -n {name}",
                f"pods --all -n {name} --force --grace-period=0",
                f"namespace {name} --ignore-not-found --timeout=120s",
            ):
                command = ["kubectl", "delete", *shlex.split(what)]
                subprocess.run(command, env=self.environment, capture_output=True)
