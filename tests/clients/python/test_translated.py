"""Native clients where the gateway translates: what they see in place of what only an Ollama has.

The suites of the native clients say by the marker `not_translated` which of their tests need an Ollama.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import openai
import pytest
from common import ENDLESS, HI
from harness import (
    ADMIN_KEY,
    FAST,
    OTHER,
    SLOW,
    Gateway,
    LlamaCpp,
    RealOllama,
    Stack,
    eventually,
)
from harness.stack import weights
from langchain_ollama import ChatOllama
from ollama import Client, ResponseError


@pytest.fixture
def client(stack: Stack) -> Client:
    return Client(host=stack.url)


def test_list_ps_and_show_have_the_names(client: Client) -> None:
    models = {row.model: row for row in client.list().models}
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= set(models)
    row = models[f"{FAST}:latest"]
    assert row.size == 0 and row.digest == "0" * 64
    assert f"{FAST}:latest" in [row.model for row in client.ps().models]
    shown = client.show(FAST)
    assert shown.details.format == "" and shown.capabilities == ["completion", "tools"]


def test_an_empty_prompt_loads(client: Client) -> None:
    loads = client.generate(model=FAST)
    assert loads.done and loads.done_reason == "load"


def test_a_stream_without_usage_counts_its_tokens(client: Client) -> None:
    parts = list(client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 5}))
    assert (parts[-1].eval_count, parts[-1].prompt_eval_count) == (5, None)


def test_langchain_has_an_answer_without_usage(stack: Stack) -> None:
    model = ChatOllama(model=FAST, base_url=stack.url, num_predict=5)
    answer = model.invoke("the llama")
    assert answer.content and answer.usage_metadata is None
    assert "".join(chunk.content for chunk in model.stream("the llama"))


def test_a_raw_prompt_is_completed(client: Client) -> None:
    answer = client.generate(model=FAST, prompt="the", raw=True, options={"num_predict": 4})
    assert answer.response and answer.eval_count == 4


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"template": "{{ .Prompt }}"}, "template"),
        ({"context": [1, 2]}, "context"),
        ({"options": {"mirostat": 2}}, "mirostat"),
    ],
    ids=["template", "context", "mirostat"],
)
def test_what_the_dialect_cannot_say_is_refused_by_its_name(
    client: Client, asked: dict, named: str
) -> None:
    with pytest.raises(ResponseError, match=named) as raised:
        client.generate(model=FAST, prompt="the", **asked)
    assert raised.value.status_code == 400
    assert "OpenAI-compatible" in str(raised.value)


def test_unloading_and_management_are_refused_in_words(
    client: Client, gateway_with: Callable[..., Gateway]
) -> None:
    managed = Client(
        host=gateway_with(LLAMATOWER_ADMIN_KEYS=ADMIN_KEY).url,
        headers={"Authorization": f"Bearer {ADMIN_KEY}"},
    )
    for call, says in (
        (lambda: client.generate(model=FAST, keep_alive=0), "the unloading of models"),
        (lambda: managed.copy(FAST, "copied"), "/api/copy"),
        (lambda: managed.delete(FAST), "/api/delete"),
        (lambda: managed.pull("someone/anything"), "/api/pull"),
        (lambda: managed.create(model="made", from_=FAST), "/api/create"),
    ):
        with pytest.raises(ResponseError, match=f"does not offer {says}") as raised:
            call()
        assert raised.value.status_code == 501


@pytest.fixture
def interrupting(tmp_path: Path) -> Iterator[LlamaCpp]:
    """A server with its default: a new request cuts off the stream under way."""
    server = LlamaCpp("interrupting", {SLOW: weights(SLOW, 512, 8, 2)}, tmp_path, True)
    yield server
    server.stop()


def test_a_stream_that_the_server_cuts_off_is_an_error(
    interrupting: LlamaCpp, tmp_path: Path
) -> None:
    gateway = Gateway("gateway", [interrupting.url], {}, tmp_path)
    try:
        stream = Client(host=gateway.url).chat(
            model=SLOW, messages=HI, stream=True, options={"num_predict": ENDLESS}
        )
        next(stream)
        # It ends with [DONE] and without a finish_reason.
        assert interrupting.lists_models()
        with pytest.raises(ResponseError, match="without a finish_reason"):
            for _ in stream:
                pass
    finally:
        gateway.stop()


@pytest.fixture
def beside_an_ollama(tmp_path: Path, stores: Path) -> Iterator[Gateway]:
    """A real Ollama with FAST and OTHER, and llama.cpp's server with FAST and SLOW."""
    if not os.environ.get("OLLAMA_BIN"):
        pytest.skip("OLLAMA_BIN is not set, so there is no Ollama to stand beside")
    fast, pooled = weights(FAST, 64, 2, 1), weights("tiny-pooled", 64, 2, 1, "mean")
    ollama = RealOllama("ollama", {FAST: fast, OTHER: fast}, stores / "beside", tmp_path)
    llama = LlamaCpp("llama", {FAST: pooled, SLOW: weights(SLOW, 512, 8, 2)}, tmp_path)
    settings = {"LLAMATOWER_PROBE_TIMEOUT": "60s", "LLAMATOWER_ADMIN_KEYS": ADMIN_KEY}
    gateway = Gateway("gateway", [ollama.url, llama.url], settings, tmp_path)
    for server in (ollama, llama):
        name = server.url.rsplit("/", 1)[1]
        is_up = f'"the backend is up","backend":"{name}"'
        eventually(lambda text=is_up: text in gateway.process.log(), f"{name} is up", 30.0)
    yield gateway
    for process in (gateway, ollama, llama):
        process.stop()


def test_beside_an_ollama_each_request_goes_where_it_can_be_served(
    beside_an_ollama: Gateway,
) -> None:
    headers = {"Authorization": f"Bearer {ADMIN_KEY}"}
    client = Client(host=beside_an_ollama.url, headers=headers)
    v1 = openai.OpenAI(base_url=f"{beside_an_ollama.url}/v1", api_key=ADMIN_KEY, max_retries=0)
    names = {f"{FAST}:latest", f"{OTHER}:latest", f"{SLOW}:latest"}
    assert names == {row.model for row in client.list().models}
    assert [row.id for row in v1.models.list() if row.id.startswith(SLOW)] == [SLOW], "its own id"
    for model in (FAST, OTHER, SLOW):
        answer = client.chat(model=model, messages=HI, options={"num_predict": 3})
        assert (answer.model, answer.eval_count) == (model, 3)
        options = {"num_predict": 3}
        parts = list(client.generate(model=model, prompt="the", stream=True, options=options))
        assert parts[-1].done and {part.model for part in parts} == {model}
        chat = v1.chat.completions.create(model=model, messages=HI, max_tokens=3)
        assert chat.usage.completion_tokens == 3
    # What OpenAI's dialect cannot say goes to the Ollama that has the model, too.
    for _ in range(4):
        options = {"mirostat": 2, "num_predict": 2}
        assert client.generate(model=FAST, prompt="the", options=options).context
    assert client.generate(model=FAST, keep_alive=0).done_reason == "unload"
    assert client.copy(FAST, "copied").status == "success"
    assert client.delete("copied").status == "success"
    with pytest.raises(ResponseError, match="does not offer the unloading"):
        client.generate(model=SLOW, keep_alive=0)
