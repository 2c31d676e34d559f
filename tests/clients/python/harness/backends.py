"""What stands behind the gateway: simulated and real Ollamas under one face."""

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Protocol

from .process import Process, ask, eventually, free_port

REPOSITORY = Path(__file__).resolve().parents[4]


def built(variable: str, name: str) -> Path:
    """The path of a binary of the workspace: named by a variable, or where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return Path(os.environ.get(variable) or target / "debug" / name)


class Backend(Protocol):
    """One Ollama, as the tests see it."""

    url: str

    def seen(self, path: str) -> int:
        """How many requests for this path have arrived; -1 when the backend cannot tell."""

    def ended(self, path: str) -> int:
        """How many requests for this path have ended, in whatever way."""

    def cancelled(self, path: str) -> int:
        """How many of them ended because their client went away."""

    def kill(self) -> None:
        """End it as a crash would."""


class AttachedSim:
    """A simulated Ollama that somebody else started."""

    def __init__(self, url: str):
        self.url = url

    def requests(self, path: str | None = None) -> list[dict]:
        """What it has seen, oldest first."""
        status, body = ask(f"{self.url}/sim/requests")
        assert status == 200, body
        seen = json.loads(body)
        seen = seen["requests"] if isinstance(seen, dict) else seen
        return [request for request in seen if path in (None, request["path"])]

    def seen(self, path: str) -> int:
        return len(self.requests(path))

    def ended(self, path: str) -> int:
        return sum(request["outcome"] is not None for request in self.requests(path))

    def cancelled(self, path: str) -> int:
        return sum(request["outcome"] == "cancelled" for request in self.requests(path))

    def arm(self, **fault: object) -> None:
        """Arm a fault, for example `arm(fault="busy", count=1)`."""
        status, body = ask(f"{self.url}/sim/faults", fault)
        assert status < 300, body

    def disarm(self) -> None:
        """Take back the faults that are armed."""
        status, body = ask(f"{self.url}/sim/faults", method="DELETE")
        assert status < 300, body

    def kill(self) -> None:
        raise AssertionError("only a backend that the harness started is killed")


class Sim(AttachedSim):
    """A simulated Ollama as a process of our own."""

    def __init__(self, name: str, models: list[str], folder: Path):
        super().__init__(f"http://127.0.0.1:{free_port()}")
        command = [str(built("LLAMATOWER_SIM_BIN", "llamatower-sim"))]
        command += ["--listen", self.url.removeprefix("http://")]
        for model in models:
            command += ["--model", model]
        self._process = Process(name, command, {}, folder)
        self._process.start(f"{self.url}/api/version", 200)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()


# A line of the access log: written when the request has ended, not when it came.
_ACCESS = re.compile(r'^\[GIN\] .*\| +(\d{3}) \|.*\| +([A-Z]+) +"([^"]*)"', re.MULTILINE)


class RealOllama:
    """A real Ollama, the binary of `OLLAMA_BIN`, with models made on the spot.

    Its models are kept in `store`, so that a later server has them at once.
    """

    def __init__(self, name: str, models: dict[str, Path], store: Path, folder: Path):
        self.url = f"http://127.0.0.1:{free_port()}"
        self._binary = os.environ["OLLAMA_BIN"]
        env = {
            "OLLAMA_HOST": self.url,
            "OLLAMA_MODELS": str(store),
            "OLLAMA_NUM_PARALLEL": "2",
            "OLLAMA_MAX_LOADED_MODELS": "3",
        }
        self._process = Process(name, [self._binary, "serve"], env, folder)
        self._process.start(f"{self.url}/api/version", 200)
        for model, weights in models.items():
            if ask(f"{self.url}/api/show", {"model": model})[0] != 200:
                self._create(model, weights, folder)

    def _create(self, model: str, weights: Path, folder: Path) -> None:
        modelfile = folder / f"Modelfile.{model}"
        modelfile.write_text(
            f"FROM {weights}\n"
            'TEMPLATE """{{ if .System }}system: {{ .System }}\n{{ end }}'
            "{{ if .Tools }}tools: {{ .Tools }}\n{{ end }}"
            "{{ range .Messages }}{{ .Role }}: {{ .Content }}\n{{ end }}"
            'assistant: """\nPARAMETER num_predict 24\n'
        )
        subprocess.run(
            [self._binary, "create", model, "-f", modelfile],
            env={"PATH": os.environ["PATH"], "HOME": str(folder), "OLLAMA_HOST": self.url},
            check=True,
            capture_output=True,
            timeout=120,
        )

    def seen(self, path: str) -> int:
        return -1

    def ended(self, path: str) -> int:
        return sum(found[2] == path for found in _ACCESS.findall(self._process.log()))

    def cancelled(self, path: str) -> int:
        # The log does not say how a request ended. The tests ask for more tokens than could be
        # made in the time that they wait: a request that has ended then was cancelled.
        return self.ended(path)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()


def loaded(backend: Backend, model: str) -> bool:
    """Whether this backend has the model in memory."""
    status, body = ask(f"{backend.url}/api/ps")
    assert status == 200, body
    return any(row["name"].split(":")[0] == model for row in json.loads(body)["models"])


def holder(backends: list[Backend], model: str) -> Backend:
    """The backend that serves this model now, on a fleet that has not served it before."""
    return eventually(
        lambda: next((one for one in backends if loaded(one, model)), None),
        f"a backend has {model} loaded",
    )
