"""A gateway under a prefix: `OLLAMA_HOST=https://gateway/prefix` is legal for clients."""

from collections.abc import Callable

import anthropic
import ollama
import openai
import pytest
import requests
from common import HI
from harness import FAST, Gateway


@pytest.fixture
def prefixed(gateway_with: Callable[..., Gateway]) -> Gateway:
    return gateway_with(LLAMATOWER_BASE_PATH="/team/llm")


def test_each_client_works_under_a_base_path(prefixed: Gateway) -> None:
    assert prefixed.url.endswith("/team/llm")
    native = ollama.Client(host=prefixed.url)
    assert native.list().models
    assert native.chat(model=FAST, messages=HI, options={"num_predict": 2}).done
    v1 = openai.OpenAI(base_url=f"{prefixed.url}/v1", api_key="unused", max_retries=0)
    assert v1.chat.completions.create(model=FAST, messages=HI, max_tokens=2).choices
    messages = anthropic.Anthropic(base_url=prefixed.url, api_key="unused", max_retries=0)
    assert messages.messages.create(model=FAST, messages=HI, max_tokens=2).content


def test_outside_of_the_base_path_there_is_nothing_but_health(prefixed: Gateway) -> None:
    assert requests.get(f"{prefixed.origin}/api/tags", timeout=60).status_code == 404
    assert requests.get(f"{prefixed.origin}/health", timeout=60).status_code == 200
