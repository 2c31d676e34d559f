"""A real Prometheus that reads the gateway, and the dashboard and the alerts that ask it."""

import json
import re
import shutil
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests
from common import ENDLESS, HI
from harness import FAST, OTHER, SLOW, Stack, eventually
from harness.backends import REPOSITORY
from harness.process import Process, free_port
from harness.stack import ADMIN_KEY, running
from nginx import certificates

MONITORING = REPOSITORY / "k8s/overlays/monitoring"
DASHBOARD = json.loads((MONITORING / "dashboard.json").read_text())
TARGETS = {
    f"{panel['title']} {target['refId']}": target["expr"]
    for panel in DASHBOARD["panels"]
    for target in panel.get("targets", [])
}
SETTINGS = "llamatower.toml"
# What Grafana puts in place of its own variables.
VARIABLES = {"$__rate_interval": "10s", "$instance": ".*", "$model": ".*"}


def is_listening(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port)):
        return True


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Redis."""
    if not (program := shutil.which("redis-server")):
        pytest.skip("redis-server is not installed")
    port = free_port()
    command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    folder = tmp_path_factory.mktemp("redis")
    process = Process("redis", command, {}, folder)
    process.start_until(lambda: is_listening(port), "listens")
    yield f"redis://127.0.0.1:{port}"
    process.stop()


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory, stack: Stack, redis: str) -> Iterator[Stack]:
    """A stack of its own, with something of everything that is counted."""
    if stack.gateway is None or type(stack.backends[0]).__name__ != "Sim":
        pytest.skip("all that is counted needs a gateway before simulated backends")
    folder = tmp_path_factory.mktemp("busy")
    certificates(folder, folder / "ca.pem", folder / "ca.key")
    metrics = f"127.0.0.1:{free_port()}"
    (folder / SETTINGS).write_text("")
    settings = {
        "LLAMATOWER_SLOTS": "1",
        "LLAMATOWER_QUEUE_MAX_WAITING": "1",
        "LLAMATOWER_ALIASES": f"any={FAST}|{OTHER}",
        # A key with a budget; requests need none.
        "LLAMATOWER_ADMIN_KEYS": ADMIN_KEY,
        "LLAMATOWER_KEY_TOKEN_LIMIT": "1000000/day",
        "LLAMATOWER_RATE_LIMIT": "1000000/s",
        "LLAMATOWER_REDIS_URL": redis,
        # A listener that nobody uses is enough for a certificate.
        "LLAMATOWER_METRICS_LISTEN": metrics,
        "LLAMATOWER_TLS_LISTENERS": metrics,
        "LLAMATOWER_TLS_CERT": str(folder / "server.pem"),
        "LLAMATOWER_TLS_KEY": str(folder / "server.key"),
        "LLAMATOWER_CONFIG": str(folder / SETTINGS),
    }
    with running("sim", folder, folder, **settings) as own:
        # A reload that is refused.
        (folder / SETTINGS).write_text("unknown = true\n")
        yield own


@pytest.fixture(scope="module")
def prometheus(busy: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if not (program := shutil.which("prometheus")):
        pytest.skip("prometheus is not installed")
    folder = tmp_path_factory.mktemp("prometheus")
    config = folder / "prometheus.yml"
    admin = busy.gateway.admin.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}\n"
        f"rule_files: ['{MONITORING / 'alerts.yaml'}']\n"
        f"scrape_configs: [{{job_name: llamatower, static_configs: [{{targets: ['{admin}']}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port()}"
    options = {
        "config.file": config,
        "storage.tsdb.path": folder / "data",
        "web.listen-address": url.removeprefix("http://"),
    }
    command = [program, *(f"--{name}={value}" for name, value in options.items())]
    process = Process("prometheus", command, {}, folder)
    process.start(f"{url}/-/ready", 200)
    yield url
    process.stop()


def with_values(query: str) -> str:
    for variable, value in VARIABLES.items():
        query = query.replace(variable, value)
    return query


def result_of(prometheus: str, query: str) -> list[dict]:
    parameters = {"query": query, "time": time.time()}
    answer = requests.get(f"{prometheus}/api/v1/query", params=parameters, timeout=10).json()
    assert answer["status"] == "success", f"{query}: {answer.get('error')}"
    return answer["data"]["result"]


def is_up(prometheus: str) -> bool:
    return any(row["value"][1] == "1" for row in result_of(prometheus, "up"))


def make_everything_happen(stack: Stack, pool: ThreadPoolExecutor) -> None:
    """Answers, a wait, a refusal, a retry, and clients that leave; some are under way after it."""
    url = f"{stack.url}/api/chat"

    def chat(model: str, tokens: int) -> requests.Response:
        body = {"model": model, "messages": HI, "options": {"num_predict": tokens}}
        return requests.post(url, json=body, stream=True, timeout=60)

    for backend in stack.backends:
        backend.arm(fault="busy", path="/api/chat", count=1)
    with chat(SLOW, ENDLESS) as left:
        next(left.iter_lines(chunk_size=None))
    for _ in range(6):  # Two are served, one waits, the others are refused.
        pool.submit(lambda: chat(SLOW, 50).content)
    assert chat(FAST, 1).content


def test_prometheus_reads_the_page_without_a_complaint(prometheus: str) -> None:
    eventually(lambda: is_up(prometheus), "the gateway is scraped", 20)


def test_each_query_of_the_dashboard_finds_something(busy: Stack, prometheus: str) -> None:
    missing = {name: with_values(query) for name, query in TARGETS.items()}
    assert len(missing) > 20

    def all_are_found() -> bool:
        make_everything_happen(busy, pool)
        for name, query in list(missing.items()):
            if result_of(prometheus, query):
                del missing[name]
        return not missing

    with ThreadPoolExecutor() as pool:
        try:
            eventually(all_are_found, "each query found something", 30)
        except AssertionError:
            pytest.fail(f"nothing is found by {json.dumps(missing, indent=2)}")


def rules_of(prometheus: str) -> list[dict]:
    answer = requests.get(f"{prometheus}/api/v1/rules", timeout=10).json()
    return [rule for group in answer["data"]["groups"] for rule in group["rules"]]


def test_each_alert_is_evaluated_and_has_figures_to_compare(busy: Stack, prometheus: str) -> None:
    rules = rules_of(prometheus)
    assert len(rules) == 10
    # What an alert compares: there must be figures also while it is not raised.
    compared = {rule["name"]: re.sub(r" (==|>=|>|<) [0-9.]+", "", rule["query"]) for rule in rules}
    assert all(compared[rule["name"]] != rule["query"] for rule in rules)

    def all_have_figures() -> bool:
        make_everything_happen(busy, pool)
        return all(result_of(prometheus, query) for query in compared.values())

    with ThreadPoolExecutor() as pool:
        eventually(all_have_figures, f"figures for {compared}", 30)

    def all_are_evaluated() -> bool:
        return all(rule["health"] == "ok" for rule in rules_of(prometheus))

    eventually(all_are_evaluated, "each alert was evaluated without an error", 10)


def test_the_dashboard_names_its_data_source_by_a_variable() -> None:
    sources = [target["datasource"] for panel in DASHBOARD["panels"] for target in panel.get("targets", [])]
    assert {source["uid"] for source in sources} == {"${datasource}"}
    places = [tuple(panel["gridPos"].values()) for panel in DASHBOARD["panels"]]
    assert len(set(places)) == len(places), "no panel lies on another"
