"""The gateway as a process."""

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
        env = {
            "OLLAMA_URL": ",".join(backends),
            "LLAMATOWER_LISTEN": origin.removeprefix("http://"),
            "LLAMATOWER_ADMIN_LISTEN": f"127.0.0.1:{free_port()}",
            **settings,
        }
        if "RUST_LOG" in os.environ:
            env["RUST_LOG"] = os.environ["RUST_LOG"]
        binary = built("LLAMATOWER_BIN", "llamatower")
        self.process = Process(name, [str(binary)], env, folder)
        self.process.start(f"{origin}/health", 200)

    def stop(self) -> None:
        self.process.stop()
