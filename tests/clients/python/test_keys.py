"""Keys of the gateway, as each client sends them, and what needs an admin key."""

import base64
from collections.abc import Callable

import anthropic
import ollama
import openai
import pytest
import requests
from common import HI
from harness import ADMIN_KEY, FAST, AttachedSim, Gateway, Stack, eventually

KEY = "key-of-the-tests-0123456789abcdef"
BEARER = {"Authorization": f"Bearer {KEY}"}
ADMIN = {"Authorization": f"Bearer {ADMIN_KEY}"}


@pytest.fixture
def guarded(gateway_with: Callable[..., Gateway]) -> Gateway:
    return gateway_with(LLAMATOWER_API_KEYS=KEY, LLAMATOWER_ADMIN_KEYS=ADMIN_KEY)


def test_ollama_sends_a_bearer_token_given_as_a_header(guarded: Gateway) -> None:
    client = ollama.Client(host=guarded.url, headers=BEARER)
    assert client.chat(model=FAST, messages=HI, options={"num_predict": 2}).done


def test_ollama_sends_the_key_of_its_environment(
    guarded: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", KEY)
    assert ollama.Client(host=guarded.url).list().models


def test_openai_sends_its_key_as_a_bearer_token(guarded: Gateway) -> None:
    client = openai.OpenAI(base_url=f"{guarded.url}/v1", api_key=KEY, max_retries=0)
    assert client.chat.completions.create(model=FAST, messages=HI, max_tokens=2).choices


def test_anthropic_sends_its_key_as_x_api_key(guarded: Gateway) -> None:
    client = anthropic.Anthropic(base_url=guarded.url, api_key=KEY, max_retries=0)
    assert client.messages.create(model=FAST, messages=HI, max_tokens=2).content


def test_anthropic_sends_an_auth_token_as_a_bearer_token(guarded: Gateway) -> None:
    client = anthropic.Anthropic(base_url=guarded.url, auth_token=KEY, max_retries=0)
    assert client.messages.create(model=FAST, messages=HI, max_tokens=2).content


def test_requests_sends_userinfo_as_basic(guarded: Gateway) -> None:
    address = guarded.url.replace("http://", f"http://anyone:{KEY}@")
    assert requests.get(f"{address}/api/tags", timeout=60).status_code == 200


def test_a_missing_or_wrong_key_is_each_client_s_own_authentication_error(guarded: Gateway) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        with pytest.raises(ollama.ResponseError) as raised:
            ollama.Client(host=guarded.url, headers=headers).list()
        assert raised.value.status_code == 401
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(base_url=f"{guarded.url}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(anthropic.AuthenticationError) as refused:
        client = anthropic.Anthropic(base_url=guarded.url, api_key="wrong", max_retries=0)
        client.messages.create(model=FAST, messages=HI, max_tokens=2)
    assert refused.value.body["error"]["type"] == "authentication_error"


def test_health_needs_no_key(guarded: Gateway) -> None:
    assert requests.get(f"{guarded.origin}/health", timeout=60).status_code == 200


def test_no_credential_of_a_client_reaches_a_backend(stack: Stack, guarded: Gateway) -> None:
    sims = [one for one in stack.backends if isinstance(one, AttachedSim)]
    if not sims:
        pytest.skip("a real Ollama does not show the headers that it got")
    basic = base64.b64encode(f"anyone:{KEY}".encode()).decode()
    for headers in (BEARER, {"x-api-key": KEY}, {"Authorization": f"Basic {basic}"}):
        answer = requests.post(
            f"{guarded.url}/api/chat",
            json={"model": FAST, "messages": HI, "stream": False},
            headers={**headers, "X-Forwarded-For": "192.0.2.1", "Cookie": "a=b"},
            timeout=60,
        )
        assert answer.status_code == 200
    got = [request for sim in sims for request in sim.requests("/api/chat")][-3:]
    for request in got:
        headers = {name.lower(): value for name, value in request["headers"]}
        assert not {"authorization", "x-api-key", "x-forwarded-for"} & set(headers)
        assert KEY not in str(headers)
        assert headers["host"] != guarded.origin.removeprefix("http://")


MANAGEMENT = {
    "pull": lambda client: client.pull("someone/anything"),
    "pull stream": lambda client: list(client.pull("someone/anything", stream=True)),
    "push": lambda client: client.push("someone/anything"),
    "create": lambda client: client.create(model="made", from_=FAST, system="a gate"),
    "copy": lambda client: client.copy(FAST, "copied"),
    "delete": lambda client: client.delete(FAST),
}


@pytest.mark.parametrize("call", MANAGEMENT.values(), ids=MANAGEMENT.keys())
def test_management_is_refused_without_an_admin_key_and_reaches_no_backend(
    stack: Stack, gateway: Gateway, guarded: Gateway, call
) -> None:
    paths = [f"/api/{name}" for name in ("pull", "push", "create", "copy", "delete")]
    watches = [stack.watch(path) for path in paths]
    for client in (
        ollama.Client(host=gateway.url),
        ollama.Client(host=gateway.url, headers=ADMIN),  # which this gateway does not know
        ollama.Client(host=guarded.url, headers=BEARER),  # a key, but no admin's
    ):
        with pytest.raises(ollama.ResponseError) as raised:
            call(client)
        assert raised.value.status_code == 403
        assert "administrator's key" in str(raised.value), "it says what is missing"
    assert not any(watch.reached_a_backend() for watch in watches)


def test_a_pull_of_a_model_that_is_there_succeeds_without_an_admin_key(
    stack: Stack, gateway: Gateway, guarded: Gateway
) -> None:
    watch = stack.watch("/api/pull")
    for client in (
        ollama.Client(host=gateway.url),
        ollama.Client(host=guarded.url, headers=BEARER),
    ):
        for name in (FAST, f"{FAST}:latest", FAST.upper()):
            assert client.pull(name).status == "success"
            steps = [step.status for step in client.pull(name, stream=True)]
            assert (steps[0], steps[-1]) == ("pulling manifest", "success")
    assert not watch.reached_a_backend()


def test_a_blob_is_refused_without_an_admin_key(gateway: Gateway) -> None:
    digest = "sha256:" + "0" * 64
    url = f"{gateway.url}/api/blobs/{digest}"
    assert requests.post(url, data=b"weights", timeout=60).status_code == 403
    assert requests.head(url, timeout=60).status_code == 403


def test_an_admin_copies_creates_and_deletes(guarded: Gateway) -> None:
    client = ollama.Client(host=guarded.url, headers=ADMIN)

    def listed(name: str) -> bool:
        return f"{name}:latest" in [row.model for row in client.list().models]

    assert client.copy(FAST, "copied").status == "success"
    eventually(lambda: listed("copied"), "the copy is listed")
    assert client.create(model="made", from_=FAST, system="a gate").status == "success"
    eventually(lambda: listed("made"), "the model made is listed")
    for name in ("copied", "made"):
        assert client.delete(name).status == "success"
        eventually(lambda name=name: not listed(name), f"{name} is listed no more")
    with pytest.raises(ollama.ResponseError) as raised:
        client.delete("copied")
    assert raised.value.status_code == 404


def test_an_admin_uploads_a_blob(guarded: Gateway, tmp_path) -> None:
    weights = tmp_path / "weights"
    weights.write_bytes(b"not really weights" * 1000)
    client = ollama.Client(host=guarded.url, headers=ADMIN)
    digest = client.create_blob(weights)
    assert client.create_blob(weights) == digest, "a second time, when it is there already"
    url = f"{guarded.url}/api/blobs/{digest}"
    assert requests.head(url, headers=ADMIN, timeout=60).status_code == 200
