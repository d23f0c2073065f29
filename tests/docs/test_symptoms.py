"""What an operator is told to look for is what the tool prints: each line of `You see` has its words from the code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.pages import ROOT, RUNBOOKS, read
from tests.docs.test_runbooks import SYMPTOMS

#: Words of others: Celery's worker and beat, and PostgreSQL.
THEIRS = (
    "Connection to broker lost",
    "Couldn't apply scheduled task",
    "PL/pgSQL function migrator.on_",
    "No space left on device",
    "building index: loading tuples",
)
#: A figure, a name, or punctuation stands between words that the code has.
_WORD = re.compile(r"[A-Za-z_`'-]{3,}")


def words(text: str) -> list[str]:
    return [each.strip("`'-") for each in _WORD.findall(text)]


def said(folder: Path) -> Iterator[str]:
    """Every text in the code, and our SQL."""
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(read(path))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value
    yield from (read(path) for path in folder.rglob("*.sql"))


TEXTS = [words(text) for folder in ("migrator", "workers") for text in said(ROOT / folder)]
PAIRS = {pair for text in TEXTS for pair in pairwise(text)}
SINGLE = {word for text in TEXTS for word in text}


@pytest.mark.parametrize("path", SYMPTOMS, ids=lambda path: path.stem)
def test_every_symptom_is_in_the_tools_own_words(path: Path) -> None:
    (block,) = pages.blocks(pages.sections(read(path))["You see"])
    for line in block.body.splitlines():
        # A command that is named is in the code somewhere, whatever stands around it.
        found = words(re.sub(r"`[^`]*`", " ", line)) or words(line)
        told = any(pair in PAIRS for pair in pairwise(found))
        told = told or SINGLE.issuperset(found)
        assert told or any(each in line for each in THEIRS), f"nothing prints: {line}"


def test_the_runbooks_are_found() -> None:
    assert RUNBOOKS / "failover.md" in SYMPTOMS
