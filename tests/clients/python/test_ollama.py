"""PyPI `ollama`, the client that most programs use."""

import pytest
from common import ABSENT, ENDLESS, HI, WEATHER
from harness import FAST, SLOW, Stack, eventually
from ollama import Client, ResponseError


@pytest.fixture
def client(stack: Stack) -> Client:
    return Client(host=stack.url)


@pytest.mark.not_translated("an OpenAI-compatible server tells no size, digest and format")
def test_list_has_the_models_with_their_details(client: Client) -> None:
    models = {row.model: row for row in client.list().models}
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= set(models)
    row = models[f"{FAST}:latest"]
    assert row.size > 0 and len(row.digest) == 64 and row.modified_at
    assert row.details.format == "gguf"


@pytest.mark.not_translated("an OpenAI-compatible server does not tell when a model leaves memory")
def test_ps_shows_a_model_that_has_just_answered(client: Client) -> None:
    client.generate(model=FAST, prompt="the")
    rows = {row.model: row for row in client.ps().models}
    assert rows[f"{FAST}:latest"].expires_at is not None
    assert rows[f"{FAST}:latest"].context_length > 0


@pytest.mark.not_translated("an OpenAI-compatible server tells no format and architecture")
def test_show(client: Client) -> None:
    shown = client.show(FAST)
    assert shown.details.format == "gguf"
    assert "completion" in shown.capabilities
    assert shown.modelinfo["general.architecture"] == "llama"


def test_chat(client: Client) -> None:
    answer = client.chat(model=FAST, messages=HI, options={"num_predict": 5})
    assert answer.message.role == "assistant" and answer.message.content
    assert answer.done and answer.done_reason == "length"
    assert answer.eval_count == 5 and answer.prompt_eval_count > 0
    assert answer.total_duration > 0


def test_the_model_is_echoed_as_it_was_asked_for(client: Client) -> None:
    for name in (FAST, f"{FAST}:latest", FAST.upper(), f"library/{FAST}"):
        answer = client.chat(model=name, messages=HI, options={"num_predict": 1})
        assert answer.model == name


def test_a_chat_stream_is_parts_and_a_last_one_with_counts(client: Client) -> None:
    parts = list(client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 5}))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert "".join(part.message.content for part in parts)
    assert parts[-1].eval_count == 5 and parts[-1].done_reason == "length"


def test_generate(client: Client) -> None:
    answer = client.generate(model=FAST, prompt="the llama", options={"num_predict": 5})
    assert answer.response and answer.done and answer.eval_count == 5


@pytest.mark.not_translated("OpenAI's dialect has no context")
def test_a_generate_stream_gives_a_context_to_go_on_from(client: Client) -> None:
    parts = list(client.generate(model=FAST, prompt="the", stream=True, options={"num_predict": 4}))
    assert len(parts) > 1 and parts[-1].done and parts[-1].context


def test_generate_with_a_format_and_a_system_prompt(client: Client) -> None:
    answer = client.generate(
        model=FAST, prompt="the", system="a gate", format="json", options={"num_predict": 8}
    )
    assert answer.done


def test_embed_one_and_many(client: Client) -> None:
    one = client.embed(model=FAST, input="the llama")
    many = client.embed(model=FAST, input=["the llama", "a gate"])
    assert len(one.embeddings) == 1 and len(many.embeddings) == 2
    assert len(one.embeddings[0]) == 64
    assert one.embeddings[0] == pytest.approx(many.embeddings[0], abs=1e-3)


def test_embeddings_of_the_older_kind(client: Client) -> None:
    assert len(client.embeddings(model=FAST, prompt="the llama").embedding) == 64


def test_tools_as_schemas_and_as_functions(client: Client) -> None:
    def add(a: int, b: int) -> int:
        """Add two numbers.

        Args:
          a: The first.
          b: The second.
        """
        return a + b

    answer = client.chat(model=FAST, messages=HI, tools=[WEATHER, add], options={"num_predict": 8})
    assert answer.message.role == "assistant" and answer.done


def test_a_tool_s_answer_goes_back_in_the_messages(client: Client) -> None:
    call = {"function": {"name": "get_weather", "arguments": {"city": "Bern"}}}
    messages = [
        *HI,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_name": "get_weather"},
    ]
    answer = client.chat(model=FAST, messages=messages, tools=[WEATHER], options={"num_predict": 4})
    assert answer.done


@pytest.mark.not_translated("OpenAI's dialect cannot unload a model")
def test_an_empty_prompt_loads_and_keep_alive_zero_unloads(client: Client) -> None:
    loads = client.generate(model=FAST)
    assert loads.done and loads.done_reason == "load"
    assert f"{FAST}:latest" in [row.model for row in client.ps().models]
    unloads = client.generate(model=FAST, keep_alive=0)
    assert unloads.done_reason == "unload"
    eventually(
        lambda: f"{FAST}:latest" not in [row.model for row in client.ps().models],
        "the model has left the list of loaded ones",
    )


def test_keep_alive_may_be_a_duration_or_for_ever(client: Client) -> None:
    for keep_alive in ("10m", -1, 300):
        assert client.generate(model=FAST, prompt="the", keep_alive=keep_alive).done


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda client: client.chat(model=ABSENT, messages=HI), f"model '{ABSENT}' not found"),
        (lambda client: client.generate(model=ABSENT, prompt="the"), f"model '{ABSENT}' not found"),
        (lambda client: client.embed(model=ABSENT, input="the"), f'model "{ABSENT}" not found'),
        (lambda client: client.show(ABSENT), f"model '{ABSENT}"),
        (lambda client: list(client.chat(model=ABSENT, messages=HI, stream=True)), "not found"),
    ],
    ids=["chat", "generate", "embed", "show", "chat stream"],
)
def test_a_missing_model_is_a_response_error_404(client: Client, call, says: str) -> None:
    with pytest.raises(ResponseError, match=says) as raised:
        call(client)
    assert raised.value.status_code == 404


def test_a_bad_option_is_a_response_error_that_names_it(client: Client) -> None:
    with pytest.raises(ResponseError, match="num_ctx"):
        client._request_raw(
            "POST", "/api/generate", json={"model": FAST, "prompt": "a", "options": {"num_ctx": "x"}}
        )


def test_a_stream_arrives_line_by_line_and_its_cancel_reaches_the_backend(
    client: Client, stack: Stack
) -> None:
    watch = stack.watch("/api/chat")
    stream = client.chat(model=SLOW, messages=HI, stream=True, options={"num_predict": ENDLESS})
    for _ in range(3):
        assert next(stream).message.content
    assert watch.still_under_way(), "lines were held back until the backend had finished"
    stream.close()
    watch.wait_for_cancel()


def test_a_generate_stream_is_cancelled_too(client: Client, stack: Stack) -> None:
    watch = stack.watch("/api/generate")
    stream = client.generate(model=SLOW, prompt="the", stream=True, options={"num_predict": ENDLESS})
    assert next(stream).response
    assert watch.still_under_way()
    stream.close()
    watch.wait_for_cancel()
