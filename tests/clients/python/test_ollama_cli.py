"""The command line of Ollama itself, when OLLAMA_BIN names one."""

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from common import ABSENT
from harness import FAST, OTHER, SLOW, Gateway, Stack
from harness.process import free_port
from harness.stack import TRANSLATED
from nginx import started

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


@pytest.mark.not_translated("an OpenAI-compatible server tells no architecture")
def test_show(cli) -> None:
    shown = cli("show", FAST)
    assert shown.returncode == 0 and "llama" in shown.stdout
    missing = cli("show", ABSENT)
    assert missing.returncode == 1 and "not found" in missing.stderr


def test_stop_unloads_or_says_that_it_cannot(cli, stack: Stack) -> None:
    assert cli("run", FAST, "the").returncode == 0
    stopped = cli("stop", FAST)
    if stack.kind == TRANSLATED:
        assert stopped.returncode == 1 and "does not offer the unloading" in stopped.stderr
    else:
        assert stopped.returncode == 0


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


def fails_at(cli, url: str) -> None:
    """Every command that asks this server ends with an error.

    Which one is not shown: the program asks `HEAD /` first, whose answer has no body.
    """
    for arguments in (["list"], ["ps"], ["run", FAST, "the llama"], ["show", FAST]):
        ended = cli(*arguments, host=url)
        assert ended.returncode != 0 and "Error" in ended.stderr, (arguments, ended)


def test_a_refusal_by_its_name_is_an_error(
    cli, gateway_with: Callable[..., Gateway], tmp_path: Path
) -> None:
    port, plain = free_port(), free_port()
    server = f"""server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass {gateway_with().origin}; proxy_set_header Host llm.example; }}
    }}"""
    process = started(tmp_path, server, plain)
    try:
        fails_at(cli, f"http://127.0.0.1:{port}")
    finally:
        process.stop()


@contextmanager
def the_only_connection(gateway: Gateway) -> Iterator[None]:
    """Holds the one connection that the gateway accepts.

    The harness asked for `/health` at the start, and its connection may not have ended yet.
    """
    address, port = gateway.origin.removeprefix("http://").split(":")
    for _ in range(100):
        with socket.create_connection((address, int(port))) as held:
            held.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
            if held.recv(64).startswith(b"HTTP/1.1 200"):
                yield
                return
    raise AssertionError("the gateway accepts no connection")


def test_one_connection_too_many_is_an_error(cli, gateway_with: Callable[..., Gateway]) -> None:
    gateway = gateway_with(LLAMATOWER_MAX_CONNECTIONS="1")
    with the_only_connection(gateway):
        fails_at(cli, gateway.url)


@pytest.mark.not_translated("the server in the test is an Ollama")
def test_an_empty_error_of_a_server_is_shown_in_words(
    cli, gateway_with: Callable[..., Gateway], stack: Stack, tmp_path: Path
) -> None:
    for status, words in (("403", "403 Forbidden"), ("502", "502 Bad Gateway"), ("503", "503 Service")):
        port, plain = free_port(), free_port()
        folder = tmp_path / status
        folder.mkdir()
        server = f"""server {{
            listen 127.0.0.1:{port};
            location / {{ proxy_pass {stack.backends[0].url}; proxy_set_header Host localhost; }}
            location /api/generate {{ error_page {status} @empty; return {status}; }}
            location @empty {{ return 200 ""; }}
        }}"""
        process = started(folder, server, plain)
        try:
            # Asked directly the program shows nothing, and ends as if all were well.
            silent = cli("run", FAST, "the llama", host=f"http://127.0.0.1:{port}")
            assert (silent.returncode, silent.stdout.strip()) == (0, ""), silent
            gateway = gateway_with(OLLAMA_URL=f"http://127.0.0.1:{port}")
            told = cli("run", FAST, "the llama", host=gateway.url)
            assert told.returncode != 0 and words in told.stderr, told
        finally:
            process.stop()
