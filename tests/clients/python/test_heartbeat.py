"""Comments before an event stream that is late: clients skip them."""

from collections.abc import Iterator
from pathlib import Path

import anthropic
import openai
import pytest
import requests
from common import HI
from harness import FAST, Stack
from harness.stack import running

COMMENT = b": waiting for the response"


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory, stores: Path) -> Iterator[Stack]:
    """A stack with signs of life, whose backends are late."""
    folder = tmp_path_factory.mktemp("heartbeat")
    with running("sim", folder, stores, LLAMATOWER_HEARTBEAT="50ms") as own:
        if own.gateway is None:
            pytest.skip("the clients go to a backend directly, there is no gateway to test")
        for backend in own.backends:
            backend.arm(fault="silence", ms=300)
        yield own


def test_the_comments_are_there(late: Stack) -> None:
    body = {"model": FAST, "messages": HI, "max_tokens": 3, "stream": True}
    for path in ("/v1/chat/completions", "/v1/messages"):
        answer = requests.post(f"{late.url}{path}", json=body, timeout=60)
        assert answer.content.startswith(COMMENT), answer.content


def test_openai_skips_them(late: Stack) -> None:
    client = openai.OpenAI(base_url=f"{late.url}/v1", api_key="unused", max_retries=0)
    chunks = list(
        client.chat.completions.create(model=FAST, messages=HI, max_tokens=3, stream=True)
    )
    assert chunks[-1].choices[0].finish_reason == "length"
    texts = list(client.completions.create(model=FAST, prompt="the", max_tokens=3, stream=True))
    assert texts[-1].choices[0].finish_reason == "length"
    events = list(
        client.responses.create(model=FAST, input="the", max_output_tokens=3, stream=True)
    )
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")


def test_anthropic_skips_them(late: Stack) -> None:
    client = anthropic.Anthropic(base_url=late.url, api_key="unused", max_retries=0)
    events = list(client.messages.create(model=FAST, messages=HI, max_tokens=3, stream=True))
    assert (events[0].type, events[-1].type) == ("message_start", "message_stop")
