"""A whole set-up to test against: backends with models spread unevenly, and the gateway before them."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from .backends import REPOSITORY, AttachedSim, Backend, LlamaCpp, RealOllama, Sim, holder
from .gateway import Gateway
from .process import ask, eventually

FAST = "tiny"
"""A model that answers at once; only the first backend has it."""
OTHER = "mini"
"""Another one; only the second backend has it."""
SLOW = "small"
"""A model that takes some 15 ms for a token; both backends have it."""

TRANSLATED = "llama.cpp"
"""The kind of stack whose servers are OpenAI-compatible, so that native routes are translated."""

ADMIN_KEY = "admin-key-of-the-tests-0123456789abcdef"


class Missing(Exception):
    """Something that this run cannot have, in words for the reader of the report."""


class Stack:
    """Backends, and a gateway unless the clients go to the first backend directly."""

    def __init__(self, url: str, backends: list[Backend], folder: Path, kind: str = "given"):
        self.url = url
        self.kind = kind
        self.backends = backends
        self.gateway: Gateway | None = None
        self._folder = folder
        self._gateways = itertools.count()

    def serve(self, **settings: str) -> Gateway:
        """One more gateway in front of the same backends; `stop` it when done."""
        name = f"gateway-{next(self._gateways)}"
        if self.kind == TRANSLATED:
            # Its list of models waits for the end of the stream under way.
            settings = {"LLAMATOWER_PROBE_TIMEOUT": "60s", **settings}
        return Gateway(name, [one.url for one in self.backends], settings, self._folder)

    def watch(self, path: str) -> "Watch":
        """Watch the requests for `path` that the backends get from now on."""
        if not self.backends:
            raise Missing("the server under test shows nothing of its requests")
        return Watch(self.backends, path)

    def kill_holder(self, model: str) -> None:
        """Kill the one backend that has the model in memory."""
        holder(self.backends, model).kill()


class Watch:
    """What the backends see of the requests for one path, from its making on."""

    def __init__(self, backends: list[Backend], path: str):
        self._backends = backends
        self._path = path
        self._before = [self._counts(one) for one in backends]

    def _counts(self, backend: Backend) -> tuple[int, int, int]:
        return tuple(count(self._path) for count in (backend.seen, backend.ended, backend.cancelled))

    def _since(self, which: int) -> int:
        now = [self._counts(one) for one in self._backends]
        return sum(after[which] - before[which] for after, before in zip(now, self._before))

    def reached_a_backend(self) -> bool:
        """Whether a request has come through. Real Ollamas show it only once it has ended."""
        return self._since(0) > 0 or self._since(1) > 0

    def still_under_way(self) -> bool:
        """Whether no such request has ended."""
        return self._since(1) == 0

    def wait_for_cancel(self, limit: float = 5.0) -> None:
        """Wait until a backend has seen its client go."""
        eventually(lambda: self._since(2) > 0, f"a backend saw {self._path} cancelled", limit)


def weights(name: str, width: int, layers: int, seed: int, *more: str) -> Path:
    """A model file with random weights for a real server, made once."""
    path = REPOSITORY / ".check" / "models" / f"{name}.gguf"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        make = [sys.executable, str(Path(__file__).with_name("make_model.py"))]
        subprocess.run([*make, unfinished, str(width), str(layers), str(seed), *more], check=True)
        unfinished.rename(path)
    return path


def sims(folder: Path) -> list[Backend]:
    slow = f"{SLOW},pace=15ms,slots=4"
    return [
        Sim("sim-a", [FAST, slow], folder),
        Sim("sim-b", [OTHER, slow], folder),
    ]


def real_ollamas(folder: Path, stores: Path) -> list[Backend]:
    fast = weights(FAST, 64, 2, 1)
    slow = weights(SLOW, 512, 8, 2)
    return [
        RealOllama("ollama-a", {FAST: fast, SLOW: slow}, stores / "store-a", folder),
        RealOllama("ollama-b", {OTHER: fast, SLOW: slow}, stores / "store-b", folder),
    ]


def llama_cpps(folder: Path) -> list[Backend]:
    fast = weights("tiny-pooled", 64, 2, 1, "mean")
    slow = weights(SLOW, 512, 8, 2)
    return [
        LlamaCpp("llama-a", {FAST: fast, SLOW: slow}, folder),
        LlamaCpp("llama-b", {OTHER: fast, SLOW: slow}, folder),
    ]


def attached(url: str) -> list[Backend]:
    """The backends seen behind a URL that was given: itself, when it is a simulated one."""
    return [AttachedSim(url)] if ask(f"{url}/sim/requests")[0] == 200 else []


@contextlib.contextmanager
def running(kind: str, folder: Path, stores: Path, **settings: str) -> Iterator[Stack]:
    """Start a stack of a kind (`given`, `sim`, `ollama`, `llama.cpp`) and end all of it afterwards.

    `given` is the server that LLAMATOWER_TEST_BASE names, `llama.cpp` has two OpenAI-compatible
    servers, before which the gateway translates the native routes. With LLAMATOWER_TEST_DIRECT the
    clients talk to the first backend without the gateway, to see what they do then.
    """
    if kind == "given":
        url = os.environ["LLAMATOWER_TEST_BASE"].rstrip("/")
        yield Stack(url, attached(url), folder)
        return
    with contextlib.ExitStack() as ends:
        if kind == TRANSLATED:
            backends = llama_cpps(folder)
        else:
            backends = sims(folder) if kind == "sim" else real_ollamas(folder, stores)
        for backend in backends:
            ends.callback(backend.stop)
        stack = Stack(backends[0].url, backends, folder, kind)
        if not os.environ.get("LLAMATOWER_TEST_DIRECT"):
            stack.gateway = stack.serve(**settings)
            ends.callback(stack.gateway.stop)
            stack.url = stack.gateway.url
        yield stack


NO_OLLAMA = "OLLAMA_BIN is not set: no real Ollama and no Ollama CLI were tested with"


def kinds() -> list[str]:
    """The kinds of stack that this run can have."""
    if os.environ.get("LLAMATOWER_TEST_BASE"):
        return ["given"]
    if os.environ.get("LLAMATOWER_TEST_TRANSLATED"):
        return [TRANSLATED]
    return ["sim", "ollama"] if os.environ.get("OLLAMA_BIN") else ["sim"]
