"""The files for people without Kubernetes."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "llamatower.service"


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def default(variable: str) -> str:
    settings = (ROOT / "k8s" / "base" / "settings.env").read_text().splitlines()
    (line,) = [line for line in settings if line.startswith(f"#{variable}=")]
    return line.partition("=")[2]


def longest_drain() -> int:
    return sum(seconds(default(f"LLAMATOWER_DRAIN_{part}")) for part in ("DELAY", "TIMEOUT"))


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    # It looks for the program, which is not installed here.
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("/usr/local/bin/llamatower", "/bin/true"))
    done = subprocess.run(["systemd-analyze", "verify", copy], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_unit_waits_for_the_drain() -> None:
    lines = dict(line.partition("=")[::2] for line in UNIT.read_text().splitlines() if "=" in line)
    assert seconds(lines["TimeoutStopSec"]) > longest_drain()
    assert lines["DynamicUser"] == "yes"


def test_the_compose_file_runs_the_image_as_the_manifests_do() -> None:
    gateway = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["gateway"]
    assert seconds(gateway["stop_grace_period"]) > longest_drain()
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    assert gateway["ports"] == ["127.0.0.1:3000:3000"], "nobody else is let in unasked"
