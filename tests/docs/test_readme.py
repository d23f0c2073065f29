"""The README: its promises name tests that exist, its spec is one, and its session is what the tool prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from migrator import spec
from tests.docs import pages
from tests.docs.pages import ROOT, read

README = ROOT / "README.md"
PROMISES = re.findall(r"^\| (P\d+) \| .+ \| (\[.+) \|$", read(README), re.MULTILINE)


def test_every_promise_is_there() -> None:
    assert [number for number, _ in PROMISES] == [f"P{number}" for number in range(1, 14)]


@pytest.mark.parametrize(("number", "proofs"), PROMISES, ids=[number for number, _ in PROMISES])
def test_each_promise_names_tests_that_carry_its_number(number: str, proofs: str) -> None:
    named = [(path, re.findall(r"`(\w+)`", tests)) for path, tests in re.findall(r"\]\(([^)]+)\)([^\[]+)", proofs)]
    assert named
    for path, tests in named:
        assert tests
        for each in tests:
            assert each.startswith(f"test_{number.lower()}_")
            assert re.search(rf"^(async )?def {each}\(", read(ROOT / path), re.MULTILINE), f"{path} has no {each}"


def test_the_sample_spec_is_a_spec(tmp_path: Path) -> None:
    (sample,) = [block.body for block in pages.blocks(read(README)) if block.language == "toml"]
    path = tmp_path / "docs.toml"
    path.write_text(sample, encoding="utf-8")
    assert spec.load(path).name == "docs"


def test_every_verb_of_the_command_line_is_in_the_session_or_the_list() -> None:
    """What an operator meets on the way; the verbs that repair are the runbooks'."""
    typed = {words[1] for words in pages.commands(read(README)) if words[0] == "migrator"}
    assert {"init", "doctor", "plan", "start", "status", "cutover", "rollback", "cleanup"} <= typed


def test_the_extras_and_files_it_names_exist() -> None:
    project = read(ROOT / "pyproject.toml")
    named = [each.split(",") for each in re.findall(r'pip install "\.\[([\w,]+)\]"', read(README))]
    assert named
    for extra in {each for several in named for each in several}:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE)
