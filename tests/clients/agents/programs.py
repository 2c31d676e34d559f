"""The programs under test: how each is pointed at the gateway, asked once, and what its user then sees."""

import json
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from harness.backends import REPOSITORY

INSTALLED = REPOSITORY / ".check" / "agents"
"""Where `tests/full/agents` installs them."""

MODEL = "tiny"
PROMPT = "the llama"
LIMIT = 90.0
"""Seconds that one run of a program may take."""


@dataclass
class Seen:
    """What the user of a program sees of one answer."""

    text: str
    """The answer, as far as it was shown."""
    parts: int | None = None
    """In how many parts it came; None where the program shows only the whole."""
    error: str | None = None
    """What the program says of a failure; None where it takes the answer for a whole one."""


Ask = Callable[[str, str, Path], Seen]
"""Ask the gateway at a URL once, with a key, in an empty folder."""


def needs(path: str, what: str) -> Path:
    """A file that the installation has made, or a skipped test."""
    if not (INSTALLED / path).exists():
        pytest.skip(f"{what} is not installed; tests/full/agents installs it, or says why it could not")
    return INSTALLED / path


def run(command: list[str | Path], env: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run it to its end with nothing of the developer's own environment, and no one to ask."""
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(folder),
        "NO_PROXY": "127.0.0.1",
        "DO_NOT_TRACK": "1",
        **env,
    }
    return subprocess.run(
        command, env=env, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=LIMIT
    )


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def claude_code(variable: str) -> Ask:
    """With its key in this variable: a token is sent as a bearer token, a key as `x-api-key`."""

    def ask(url: str, key: str, folder: Path) -> Seen:
        program = needs("node_modules/.bin/claude", "Claude Code")
        env = {
            "ANTHROPIC_BASE_URL": url,
            variable: key,
            "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
            "CLAUDE_CODE_MAX_RETRIES": "2",  # the default of 10 takes minutes
            "DISABLE_AUTOUPDATER": "1",
        }
        form = ["--output-format", "stream-json", "--verbose", "--include-partial-messages"]
        ended = run([program, "-p", "--model", MODEL, *form, PROMPT], env, folder)
        lines = json_lines(ended.stdout)
        result = next(line for line in lines if line["type"] == "result")
        deltas = [line for line in lines if line.get("event", {}).get("type") == "content_block_delta"]
        text = result.get("result", "")
        return Seen("", len(deltas), text) if result["is_error"] else Seen(text, len(deltas))

    return ask


def codex(url: str, key: str, folder: Path) -> Seen:
    program = needs("node_modules/.bin/codex", "Codex")
    (folder / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "gateway"\n'
        "check_for_update_on_startup = false\n[analytics]\nenabled = false\n"
        f'[model_providers.gateway]\nname = "gateway"\nbase_url = "{url}/v1"\n'
        'wire_api = "responses"\nenv_key = "LLAMATOWER_KEY"\n'
    )
    command = [program, "exec", "--skip-git-repo-check", "--sandbox", "read-only", "--json", PROMPT]
    ended = run(command, {"CODEX_HOME": str(folder), "LLAMATOWER_KEY": key}, folder)
    lines = json_lines(ended.stdout)
    failed = [line["error"]["message"] for line in lines if line["type"] == "turn.failed"]
    items = [line["item"] for line in lines if line["type"] == "item.completed"]
    text = "".join(item["text"] for item in items if item["type"] == "agent_message")
    return Seen(text, None, failed[0] if failed else None)


def opencode(url: str, key: str, folder: Path) -> Seen:
    program = needs("node_modules/.bin/opencode", "opencode")
    config = {
        "model": f"gateway/{MODEL}",
        "small_model": f"gateway/{MODEL}",
        "enabled_providers": ["gateway"],
        "autoupdate": False,
        "share": "disabled",
        "provider": {
            "gateway": {
                "npm": "@ai-sdk/openai-compatible",
                "options": {"baseURL": f"{url}/v1", "apiKey": key},
                "models": {MODEL: {"limit": {"context": 32768, "output": 4096}}},
            }
        },
    }
    env = {"OPENCODE_CONFIG_CONTENT": json.dumps(config)}
    env |= {f"OPENCODE_DISABLE_{name}": "1" for name in ("AUTOUPDATE", "MODELS_FETCH", "DEFAULT_PLUGINS")}
    ended = run([program, "run", "--format", "json", PROMPT], env, folder)
    lines = json_lines(ended.stdout)
    errors = [line["error"]["data"]["message"] for line in lines if line["type"] == "error"]
    text = "".join(line["part"]["text"] for line in lines if line["type"] == "text")
    return Seen(text, None, errors[0] if errors else None)


def printed(ended: subprocess.CompletedProcess[str]) -> Seen:
    """What ai-sdk.mjs and Langchain4j.java print: PART lines, then DONE, or ERROR and the reason."""
    lines = ended.stdout.splitlines()
    parts = [line.removeprefix("PART ") for line in lines if line.startswith("PART ")]
    errors = [line.removeprefix("ERROR ") for line in lines if line.startswith("ERROR ")]
    assert errors or "DONE" in lines, ended.stdout + ended.stderr
    return Seen("".join(parts), len(parts), errors[0] if errors else None)


def ai_sdk(provider: str) -> Ask:
    def ask(url: str, key: str, folder: Path) -> Seen:
        needs(f"node_modules/{provider}", provider)
        program = needs("ai-sdk.mjs", provider)
        return printed(run(["node", program, provider], {"URL": url, "KEY": key}, folder))

    return ask


def langchain4j(mode: str) -> Ask:
    def ask(url: str, key: str, folder: Path) -> Seen:
        classes = needs("langchain4j/Langchain4j.class", "langchain4j").parent
        path = f"{classes}:{classes}/*"
        java = ["java", "-XX:TieredStopAtLevel=1", "-cp", path, "Langchain4j", mode]
        return printed(run(java, {"URL": url, "KEY": key}, folder))

    return ask


PROGRAMS: dict[str, Ask] = {
    "Claude Code, token": claude_code("ANTHROPIC_AUTH_TOKEN"),
    "Claude Code, key": claude_code("ANTHROPIC_API_KEY"),
    "Codex": codex,
    "opencode": opencode,
    "ollama-ai-provider-v2": ai_sdk("ollama-ai-provider-v2"),
    "ai-sdk-ollama": ai_sdk("ai-sdk-ollama"),
    "langchain4j, stream": langchain4j("stream"),
    "langchain4j, whole": langchain4j("chat"),
}
