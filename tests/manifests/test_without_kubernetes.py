"""The files for people without Kubernetes."""

import re
import shutil
import subprocess
import textwrap
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


def test_the_unit_is_not_started_again_for_what_stays_wrong() -> None:
    lines = dict(line.partition("=")[::2] for line in UNIT.read_text().splitlines() if "=" in line)
    assert lines["Restart"] == "on-failure"
    assert lines["RestartPreventExitStatus"].split() == ["2", "3"], "as docs/operations.md lists them"


def test_the_drop_in_of_the_guide_for_keys_is_one(tmp_path: Path) -> None:
    if not shutil.which("systemd-analyze"):
        pytest.skip("systemd-analyze is not installed")
    guide = (ROOT / "docs/install.md").read_text()
    drop_in = re.search(r"( {4}\[Service\]\n(?: {4}.*\n)+)", guide)
    assert drop_in and "LoadCredential=" in drop_in[1]
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/local/bin/llamatower", "/bin/true"))
    folder = tmp_path / f"{UNIT.name}.d"
    folder.mkdir()
    (folder / "override.conf").write_text(textwrap.dedent(drop_in[1]))
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_compose_file_runs_the_image_as_the_manifests_do() -> None:
    gateway = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]["gateway"]
    assert seconds(gateway["stop_grace_period"]) > longest_drain()
    assert gateway["read_only"] is True
    assert gateway["cap_drop"] == ["ALL"]
    assert gateway["security_opt"] == ["no-new-privileges:true"]
    ports = ["127.0.0.1:3000:3000", "127.0.0.1:3001:3001"]
    assert gateway["ports"] == ports, "other machines are not let in unasked"
    assert gateway["environment"]["LLAMATOWER_ADMIN_LISTEN"].endswith(":3001")
