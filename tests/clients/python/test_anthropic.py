"""PyPI `anthropic`, against /v1/messages."""

import asyncio

import anthropic
import pytest
from anthropic import Anthropic, AsyncAnthropic
from common import ABSENT, ENDLESS, HI
from harness import FAST, SLOW, Stack


@pytest.fixture
def client(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.url, api_key="unused", max_retries=0)


def test_a_message(client: Anthropic) -> None:
    answer = client.messages.create(model=FAST, messages=HI, max_tokens=5)
    assert answer.type == "message" and answer.role == "assistant"
    assert answer.content[0].text and answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens == 5


def test_a_stream_of_events_from_start_to_stop(client: Anthropic) -> None:
    events = list(client.messages.create(model=FAST, messages=HI, max_tokens=5, stream=True))
    types = [event.type for event in events]
    assert types[0] == "message_start" and types[-2:] == ["message_delta", "message_stop"]
    assert "content_block_delta" in types


def test_the_stream_helper_gathers_the_message(client: Anthropic) -> None:
    with client.messages.stream(model=FAST, messages=HI, max_tokens=5) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert text and message.content[0].text == text
    assert message.usage.output_tokens == 5


def test_a_system_prompt_and_tools(client: Anthropic) -> None:
    tool = {"name": "get_weather", "input_schema": {"type": "object", "properties": {}}}
    answer = client.messages.create(
        model=FAST, messages=HI, max_tokens=5, system="a gate", tools=[tool]
    )
    assert answer.stop_reason in ("max_tokens", "tool_use")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_missing_model_is_not_found(client: Anthropic, stream: bool) -> None:
    with pytest.raises(anthropic.NotFoundError) as raised:
        client.messages.create(model=ABSENT, messages=HI, max_tokens=5, stream=stream)
    assert raised.value.body["error"]["type"] == "not_found_error"


def test_no_tokens_allowed_is_a_bad_request(client: Anthropic) -> None:
    with pytest.raises(anthropic.BadRequestError) as raised:
        client.messages.create(model=FAST, messages=HI, max_tokens=0)
    assert raised.value.body["type"] == "error"
    assert raised.value.body["error"]["type"] == "invalid_request_error"


def test_a_stream_arrives_event_by_event_and_its_cancel_reaches_the_backend(
    client: Anthropic, stack: Stack
) -> None:
    watch = stack.watch("/v1/messages")
    stream = client.messages.create(model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True)
    deltas = (event for event in stream if event.type == "content_block_delta")
    for _ in range(3):
        next(deltas)
    assert watch.still_under_way(), "events were held back until the backend had finished"
    stream.close()
    watch.wait_for_cancel()


def test_the_asynchronous_client(stack: Stack) -> None:
    watch = stack.watch("/v1/messages")

    async def run() -> None:
        async with AsyncAnthropic(base_url=stack.url, api_key="unused", max_retries=0) as client:
            answer = await client.messages.create(model=FAST, messages=HI, max_tokens=3)
            assert answer.usage.output_tokens == 3
            stream = await client.messages.create(
                model=SLOW, messages=HI, max_tokens=ENDLESS, stream=True
            )
            async for _ in stream:
                break
            await stream.close()

    asyncio.run(run())
    watch.wait_for_cancel()
