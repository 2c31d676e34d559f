"""The harness for test suites in other languages: a request a line in, an answer a line out.

    -> {"do": "start", "kind": "sim"}
    <- {"url": "http://127.0.0.1:40001", "gateway": true}
    -> {"do": "watch", "path": "/api/chat"}
    <- {"watch": 0}

What fails answers `{"error": ".."}`, what this run cannot have `{"missing": ".."}`. Everything
ends with the end of the input.
"""

import contextlib
import json
import sys
import tempfile
from pathlib import Path

from .cloud import Cloud
from .stack import Missing, Stack, Watch, kinds, running


class Session:
    """One stack at a time, its further gateways and its watches."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._ends = contextlib.ExitStack()
        self._watches: list[Watch] = []
        self._stacks = 0
        self._stack: Stack | None = None

    @property
    def stack(self) -> Stack:
        if self._stack is None:
            raise RuntimeError("start a stack first")
        return self._stack

    def kinds(self) -> dict:
        return {"kinds": kinds()}

    def start(self, kind: str) -> dict:
        """Start a stack, after the end of the one before."""
        self.stop()
        self._stacks += 1
        folder = self._folder / f"{kind}-{self._stacks}"
        self._stack = self._ends.enter_context(running(kind, folder, self._folder / "stores"))
        return {"url": self.stack.url, "gateway": self.stack.gateway is not None}

    def gateway(self, **settings: str) -> dict:
        """One more gateway in front of the same backends."""
        gateway = self.stack.serve(**settings)
        self._ends.callback(gateway.stop)
        return {"url": gateway.url}

    def cloud_gateway(self) -> dict:
        """One more gateway, which sends what no backend has to a cloud service."""
        cloud = Cloud()
        self._ends.callback(cloud.stop)
        return self.gateway(**cloud.settings())

    def watch(self, path: str) -> dict:
        self._watches.append(self.stack.watch(path))
        return {"watch": len(self._watches) - 1}

    def under_way(self, watch: int) -> dict:
        return {"under_way": self._watches[watch].still_under_way()}

    def wait_for_cancel(self, watch: int) -> dict:
        self._watches[watch].wait_for_cancel()
        return {}

    def kill_holder(self, model: str) -> dict:
        self.stack.kill_holder(model)
        return {}

    def stop(self) -> dict:
        self._ends.close()
        self._stack = None
        return {}


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="llamatower-") as folder:
        session = Session(Path(folder))
        try:
            for line in sys.stdin:
                asked = json.loads(line)
                try:
                    answer = getattr(session, asked.pop("do"))(**asked)
                except Missing as missing:
                    answer = {"missing": str(missing)}
                except Exception as error:
                    answer = {"error": f"{type(error).__name__}: {error}"}
                print(json.dumps(answer), flush=True)
        finally:
            session.stop()


if __name__ == "__main__":
    main()
