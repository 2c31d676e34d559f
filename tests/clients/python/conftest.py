"""Every test gets a running stack; which ones there are is told by `harness.stack.kinds`."""

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from harness import Gateway, Missing, Stack
from harness.stack import NO_OLLAMA, TRANSLATED, kinds, running

# Keys, addresses and proxies of the developer's own must not reach a client under test.
for variable in list(os.environ):
    if variable.startswith(("OPENAI_", "ANTHROPIC_", "GROQ_", "LANGCHAIN_", "LANGSMITH_")) or (
        variable.startswith("OLLAMA_") and variable != "OLLAMA_BIN"
    ):
        del os.environ[variable]
os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1,localhost"


# What clients see where the gateway translates, and so only there.
collect_ignore = [] if TRANSLATED in kinds() else ["test_translated.py"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if TRANSLATED in kinds() and (mark := item.get_closest_marker("not_translated")):
            item.add_marker(pytest.mark.skip(reason=mark.args[0]))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not os.environ.get("OLLAMA_BIN"):
        terminalreporter.write_line(NO_OLLAMA)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """What a run cannot have is skipped in the words of the harness."""
    try:
        return (yield)
    except Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the models of real Ollamas are kept, from one server to the next."""
    return tmp_path_factory.mktemp("stores")


@pytest.fixture(scope="session", params=kinds())
def stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stores: Path
) -> Iterator[Stack]:
    """The stack that most tests share. They leave its backends as they found them."""
    folder = tmp_path_factory.mktemp(request.param)
    with running(request.param, folder, stores) as stack:
        yield stack


@pytest.fixture(params=kinds())
def own_stack(request: pytest.FixtureRequest, tmp_path: Path, stores: Path) -> Iterator[Stack]:
    """A stack for one test alone, with a gateway; the test may kill what it likes."""
    _needs_gateway(request.param)
    with running(request.param, tmp_path, stores) as stack:
        yield stack


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    """The gateway of the shared stack."""
    if stack.gateway is None:
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
    return stack.gateway


@pytest.fixture
def gateway_with(stack: Stack, gateway: Gateway) -> Iterator[Callable[..., Gateway]]:
    """Start more gateways in front of the shared backends: `gateway_with(LLAMATOWER_X="1")`."""
    started: list[Gateway] = []

    def start(**settings: str) -> Gateway:
        started.append(stack.serve(**settings))
        return started[-1]

    yield start
    for one in started:
        one.stop()


def _needs_gateway(kind: str) -> None:
    if kind == "given" or os.environ.get("LLAMATOWER_TEST_DIRECT"):
        pytest.skip("the clients go to a backend directly, there is no gateway to test")
