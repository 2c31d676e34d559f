"""Backends that die, refuse or fall silent: what each client makes of it."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import groq
import httpx
import httpx2
import ollama
import openai
import pytest
import requests
from common import ENDLESS, HI
from harness import FAST, SLOW, Gateway, Stack, eventually
from harness.process import free_port
from harness.stack import running


def native(url: str) -> ollama.Client:
    return ollama.Client(host=url)


def v1(url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0)


def messages(url: str) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, api_key="unused", max_retries=0)


def raw_lines(url: str) -> Iterator[bytes]:
    body = {"model": SLOW, "messages": HI, "options": {"num_predict": ENDLESS}}
    with requests.post(f"{url}/api/chat", json=body, stream=True, timeout=60) as answer:
        for line in answer.iter_lines(chunk_size=None):
            if b'"error"' in line:
                raise ollama.ResponseError(line.decode())
            yield line


# Each way to stream, and the error that its client has for a stream that broke.
STREAMS: dict[str, tuple[Callable[[str], Iterator], type[Exception]]] = {
    "ollama chat": (
        lambda url: native(url).chat(
            model=SLOW, messages=HI, stream=True, options={"num_predict": ENDLESS}
        ),
        ollama.ResponseError,
    ),
    "ollama generate": (
        lambda url: native(url).generate(
            model=SLOW, prompt="the", stream=True, options={"num_predict": ENDLESS}
        ),
        ollama.ResponseError,
    ),
    "openai chat": (
        lambda url: v1(url).chat.completions.create(
            model=SLOW, messages=HI, stream=True, max_tokens=ENDLESS
        ),
        openai.APIError,
    ),
    "openai completions": (
        lambda url: v1(url).completions.create(
            model=SLOW, prompt="the", stream=True, max_tokens=ENDLESS
        ),
        openai.APIError,
    ),
    "groq": (
        lambda url: groq.Groq(
            base_url=url, api_key="unused", max_retries=0
        ).chat.completions.create(model=SLOW, messages=HI, stream=True, max_tokens=ENDLESS),
        groq.APIError,
    ),
    "anthropic": (
        lambda url: messages(url).messages.create(
            model=SLOW, messages=HI, stream=True, max_tokens=ENDLESS
        ),
        anthropic.APIStatusError,
    ),
    "requests": (raw_lines, ollama.ResponseError),
}
CONNECTION_ERRORS = (
    anthropic.APIConnectionError,
    groq.APIConnectionError,
    httpx.RemoteProtocolError,
    httpx2.RemoteProtocolError,
    openai.APIConnectionError,
    requests.exceptions.ChunkedEncodingError,
)
each_stream = pytest.mark.parametrize(
    ("open_stream", "error"), STREAMS.values(), ids=STREAMS.keys()
)


def responses_stream(url: str) -> Iterator:
    return v1(url).responses.create(
        model=SLOW, input="the", stream=True, max_output_tokens=ENDLESS
    )


@each_stream
def test_a_backend_killed_in_mid_stream_is_the_client_s_own_error(
    own_stack: Stack, open_stream: Callable[[str], Iterator], error: type[Exception]
) -> None:
    stream = iter(open_stream(own_stack.url))
    for _ in range(3):
        next(stream)
    own_stack.kill_holder(SLOW)
    with pytest.raises(error) as raised:
        for _ in stream:
            pass
    assert not isinstance(raised.value, CONNECTION_ERRORS), "an error frame, not a broken connection"
    # What follows is served by the backend that is left.
    assert native(own_stack.url).generate(model=SLOW, prompt="the", options={"num_predict": 2}).done


def test_a_responses_stream_of_a_killed_backend_fails_as_the_response_it_was(
    own_stack: Stack,
) -> None:
    stream = responses_stream(own_stack.url)
    events = [next(stream) for _ in range(6)]
    own_stack.kill_holder(SLOW)
    events += stream
    failed = events[-1]
    assert failed.type == "response.failed"
    assert failed.sequence_number == events[-2].sequence_number + 1
    began, failure = events[0].response, failed.response
    assert (failure.id, failure.model) == (began.id, began.model)
    assert failure.status == "failed" and failure.error.code == "server_error"
    assert "backend" in failure.error.message


def test_who_skips_the_error_line_of_a_killed_backend_sees_an_unclean_end(own_stack: Stack) -> None:
    body = {"model": SLOW, "messages": HI, "options": {"num_predict": ENDLESS}}
    with requests.post(f"{own_stack.url}/api/chat", json=body, stream=True, timeout=60) as answer:
        lines = answer.iter_lines(chunk_size=None)
        next(lines)
        own_stack.kill_holder(SLOW)
        last = b""
        with pytest.raises(requests.exceptions.ChunkedEncodingError):
            for line in lines:
                last = line
        assert json.loads(last)["error"]


def test_a_silent_request_of_a_killed_backend_is_answered_by_another(own_stack: Stack) -> None:
    client = native(own_stack.url)
    with ThreadPoolExecutor(1) as pool:
        options = {"num_predict": 100}
        answer = pool.submit(client.generate, model=SLOW, prompt="the", options=options)
        own_stack.kill_holder(SLOW)
        assert answer.result(60).eval_count == 100


def test_with_a_backend_gone_the_rest_is_listed_and_served(own_stack: Stack) -> None:
    own_stack.backends[1].kill()
    client = native(own_stack.url)
    names = [row.model for row in client.list().models]
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= set(names)
    for _ in range(4):
        assert client.generate(model=SLOW, prompt="the", options={"num_predict": 1}).done


def test_sigterm_lets_a_stream_under_way_end_well(own_stack: Stack) -> None:
    stream = native(own_stack.url).generate(
        model=SLOW, prompt="the", stream=True, options={"num_predict": 60}
    )
    parts = [next(stream)]
    codes: list[int] = []
    ending = threading.Thread(target=lambda: codes.append(own_stack.gateway.process.terminate()))
    ending.start()
    parts += stream
    ending.join()
    assert parts[-1].done and parts[-1].eval_count == 60
    assert codes == [0]


def test_without_any_backend_the_gateway_serves_and_says_so(tmp_path: Path, stack: Stack) -> None:
    if stack.gateway is None:
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
    nowhere = [f"http://127.0.0.1:{free_port()}" for _ in range(2)]
    gateway = Gateway("alone", nowhere, {}, tmp_path)
    try:
        assert requests.get(f"{gateway.origin}/health", timeout=60).status_code == 200
        with pytest.raises(ollama.ResponseError) as raised:
            native(gateway.url).chat(model=FAST, messages=HI)
        assert raised.value.status_code in (502, 503)
        with pytest.raises(openai.InternalServerError):
            v1(gateway.url).chat.completions.create(model=FAST, messages=HI)
        with pytest.raises(anthropic.InternalServerError):
            messages(gateway.url).messages.create(model=FAST, messages=HI, max_tokens=2)
    finally:
        gateway.stop()


# What follows needs faults on demand, which only simulated backends have.


@pytest.fixture
def faulty(tmp_path: Path, stores: Path, stack: Stack) -> Iterator[Stack]:
    if stack.gateway is None:
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
    if type(stack.backends[0]).__name__ != "Sim":
        pytest.skip("faults on demand need simulated backends")
    with running("sim", tmp_path, stores) as own:
        yield own


def test_a_busy_backend_is_passed_over(faulty: Stack) -> None:
    faulty.backends[0].arm(fault="busy", path="/api/generate")
    for _ in range(4):
        answer = native(faulty.url).generate(model=SLOW, prompt="the", options={"num_predict": 1})
        assert answer.done


def test_all_busy_is_503_with_retry_after_in_the_client_s_own_error(faulty: Stack) -> None:
    for backend in faulty.backends:
        backend.arm(fault="busy")
    with pytest.raises(ollama.ResponseError, match="busy") as native_error:
        native(faulty.url).generate(model=SLOW, prompt="the")
    assert native_error.value.status_code == 503
    with pytest.raises(openai.InternalServerError) as v1_error:
        v1(faulty.url).chat.completions.create(model=SLOW, messages=HI)
    assert v1_error.value.status_code == 503 and v1_error.value.response.headers["Retry-After"]
    with pytest.raises(anthropic.APIStatusError) as messages_error:
        messages(faulty.url).messages.create(model=SLOW, messages=HI, max_tokens=5)
    assert messages_error.value.status_code == 503
    assert messages_error.value.body["error"]["type"] == "overloaded_error"


@each_stream
def test_an_engine_that_dies_in_mid_stream_is_the_client_s_own_error(
    faulty: Stack, open_stream: Callable[[str], Iterator], error: type[Exception]
) -> None:
    for backend in faulty.backends:
        backend.arm(fault="engine_dies", after_lines=5)
    with pytest.raises(error):
        for _ in open_stream(faulty.url):
            pass


@each_stream
def test_a_stream_that_ends_too_early_is_the_client_s_own_error(
    faulty: Stack, open_stream: Callable[[str], Iterator], error: type[Exception]
) -> None:
    for backend in faulty.backends:
        backend.arm(fault="truncate", after_lines=5)
    with pytest.raises(error):
        for _ in open_stream(faulty.url):
            pass


@each_stream
def test_a_stream_cut_inside_an_item_is_an_error_too(
    faulty: Stack, open_stream: Callable[[str], Iterator], error: type[Exception]
) -> None:
    for backend in faulty.backends:
        backend.arm(fault="die", after_lines=5, cut="inside_line")
    # Readers of lines meet the half or the error line after it, those of events the unclean end.
    native_errors = (json.JSONDecodeError, ollama.ResponseError)
    is_native = error is ollama.ResponseError
    with pytest.raises(native_errors if is_native else CONNECTION_ERRORS):
        for _ in open_stream(faulty.url):
            pass


def test_lines_pass_while_the_next_one_does_not_come(faulty: Stack) -> None:
    for backend in faulty.backends:
        backend.arm(fault="stall", after_lines=3, count=1)
    watch = faulty.watch("/api/chat")
    stream = native(faulty.url).chat(model=SLOW, messages=HI, stream=True)
    assert all(next(stream).message.content for _ in range(3))
    stream.close()
    watch.wait_for_cancel()


def test_a_client_gone_before_the_first_byte_is_cancelled_at_the_backend(faulty: Stack) -> None:
    for backend in faulty.backends:
        backend.arm(fault="hang", path="/api/chat")
    watch = faulty.watch("/api/chat")
    with pytest.raises(httpx.ReadTimeout):
        ollama.Client(host=faulty.url, timeout=0.5).chat(model=SLOW, messages=HI)
    watch.wait_for_cancel()


def test_a_backend_that_comes_back_is_served_from_again(faulty: Stack) -> None:
    first = faulty.backends[0]
    first.arm(fault="refuse", ms=300)
    client = native(faulty.url)
    assert client.generate(model=SLOW, prompt="the", options={"num_predict": 1}).done

    def served() -> bool:
        try:
            return client.generate(model=FAST, prompt="the", options={"num_predict": 1}).done
        except ollama.ResponseError:
            return False

    eventually(served, "the model that only this backend has is answered again", 30.0)
    assert first.loaded(FAST)
