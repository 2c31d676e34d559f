"""The nginx of docs/start.md, as it is written there: before the gateway, and before a server."""

import json
import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import ollama
import pytest
import requests
from common import HI
from harness import FAST, Gateway, Stack, eventually
from harness.process import Process, ask, free_port
from nginx import certificates, started

KEY = "key-of-the-tests-0123456789abcdef"
START = Path(__file__).parents[3] / "docs" / "start.md"


def block_before_the_gateway() -> str:
    found = re.findall(r"```nginx\n(.*?)```", START.read_text(), re.DOTALL)
    assert len(found) == 1
    return found[0]


def settings_without_keys() -> dict[str, str]:
    """What the guide says to set if the gateway behind nginx has no keys."""
    after_the_block = START.read_text().split("```nginx")[1]
    pattern = r"(LLAMATOWER_(?:TRUSTED_PROXIES|ALLOWED_HOSTS))=([\w.]+)"
    found = dict(re.findall(pattern, after_the_block))
    assert set(found) == {"LLAMATOWER_TRUSTED_PROXIES", "LLAMATOWER_ALLOWED_HOSTS"}
    return found


def replaced(text: str, places: dict[str, str]) -> str:
    for place, value in places.items():
        assert place in text, place
        text = text.replace(place, value)
    return text


class Front:
    """nginx on `https://llm.example`, reached at a port of this machine."""

    def __init__(self, gateway: Gateway, folder: Path):
        self.port, plain = free_port(), free_port()
        self.ca = folder / "ca.pem"
        certificates(folder, self.ca, folder / "ca.key")
        places = {
            "listen 443 ssl": f"listen 127.0.0.1:{self.port} ssl",
            "/etc/ssl/llm.example.pem": f"{folder}/server.pem",
            "/etc/ssl/llm.example.key": f"{folder}/server.key",
            "http://127.0.0.1:3000": gateway.origin,
        }
        self.process: Process = started(folder, replaced(block_before_the_gateway(), places), plain)
        self.url = f"https://localhost:{self.port}"

    def get(self, path: str, **headers: str) -> requests.Response:
        headers = {"Host": "llm.example", **headers}
        return requests.get(self.url + path, headers=headers, verify=self.ca, timeout=10)


@pytest.fixture
def front(tmp_path: Path) -> Iterator[Callable[[Gateway], Front]]:
    fronts: list[Front] = []

    def make(gateway: Gateway) -> Front:
        folder = tmp_path / f"nginx-{len(fronts)}"
        folder.mkdir()
        fronts.append(Front(gateway, folder))
        return fronts[-1]

    yield make
    for one in fronts:
        one.process.stop()


def lines_of(gateway: Gateway) -> list[dict]:
    lines = gateway.process.log().splitlines()
    fields = [json.loads(line) for line in lines if line.startswith("{")]
    return [line for line in fields if line.get("message") == "request"]


def test_with_keys_any_name_will_do(
    gateway_with: Callable[..., Gateway], front: Callable[[Gateway], Front]
) -> None:
    nginx = front(gateway_with(LLAMATOWER_API_KEYS=KEY))
    assert nginx.get("/api/tags").status_code == 401
    answer = nginx.get("/api/tags", Authorization=f"Bearer {KEY}")
    assert answer.status_code == 200 and answer.json()["models"]
    # A password of the proxy's own stands beside the key.
    both = {"Authorization": "Basic cHJveHk6cGFzc3dvcmQ=", "x-api-key": KEY}
    assert nginx.get("/api/tags", **both).status_code == 200


def test_without_keys_the_name_has_to_be_allowed(
    gateway_with: Callable[..., Gateway], front: Callable[[Gateway], Front]
) -> None:
    closed = gateway_with()
    refused = front(closed).get("/api/tags")
    assert refused.status_code == 403
    assert "LLAMATOWER_ALLOWED_HOSTS" in refused.json()["error"]
    line = eventually(lambda: lines_of(closed), "the refusal is logged")[0]
    assert (line["status"], line["error"]) == (403, "foreign_host")
    assert (line["host"], line["client"], line["path"]) == ("llm.example", "127.0.0.1", "/api/tags")
    _, metrics = ask(f"{closed.admin}/metrics")
    assert b'llamatower_refusals_total{error_type="foreign_host"' in metrics

    nginx = front(gateway_with(**settings_without_keys()))
    assert nginx.get("/api/tags").status_code == 200
    tls = ssl.create_default_context(cafile=nginx.ca)
    client = ollama.Client(host=nginx.url, headers={"Host": "llm.example"}, verify=tls)
    parts = list(client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 4}))
    assert parts[-1].done


def test_the_log_has_the_client_and_not_the_proxy(
    gateway_with: Callable[..., Gateway], front: Callable[[Gateway], Front]
) -> None:
    gateway = gateway_with(LLAMATOWER_API_KEYS=KEY, LLAMATOWER_TRUSTED_PROXIES="127.0.0.1")
    nginx = front(gateway)
    # What a client claims of itself stands before what nginx knows.
    claims = {"X-Forwarded-For": "203.0.113.9", "Forwarded": "for=203.0.113.9"}
    nginx.get("/api/tags", **claims)
    line = eventually(lambda: lines_of(gateway), "the request is logged")[0]
    # nginx is asked from 127.0.0.1, which is a trusted address itself: the next one is the client's.
    assert (line["status"], line["client"]) == (401, "203.0.113.9")

    gateway = gateway_with(LLAMATOWER_API_KEYS=KEY, LLAMATOWER_TRUSTED_PROXIES="10.0.0.0/8")
    front(gateway).get("/api/tags", **claims)
    line = eventually(lambda: lines_of(gateway), "the request is logged")[0]
    assert (line["status"], line["client"]) == (401, "127.0.0.1")


def test_a_base_url_with_a_slash_at_its_end_works(
    gateway_with: Callable[..., Gateway], front: Callable[[Gateway], Front]
) -> None:
    nginx = front(gateway_with(LLAMATOWER_API_KEYS=KEY))
    session = requests.Session()
    session.headers.update({"Host": "llm.example", "x-api-key": KEY})
    body = {"model": FAST, "messages": HI, "stream": False, "options": {"num_predict": 2}}
    for path in ("//api/chat", "/api/chat/", "//api//chat/"):
        answer = session.post(nginx.url + path, json=body, verify=nginx.ca, timeout=10)
        assert answer.status_code == 200 and answer.json()["done"], path


def test_the_block_before_a_server_works(
    stack: Stack, gateway_with: Callable[..., Gateway], tmp_path: Path
) -> None:
    found = re.findall(r"^    location /ollama/ \{\n.*?^    \}\n", START.read_text(), re.DOTALL | re.MULTILINE)
    assert len(found) == 1
    port, plain = free_port(), free_port()
    location = replaced(found[0], {"http://127.0.0.1:11434/": f"{stack.backends[0].url}/"})
    server = f"server {{ listen 127.0.0.1:{port}; {location} }}"
    process = started(tmp_path, server, plain)
    try:
        address = f"127.0.0.1:{port}"
        gateway = gateway_with(
            OLLAMA_URL=f"http://{address}/ollama", LLAMATOWER_BACKEND_TOKENS=f"{address}=TOKEN"
        )
        client = ollama.Client(host=gateway.url)
        eventually(lambda: client.list().models, "the server is found")
        parts = list(client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 4}))
        assert parts[-1].done
    finally:
        process.stop()
