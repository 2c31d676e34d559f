"""A program that asks for /health ten times a second on new connections, until its input ends.

Its own process: in the one that makes the load, its clock would count what that process is busy with. Arguments: HOST PORT.
Prints one JSON object: how long each answer took, and what came in place of the others.
"""

import json
import select
import socket
import sys
import time

LIMIT = 10.0
ASK = b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


def ask(address: tuple[str, int]) -> bytes:
    """All that comes until the gateway closes."""
    seen = b""
    with socket.create_connection(address, LIMIT) as one:
        one.sendall(ASK)
        while data := one.recv(4096):
            seen += data
    return seen


def main() -> None:
    address = (sys.argv[1], int(sys.argv[2]))
    took, failed = [], []
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        began = time.monotonic()
        try:
            seen = ask(address)
        except OSError as error:
            seen = repr(error).encode()
        seconds = time.monotonic() - began
        if seen.startswith(b"HTTP/1.1 200 "):
            took.append(seconds)
        else:
            failed.append(f"{seen[:80]!r} after {seconds:.3f} s")
    print(json.dumps({"took": sorted(took), "failed": failed}))


if __name__ == "__main__":
    main()
