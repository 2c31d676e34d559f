"""A stand-in for the image of the overlay `redis`.

A machine without a registry cannot fetch Valkey's image. The overlay is to be tried as it is, with the name of
its image, its command and its user. So an image with this name is built from the redis-server of
this machine, which has the same protocol: the server as `valkey-server`, a shell, and their libraries.
It is only for the node that the test starts: on another node it would take the place of the real image.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from cluster import ROOT

OVERLAY = ROOT / "k8s" / "overlays" / "redis"


def missing() -> str | None:
    """The reason why the image cannot be built, or None."""
    server = os.environ.get("REDIS_BIN", "redis-server")
    return None if shutil.which(server) else f"{server} is not installed"


def name() -> str:
    """The name of the image in the overlay, as a node stores it."""
    (image,) = re.findall(r"^ +image: (\S+)$", (OVERLAY / "redis.yaml").read_text(), re.MULTILINE)
    return f"docker.io/{image}"


def make_root(root: Path) -> None:
    """The files of the image."""
    shutil.rmtree(root, ignore_errors=True)
    programs = {os.environ.get("REDIS_BIN", "redis-server"): "usr/bin/valkey-server", "sh": "bin/sh"}
    for program, path in programs.items():
        source = shutil.which(program)
        assert source, f"{program} is not installed"
        _copy(Path(source), root / path)
        for library in _libraries(source):
            _copy(library, root / library.relative_to("/"))


def _libraries(program: str) -> list[Path]:
    """The libraries of a program and its loader, at the paths where the loader looks for them."""
    output = subprocess.run(["ldd", program], check=True, capture_output=True, text=True).stdout
    return [Path(path) for path in re.findall(r"(/\S+) \(0x", output)]


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source.resolve(), target)
