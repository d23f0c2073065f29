"""CONTRIBUTING.md: its verbs and their words exist, and the commands that take seconds are run as they are written."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import benchmarks.__main__ as benches
from tests.docs import pages
from tests.docs.pages import ROOT, read
from tests.unit.test_floors import MAX_FUNCTION_LINES, MAX_LINES

PAGE = read(ROOT / "CONTRIBUTING.md")
SECTIONS = pages.sections(PAGE)
TYPED = [words for words in pages.commands(PAGE) if words[0] == "./run"]
NAMED = [tuple(span.split()) for span in pages.spans(PAGE) if span.startswith("./run ")]
#: Options of pytest's own that the page uses, beside those of tests/conftest.py.
PYTESTS = {"-q", "-n"}
#: Verbs that are run elsewhere (test_run.py, test_demo.py, test_site.py), or that do all of it: check, test, lock.
SECONDS = {("help",), ("test", "-q", "tests/unit/test_lifecycle.py")}


def test_every_verb_of_run_is_in_the_table() -> None:
    usage = re.findall(
        r"^  ([a-z]+)\b", read(ROOT / "run").partition("<<'TEXT'")[2].partition("\nTEXT")[0], re.MULTILINE
    )
    table = {words[1] for words in NAMED}
    assert {*usage} - {"help"} <= table
    assert {words[1] for words in NAMED + TYPED} <= {*usage, "packages"}


@pytest.mark.parametrize("words", sorted({words[1:] for words in TYPED + NAMED}), ids=" ".join)
def test_what_follows_a_verb_exists(words: tuple[str, ...]) -> None:
    verb, *rest = words
    if verb == "test":
        known = set(re.findall(r'addoption\("(--[a-z]+)"', read(ROOT / "tests/conftest.py"))) | PYTESTS
        assert {word for word in rest if word.startswith("-")} <= known
        paths = [word for word in rest if not word.startswith("-") and not word.isdigit()]
        assert [path for path in paths if not (ROOT / path).exists()] == []
    elif verb == "bench":
        assert set(rest) <= set(benches.NAMES)
    else:
        assert set(rest) <= {"--serve", "--upgrade"}


@pytest.mark.parametrize("words", sorted(SECONDS), ids=" ".join)
def test_it_runs(words: tuple[str, ...]) -> None:
    assert words in {each[1:] for each in TYPED}
    done = subprocess.run([str(ROOT / "run"), *words], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_packages_are_listed() -> None:
    done = subprocess.run([str(ROOT / "run"), "packages"], capture_output=True, text=True, timeout=60, check=True)
    assert "chromium" in done.stdout.split()


def test_the_folders_of_tests_are_those_that_there_are() -> None:
    told = re.findall(r"^\| `(tests/\w+)` \|", SECTIONS["Tests"], re.MULTILINE)
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").iterdir() if any(path.glob("test_*.py"))}
    assert set(told) == there


def test_figures_and_names_are_the_codes() -> None:
    assert f"at most {MAX_LINES} lines and a function at most {MAX_FUNCTION_LINES}" in pages.flat(PAGE)
    names = {path.stem: read(path) for path in Path(ROOT / "tests").rglob("test_*.py")}
    for form in ("p3", "h11", "r19"):
        assert f"`test_{form}_...`" in PAGE
        assert any(re.search(rf"def test_{form}_", text) for text in names.values())
    subject = re.findall(r'\("([^"]+)"\)', SECTIONS["Commits"])
    assert all(len(each) <= 72 for each in subject)
