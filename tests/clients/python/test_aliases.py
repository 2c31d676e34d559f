"""A name that stands for a model: each client reads the name that it asked for, in every line."""

from collections.abc import Callable, Iterator

import anthropic
import groq
import ollama
import openai
import pytest
from common import HI
from harness import FAST, Gateway, Stack
from langchain_ollama import ChatOllama

ALIAS = "gpt-4o-mini"
SPELLINGS = [ALIAS, f"{ALIAS}:latest", ALIAS.upper()]
SHORT = {"num_predict": 4}


@pytest.fixture(scope="module")
def aliased(stack: Stack) -> Iterator[Gateway]:
    if stack.gateway is None:
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
    gateway = stack.serve(LLAMATOWER_ALIASES=f"{ALIAS}={FAST}", LLAMATOWER_LIST_ALIASES="true")
    yield gateway
    gateway.stop()


@pytest.fixture
def client(aliased: Gateway) -> ollama.Client:
    return ollama.Client(host=aliased.url)


@pytest.fixture
def v1(aliased: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{aliased.url}/v1", api_key="unused", max_retries=0)


@pytest.mark.parametrize("name", SPELLINGS)
def test_native_answers_and_each_line_of_streams_have_the_alias(
    client: ollama.Client, name: str
) -> None:
    chat, generate = client.chat, client.generate
    assert chat(model=name, messages=HI, options=SHORT).model == name
    assert generate(model=name, prompt="the", options=SHORT).model == name
    assert client.embed(model=name, input=["the", "a"]).model == name
    for parts in (
        list(chat(model=name, messages=HI, stream=True, options=SHORT)),
        list(generate(model=name, prompt="the", stream=True, options=SHORT)),
    ):
        assert len(parts) > 1 and parts[-1].done and parts[-1].eval_count == 4
        assert {part.model for part in parts} == {name}


def test_an_alias_is_listed_and_shown(client: ollama.Client, v1: openai.OpenAI) -> None:
    assert f"{ALIAS}:latest" in [row.model for row in client.list().models]
    assert "completion" in client.show(ALIAS).capabilities
    assert v1.models.retrieve(ALIAS).id == ALIAS


@pytest.mark.parametrize("name", SPELLINGS)
def test_openai_s_answers_and_each_chunk_have_the_alias(v1: openai.OpenAI, name: str) -> None:
    chat, completions = v1.chat.completions, v1.completions
    raw = chat.with_raw_response.create(model=name, messages=HI, max_tokens=4)
    assert raw.parse().model == name
    assert raw.headers["x-llamatower-model"].split(":")[0] == FAST
    assert completions.create(model=name, prompt="the", max_tokens=4).model == name
    assert v1.embeddings.create(model=name, input="the").model == name
    for chunks in (
        list(chat.create(model=name, messages=HI, max_tokens=4, stream=True)),
        list(completions.create(model=name, prompt="the", max_tokens=4, stream=True)),
    ):
        assert len(chunks) > 1 and chunks[-1].choices[0].finish_reason == "length"
        assert {chunk.model for chunk in chunks} == {name}


@pytest.mark.not_translated("llama-cpp-python has neither /v1/responses nor /v1/messages")
def test_events_that_name_the_model_have_the_alias(v1: openai.OpenAI, aliased: Gateway) -> None:
    ask = {"model": ALIAS, "input": "the", "max_output_tokens": 4}
    assert v1.responses.create(**ask).model == ALIAS
    events = list(v1.responses.create(**ask, stream=True))
    assert events[0].response.model == events[-1].response.model == ALIAS
    messages = anthropic.Anthropic(base_url=aliased.url, api_key="unused", max_retries=0).messages
    ask = {"model": ALIAS, "messages": HI, "max_tokens": 4}
    assert messages.create(**ask).model == ALIAS
    events = list(messages.create(**ask, stream=True))
    assert events[0].message.model == ALIAS and events[-1].type == "message_stop"


def test_groq_and_langchain(aliased: Gateway) -> None:
    client = groq.Groq(base_url=aliased.url, api_key="unused", max_retries=0)
    ask = {"model": ALIAS, "messages": HI, "max_tokens": 4}
    assert client.chat.completions.create(**ask).model == ALIAS
    chunks = list(client.chat.completions.create(**ask, stream=True))
    assert {chunk.model for chunk in chunks} == {ALIAS}
    answer = ChatOllama(model=ALIAS, base_url=aliased.url, num_predict=4).invoke("the llama")
    assert answer.response_metadata["model"] == ALIAS


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda url: ollama.Client(host=url).generate(model=ALIAS, prompt="the"), ollama.ResponseError),
        (
            lambda url: openai.OpenAI(
                base_url=f"{url}/v1", api_key="unused", max_retries=0
            ).chat.completions.create(model=ALIAS, messages=HI),
            openai.NotFoundError,
        ),
    ],
    ids=["ollama", "openai"],
)
def test_an_alias_of_missing_models_is_not_found_with_all_names(
    gateway_with: Callable[..., Gateway], call: Callable, error: type[Exception]
) -> None:
    gateway = gateway_with(LLAMATOWER_ALIASES=f"{ALIAS}=absent-one|absent-two")
    with pytest.raises(error) as raised:
        call(gateway.url)
    assert raised.value.status_code == 404
    assert all(name in str(raised.value) for name in (ALIAS, "absent-one", "absent-two"))
