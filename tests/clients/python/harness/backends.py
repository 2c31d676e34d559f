"""What stands behind the gateway: simulated and real Ollamas and OpenAI-compatible servers under one face."""

import json
import os
import re
import subprocess
import sys
import urllib.error
from pathlib import Path
from typing import Protocol

from .process import Process, ask, eventually, free_port

REPOSITORY = Path(__file__).resolve().parents[4]


def built(variable: str, name: str) -> Path:
    """The path of a binary of the workspace: named by a variable, or where cargo puts it."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return Path(os.environ.get(variable) or target / "debug" / name)


class Backend(Protocol):
    """One server, as the tests see it."""

    url: str
    """Its address for the gateway."""

    def seen(self, path: str) -> int:
        """How many requests for this path have arrived; -1 when the backend cannot tell."""

    def ended(self, path: str) -> int:
        """How many requests for this path have ended, in whatever way."""

    def cancelled(self, path: str) -> int:
        """How many of them ended because their client went away."""

    def loaded(self, model: str) -> bool:
        """Whether it has the model in memory."""

    def kill(self) -> None:
        """End it as a crash would."""


def _in_ps(url: str, model: str) -> bool:
    """Whether an Ollama lists this model as in memory."""
    status, body = ask(f"{url}/api/ps")
    assert status == 200, body
    return any(row["name"].split(":")[0] == model for row in json.loads(body)["models"])


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

    def loaded(self, model: str) -> bool:
        return _in_ps(self.url, model)

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
        self.process = Process(name, command, {}, folder)
        self.process.start(f"{self.url}/api/version", 200)

    def kill(self) -> None:
        self.process.kill()

    def stop(self) -> None:
        self.process.stop()


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

    def loaded(self, model: str) -> bool:
        return _in_ps(self.url, model)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.stop()


class LlamaCpp:
    """llama.cpp's server of PyPI `llama-cpp-python[server]`, which is OpenAI-compatible.

    It does one request after another, and begins an answer without streaming only when it is complete.
    """

    TRANSLATED = {
        "/api/chat": "/v1/chat/completions",
        "/api/generate": "/v1/chat/completions",
        "/api/embed": "/v1/embeddings",
    }
    """Where native requests arrive."""

    def __init__(
        self, name: str, models: dict[str, Path], folder: Path, interrupt_requests: bool = False
    ):
        self.origin = f"http://127.0.0.1:{free_port()}"
        self.url = f"openai+{self.origin}"
        settings: dict[str, object] = {
            "port": int(self.origin.rsplit(":", 1)[1]),
            "interrupt_requests": interrupt_requests,
        }
        settings["models"] = [
            {"model": str(path), "model_alias": model, "embedding": True, "verbose": False}
            for model, path in models.items()
        ]
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}.json"
        file.write_text(json.dumps({"host": "127.0.0.1", **settings}))
        command = [sys.executable, "-m", "llama_cpp.server", "--config_file", str(file)]
        self._process = Process(name, command, {"PYTHONUNBUFFERED": "1"}, folder)
        self._process.start(f"{self.origin}/v1/models", 200)

    def seen(self, path: str) -> int:
        return self._process.log().count(f'"POST {self.TRANSLATED[path]} ')

    def ended(self, path: str) -> int:
        return self.seen(path) - self._is_busy()

    def cancelled(self, path: str) -> int:
        return self._process.log().count("Disconnected from client")

    def loaded(self, model: str) -> bool:
        # It does not say which model is in memory; the one of a request under way is.
        return self._is_busy()

    def lists_models(self, limit: float = 10.0) -> bool:
        """Whether it answers a request for its list of models, for which it ends other work first."""
        try:
            return ask(f"{self.origin}/v1/models", limit=limit)[0] == 200
        except (TimeoutError, urllib.error.URLError):
            return False

    def _is_busy(self) -> bool:
        return not self.lists_models(limit=0.5)

    def kill(self) -> None:
        self._process.kill()

    def stop(self) -> None:
        self._process.kill()  # on SIGTERM it waits for its requests


def holder(backends: list[Backend], model: str) -> Backend:
    """The backend that serves this model now, on a fleet that has not served it before."""
    return eventually(
        lambda: next((one for one in backends if one.loaded(model)), None),
        f"a backend has {model} loaded",
    )
