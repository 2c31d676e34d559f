"""With the fleet's servers stopped, clients go on with the cloud service if the policy says so."""

import json
from collections.abc import Iterator
from pathlib import Path

import ollama
import openai
import pytest
from common import HI
from harness import FAST, Cloud, Stack
from harness.process import ask
from harness.stack import running


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    with running("sim", tmp_path, tmp_path) as stack:
        yield stack


@pytest.fixture
def service() -> Iterator[Cloud]:
    service = Cloud()
    yield service
    service.stop()


def test_an_unchanged_client_is_served_by_the_cloud_while_the_fleet_is_down(
    stack: Stack, service: Cloud
) -> None:
    settings = {
        **service.settings(),
        "LLAMATOWER_CLOUD_WHEN": "down",
        "LLAMATOWER_CLOUD_MODELS": f"{FAST}=openai/gpt-oss-20b",
    }
    with_policy, without = stack.serve(**settings), stack.serve()
    try:
        for gateway in (with_policy, without):
            assert ollama.Client(gateway.url).chat(FAST, HI).message.content
        for backend in stack.backends:
            backend.kill()
        parts = list(ollama.Client(with_policy.url).chat(FAST, HI, stream=True))
        assert parts[-1].done and "".join(part.message.content for part in parts)
        assert {part.model for part in parts} == {FAST}
        editor = openai.OpenAI(base_url=f"{with_policy.url}/v1", api_key="none", max_retries=0)
        raw = editor.chat.completions.with_raw_response.create(model=FAST, messages=HI)
        assert raw.headers["x-llamatower-backend"] == "cloud"
        assert raw.parse().choices[0].message.content
        cloud = json.loads(ask(f"{with_policy.admin}/status")[1])["cloud"]
        assert cloud["is_on"] and cloud["tokens_today"] > 0
        metrics = ask(f"{with_policy.admin}/metrics")[1].decode()
        answered = [line for line in metrics.splitlines() if 'result="answered"' in line and 'reason="down"' in line]
        assert [float(line.split()[-1]) for line in answered] == [2.0], answered
        with pytest.raises((ollama.ResponseError, ConnectionError)) as refused:
            list(ollama.Client(without.url).chat(FAST, HI, stream=True))
        assert "cloud" not in str(refused.value)
    finally:
        with_policy.stop()
        without.stop()
