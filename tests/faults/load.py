"""The row about more load than the servers can take, with little memory."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from .bench import Bench, Gateway, NotHere, built, eventually, ms, nothing_under_way, percentile, pid, ups, warm
from parts.wire import address_of

MEMORY = 256 * 1024 * 1024
SLOTS, TOKENS, PACE_MS = 8, 10, 20
BODY_BYTES = 32 * 1024
REJECT_LIMIT, HEALTH_LIMIT, GOODPUT = 0.05, 0.1, 0.9


def run(bench: Bench) -> None:
    bench.table.run(
        f"10 times the capacity, {'20 s' if bench.is_short else '5 minutes'}, 256 MiB",
        "no OOM, rejects p99 at most 50 ms, goodput at least 90 % of capacity, /health at most 100 ms",
        lambda: overload(bench),
    )


@contextlib.contextmanager
def memory_group() -> Iterator[tuple[Path, str]]:
    """A cgroup with the limit set, and the name of the file that counts its OOM kills."""
    two = Path("/sys/fs/cgroup/cgroup.controllers")
    has_two = two.exists() and "memory" in two.read_text().split()
    if has_two:
        group = Path("/sys/fs/cgroup/llamatower-faults")
        limits, kills = {"memory.max": str(MEMORY), "memory.swap.max": "0"}, "memory.events"
    else:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
        own = next((line.split(":", 2)[2] for line in lines if line.split(":")[1] == "memory"), "/")
        group = Path("/sys/fs/cgroup/memory") / own.lstrip("/") / "llamatower-faults"
        limits, kills = {"memory.limit_in_bytes": str(MEMORY)}, "memory.oom_control"
    try:
        if has_two:
            Path("/sys/fs/cgroup/cgroup.subtree_control").write_text("+memory")
        group.mkdir(exist_ok=True)
        for name, value in limits.items():
            (group / name).write_text(value)
    except OSError as error:
        raise NotHere(f"no cgroup with a limit of memory can be made here: {error}") from None
    try:
        yield group, kills
    finally:
        with contextlib.suppress(OSError):
            eventually(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
            group.rmdir()


@contextlib.contextmanager
def limited(bench: Bench, group: Path) -> Iterator[None]:
    """Gateways of this context start in the cgroup."""
    script = bench.folder / "limited-gateway"
    script.write_text(f'#!/bin/sh\necho $$ > {group}/cgroup.procs && exec {built("LLAMATOWER_BIN", "llamatower")} "$@"\n')
    script.chmod(0o755)
    before = os.environ.get("LLAMATOWER_BIN")
    os.environ["LLAMATOWER_BIN"] = str(script)
    try:
        yield
    finally:
        os.environ.pop("LLAMATOWER_BIN")
        if before is not None:
            os.environ["LLAMATOWER_BIN"] = before


def program(gateway: Gateway, name: str) -> list[str]:
    host, port = address_of(gateway.origin)
    return [sys.executable, str(Path(__file__).with_name(name)), host, str(port)]


def generate(bench: Bench, gateway: Gateway, rate: float, seconds: float) -> dict:
    more = [str(rate), str(seconds), str(BODY_BYTES), str(bench.chance.getrandbits(32))]
    done = subprocess.run([*program(gateway, "generator.py"), *more], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def health_during(gateway: Gateway, load: Callable[[], dict]) -> tuple[dict, dict]:
    """What came of a load, and of /health meanwhile."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(program(gateway, "health.py"), **pipes) as probes:
        try:
            result = load()
        finally:
            seen = probes.communicate()[0]
    return result, json.loads(seen)


def overload(bench: Bench) -> str:
    seconds = 20 if bench.is_short else 300
    capacity = SLOTS / (TOKENS * PACE_MS / 1000)
    model = f"tiny,slots={SLOTS},pace={PACE_MS}ms,reply={TOKENS}"
    settings = {"LLAMATOWER_SLOTS": str(SLOTS), "LLAMATOWER_QUEUE_MAX_WAITING": "64"}
    with memory_group() as (group, kills), bench.sims(1, model) as sims, limited(bench, group):
        warm([sim.url for sim in sims])
        with bench.gateway([sim.url for sim in sims], **settings) as gateway:
            process = pid(gateway)
            assert str(process) in (group / "cgroup.procs").read_text().split(), "the gateway is not in the cgroup"
            # What the servers can do behind the gateway, without a queue that is full.
            possible = generate(bench, gateway, capacity * 1.2, 6)["goodput"]
            result, health = health_during(gateway, lambda: generate(bench, gateway, capacity * 10, seconds))
            eventually(lambda: nothing_under_way(gateway), "every permit is back", 30)
            assert ups(gateway) == 1, "the server counts as down"
            alive = gateway.process._child.poll() is None
            highest = peak(group)
            killed = [line for line in (group / kills).read_text().splitlines() if line.startswith("oom_kill ") and not line.endswith(" 0")]
    rejects, took = result["rejects"], health["took"]
    goodput = result["goodput"] / possible
    seen = (
        f"{result['requests']} requests in {result['seconds']:.0f} s, {result['statuses']}; peak {highest / 2**20:.0f} MiB of the cgroup; rejects "
        f"p50 {ms(percentile(rejects, 0.5))}, p99 {ms(percentile(rejects, 0.99))}, max {ms(rejects[-1])}; goodput "
        f"{result['goodput']:.1f}/s, {goodput * 100:.0f} % of {possible:.1f}/s; /health {len(took)} times, p99 {ms(percentile(took, 0.99))}, max {ms(took[-1])}"
    )
    assert not health["failed"], f"/health: {health['failed'][:5]}; {seen}"
    assert alive and not killed, f"out of memory: {killed}; {seen}"
    assert set(result["statuses"]) <= {"200", "503"}, f"a request had no answer, or half of one; {seen}"
    assert percentile(rejects, 0.99) <= REJECT_LIMIT and goodput >= GOODPUT and took[-1] <= HEALTH_LIMIT, seen
    return seen


def peak(group: Path) -> int:
    for name in ("memory.peak", "memory.max_usage_in_bytes"):
        if (group / name).exists():
            return int((group / name).read_text())
    return 0


