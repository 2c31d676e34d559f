"""Builds the images for the node with the guide's commands."""

import re
import subprocess
from pathlib import Path

import redis_image
from cluster import ROOT, documented

WORK = ROOT / ".check" / "image"
STORE = ["buildah", "--root", str(WORK / "store"), "--runroot", str(WORK / "run"), "--storage-driver", "vfs"]
SIMULATED = "localhost/llamatower-sim:1.0.0"
REDIS = "localhost/redis-stand-in:1"
BUILT = "localhost/llamatower:test"
VERSIONS = ("0.9.0", "1.0.0", "1.0.1")


def build(is_given: bool) -> list[Path]:
    """The gateway's image with the tags of three versions, and the images of what it needs.

    A given node fetches the image of Redis itself.
    """
    subprocess.run([ROOT / "tests" / "full" / "image"], check=True)
    _build_simulated()
    archives = [_archive(BUILT, f"docker.io/{_repository()}:{version}") for version in VERSIONS]
    archives.append(_archive(SIMULATED, SIMULATED))
    if not is_given and not redis_image.missing():
        _build_redis()
        archives.append(_archive(REDIS, redis_image.name()))
    return archives


def _repository() -> str:
    """The repository of the image in the guide's command."""
    (command,) = [line for line in documented() if re.fullmatch(r"docker build -t \S+ \.", line)]
    name, _, version = command.split()[3].rpartition(":")
    assert version in VERSIONS, command
    return name


def _build_simulated() -> None:
    subprocess.run(["cargo", "build", "--quiet", "--workspace", "--all-features", "--locked", "--bin", "llamatower-sim"], cwd=ROOT, check=True)
    folder = WORK / "sim"
    folder.mkdir(exist_ok=True)
    program = ROOT / "target" / "debug" / "llamatower-sim"
    subprocess.run(["strip", "-o", folder / "llamatower-sim", program], check=True)
    recipe = 'FROM localhost/runtime:1\nCOPY llamatower-sim /usr/bin/llamatower-sim\nENTRYPOINT ["/usr/bin/llamatower-sim"]\n'
    _bud(SIMULATED, recipe, folder)


def _build_redis() -> None:
    folder = WORK / "redis"
    redis_image.make_root(folder)
    _bud(REDIS, "FROM scratch\nCOPY . /\nENV PATH=/usr/bin:/bin\n", folder)


def _bud(image: str, recipe: str, folder: Path) -> None:
    subprocess.run(
        [*STORE, "bud", "--isolation", "chroot", "-q", "-t", image, "-f", "-", str(folder)],
        input=recipe, text=True, check=True, stdout=subprocess.DEVNULL,
    )


def _archive(image: str, name: str) -> Path:
    archive = WORK / f"{name.replace('/', '-').replace(':', '-')}.tar"
    archive.unlink(missing_ok=True)
    subprocess.run([*STORE, "push", "-q", image, f"docker-archive:{archive}:{name}"], check=True)
    return archive
