"""Servers behind an nginx with TLS, a token and a prefix, by `OLLAMA_URL=https://..`."""

import base64
import itertools
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from common import ENDLESS, HI
from harness import FAST, SLOW, Gateway, Stack, eventually
from harness.process import ask, free_port
from nginx import certificates, started
from ollama import Client, ResponseError

TOKEN = "token-of-the-tests-0123456789"
PASSWORD = "password, of the tests"
BASIC = base64.b64encode(f"ada:{PASSWORD}".encode()).decode()


class Nginx:
    """A real nginx on `https://localhost`: a prefix for each backend, each with a secret of its own."""

    def __init__(self, backends: list[str], folder: Path):
        self.port, plain = free_port(), free_port()
        self.ca, key = folder / "ca.pem", folder / "ca.key"
        certificates(folder, self.ca, key)
        wanted = [f"Bearer {TOKEN}", f"Basic {BASIC}"]
        locations = "\n".join(
            f"""location /gpu-{number}/ {{
                if ($http_authorization != "{secret}") {{ return 401; }}
                proxy_pass {backend}/;
            }}"""
            for number, (backend, secret) in enumerate(zip(backends, wanted), 1)
        )
        servers = f"""
            server {{
                listen 127.0.0.1:{self.port} ssl;
                server_name localhost;
                ssl_certificate {folder}/server.pem; ssl_certificate_key {folder}/server.key;
                client_max_body_size 0; proxy_buffering off;
                proxy_http_version 1.1; proxy_set_header Connection "";
                proxy_set_header Host localhost; proxy_set_header Authorization "";
                {locations}
            }}
        """
        self._process = started(folder, servers, plain)

    def settings(self, **others: str) -> dict[str, str]:
        """What a gateway in front of it is told; an empty value removes a setting."""
        names = [f"https://localhost:{self.port}/gpu-{number}" for number in (1, 2)]
        tokens = f"{names[0]}={TOKEN}\n{names[1]}=basic {BASIC}"
        settings = {
            "OLLAMA_URL": ",".join(names),
            "LLAMATOWER_BACKEND_TOKENS": tokens,
            "LLAMATOWER_BACKEND_CA_FILE": str(self.ca),
            # None of them is asked: where servers are is said by OLLAMA_URL alone.
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy", "ALL_PROXY"), "http://127.0.0.1:9"),
            **others,
        }
        return {name: value for name, value in settings.items() if value}

    def stop(self) -> None:
        self._process.stop()


@pytest.fixture(scope="module")
def nginx(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    if stack.gateway is None:
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
    nginx = Nginx([one.url for one in stack.backends], tmp_path_factory.mktemp("nginx"))
    yield nginx
    nginx.stop()


@pytest.fixture
def over_tls(nginx: Nginx, gateway_with: Callable[..., Gateway]) -> Gateway:
    """A gateway that has its servers over TLS alone."""
    return gateway_with(**nginx.settings())


@pytest.fixture
def client(over_tls: Gateway) -> Client:
    # A line that does not come fails the test; it is not waited for.
    return Client(host=over_tls.url, timeout=10, headers={"Authorization": "Bearer of-the-client"})


def test_the_client_lists_and_chats(client: Client, over_tls: Gateway) -> None:
    models = {row.model for row in client.list().models}
    assert {f"{FAST}:latest", f"{SLOW}:latest"} <= models
    for model in (FAST, SLOW):
        answer = client.chat(model=model, messages=HI, options={"num_predict": 4})
        assert answer.message.content and answer.eval_count == 4
    parts = list(client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 4}))
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    log = over_tls.process.log()
    assert TOKEN not in log and BASIC not in log and "of-the-client" not in log


def test_each_line_arrives_before_the_next_is_made(client: Client, stack: Stack) -> None:
    if type(stack.backends[0]).__name__ != "Sim":
        pytest.skip("a real server cannot be told to wait within a stream")
    sim = stack.backends[0]
    for lines in (1, 2, 3):
        watch = stack.watch("/api/chat")
        # The server waits for good after so many lines.
        sim.arm(fault="stall", after_lines=lines, model=FAST, count=1)
        parts = client.chat(model=FAST, messages=HI, stream=True, options={"num_predict": 8})
        got = list(itertools.islice(parts, lines))
        assert len(got) == lines and not got[-1].done
        assert watch.still_under_way()
        parts.close()
        watch.wait_for_cancel()


def test_the_first_line_comes_early_and_a_client_that_goes_away_ends_the_answer(
    client: Client, stack: Stack
) -> None:
    watch = stack.watch("/api/chat")
    parts = client.chat(model=SLOW, messages=HI, stream=True, options={"num_predict": ENDLESS})
    assert not next(iter(parts)).done
    assert watch.still_under_way()
    parts.close()
    watch.wait_for_cancel()


def test_what_is_wrong_is_told_with_the_setting_and_without_the_secret(
    nginx: Nginx, gateway_with: Callable[..., Gateway]
) -> None:
    wrong = f"localhost:{nginx.port}=not-{TOKEN}"
    for settings, setting in [
        ({"LLAMATOWER_BACKEND_TOKENS": wrong}, "LLAMATOWER_BACKEND_TOKENS"),
        ({"LLAMATOWER_BACKEND_TOKENS": ""}, "LLAMATOWER_BACKEND_TOKENS"),
        ({"LLAMATOWER_BACKEND_CA_FILE": ""}, "LLAMATOWER_BACKEND_CA_FILE"),
        (
            {"OLLAMA_URL": f"https://127.0.0.1:{nginx.port}", "LLAMATOWER_BACKEND_TOKENS": ""},
            "OLLAMA_URL",
        ),
    ]:
        gateway = gateway_with(**nginx.settings(**settings))
        told = eventually(
            lambda: [line for line in gateway.process.log().splitlines() if "the probe failed" in line],
            f"the log says why no server is there, with {settings}",
        )[0]
        assert setting in told and TOKEN not in gateway.process.log()
        with pytest.raises(ResponseError) as raised:
            Client(host=gateway.url).list()
        assert raised.value.status_code == 502 and setting in str(raised.value)
        assert ask(f"{gateway.url}/health")[0] == 200
