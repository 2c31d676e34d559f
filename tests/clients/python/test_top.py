"""`llamatower top` in a real terminal: what an operator sees and does there."""

import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from harness import FAST, OTHER, SLOW, Gateway, Missing, Stack
from harness.backends import built
from harness.process import ask, eventually, free_port
from harness.stack import running

SETTINGS = {
    "LLAMATOWER_SLOTS": "1",
    "LLAMATOWER_PROBE_INTERVAL": "500ms",
    "LLAMATOWER_PROBE_TIMEOUT": "500ms",
}
LIMIT = 20.0
PROGRAM = str(built("LLAMATOWER_BIN", "llamatower"))


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Simulated servers with one slot each."""
    with running("sim", tmp_path, tmp_path, **SETTINGS) as stack:
        yield stack


@pytest.fixture
def gateway(stack: Stack) -> Gateway:
    if stack.gateway is None:
        raise Missing("there is no gateway")
    names = {url.removeprefix("http://") for url in (one.url for one in stack.backends)}
    eventually(lambda: up_servers(stack.gateway) == names, "both servers are up", LIMIT)
    return stack.gateway


def up_servers(gateway: Gateway) -> set[str]:
    status = json.loads(ask(f"{gateway.admin}/status")[1])
    return {row["name"] for row in status["backends"] if row["is_up"]}


class Terminal:
    """A terminal of 100 columns and 30 rows with a shell that runs the program."""

    _names = itertools.count()

    def __init__(self, folder: Path, gateway: "Gateway | OtherGateway", **environment: str):
        # A socket of its own: nothing of a tmux that somebody else uses.
        self._tmux = ["tmux", "-L", f"llamatower-{os.getpid()}-{next(self._names)}", "-f", os.devnull]
        self._folder = folder
        settings = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "TZ": "UTC",
            "LLAMATOWER_ADMIN_LISTEN": gateway.admin.removeprefix("http://"),
            **environment,
        }
        words = " ".join(shlex.quote(f"{name}={value}") for name, value in settings.items())
        end = shlex.quote(str(folder / "end"))
        script = (
            f"stty -g > {end}.before; env -i TERM=$TERM {words} {shlex.quote(PROGRAM)} top & "
            f"echo $! > {end}.pid; fg > {os.devnull}; echo exit code $?; "
            f"stty -g > {end}.after; echo ended; cat"
        )
        # A shell with job control, so that its child's id is known and the child has the terminal.
        shell = f"bash --norc --noprofile -m -c {shlex.quote(script)}"
        self._run("new-session", "-d", "-x", "100", "-y", "30", shell)

    def _run(self, *command: str) -> str:
        run = subprocess.run(
            [*self._tmux, *command], capture_output=True, check=True, timeout=30,
            env={**os.environ, "LANG": "C.UTF-8"},
        )
        return run.stdout.decode()

    def screen(self, *options: str) -> str:
        return self._run("capture-pane", "-p", *options)

    def press(self, *keys: str) -> None:
        for key in keys:
            self._run("send-keys", key)

    def title(self) -> str:
        return self._run("display", "-p", "#{pane_title}")

    def resize(self, columns: int, rows: int) -> None:
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def wait_for(self, pattern: str) -> str:
        """The first screen that has this pattern."""
        found: list[str] = []

        def is_there() -> bool:
            found[:] = [self.screen()]
            return re.search(pattern, found[0]) is not None

        try:
            eventually(is_there, f"the screen has {pattern}", LIMIT)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.screen()}") from None
        return found[0]

    def kill(self, number: int) -> None:
        os.kill(int((self._folder / "end.pid").read_text()), number)

    def assert_restored(self, code: int) -> None:
        """The program has ended with this exit code, and the terminal is as it was."""
        screen = self.wait_for(r"(?m)^ended$")
        assert f"exit code {code}" in screen, screen
        assert "Servers" not in screen, "the screen from before is back"
        before, after = (self._folder / f"end.{when}" for when in ("before", "after"))
        assert before.read_text() == after.read_text()
        assert self._run("display", "-p", "#{alternate_on} #{cursor_flag}").split() == ["0", "1"]

    def close(self) -> None:
        self._run("kill-server")


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    """Opens `llamatower top` in a terminal."""
    if shutil.which("tmux") is None:
        raise pytest.skip.Exception("llamatower top in a terminal: tmux is not installed")
    terminals: list[Terminal] = []

    def open_terminal(gateway: "Gateway | OtherGateway", **environment: str) -> Terminal:
        folder = tmp_path / f"terminal-{len(terminals)}"
        folder.mkdir()
        terminals.append(Terminal(folder, gateway, **environment))
        return terminals[-1]

    yield open_terminal
    for terminal in terminals:
        terminal.close()


def chat(gateway: Gateway, model: str, tokens: int = 5) -> int:
    body = {
        "model": model,
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"num_predict": tokens},
    }
    return ask(f"{gateway.url}/api/chat", body, limit=60)[0]


@pytest.fixture
def begin(gateway: Gateway) -> Iterator[Callable[[str, int], None]]:
    """Begins requests in the background."""
    threads: list[threading.Thread] = []

    def start(model: str, tokens: int) -> None:
        threads.append(threading.Thread(target=chat, args=(gateway, model, tokens)))
        threads[-1].start()

    yield start
    for thread in threads:
        thread.join(60)


def normalised(screen: str, stack: Stack) -> list[str]:
    """The lines of a screen without figures, and with one space where there are more."""
    for index, backend in enumerate(stack.backends):
        screen = screen.replace(backend.url.removeprefix("http://"), f"server-{'ab'[index]}")
    screen = re.sub(r"\d\d:\d\d:\d\d", "CLOCK", screen)
    screen = re.sub(r"\d+(\.\d)? (ms|s|min)\b", "TIME", screen)
    screen = re.sub(r"\d+ [kM]?B\b", "SIZE", screen)
    screen = re.sub(r"═+|─+", "--", screen)
    lines = (re.sub(r" +", " ", line).strip() for line in screen.splitlines())
    return [line for line in lines if line]


def test_the_screen_shows_servers_requests_models_and_clients(
    stack: Stack, gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    assert chat(gateway, FAST) == 200
    terminal = opened(gateway)
    terminal.wait_for(rf"(?m)^> \S+ +up .* {FAST}")
    screen = terminal.wait_for(r"(?s)Last requests: 1.*Clients since the start: 1")
    lines = normalised(screen, stack)
    assert re.fullmatch(r"llamatower \d+\.\d+\.\d+, up TIME live", lines[0]), lines[0]
    assert re.fullmatch(r"in flight 0 queue 0 tokens/s [\d.-]+ first byte .*", lines[1]), lines[1]
    speed = lines[4].rsplit(" ", 1)[1]
    assert re.fullmatch(r"-|\d+(,\d+)*", speed), lines[4]
    shown = [line.replace(f" {speed}", " SPEED") if "> server-a" in line else line for line in lines[2:]]
    # The names of two servers may not fit.
    shown = [re.sub(r"server-a, \S+", "server-a, OTHERS", line) for line in shown]
    assert shown == [
        "-- Servers: 2 of 2 up --",
        "Server State In flight Model in memory Slots Size Left Tok/s",
        f"> server-a up 0 {FAST}:latest 0/1 SIZE TIME SPEED",
        "server-b up 0",
        "-- Queue: 0 waiting --",
        "No request waits",
        "-- Last requests: 1 --",
        "Ended Client Model Result Server First byte Duration Tokens",
        f"CLOCK address:127.0.0.1 {FAST} 200 server-a TIME TIME 8 + 5",
        "-- Models: 3 --",
        "Model Size In memory on Installed on In flight Waiting Expected wait",
        f"{OTHER}:latest SIZE - server-b 0 0 -",
        f"{SLOW}:latest SIZE - server-a, OTHERS 0 0 -",
        f"{FAST}:latest SIZE server-a server-a 0 0 -",
        "-- Clients since the start: 1 --",
        "Client Requests Refused Prompt tokens Output tokens",
        "address:127.0.0.1 1 0 8 5",
        "Tab table ↑↓ row Enter details c cordon / filter p pause ? help q quit",
    ]


def test_a_server_that_ends_is_seen_to_be_down(
    stack: Stack, gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    terminal = opened(gateway)
    terminal.wait_for(r"Servers: 2 of 2 up")
    stack.backends[1].kill()
    name = re.escape(stack.backends[1].url.removeprefix("http://"))
    screen = terminal.wait_for(rf"(?m)^ +{name} +down")
    assert "Servers: 1 of 2 up" in screen


def test_a_server_is_cordoned_and_uncordoned_by_keys(
    stack: Stack, gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    terminal = opened(gateway)
    terminal.wait_for(r"Servers: 2 of 2 up")
    first = stack.backends[0].url.removeprefix("http://")
    terminal.press("c")
    terminal.wait_for(rf"Cordon {re.escape(first)}\?")
    terminal.press("n", "c", "y")
    terminal.wait_for(rf"(?m)^> {re.escape(first)} +cordoned")
    assert chat(gateway, FAST) == 503, "only this server has the model"
    terminal.press("c", "y")
    terminal.wait_for(rf"(?m)^> {re.escape(first)} +up")
    assert chat(gateway, FAST) == 200
    terminal.press("c", "y", "q")
    terminal.assert_restored(0)
    assert chat(gateway, FAST) == 503, "it is done although the program has ended"


def test_a_waiting_request_is_cancelled_by_keys(
    gateway: Gateway, opened: Callable[..., Terminal], begin: Callable[[str, int], None]
) -> None:
    terminal = opened(gateway)
    for _ in range(3):
        begin(SLOW, 400)
    terminal.wait_for(r"Queue: [12] waiting")
    terminal.press("2", "x")
    terminal.wait_for(r"Cancel this request\?")
    terminal.press("y")
    terminal.wait_for(r"503: cancelled_by_oper")


def test_a_request_has_details_with_the_servers_it_could_go_to(
    gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    for _ in range(2):
        assert chat(gateway, SLOW) == 200
    terminal = opened(gateway)
    terminal.wait_for(r"Last requests: 2")
    terminal.press("3", "Enter")
    screen = terminal.wait_for(r"The servers it could go to")
    assert "POST /api/chat" in screen
    assert len(re.findall(r"healthy", screen)) == 2, screen
    assert len(re.findall(r"chosen", screen)) == 1, screen
    terminal.press("Escape")
    terminal.wait_for(r"Models: 3")


class OtherGateway:
    """Sends these parts of a status as events: this version's gateway refuses such names."""

    def __init__(self, parts: dict[str, object]):
        ended = self._ended = threading.Event()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Type", "text/event-stream")
                self.end_headers()
                for name, part in parts.items():
                    self.wfile.write(f"event: {name}\ndata: {json.dumps(part)}\n\n".encode())
                ended.wait(60)

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.admin = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._ended.set()
        self._server.shutdown()
        self._server.server_close()


def test_control_characters_of_others_stay_text_and_unknown_fields_do_no_harm(
    opened: Callable[..., Terminal],
) -> None:
    name = "a\u001b[2J\u001b]0;title\u0007\u009b31m\u202eb"
    other = OtherGateway(
        {
            "gateway": {"version": f"9.0.0{name}", "of_a_later_version": [1]},
            "backends": [{"name": name, "is_up": True, "resident": [{"model": name, "size": 1}]}],
            "models": [{"model": name}, {"model": "模型"}],
            "of_a_later_version": {"a": 1},
        }
    )
    try:
        terminal = opened(other)
        escaped = re.escape(r"a\u001b[2J\u001b]0;title\u0007\u009b31m\u202eb")
        terminal.wait_for(rf"\Allamatower 9\.0\.0{escaped} +live\n")
        terminal.wait_for(r"(?m)^  模型 ")
        terminal.press("Enter")
        screen = terminal.wait_for(rf"│ Server +{escaped} +│")
        assert "\u202e" not in screen
        assert "title" not in terminal.title()
    finally:
        other.stop()


def test_a_gateway_that_goes_away_is_told_and_found_again(
    gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    terminal = opened(gateway)
    terminal.wait_for(r"Servers: 2 of 2 up")
    gateway.stop()
    screen = terminal.wait_for(r"No connection to the gateway, the data is .* old: Connection refused")
    assert "old data" in screen.splitlines()[0]
    assert "Servers: 2 of 2 up" in screen, "the last data stays"
    gateway.process.start(f"{gateway.origin}/health", 200)
    terminal.wait_for(r"\A[^\n]* live\n(?s:.*)Servers: 2 of 2 up")


@pytest.mark.parametrize("end", ["q", "C-c", "SIGTERM", "SIGHUP"])
def test_the_terminal_is_restored(
    gateway: Gateway, opened: Callable[..., Terminal], end: str
) -> None:
    terminal = opened(gateway)
    terminal.wait_for(r"Servers: 2 of 2 up")
    if end.startswith("SIG"):
        terminal.kill(signal.Signals[end])
    else:
        terminal.press(end)
    terminal.assert_restored(0)


def test_a_terminal_that_is_too_small_says_so(
    gateway: Gateway, opened: Callable[..., Terminal]
) -> None:
    terminal = opened(gateway)
    terminal.wait_for(r"Servers: 2 of 2 up")
    terminal.resize(50, 12)
    terminal.wait_for(r"This terminal has 50 columns and 12 rows")
    terminal.resize(80, 24)
    terminal.wait_for(r"Servers: 2 of 2 up")


@pytest.mark.parametrize("is_colored", [True, False])
def test_colours_are_used_unless_no_color_is_set(
    gateway: Gateway, opened: Callable[..., Terminal], is_colored: bool
) -> None:
    terminal = opened(gateway, **({} if is_colored else {"NO_COLOR": "1"}))
    terminal.wait_for(r"Servers: 2 of 2 up")
    colours = re.search(r"\x1b\[(\d+;)*(3[0-8]|4[0-8]|9\d|10\d)[;m]", terminal.screen("-e"))
    assert (colours is not None) == is_colored


def run_without_terminal(gateway_address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, "top", *arguments],
        env={"PATH": os.environ["PATH"], "LLAMATOWER_ADMIN_LISTEN": gateway_address},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_terminal_the_state_is_printed_once(stack: Stack, gateway: Gateway) -> None:
    assert chat(gateway, FAST) == 200
    address = gateway.admin.removeprefix("http://")
    for arguments in ([], ["--once"]):
        run = run_without_terminal(address, *arguments)
        assert (run.returncode, run.stderr) == (0, "")
        lines = normalised(run.stdout, stack)
        assert lines[0].endswith(": live"), lines
        assert any(re.match(rf"server-a up 0 {FAST}:latest 0/1 SIZE", line) for line in lines), lines
        assert "\x1b" not in run.stdout
    run = run_without_terminal(address, "--json")
    assert json.loads(run.stdout)["requests"][0]["status"] == 200


def test_exit_codes_tell_why_nothing_is_shown(gateway: Gateway) -> None:
    run = run_without_terminal(f"127.0.0.1:{free_port()}")
    assert (run.returncode, run.stdout) == (1, "")
    assert "no response from the gateway at http://127.0.0.1:" in run.stderr
    run = run_without_terminal("off")
    assert (run.returncode, run.stdout) == (2, "")
    assert "--admin-url" in run.stderr
