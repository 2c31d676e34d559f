"""PyPI `groq`, whose paths all begin with /openai/v1."""

import asyncio
from collections.abc import Callable, Iterator

import groq
import pytest
from common import ABSENT, ENDLESS, HI, WEATHER
from groq import AsyncGroq, Groq
from harness import CLOUD_MODEL, FAST, SLOW, Cloud, Gateway, Stack

KEY = "key-of-the-tests-0123456789abcdef"


def at(url: str, key: str = "unused") -> Groq:
    return Groq(base_url=url, api_key=key, max_retries=0)


@pytest.fixture
def client(stack: Stack, gateway: Gateway) -> Groq:
    # Plain Ollama has no path that this client asks for.
    return at(stack.url)


@pytest.fixture
def cloud(gateway_with: Callable[..., Gateway]) -> Iterator[Groq]:
    """A client of a gateway that sends what no backend has to a stand-in for Groq."""
    service = Cloud()
    yield at(gateway_with(**service.settings()).url)
    service.stop()


def test_models_are_listed_and_retrieved(client: Groq) -> None:
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= {row.id for row in client.models.list().data}
    assert client.models.retrieve(FAST).id == FAST
    assert client.models.retrieve(f"{FAST}:latest").id == f"{FAST}:latest"


def test_chat(client: Groq) -> None:
    answer = client.chat.completions.create(model=FAST, messages=HI, max_completion_tokens=5)
    assert answer.model == FAST and answer.choices[0].message.content
    answer = client.chat.completions.create(model=FAST, messages=HI, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_a_chat_stream_has_its_usage_in_the_last_chunk(client: Groq) -> None:
    chunks = list(
        client.chat.completions.create(
            model=FAST,
            messages=HI,
            max_tokens=5,
            stream=True,
            # The client has no parameter for it.
            extra_body={"stream_options": {"include_usage": True}},
        )
    )
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].usage.completion_tokens == 5


def test_tools(client: Groq) -> None:
    answer = client.chat.completions.create(
        model=FAST, messages=HI, tools=[WEATHER], tool_choice="auto", max_tokens=8
    )
    assert answer.choices[0].message.role == "assistant"


def test_embeddings(client: Groq) -> None:
    rows = client.embeddings.create(model=FAST, input=["the", "a"]).data
    assert [len(row.embedding) for row in rows] == [64, 64]


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.chat.completions.create(model=ABSENT, messages=HI),
        lambda client: client.chat.completions.create(model=ABSENT, messages=HI, stream=True),
        lambda client: client.embeddings.create(model=ABSENT, input="the"),
        lambda client: client.models.retrieve(ABSENT),
    ],
    ids=["chat", "chat stream", "embeddings", "retrieve"],
)
def test_a_missing_model_is_not_found(client: Groq, call: Callable) -> None:
    with pytest.raises(groq.NotFoundError) as raised:
        call(client)
    assert ABSENT in raised.value.body["error"]["message"]
    assert ABSENT in str(raised.value)


def test_a_path_that_the_gateway_does_not_have_is_not_found(client: Groq) -> None:
    with pytest.raises(groq.NotFoundError):
        client.batches.list()


def test_a_key_is_sent_and_a_wrong_one_is_an_authentication_error(
    gateway_with: Callable[..., Gateway],
) -> None:
    guarded = gateway_with(LLAMATOWER_API_KEYS=KEY)
    assert at(guarded.url, KEY).models.list().data
    with pytest.raises(groq.AuthenticationError, match="key"):
        at(guarded.url, "wrong").models.list()


def test_a_base_path(gateway_with: Callable[..., Gateway]) -> None:
    # With the second one, a client of Groq's needs only the host.
    for base in ("/team/llm", "/openai"):
        prefixed = gateway_with(LLAMATOWER_BASE_PATH=base)
        assert at(prefixed.url).models.list().data
    assert at(prefixed.origin).models.list().data


def test_a_stream_arrives_event_by_event_and_its_cancel_reaches_the_backend(
    client: Groq, stack: Stack
) -> None:
    watch = stack.watch("/v1/chat/completions")
    stream = client.chat.completions.create(
        model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True
    )
    for _ in range(6):
        next(stream)
    assert watch.still_under_way(), "events were held back until the backend had finished"
    stream.close()
    watch.wait_for_cancel()


def test_the_asynchronous_client(stack: Stack, gateway: Gateway) -> None:
    watch = stack.watch("/v1/chat/completions")

    async def run() -> None:
        async with AsyncGroq(base_url=stack.url, api_key="unused", max_retries=0) as client:
            answer = await client.chat.completions.create(model=FAST, messages=HI, max_tokens=3)
            assert answer.usage.completion_tokens == 3
            with pytest.raises(groq.NotFoundError):
                await client.chat.completions.create(model=ABSENT, messages=HI)
            stream = await client.chat.completions.create(
                model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(run())
    watch.wait_for_cancel()


def test_what_the_cloud_says_about_itself_comes_through(cloud: Groq) -> None:
    answer = cloud.chat.completions.create(model=CLOUD_MODEL, messages=HI)
    assert (answer.model, answer.choices[0].message.reasoning) == (CLOUD_MODEL, "Say it.")
    assert answer.x_groq.id == "req_1" and answer.usage.queue_time == 0.01
    chunks = list(cloud.chat.completions.create(model=CLOUD_MODEL, messages=HI, stream=True))
    assert {chunk.model for chunk in chunks} == {CLOUD_MODEL}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello"
    assert chunks[0].x_groq.id == "req_1"
    assert chunks[-1].x_groq.usage.completion_tokens == 5


def test_an_error_of_the_cloud_in_mid_stream_is_an_api_error(cloud: Groq) -> None:
    messages = [{"role": "user", "content": "break off"}]
    stream = cloud.chat.completions.create(model=CLOUD_MODEL, messages=messages, stream=True)
    with pytest.raises(groq.APIError, match="over capacity"):
        for _ in stream:
            pass
