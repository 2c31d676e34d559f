"""The gateway as a process."""

import hashlib
import os
from pathlib import Path

from .backends import built
from .process import Process, free_port


class Gateway:
    """llamatower in front of `backends`, with settings given as environment variables."""

    def __init__(self, name: str, backends: list[str], settings: dict[str, str], folder: Path):
        origin = f"http://127.0.0.1:{free_port()}"
        self.origin = origin
        """Where it listens."""
        self.url = origin + settings.get("LLAMATOWER_BASE_PATH", "").rstrip("/")
        """What clients are pointed at."""
        self.admin = f"http://127.0.0.1:{free_port()}"
        """Where its own pages are, the metrics among them."""
        env = {
            "OLLAMA_URL": ",".join(backends),
            "LLAMATOWER_LISTEN": origin.removeprefix("http://"),
            "LLAMATOWER_ADMIN_LISTEN": self.admin.removeprefix("http://"),
            "LLAMATOWER_DRAIN_DELAY": "0",
            **digested(settings),
        }
        if "RUST_LOG" in os.environ:
            env["RUST_LOG"] = os.environ["RUST_LOG"]
        binary = built("LLAMATOWER_BIN", "llamatower")
        self.process = Process(name, [str(binary)], env, folder)
        self.process.start(f"{origin}/health", 200)

    def stop(self) -> None:
        self.process.stop()


def digested(settings: dict[str, str]) -> dict[str, str]:
    """The settings with digests in place of keys: the gateway is never told a key."""

    def line(number: int, key: str) -> str:
        return f"tester-{number}=sha256:{hashlib.sha256(key.encode()).hexdigest()}"

    return {
        name: ",".join(line(number, key) for number, key in enumerate(value.split(","), 1))
        if name.endswith("_KEYS")
        else value
        for name, value in settings.items()
    }
