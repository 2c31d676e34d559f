"""The Kubernetes programs, built once from their Go modules and cached for all clones."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

KUBERNETES = "v1.33.13"
COREDNS = "v1.12.4"
COMPONENTS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kube-proxy")
PAUSE_IMAGE = "localhost/pause:1"

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llamatower" / "kubernetes"
BIN = CACHE / f"bin-{KUBERNETES}"
PAUSE_ARCHIVE = BIN / "pause.tar"
HERE = Path(__file__).resolve().parent


class NotBuilt(Exception):
    """For example, without a Go module proxy."""


def missing() -> str | None:
    """The reason why the programs cannot be built here, or None."""
    if _are_built() or shutil.which("go"):
        return None
    return f"go is not installed; it is needed to build Kubernetes {KUBERNETES}"


def build() -> None:
    if _are_built():
        return
    BIN.mkdir(parents=True, exist_ok=True)
    print(f"building Kubernetes {KUBERNETES} into {BIN}, which takes some ten minutes", flush=True)
    _write_module(CACHE / "module")
    for name in COMPONENTS:
        if not _is(name, KUBERNETES):
            _build_component(name, CACHE / "module")
    if not _is("coredns", COREDNS):
        _run(["go", "install", f"github.com/coredns/coredns@{COREDNS}"], GOBIN=str(BIN))
    if not PAUSE_ARCHIVE.exists():
        _build_pause()


def _are_built() -> bool:
    wanted = dict.fromkeys(COMPONENTS, KUBERNETES) | {"coredns": COREDNS}
    return PAUSE_ARCHIVE.exists() and all(_is(name, version) for name, version in wanted.items())


def _is(name: str, version: str) -> bool:
    program, option = BIN / name, "-version" if name == "coredns" else "--version"
    if not program.exists():
        return False
    output = subprocess.run([program, option], capture_output=True, text=True).stdout
    return version.removeprefix("v") in output


def _write_module(folder: Path) -> None:
    """A Go module that requires Kubernetes, with the matching versions of its parts."""
    output = _run(["go", "mod", "download", "-json", f"k8s.io/kubernetes@{KUBERNETES}"], folder)
    go_mod = Path(json.loads(output)["GoMod"]).read_text()
    (language,) = re.findall(r"^go (\S+)$", go_mod, re.MULTILINE)
    parts = re.findall(r"(k8s\.io/\S+) => \./staging/", go_mod)
    version = KUBERNETES.replace("v1.", "v0.", 1)
    lines = ["module node", f"go {language}", f"require k8s.io/kubernetes {KUBERNETES}"]
    lines += [f"replace {part} => {part} {version}" for part in parts]
    (folder / "go.mod").write_text("\n".join(lines) + "\n")


def _build_component(name: str, folder: Path) -> None:
    package = "k8s.io/component-base/version"
    major, minor, _ = KUBERNETES.removeprefix("v").split(".")
    versions = {"gitVersion": KUBERNETES, "gitMajor": major, "gitMinor": minor}
    flags = ["-s", "-w", *(f"-X {package}.{key}={value}" for key, value in versions.items())]
    target = f"k8s.io/kubernetes/cmd/{name}"
    _run(["go", "build", "-mod=mod", "-trimpath", "-ldflags", " ".join(flags), "-o", BIN / name, target], folder)


def _build_pause() -> None:
    """The pause image, whose process keeps a pod's network open."""
    store = ["buildah", "--root", CACHE / "store", "--runroot", CACHE / "store-run", "--storage-driver", "vfs"]
    _run(["go", "build", "-ldflags", "-s -w", "-o", CACHE / "pause" / "pause", HERE / "pause.go"], CACHE / "pause", CGO_ENABLED="0")
    recipe = CACHE / "pause" / "Dockerfile"
    recipe.write_text('FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n')
    _run([*store, "bud", "--isolation", "chroot", "-t", PAUSE_IMAGE, CACHE / "pause"])
    _run([*store, "push", PAUSE_IMAGE, f"docker-archive:{PAUSE_ARCHIVE}:{PAUSE_IMAGE}"])


def _run(command: list, folder: Path = CACHE, **environment: str) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True
    )
    if done.returncode != 0:
        raise NotBuilt(f"{' '.join(map(str, command))}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout
