"""What the users of agents, chat pages and libraries see of the gateway."""

import json
from pathlib import Path

import pytest
from conftest import KEY, refused
from harness import Gateway, Sim
from harness.process import ask
from programs import MODEL, PROGRAMS, PROMPT, Ask

ALL = [*PROGRAMS, "Open WebUI"]
WAITING = [
    "Claude Code, token",
    "Codex",
    "opencode",
    "ollama-ai-provider-v2",
    "langchain4j, whole",
]
"""Those that wait for as long as a 429 says, or longer, and ask again."""
TELLING = ["ai-sdk-ollama", "langchain4j, stream", "Open WebUI"]
"""Those that show the gateway's words instead."""
WORDLESS = {"ollama-ai-provider-v2": "Unauthorized", "Open WebUI": "Model not found"}
"""What is said of a wrong key by those that do not show the gateway's words."""
STREAMING = [name for name in ALL if name != "langchain4j, whole"]


def every(names: list[str]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("program", names, indirect=True, ids=names)


@pytest.fixture(scope="session")
def whole(sim: Sim) -> str:
    """What the simulated Ollama answers to everything."""
    body = {"model": MODEL, "prompt": PROMPT, "stream": False}
    status, answer = ask(f"{sim.url}/api/generate", {**body, "options": {"num_predict": 40}})
    assert status == 200, answer
    return json.loads(answer)["response"].strip()


@every(ALL)
def test_an_answer_comes_whole_and_as_it_is_made(
    program: Ask, gateway: Gateway, whole: str, tmp_path: Path
) -> None:
    seen = program(gateway.url, KEY, tmp_path)
    assert seen.error is None and seen.text.strip() == whole
    assert seen.parts is None or seen.parts == 1 or seen.parts > 10, "parts, not one at the end"


@every(ALL)
def test_a_wrong_key_is_said(program: Ask, gateway: Gateway, tmp_path: Path, request) -> None:
    seen = program(gateway.url, "wrong", tmp_path)
    name = request.node.callspec.params["program"]
    assert WORDLESS.get(name, "the API key is not valid") in (seen.error or "")


@every(STREAMING)
@pytest.mark.parametrize("cut", ["boundary", "inside_line"])
def test_a_killed_stream_is_never_taken_for_a_whole_answer(
    program: Ask, gateway: Gateway, sim: Sim, whole: str, cut: str, tmp_path: Path
) -> None:
    sim.arm(fault="die", after_lines=12, cut=cut, count=4)
    seen = program(gateway.url, KEY, tmp_path)
    # Some ask again: then the user has the whole answer.
    assert seen.error or seen.text.strip() == whole


@every(WAITING)
def test_a_429_is_waited_for(program: Ask, used_up: Gateway, whole: str, tmp_path: Path) -> None:
    seen = program(used_up.url, KEY, tmp_path)
    assert seen.error is None and seen.text.strip() == whole
    assert refused(used_up), "and not served at once"


@every(TELLING)
def test_a_429_is_shown_with_the_time_to_wait(program: Ask, used_up: Gateway, tmp_path: Path) -> None:
    seen = program(used_up.url, KEY, tmp_path)
    assert "try again in" in (seen.error or "")
