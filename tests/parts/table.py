"""A table of what is asked of the gateway and what was seen."""

import argparse
import random
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

SEED_BITS = 64


class NotHere(Exception):
    """A row needs something that this machine does not have; the text says what."""


@dataclass(frozen=True)
class Row:
    name: str
    asked: str
    seen: str
    holds: bool | None
    """None for a row that was left out."""

    def line(self) -> str:
        verdict = {True: "holds", False: "DOES NOT HOLD", None: "left out"}[self.holds]
        return f"{verdict:<13} | {self.name} | {self.asked} | {self.seen}"


class Table:
    """Rows, printed as they come."""

    def __init__(self, only: str = "") -> None:
        """With `only`, rows whose name does not contain this text are not run."""
        self.only = only
        self.rows: list[Row] = []

    def add(self, name: str, asked: str, seen: object, holds: bool | None) -> None:
        row = Row(name, asked, str(seen), holds)
        self.rows.append(row)
        print(row.line(), flush=True)

    def run(self, name: str, asked: str, check: Callable[[], object]) -> None:
        """Adds the row of `check`, which returns what was seen and fails with an AssertionError."""
        if self.only not in name:
            return
        start = time.monotonic()
        try:
            self.add(name, asked, check(), True)
        except NotHere as why:
            self.add(name, asked, why, None)
        except AssertionError as seen:
            self.add(name, asked, seen, False)
        except Exception as error:  # a broken check must not hide the rows after it
            traceback.print_exc()
            self.add(name, asked, f"the check itself failed: {error!r}", False)
        if (took := time.monotonic() - start) > 5:
            print(f"{'':<13} | (took {took:.0f} s)", flush=True)

    def end(self, seed: int | None = None) -> int:
        """Prints the sum, and the seed if something was random; the exit code."""
        count = {verdict: sum(row.holds is verdict for row in self.rows) for verdict in (True, False, None)}
        of_seed = "" if seed is None else f"seed {seed}: "
        print(f"{of_seed}{count[True]} passed, {count[False]} failed, {count[None]} skipped")
        for row in self.rows:
            if row.holds is False:
                print(row.line())
        return 1 if count[False] or not count[True] else 0


def arguments(description: str | None) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--seed", type=lambda text: int(text, 0), help="64 bits that choose order, timing and victims"
    )
    parser.add_argument("--only", default="", help="only rows whose name contains this text")
    return parser


def seeded(options: argparse.Namespace) -> random.Random:
    """The generator of the run; the seed is printed, and `options.seed` set."""
    if options.seed is None:
        options.seed = random.SystemRandom().getrandbits(SEED_BITS)
    print(f"seed {options.seed}; --seed {options.seed} repeats the choices of this run", flush=True)
    return random.Random(options.seed)
