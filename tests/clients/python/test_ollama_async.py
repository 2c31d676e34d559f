"""PyPI `ollama`, its asynchronous client."""

import asyncio

import httpx
import pytest
from common import ABSENT, ENDLESS, HI
from harness import FAST, SLOW, Stack
from ollama import AsyncClient, ResponseError


def test_list_chat_embed_and_show(stack: Stack) -> None:
    async def run() -> None:
        async with AsyncClient(host=stack.url) as client:
            assert f"{FAST}:latest" in [row.model for row in (await client.list()).models]
            answer = await client.chat(model=FAST, messages=HI, options={"num_predict": 3})
            assert answer.eval_count == 3
            assert len((await client.embed(model=FAST, input="the")).embeddings) == 1
            assert (await client.show(FAST)).modelinfo

    asyncio.run(run())


def test_streams_side_by_side_are_each_whole(stack: Stack) -> None:
    async def stream(client: AsyncClient, number: int) -> int:
        parts = [
            part
            async for part in await client.chat(
                model=FAST, messages=HI, stream=True, options={"num_predict": number}
            )
        ]
        assert parts[-1].done
        return parts[-1].eval_count

    async def run() -> None:
        async with AsyncClient(host=stack.url) as client:
            lengths = list(range(1, 13))
            counts = await asyncio.gather(*(stream(client, number) for number in lengths))
            assert counts == lengths

    asyncio.run(run())


def test_a_cancelled_task_cancels_at_the_backend(stack: Stack) -> None:
    watch = stack.watch("/api/chat")

    async def run() -> None:
        begun = asyncio.Event()

        async def read() -> None:
            async with AsyncClient(host=stack.url) as client:
                stream = await client.chat(
                    model=SLOW, messages=HI, stream=True, options={"num_predict": ENDLESS}
                )
                async for _ in stream:
                    begun.set()

        reader = asyncio.create_task(read())
        await asyncio.wait_for(begun.wait(), 30)
        assert watch.still_under_way()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    asyncio.run(run())
    watch.wait_for_cancel()


@pytest.mark.not_translated("llama-cpp-python computes an answer without streaming to its end")
def test_a_request_cancelled_before_its_first_byte_is_cancelled_at_the_backend(stack: Stack) -> None:
    watch = stack.watch("/api/chat")

    async def run() -> None:
        async with AsyncClient(host=stack.url, timeout=1.0) as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.chat(model=SLOW, messages=HI, options={"num_predict": ENDLESS})

    asyncio.run(run())
    watch.wait_for_cancel()


def test_a_missing_model_is_a_response_error_404(stack: Stack) -> None:
    async def run() -> None:
        async with AsyncClient(host=stack.url) as client:
            await client.chat(model=ABSENT, messages=HI)

    with pytest.raises(ResponseError) as raised:
        asyncio.run(run())
    assert raised.value.status_code == 404
