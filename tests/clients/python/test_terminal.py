"""The program in a terminal, which may be closed."""

import os
import pty
import signal
import subprocess

from harness.backends import built
from harness.process import ask, eventually, free_port


def serves(url: str) -> bool:
    try:
        return ask(url)[0] == 200
    except OSError:
        return False


def test_sighup_ends_the_program_only_if_its_terminal_is_gone() -> None:
    listen = f"127.0.0.1:{free_port()}"
    env = {
        "LLAMATOWER_LISTEN": listen,
        "LLAMATOWER_ADMIN_LISTEN": "off",
        "LLAMATOWER_DRAIN_DELAY": "0",
        "OLLAMA_URL": f"http://127.0.0.1:{free_port()}",
    }
    terminal, inside = pty.openpty()
    command = [str(built("LLAMATOWER_BIN", "llamatower"))]
    program = subprocess.Popen(command, env=env, stdin=inside, stdout=inside, stderr=inside)
    os.close(inside)
    try:
        eventually(lambda: serves(f"http://{listen}/health"), "it serves", 30)
        program.send_signal(signal.SIGHUP)
        said = b""
        while b"settings reloaded" not in said:
            said += os.read(terminal, 4096)
        assert serves(f"http://{listen}/health")
        os.close(terminal)
        program.send_signal(signal.SIGHUP)
        assert program.wait(30) == 0
    finally:
        program.kill()
        program.wait()
