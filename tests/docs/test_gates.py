"""docs/gates.md names every gate in its order, and every key of [gates] with its default."""

from __future__ import annotations

import re

from migrator import queries
from migrator.state import verdicts
from migrator.thresholds import GatesSpec
from tests.docs import pages
from tests.docs.pages import ROOT, read

PAGE = read(ROOT / "docs/gates.md")
ROWS = re.findall(r"^\| `(\w+)` \| (.+?) \| .+ \|$", PAGE, re.MULTILINE)


def test_every_gate_is_there_in_the_order_in_which_it_is_measured() -> None:
    assert [name for name, _ in ROWS if name in verdicts.GATES] == list(verdicts.GATES)


def test_every_key_is_there_with_its_default() -> None:
    told = {name: default for name, default in ROWS if name not in verdicts.GATES}
    defaults = {name: field.default for name, field in GatesSpec.model_fields.items()}
    assert told == {name: "none" if value is None else str(value) for name, value in defaults.items()}


def test_the_sample_queries_are_queries() -> None:
    (sample,) = [block.body for block in pages.blocks(PAGE) if block.language == "json"]
    found, wrong = queries.parse(sample, 1)
    assert (len(found), wrong) == (2, [])
