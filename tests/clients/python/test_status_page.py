"""The status page in a real browser: what an operator sees and does there."""

import http.client
import json
import os
import shutil
import signal
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from harness import FAST, SLOW, Gateway, Missing, Stack
from harness.process import ask, eventually
from harness.redis import Redis
from harness.stack import running
from nginx import certificates
from playwright.sync_api import Browser, Dialog, Page, expect, sync_playwright

CHROMIUM = [Path("/usr/bin/chromium"), Path("/usr/bin/chromium-browser")]
SCREENSHOTS = Path(__file__).parents[3] / "docs"
KEY = "operators-key-of-the-tests-0123456789"
SETTINGS = {
    "LLAMATOWER_SLOTS": "1",
    "LLAMATOWER_PROBE_INTERVAL": "500ms",
    "LLAMATOWER_PROBE_TIMEOUT": "500ms",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next((path for path in CHROMIUM if path.exists()), None)
    if found is None:
        raise pytest.skip.Exception("the status page in a browser: chromium is not installed")
    with sync_playwright() as playwright:
        # In containers /dev/shm is small, and Chromium has no sandbox of its own as root.
        arguments = ["--disable-dev-shm-usage", *(["--no-sandbox"] if os.geteuid() == 0 else [])]
        browser = playwright.chromium.launch(executable_path=found, args=arguments)
        yield browser
        browser.close()


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Simulated servers with one slot each."""
    with running("sim", tmp_path, tmp_path, **SETTINGS) as stack:
        yield stack


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    if stack.gateway is None:
        raise Missing("there is no gateway")
    return stack.gateway


@pytest.fixture
def opened(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens the page; whatever a script complains about fails the test."""
    complaints: list[str] = []
    contexts = []

    def open_page(gateway: Gateway, **options: object) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(f"{gateway.admin}/")
        return page

    yield open_page
    for context in contexts:
        context.close()
    # A response with an error is told on the console as well.
    assert [text for text in complaints if "Failed to load resource" not in text] == []


class Chats:
    """Requests of clients in the background."""

    def __init__(self, gateway: Gateway):
        self.gateway = gateway
        self.threads: list[threading.Thread] = []

    def begin(self, model: str, tokens: int = 5) -> None:
        thread = threading.Thread(target=self.send, args=(model, tokens))
        thread.start()
        self.threads.append(thread)

    def send(self, model: str, tokens: int = 5, headers: dict[str, str] | None = None) -> int:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": "hi"}],
            "options": {"num_predict": tokens},
        }
        url = f"{self.gateway.url}/api/chat"
        request = urllib.request.Request(url, json.dumps(body).encode(), headers or {})
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                response.read()
                return response.status
        except urllib.error.HTTPError as error:
            return error.code
        except (OSError, http.client.HTTPException):
            # The gateway was killed.
            return 0

    def end(self) -> None:
        for thread in self.threads:
            thread.join(60)


@pytest.fixture
def chats(gateway: Gateway) -> Iterator[Chats]:
    chats = Chats(gateway)
    yield chats
    chats.end()


def server_row(page: Page, index: int):
    return page.locator("#server-rows tr").nth(index)


def test_a_server_that_stops_and_goes_on_is_seen_to_do_so(
    stack: Stack, gateway: Gateway, opened: Callable[..., Page]
) -> None:
    page = opened(gateway)
    expect(server_row(page, 0).locator(".state")).to_have_text("up")
    process = stack.backends[0].process
    process.signal(signal.SIGSTOP)
    try:
        expect(server_row(page, 0).locator(".state")).to_have_text("down")
        expect(page.locator("#now dd").first).to_have_text("1 of 2")
        expect(page.locator("#announcements")).to_contain_text("is down")
    finally:
        process.signal(signal.SIGCONT)
    expect(server_row(page, 0).locator(".state")).to_have_text("up")


def test_the_queue_grows_and_shrinks_and_a_waiting_request_is_cancelled_by_keyboard(
    gateway: Gateway, opened: Callable[..., Page], chats: Chats
) -> None:
    page = opened(gateway)
    expect(page.locator("#waiting-rows")).to_contain_text("Nobody waits")
    for _ in range(4):
        chats.begin(SLOW, 400)
    rows = page.locator("#waiting-rows tr[data-key]")
    expect(rows.first).to_contain_text("address:127.0.0.1")
    page.locator("#model-filter").focus()
    button = rows.first.get_by_role("button")
    for _ in range(60):
        page.keyboard.press("Shift+Tab")
        if button.evaluate("button => button === document.activeElement"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog")).to_contain_text("Cancel this request?")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#request-rows")).to_contain_text("503: cancelled_by_operator")
    chats.end()
    expect(page.locator("#waiting-rows")).to_contain_text("Nobody waits")
    expect(page.locator("#now dd").nth(2)).to_have_text("0")


def test_the_focus_stays_when_a_row_above_it_goes(
    gateway: Gateway, opened: Callable[..., Page], chats: Chats
) -> None:
    page = opened(gateway)
    for _ in range(8):
        chats.begin(SLOW, 100)
    rows = page.locator("#waiting-rows tr[data-key]")
    expect(rows.nth(1)).to_be_visible()
    last = rows.last.get_attribute("data-key")
    page.locator(f"#waiting-rows tr[data-key='{last}'] button").focus()
    number = rows.count()
    expect(rows).not_to_have_count(number)
    focused = "document.activeElement.closest('tr')?.dataset.key"
    assert page.evaluate(focused) == last


def test_markup_and_control_characters_of_others_stay_text(
    gateway: Gateway, opened: Callable[..., Page], chats: Chats
) -> None:
    page = opened(gateway)
    dialogs: list[Dialog] = []
    page.on("dialog", lambda dialog: dialogs.append(dialog))
    markup = "<img/src=x/onerror=alert(1)>"  # a request id has no spaces
    assert chats.send("absent", headers={"X-Request-Id": markup}) == 404
    page.locator("#request-rows button").first.click()
    expect(page.get_by_role("dialog")).to_contain_text(markup)
    assert page.locator("img").count() == 0
    assert dialogs == []
    written = page.evaluate("async () => (await import('/format.js')).text('a\\u001b[31m\\u202eb')")
    assert written == "a\\u001b[31m\\u202eb"


def test_a_request_has_details_with_the_servers_it_could_go_to(
    gateway: Gateway, opened: Callable[..., Page], chats: Chats
) -> None:
    page = opened(gateway)
    for _ in range(3):
        assert chats.send(SLOW) == 200
    page.locator("#request-rows button").first.click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("POST /api/chat")
    expect(dialog.locator("tbody tr")).to_have_count(2)
    expect(dialog.locator("tr.chosen")).to_have_count(1)
    page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)


def test_a_server_is_cordoned_and_uncordoned(
    stack: Stack, gateway: Gateway, opened: Callable[..., Page], chats: Chats
) -> None:
    page = opened(gateway)
    server_row(page, 0).get_by_role("button", name="Cordon").press("Enter")
    page.get_by_role("button", name="Close").press("Enter")
    assert json.loads(ask(f"{gateway.admin}/status")[1])["backends"][0]["is_cordoned"] is False
    server_row(page, 0).get_by_role("button", name="Cordon").press("Enter")
    page.locator("#dialog-yes").press("Enter")
    expect(server_row(page, 0).locator(".state")).to_have_text("cordoned")
    assert chats.send(FAST) == 503, "only this server has the model"
    server_row(page, 0).get_by_role("button", name="Uncordon").press("Enter")
    page.locator("#dialog-yes").press("Enter")
    expect(server_row(page, 0).locator(".state")).to_have_text("up")
    assert chats.send(FAST) == 200


def test_a_model_is_loaded_and_unloaded(gateway: Gateway, opened: Callable[..., Page]) -> None:
    page = opened(gateway)
    row = server_row(page, 0)
    dialog = page.get_by_role("dialog")
    row.get_by_role("button", name="Unload").press("Enter")
    expect(dialog).to_contain_text("No model is in its memory.")
    page.get_by_role("button", name="Close").press("Enter")
    row.get_by_role("button", name="Load…", exact=False).first.press("Enter")
    dialog.get_by_label("Model").select_option(f"{FAST}:latest")
    assert Axe().run(page).violations_count == 0
    page.locator("#dialog-yes").press("Enter")
    expect(row).to_contain_text(f"{FAST}:latest:")
    row.get_by_role("button", name="Unload").press("Enter")
    page.locator("#dialog-yes").press("Enter")
    expect(page.locator("#announcements")).to_contain_text("leaves the memory")
    expect(row).not_to_contain_text(f"{FAST}:latest:")


def test_a_request_links_to_its_trace(
    stack: Stack, opened: Callable[..., Page]
) -> None:
    traces = {
        # Nothing has to answer there.
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:9/v1/traces",
        "OTEL_TRACES_SAMPLER": "always_on",
        "LLAMATOWER_TRACE_URL": "http://traces.example/trace/{trace_id}",
    }
    gateway = stack.serve(**SETTINGS, **traces)
    try:
        page = opened(gateway)
        assert Chats(gateway).send(FAST) == 200
        page.locator("#request-rows button").first.click()
        link = page.get_by_role("dialog").get_by_role("link")
        identity = link.text_content()
        assert len(identity) == 32
        assert link.get_attribute("href") == f"http://traces.example/trace/{identity}"
        assert Axe().run(page).violations_count == 0
    finally:
        gateway.stop()


def test_keys_are_shown_with_what_is_used_of_their_budgets(
    stack: Stack, opened: Callable[..., Page]
) -> None:
    limits = {"LLAMATOWER_API_KEYS": KEY, "LLAMATOWER_KEY_TOKEN_LIMIT": "20/day"}
    gateway = stack.serve(**SETTINGS, **limits)
    try:
        page = opened(gateway)
        rows = page.locator("#key-rows")
        expect(rows).to_contain_text("0 of 20 in the day (0 %)")
        assert Chats(gateway).send(FAST, 30, {"Authorization": f"Bearer {KEY}"}) == 200
        expect(rows).to_contain_text("used up")
        assert Axe().run(page).violations_count == 0
    finally:
        gateway.stop()


def test_declared_models_are_shown_with_the_pull_that_failed(
    stack: Stack, tmp_path: Path, opened: Callable[..., Page]
) -> None:
    server = stack.backends[0].url.removeprefix("http://")
    file = tmp_path / "declared.toml"
    file.write_text(f'[models]\n"{server}" = ["{FAST}", "absent"]\n')
    settings = SETTINGS | {"LLAMATOWER_CONFIG": str(file), "LLAMATOWER_MODELS_SYNC": "1m"}
    gateway = stack.serve(**settings)
    try:
        page = opened(gateway)
        declared = page.locator("#declared-rows")
        expect(declared).to_contain_text("absent")
        expect(declared).to_contain_text(server)
        assert Axe().run(page).violations_count == 0
    finally:
        gateway.stop()


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    program = shutil.which("redis-server")
    if not program:
        pytest.skip("redis-server is not installed")
    server = Redis(program, tmp_path)
    yield server
    server.stop()


def test_replicas_are_shown_while_they_are_registered_and_redis_while_it_is_gone(
    stack: Stack, redis: Redis, opened: Callable[..., Page]
) -> None:
    # Other tests use the processors too, so a usual response may take long.
    settings = SETTINGS | {"LLAMATOWER_REDIS_URL": redis.url, "LLAMATOWER_REDIS_TIMEOUT": "2s"}
    settings["LLAMATOWER_REDIS_DOWN_RATES"] = "open"
    one, other = stack.serve(**settings), stack.serve(**settings)
    chats = Chats(other)
    try:
        page = opened(one)
        rows = page.locator("#replica-rows tr[data-key]")
        expect(rows).to_have_count(2)
        expect(page.locator("#replicas-how")).to_contain_text("2 gateways")
        expect(page.locator("#replicas-how")).to_contain_text("connected since")
        expect(page.locator("#redis-problem")).to_be_hidden()
        of_one, of_other = (
            rows.filter(has_text=of.origin.removeprefix("http://")) for of in (one, other)
        )
        expect(of_one).to_contain_text("this gateway")
        expect(of_other).not_to_contain_text("this gateway")
        expect(of_other.locator("td").nth(4)).to_have_text("now")
        for _ in range(2):
            # Each of the gateways has a slot.
            chats.begin(SLOW, 600)
        expect(of_other.locator("td").nth(2)).to_have_text("2")
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
        other.process.kill()
        # It counts as gone after 5 s, and in the number of gateways after another 5.
        expect(rows).to_have_count(1, timeout=20_000)
        expect(page.locator("#replicas-how")).to_contain_text("1 gateway;", timeout=20_000)
        redis.process.signal(signal.SIGSTOP)
        try:
            problem = page.locator("#redis-problem")
            expect(problem).to_contain_text("Redis is not connected since", timeout=20_000)
            expect(problem).to_contain_text("requests with a rate limit are not limited")
            expect(problem).to_contain_text("requests with a token limit are limited to this gateway's part")
            expect(page.locator("#announcements")).to_have_text("Redis is not connected")
            report = Axe().run(page)
            assert report.violations_count == 0, report.generate_report()
        finally:
            redis.process.signal(signal.SIGCONT)
        expect(problem).to_be_hidden(timeout=20_000)
        expect(page.locator("#replicas-how")).to_contain_text(", connected since")
        expect(of_one.locator("td").nth(4)).to_have_text("now")
    finally:
        for gateway in (one, other):
            gateway.stop()
        chats.end()


def test_a_gateway_that_shares_nothing_shows_no_replicas(
    gateway: Gateway, opened: Callable[..., Page]
) -> None:
    page = opened(gateway)
    expect(server_row(page, 0).locator(".state")).to_have_text("up")
    for part in ("replicas", "redis-problem", "reload", "certificate", "expiring-keys"):
        expect(page.locator(f"#{part}")).to_be_hidden()


def test_what_other_gateways_write_into_redis_stays_text(
    gateway: Gateway, opened: Callable[..., Page]
) -> None:
    page = opened(gateway)
    expect(page.locator("#connection")).to_have_text("live")
    page.evaluate("""async () => {
        const markup = "<img src=x onerror=alert(1)>\\u202e";
        const row = {id: "1", host: markup, address: markup, version: markup, in_flight: null, waiting: null,
            is_draining: null, is_this: false, seen_ago: 4};
        const redis = {address: markup, is_connected: false, since: markup, problem: markup,
            requests_meanwhile: markup, tokens_meanwhile: markup};
        const {sharing} = await import("/replicas.js");
        sharing({gateways: 90, peers: markup, redis, registered: [row], not_listed: 89});
    }""")
    rows = page.locator("#replica-rows")
    written = "<img src=x onerror=alert(1)>\\u202e"
    expect(rows).to_contain_text(written)
    expect(rows).to_contain_text("4.0 s ago")
    expect(rows).to_contain_text("and 89 more")
    expect(page.locator("#redis-problem")).to_contain_text(written)
    assert page.locator("img").count() == 0


def test_a_refused_reload_an_expired_key_and_a_certificate_are_told_at_the_top(
    stack: Stack, tmp_path: Path, opened: Callable[..., Page]
) -> None:
    certificates(tmp_path, tmp_path / "ca.pem", tmp_path / "ca.key")
    digest = "sha256:" + "a" * 64
    keys = tmp_path / "keys.toml"
    keys.write_text(
        f'[keys.ada]\ndigest = "{digest}"\nexpires = 2020-01-31\n'
        f'[keys.ben]\ndigest = "{digest.replace("a" * 64, "b" * 64)}"\n'
    )
    gateway = stack.serve(
        **SETTINGS,
        LLAMATOWER_KEYS_FILE=str(keys),
        LLAMATOWER_TLS_CERT=str(tmp_path / "server.pem"),
        LLAMATOWER_TLS_KEY=str(tmp_path / "server.key"),
        # The harness asks without TLS.
        LLAMATOWER_TLS_LISTENERS="metrics",
        LLAMATOWER_METRICS_LISTEN="127.0.0.1:0",
    )
    try:
        page = opened(gateway)
        expect(page.locator("#expiring-keys")).to_contain_text("refused; extend or remove them: ada (2020-01-31)")
        certificate = page.locator("#certificate.bad")
        expect(certificate).to_contain_text("TLS certificate: it expires on ")
        (tmp_path / "server.pem").write_text("no certificate")
        expect(certificate).to_contain_text("its new files cannot be used")
        keys.write_text("[keys.ada]\ndigest = 7\n")
        gateway.process.signal(signal.SIGHUP)
        expect(page.locator("#reload.bad")).to_contain_text("the settings could not be reloaded")
        report = Axe().run(page)
        assert report.violations_count == 0, report.generate_report()
    finally:
        gateway.stop()


def test_an_operator_on_another_machine_signs_in(
    stack: Stack, opened: Callable[..., Page]
) -> None:
    gateway = stack.serve(
        LLAMATOWER_TRUSTED_PROXIES="127.0.0.1", LLAMATOWER_ADMIN_KEYS=KEY, **SETTINGS
    )
    try:
        page = opened(gateway, extra_http_headers={"X-Forwarded-For": "10.0.0.7"})
        assert Axe().run(page).violations_count == 0
        page.keyboard.type("not the key")
        page.keyboard.press("Enter")
        expect(page.get_by_role("alert")).to_have_text("This key is not known.")
        page.keyboard.type(KEY)
        page.keyboard.press("Enter")
        expect(server_row(page, 1).locator(".state")).to_have_text("up")
        expect(page.locator("#connection")).to_have_text("live")
    finally:
        gateway.stop()


def test_the_page_says_that_the_gateway_has_gone(
    stack: Stack, opened: Callable[..., Page]
) -> None:
    gateway = stack.serve(**SETTINGS)
    page = opened(gateway)
    expect(page.locator("#connection")).to_have_text("live")
    gateway.stop()
    expect(page.locator("#connection")).to_contain_text("the gateway does not answer")


@pytest.mark.parametrize(
    ("name", "scheme", "width"), [("light", "light", 1280), ("dark", "dark", 1280), ("phone", "light", 390)]
)
def test_the_page_is_accessible_and_fits(
    gateway: Gateway, opened: Callable[..., Page], chats: Chats, name: str, scheme: str, width: int
) -> None:
    for _ in range(3):
        assert chats.send(SLOW, 20) == 200
    for _ in range(4):
        chats.begin(SLOW, 300)
    page = opened(gateway, color_scheme=scheme, viewport={"width": width, "height": 900})
    expect(page.locator("#waiting-rows tr[data-key]").first).to_be_visible()
    expect(page.locator("#request-rows tr[data-key]").first).to_be_visible()
    expect(page.locator("#plot-tokens canvas")).to_be_visible()
    report = Axe().run(page)
    assert report.violations_count == 0, report.generate_report()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if os.environ.get("LLAMATOWER_WRITE_SCREENSHOTS"):
        page.screenshot(path=SCREENSHOTS / f"status-page-{name}.png", full_page=name != "phone")
