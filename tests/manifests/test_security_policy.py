"""SECURITY.md names files and tests that exist, and a test for each threat."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text()
SECTION = TEXT.partition("## Threats")[2].partition("## What is not defended")[0]
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in SECTION.splitlines() if line.startswith("|")][2:]
# What is no file: a command with its arguments.
COMMAND = re.compile(r"\./check ([a-zA-Z0-9-]+)")


def quoted(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def is_path(word: str) -> bool:
    return "/" in word and not word.startswith("./") and re.fullmatch(r"[\w./-]+", word) is not None


def test_each_path_exists() -> None:
    paths = [word for row in ROWS for cell in row[1:] for word in quoted(cell) if is_path(word)]
    assert len(ROWS) > 30 and len(paths) > 2 * 30
    missing = [path for path in paths if not (ROOT / path).exists()]
    assert not missing


def test_each_named_test_is_in_the_file_before_it() -> None:
    found = 0
    for threat, _, tests in ROWS:
        text = ""
        for word in quoted(tests):
            if is_path(word):
                text = (ROOT / word).read_text()
            elif not COMMAND.match(word):
                assert re.search(rf"\b(?:fn|def) {word}\b", text), f"{threat}: {word}"
                found += 1
    assert found > 40


def test_each_threat_has_a_defence_and_a_test() -> None:
    for threat, defence, tests in ROWS:
        assert quoted(defence), threat
        assert quoted(tests) or tests == "the compiler", threat


def test_each_named_step_of_the_checks_exists() -> None:
    steps = set(COMMAND.findall(TEXT))
    listed = subprocess.run([ROOT / "check", "--list"], check=True, capture_output=True, text=True).stdout
    assert steps and steps <= {line.split()[0] for line in listed.splitlines()}
