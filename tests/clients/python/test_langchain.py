"""PyPI `langchain-ollama`."""

from collections.abc import Callable

import pytest
from common import ENDLESS
from harness import FAST, SLOW, Gateway, Stack
from langchain_ollama import ChatOllama, OllamaEmbeddings


@pytest.mark.not_translated("llama-cpp-python sends no usage in a stream, which LangChain always asks for")
def test_invoke_and_stream(stack: Stack) -> None:
    model = ChatOllama(model=FAST, base_url=stack.url, num_predict=5)
    answer = model.invoke("the llama")
    assert answer.content and answer.usage_metadata["output_tokens"] == 5
    chunks = list(model.stream("the llama"))
    assert "".join(chunk.content for chunk in chunks)


def test_embeddings(stack: Stack) -> None:
    vectors = OllamaEmbeddings(model=FAST, base_url=stack.url).embed_documents(["the", "a"])
    assert [len(vector) for vector in vectors] == [64, 64]


def test_a_stream_left_early_is_cancelled_at_the_backend(stack: Stack) -> None:
    watch = stack.watch("/api/chat")
    stream = ChatOllama(model=SLOW, base_url=stack.url, num_predict=ENDLESS).stream("the")
    next(stream)
    assert watch.still_under_way()
    stream.close()
    watch.wait_for_cancel()


def test_a_key_in_the_address_is_sent_as_basic(gateway_with: Callable[..., Gateway]) -> None:
    guarded = gateway_with(LLAMATOWER_API_KEYS="key-of-langchain-0123456789abcdef")
    address = guarded.url.replace("http://", "http://anyone:key-of-langchain-0123456789abcdef@")
    assert ChatOllama(model=FAST, base_url=address, num_predict=3).invoke("the").content
    with pytest.raises(Exception, match="401"):
        ChatOllama(model=FAST, base_url=guarded.url, num_predict=3).invoke("the")
