"""PyPI `requests`: what a short script does, and the protocol seen plainly."""

import json

import pytest
import requests
from common import ENDLESS, HI
from harness import FAST, OTHER, SLOW, Stack

TIMEOUT = 60


def test_a_script_of_two_lines(stack: Stack) -> None:
    body = {"model": FAST, "prompt": "the llama", "stream": False}
    answer = requests.post(f"{stack.url}/api/generate", json=body, timeout=TIMEOUT)
    assert answer.json()["response"]


def test_version(stack: Stack) -> None:
    answer = requests.get(f"{stack.url}/api/version", timeout=TIMEOUT)
    assert answer.status_code == 200 and answer.json()["version"].count(".") == 2


def test_the_root_says_that_ollama_is_running(stack: Stack) -> None:
    assert requests.get(stack.url, timeout=TIMEOUT).text == "Ollama is running"
    head = requests.head(stack.url, timeout=TIMEOUT)
    assert head.status_code == 200 and head.content == b""


def test_an_unknown_path_and_a_wrong_method(stack: Stack) -> None:
    unknown = requests.get(f"{stack.url}/nope", timeout=TIMEOUT)
    assert (unknown.status_code, unknown.text) == (404, "404 page not found")
    wrong = requests.get(f"{stack.url}/api/chat", timeout=TIMEOUT)
    assert wrong.status_code == 405 and wrong.headers["Allow"] == "POST"


def test_a_native_stream_is_ndjson_a_line_for_each_part(stack: Stack) -> None:
    body = {"model": FAST, "messages": HI, "options": {"num_predict": 5}}
    with requests.post(f"{stack.url}/api/chat", json=body, stream=True, timeout=TIMEOUT) as answer:
        assert answer.headers["Content-Type"] == "application/x-ndjson"
        lines = answer.content.decode().split("\n")
    assert lines.pop() == "" and all(lines), "no blank lines, a line break at the end"
    parts = [json.loads(line) for line in lines]
    assert [part["done"] for part in parts] == [False] * (len(parts) - 1) + [True]


def test_a_v1_stream_is_server_sent_events_until_done(stack: Stack) -> None:
    body = {"model": FAST, "messages": HI, "max_tokens": 5, "stream": True}
    answer = requests.post(f"{stack.url}/v1/chat/completions", json=body, timeout=TIMEOUT)
    assert answer.headers["Content-Type"] == "text/event-stream"
    events = answer.text.split("\n\n")
    assert events.pop() == "" and events[-1] == "data: [DONE]"
    assert all(event.startswith("data: ") for event in events)


def test_lines_of_a_raw_stream_come_one_by_one(stack: Stack) -> None:
    watch = stack.watch("/api/generate")
    body = {"model": SLOW, "prompt": "the", "options": {"num_predict": ENDLESS}}
    with requests.post(
        f"{stack.url}/api/generate", json=body, stream=True, timeout=TIMEOUT
    ) as answer:
        lines = answer.iter_lines(chunk_size=None)
        for _ in range(3):
            assert json.loads(next(lines))["response"]
        assert watch.still_under_way(), "lines were held back until the backend had finished"
    watch.wait_for_cancel()


def test_a_body_without_a_content_type_or_in_chunks(stack: Stack) -> None:
    body = json.dumps({"model": FAST, "prompt": "the", "stream": False}).encode()
    for data in (body, iter([body[:7], body[7:]])):
        answer = requests.post(f"{stack.url}/api/generate", data=data, timeout=TIMEOUT)
        assert answer.status_code == 200 and answer.json()["done"]


def test_a_model_named_after_a_long_prompt(stack: Stack) -> None:
    body = {"prompt": "", "images": [], "system": "\\u00e9\n" * 200_000, "stream": False}
    body |= {"options": {"num_predict": 1}, "template": "{{ .Prompt }}", "model": FAST}
    answer = requests.post(f"{stack.url}/api/generate", json=body, timeout=TIMEOUT)
    assert answer.status_code == 200 and answer.json()["model"] == FAST


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/api/chat", b"", {"error": "missing request body"}),
        ("/api/generate", b"", {"error": "missing request body"}),
    ],
)
def test_an_empty_body_is_400(stack: Stack, path: str, body: bytes, says: dict) -> None:
    answer = requests.post(f"{stack.url}{path}", data=body, timeout=TIMEOUT)
    assert answer.status_code == 400 and answer.json() == says


def test_malformed_json_is_400(stack: Stack) -> None:
    for path in ("/api/chat", "/v1/chat/completions"):
        answer = requests.post(f"{stack.url}{path}", data=b'{"model": "', timeout=TIMEOUT)
        assert answer.status_code == 400 and answer.json()["error"]


def test_a_foreign_origin_is_refused_and_a_local_one_is_not(stack: Stack) -> None:
    url = f"{stack.url}/api/version"
    for origin, status in [
        ("https://example.org", 403),
        ("http://localhost:5173", 200),
        ("vscode-webview://abc", 200),
    ]:
        answer = requests.get(url, headers={"Origin": origin}, timeout=TIMEOUT)
        assert answer.status_code == status, origin
    # Not a request for what the page asked, and so no help for a name bound to this host.
    assert requests.get(url, headers={"Host": "example.org"}, timeout=TIMEOUT).status_code == 403


@pytest.mark.usefixtures("gateway")
def test_the_list_is_the_union_over_the_backends(stack: Stack) -> None:
    rows = requests.get(f"{stack.url}/api/tags", timeout=TIMEOUT).json()["models"]
    names = [row["name"] for row in rows]
    assert sorted(names) == sorted(f"{model}:latest" for model in (FAST, OTHER, SLOW))
    assert [row["modified_at"] for row in rows] == sorted(
        (row["modified_at"] for row in rows), reverse=True
    )


@pytest.mark.usefixtures("gateway")
def test_each_model_is_answered_by_a_backend_that_has_it(stack: Stack) -> None:
    backends = set()
    for model in (FAST, OTHER):
        body = {"model": model, "prompt": "the", "stream": False}
        answer = requests.post(f"{stack.url}/api/generate", json=body, timeout=TIMEOUT)
        assert answer.status_code == 200, answer.text
        backends.add(answer.headers["x-llamatower-backend"])
    assert len(backends) == 2


@pytest.mark.usefixtures("gateway")
def test_an_answer_carries_the_id_of_its_request(stack: Stack) -> None:
    url = f"{stack.url}/api/version"
    given = requests.get(url, headers={"x-request-id": "from-the-client"}, timeout=TIMEOUT)
    assert given.headers["x-request-id"] == "from-the-client"
    assert requests.get(url, timeout=TIMEOUT).headers["x-request-id"]


@pytest.mark.usefixtures("gateway")
def test_a_stream_tells_proxies_in_front_not_to_buffer(stack: Stack) -> None:
    body = {"model": FAST, "messages": HI}
    answer = requests.post(f"{stack.url}/api/chat", json=body, timeout=TIMEOUT)
    assert answer.headers["X-Accel-Buffering"] == "no"


@pytest.mark.usefixtures("gateway")
def test_a_key_given_twice_is_refused_before_any_backend(stack: Stack) -> None:
    watch = stack.watch("/api/generate")
    for body in (
        b'{"model":"tiny","prompt":"a","model":"mini"}',
        b'{"model":"tiny","prompt":"a","MODEL":"mini"}',
    ):
        answer = requests.post(f"{stack.url}/api/generate", data=body, timeout=TIMEOUT)
        assert answer.status_code == 400 and "model" in answer.json()["error"]
    assert not watch.reached_a_backend()
