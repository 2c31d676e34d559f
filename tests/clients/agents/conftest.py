"""A simulated Ollama, the gateway with a key, one with a limit of requests, and Open WebUI before them."""

import threading
from collections.abc import Iterator

import pytest
from harness import Gateway, Sim
from harness.process import ask
from webui import OpenWebUI
from programs import MODEL, PROGRAMS, PROMPT, Ask

KEY = "key-of-the-tests-0123456789abcdef"


@pytest.fixture(scope="session")
def sim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sim]:
    """It ends its answers by itself, as agents allow tens of thousands of tokens."""
    model = f"{MODEL},reply=40,longest-reply=40,pace=2ms,slots=8,context=131072"
    sim = Sim("sim", [model], tmp_path_factory.mktemp("sim"))
    yield sim
    sim.stop()


@pytest.fixture(autouse=True)
def no_faults(sim: Sim) -> Iterator[None]:
    yield
    ask(f"{sim.url}/sim/faults", method="DELETE")


@pytest.fixture(scope="session")
def gateway(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    # Streams are killed here by the dozen: the breaker must not open.
    settings = {"LLAMATOWER_BREAKER_FAILURES": "1000", "LLAMATOWER_BREAKER_RATIO": "2"}
    folder = tmp_path_factory.mktemp("gateway")
    gateway = Gateway("gateway", [sim.url], {"LLAMATOWER_API_KEYS": KEY, **settings}, folder)
    yield gateway
    gateway.stop()


@pytest.fixture
def used_up(sim: Sim, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """A gateway whose limit this key has reached, until the program under test has been refused once.

    Then the next request is due in up to two seconds, as its 429 says.
    """
    settings = {"LLAMATOWER_API_KEYS": KEY, "LLAMATOWER_KEY_RATE_LIMIT": "30/m"}
    gateway = Gateway("limited", [sim.url], settings, tmp_path_factory.mktemp("limited"))
    body = {"model": MODEL, "prompt": PROMPT, "stream": False, "options": {"num_predict": 1}}
    bearer = {"Authorization": f"Bearer {KEY}"}
    ended = threading.Event()

    def use() -> int:
        return ask(f"{gateway.url}/api/generate", body, headers=bearer)[0]

    def keep_used_up() -> None:
        # However long a program takes to start: what becomes free is used at once.
        while not refused(gateway) and not ended.wait(0.1):
            use()

    while use() == 200:
        pass
    keeper = threading.Thread(target=keep_used_up)
    keeper.start()
    yield gateway
    ended.set()
    keeper.join()
    gateway.stop()


def refused(gateway: Gateway) -> bool:
    """Whether a program, which asks other routes than the fixture, has got a 429."""
    lines = gateway.process.log().splitlines()
    return any('"status":429' in line and '"/api/generate"' not in line for line in lines)


@pytest.fixture(scope="session")
def open_webui(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenWebUI]:
    one = OpenWebUI(tmp_path_factory.mktemp("open-webui"))
    yield one
    one.stop()


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Ask:
    """The program of this name; Open WebUI is started when a test first needs it."""
    if request.param == "Open WebUI":
        return request.getfixturevalue("open_webui").ask
    return PROGRAMS[request.param]
