"""A real nginx as a private process, and certificates for it."""

import shutil
import subprocess
from pathlib import Path

import pytest
from harness import nginx
from harness.process import Process


def started(folder: Path, servers: str, plain: int) -> Process:
    """An nginx with these server blocks; on the port `plain` it says that it is up."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if not program:
        pytest.skip("nginx is not installed")
    return nginx.started(program, folder, servers, plain)


def certificates(folder: Path, ca: Path, key: Path) -> None:
    """An authority, and a certificate for `localhost` that it has signed: server.pem, server.key."""
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")

    def openssl(*words: str | Path) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True, timeout=60)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    openssl("req", "-x509", *new_key, "-keyout", key, "-out", ca, "-subj", "/CN=authority", "-days", "2")
    openssl("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=server")
    (folder / "names").write_text("subjectAltName=DNS:localhost\n")
    sign = ["-req", "-in", "server.csr", "-CA", ca, "-CAkey", key, "-CAcreateserial", "-extfile", "names"]
    openssl("x509", *sign, "-out", "server.pem", "-days", "2")
