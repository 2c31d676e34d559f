"""Images have a tag that stays, wherever one is named."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TAG = r"(?::[\w.-]+)?(?:@sha256:[0-9a-f]+)?"
PLACES = [
    # Manifests and compose files.
    r"^\s*(?:- )?image: *(\w[\w./:@-]*)",
    # Dockerfiles and what is written like one; not what an argument names, nor an earlier stage.
    r"(?:^|')FROM (?:--platform=\S+ )?(?!scratch\b)(\w[\w./:@-]*)",
    r"^ARG (?:BUILDER|RUNTIME)=(\w[\w./:@-]*)",
    # Our own and Ollama's, and those of a registry, in commands and sentences. A chart has the tag in a line of its own.
    rf"(?<![\w./-])(?<!repository: )((?:arnoldt04/backend|ollama/ollama){TAG})(?![\w/-])",
    rf"(?<![\w/@])((?:localhost|docker\.io|ghcr\.io|gcr\.io|quay\.io|registry\.k8s\.io)(?:/[a-z][\w.-]*)+{TAG})",
]


def images(text: str) -> set[str]:
    return {found for place in PLACES for found in re.findall(place, text, re.MULTILINE)}


def stays(image: str) -> bool:
    if "@sha256:" in image:
        return True
    _, colon, tag = image.rpartition(":")
    return bool(colon) and "/" not in tag and tag != "latest"


@pytest.mark.parametrize(
    ("text", "is_fine"),
    [
        ("image: a/b:1.0", True),
        ("image: a/b", False),
        ("  - image: a/b:latest", False),
        ("FROM rust:1.95-bookworm AS build", True),
        ("FROM --platform=$BUILDPLATFORM rust", False),
        ("FROM host:5000/rust", False),
        ("printf 'FROM a'", False),
        ("ARG RUNTIME=gcr.io/distroless/cc-debian12", False),
        ("docker build -t arnoldt04/backend:git-1a2b3c .", True),
        ("docker build --push -t arnoldt04/backend .", False),
        ("docker push arnoldt04/backend:latest", False),
        ("kubectl set image deployment/backend backend=arnoldt04/backend", False),
        ("as in localhost/runtime", False),
        ("quay.io/a@sha256:0123abc", True),
    ],
)
def test_it_is_seen_whether_a_tag_stays(text: str, is_fine: bool) -> None:
    assert images(text)
    assert all(map(stays, images(text))) is is_fine


def test_an_address_is_no_image() -> None:
    assert not images("http://localhost/api/chat http://user@localhost/api/chat")


def test_no_image_is_without_a_tag_that_stays() -> None:
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    found = set()
    for name in listed.stdout.splitlines():
        path = ROOT / name
        if path.is_file() and path != Path(__file__).resolve():
            found |= {(name, image) for image in images(path.read_text(errors="replace"))}
    assert {"Dockerfile", "compose.yaml", "docs/k3s.md"} <= {name for name, _ in found}
    assert not {(name, image) for name, image in found if not stays(image)}
