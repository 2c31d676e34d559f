"""curl, as it stands in everybody's notes."""

import json
import shutil
import subprocess

import pytest
from harness import FAST, SLOW, Stack

pytestmark = pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")


def curl(*arguments: str) -> str:
    done = subprocess.run(
        ["curl", "-sS", "--noproxy", "*", "--max-time", "60", *arguments],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout


def test_generate_with_d_streams_by_default(stack: Stack) -> None:
    # `-d` says that it is a form, and Ollama does not mind.
    out = curl(f"{stack.url}/api/generate", "-d", json.dumps({"model": FAST, "prompt": "the"}))
    assert json.loads(out.splitlines()[-1])["done"]


def test_compression_that_was_offered_is_not_used_for_a_stream(stack: Stack) -> None:
    body = json.dumps({"model": FAST, "prompt": "the"})
    head = curl(
        f"{stack.url}/api/generate",
        *("-H", "Accept-Encoding: gzip, br, zstd", "-d", body, "-o", "/dev/null", "-D", "-"),
    )
    assert head.startswith("HTTP/1.1 200") and "content-encoding" not in head.lower()


def test_http_1_0_gets_the_whole_answer(stack: Stack) -> None:
    body = json.dumps({"model": FAST, "prompt": "the"})
    out = curl("--http1.0", f"{stack.url}/api/generate", "-d", body)
    assert json.loads(out.splitlines()[-1])["done"]


def test_a_body_that_waits_for_100_continue_is_sent_on(stack: Stack) -> None:
    body = json.dumps({"model": FAST, "prompt": "the", "stream": False})
    out = curl("-H", "Expect: 100-continue", f"{stack.url}/api/generate", "-d", body)
    assert json.loads(out)["done"]


def test_an_upgrade_to_h2c_is_not_taken_up(stack: Stack) -> None:
    out = curl("--http2", "-w", "%{http_version}", f"{stack.url}/api/version")
    assert out.endswith("1.1") and "version" in out


def test_curl_shows_each_line_as_it_comes_and_its_end_is_seen(stack: Stack) -> None:
    watch = stack.watch("/api/generate")
    body = {"model": SLOW, "prompt": "the", "options": {"num_predict": 1500}}
    with subprocess.Popen(
        ["curl", "-sN", "--noproxy", "*", f"{stack.url}/api/generate", "-d", json.dumps(body)],
        stdout=subprocess.PIPE,
    ) as child:
        for _ in range(3):
            assert json.loads(child.stdout.readline())["response"]
        assert watch.still_under_way()
        child.kill()
    watch.wait_for_cancel()
