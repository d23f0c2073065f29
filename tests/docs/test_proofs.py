"""Every test that a page names exists: what the documents claim stands and falls with it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs import pages
from tests.docs.pages import ROOT, read

_TESTS = "\n".join(read(path) for path in (ROOT / "tests").rglob("test_*.py"))
KNOWN = set(re.findall(r"^(?:async )?def (test_\w+)\(", _TESTS, re.MULTILINE))
CLAIMING = [path for path in pages.pages() if re.search(r"`test_\w+`", read(path))]


def test_pages_that_claim_are_found() -> None:
    assert {"README.md", "fence.md", "page-lanes.md", "what-can-go-wrong.md"} <= {path.name for path in CLAIMING}


@pytest.mark.parametrize("path", CLAIMING, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_test_that_is_named_exists(path: Path) -> None:
    named = set(re.findall(r"`(test_\w+)`", read(path)))
    assert named - KNOWN == set()
