"""PyPI `openai`, against the /v1 routes."""

import asyncio

import openai
import pytest
import requests
from common import ABSENT, ENDLESS, HI, WEATHER
from harness import FAST, SLOW, Stack
from openai import AsyncOpenAI, OpenAI


@pytest.fixture
def client(stack: Stack) -> OpenAI:
    return OpenAI(base_url=f"{stack.url}/v1", api_key="unused", max_retries=0)


def test_models_are_listed_and_retrieved(client: OpenAI) -> None:
    rows = {row.id: row for row in client.models.list()}
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= set(rows)
    assert rows[f"{FAST}:latest"].object == "model" and rows[f"{FAST}:latest"].owned_by
    assert client.models.retrieve(FAST).id == FAST


def test_a_model_is_retrieved_by_its_name_with_a_tag_which_clients_encode(
    client: OpenAI, stack: Stack
) -> None:
    assert client.models.retrieve(f"{FAST}:latest").id == f"{FAST}:latest"
    encoded = requests.get(f"{stack.url}/v1/models/{FAST}%3Alatest", timeout=10)
    assert encoded.json()["id"] == f"{FAST}:latest"


def test_chat(client: OpenAI) -> None:
    answer = client.chat.completions.create(model=FAST, messages=HI, max_tokens=5)
    assert answer.object == "chat.completion" and answer.model == FAST
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5


def test_a_chat_stream_ends_with_a_reason(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(model=FAST, messages=HI, max_tokens=5, stream=True)
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].choices[0].finish_reason == "length"
    assert all(chunk.usage is None for chunk in chunks)


def test_a_chat_stream_has_its_usage_when_asked(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model=FAST,
            messages=HI,
            max_tokens=5,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 5


def test_tools(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model=FAST, messages=HI, tools=[WEATHER], tool_choice="auto", max_tokens=8
    )
    assert answer.choices[0].message.role == "assistant"


def test_completions_whole_and_streamed(client: OpenAI) -> None:
    answer = client.completions.create(model=FAST, prompt="the llama", max_tokens=4)
    assert answer.choices[0].text and answer.usage.completion_tokens == 4
    chunks = list(client.completions.create(model=FAST, prompt="the", max_tokens=4, stream=True))
    assert chunks[-1].choices[0].finish_reason == "length"


def test_embeddings_as_numbers_and_as_base64(client: OpenAI) -> None:
    numbers = client.embeddings.create(model=FAST, input=["the", "a"], encoding_format="float")
    assert len(numbers.data) == 2 and len(numbers.data[0].embedding) == 64
    # Without a format the client asks for base64 and decodes it.
    decoded = client.embeddings.create(model=FAST, input=["the", "a"])
    assert decoded.data[0].embedding == pytest.approx(numbers.data[0].embedding, abs=1e-3)


def test_responses(client: OpenAI) -> None:
    answer = client.responses.create(model=FAST, input="the llama", max_output_tokens=5)
    assert answer.status in ("completed", "incomplete") and answer.output_text


def test_a_responses_stream_ends_in_its_terminal_event(client: OpenAI) -> None:
    events = list(
        client.responses.create(model=FAST, input="the", max_output_tokens=5, stream=True)
    )
    assert events[0].type == "response.created"
    assert events[-1].type in ("response.completed", "response.incomplete")
    numbers = [event.sequence_number for event in events]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.chat.completions.create(model=ABSENT, messages=HI),
        lambda client: list(
            client.chat.completions.create(model=ABSENT, messages=HI, stream=True)
        ),
        lambda client: client.completions.create(model=ABSENT, prompt="the"),
        lambda client: client.embeddings.create(model=ABSENT, input="the"),
        lambda client: client.responses.create(model=ABSENT, input="the"),
        lambda client: client.models.retrieve(ABSENT),
    ],
    ids=["chat", "chat stream", "completions", "embeddings", "responses", "retrieve"],
)
def test_a_missing_model_is_not_found(client: OpenAI, call) -> None:
    with pytest.raises(openai.NotFoundError) as raised:
        call(client)
    assert ABSENT in raised.value.body["message"]


def test_a_bad_request_is_a_bad_request_error(client: OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as raised:
        client.chat.completions.create(model=FAST, messages=[])
    assert raised.value.body["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("path", "open_stream"),
    [
        (
            "/v1/chat/completions",
            lambda client: client.chat.completions.create(
                model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True
            ),
        ),
        (
            "/v1/responses",
            lambda client: client.responses.create(
                model=SLOW, input="the", max_output_tokens=ENDLESS, stream=True
            ),
        ),
    ],
    ids=["chat", "responses"],
)
def test_a_stream_arrives_event_by_event_and_its_cancel_reaches_the_backend(
    client: OpenAI, stack: Stack, path: str, open_stream
) -> None:
    watch = stack.watch(path)
    stream = open_stream(client)
    for _ in range(6):
        next(stream)
    assert watch.still_under_way(), "events were held back until the backend had finished"
    stream.close()
    watch.wait_for_cancel()


def test_a_request_that_times_out_is_cancelled_at_the_backend(client: OpenAI, stack: Stack) -> None:
    watch = stack.watch("/v1/chat/completions")
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=1.0).chat.completions.create(
            model=SLOW, messages=HI, max_tokens=ENDLESS
        )
    watch.wait_for_cancel()


def test_the_asynchronous_client(stack: Stack) -> None:
    watch = stack.watch("/v1/chat/completions")

    async def run() -> None:
        async with AsyncOpenAI(
            base_url=f"{stack.url}/v1", api_key="unused", max_retries=0
        ) as client:
            answer = await client.chat.completions.create(model=FAST, messages=HI, max_tokens=3)
            assert answer.usage.completion_tokens == 3
            with pytest.raises(openai.NotFoundError):
                await client.chat.completions.create(model=ABSENT, messages=HI)
            stream = await client.chat.completions.create(
                model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(run())
    watch.wait_for_cancel()
