"""The command line of Ollama itself, when OLLAMA_BIN names one."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from common import ABSENT
from harness import FAST, OTHER, SLOW, Gateway, Stack

if not os.environ.get("OLLAMA_BIN"):
    pytest.skip("OLLAMA_BIN is not set, so there is no Ollama CLI", allow_module_level=True)


@pytest.fixture
def cli(stack: Stack, tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(*arguments: str, host: str | None = None) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [os.environ["OLLAMA_BIN"], *arguments],
            env={"PATH": os.environ["PATH"], "HOME": str(tmp_path), "OLLAMA_HOST": host or stack.url},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


def test_list_run_and_ps(cli) -> None:
    listed = cli("list")
    assert listed.returncode == 0 and {FAST, SLOW} <= {
        line.split(":")[0] for line in listed.stdout.splitlines()[1:]
    }
    run = cli("run", FAST, "the llama")
    assert run.returncode == 0 and run.stdout.strip()
    assert FAST in cli("ps").stdout


def test_show(cli) -> None:
    shown = cli("show", FAST)
    assert shown.returncode == 0 and "llama" in shown.stdout
    missing = cli("show", ABSENT)
    assert missing.returncode == 1 and "not found" in missing.stderr


def test_stop_unloads(cli) -> None:
    assert cli("run", FAST, "the").returncode == 0
    assert cli("stop", FAST).returncode == 0


def test_version(cli) -> None:
    assert "version is" in cli("--version").stdout


def test_a_base_path_in_ollama_host(cli, gateway_with: Callable[..., Gateway]) -> None:
    prefixed = gateway_with(LLAMATOWER_BASE_PATH="/team/llm")
    listed = cli("list", host=prefixed.url)
    assert listed.returncode == 0 and OTHER in listed.stdout


@pytest.mark.usefixtures("gateway")
def test_management_is_refused_in_words(cli) -> None:
    for command in (["rm", FAST], ["cp", FAST, "copied"], ["pull", "someone/anything"]):
        refused = cli(*command)
        assert refused.returncode == 1 and "LLAMATOWER_ADMIN_KEYS" in refused.stderr, command
    assert FAST in cli("list").stdout
