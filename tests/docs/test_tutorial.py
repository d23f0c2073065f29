"""docs/tutorial.md goes the demo's way, step by step; tests/acceptance/test_demo.py holds its lines to the output."""

from __future__ import annotations

import re

from tests.docs import pages
from tests.docs.pages import ROOT, read
from tests.docs.session import TUTORIAL, session

STORY = read(ROOT / "migrator/demo/story.py")


def test_it_types_what_the_demo_types_in_the_same_order() -> None:
    calls = re.findall(r"terminal\.(?:run|follow)\(([^)]*)\)", STORY)
    played = iter([tuple(re.findall(r'"([^"]+)"', call)) for call in calls])
    told = [words[1:] for words in pages.commands(f"```console\n{session(TUTORIAL)}```") if words[0] == "migrator"]
    assert len(told) > 8
    assert [words for words in told if words not in played] == []


def test_its_steps_are_numbered_and_end_with_the_readers_own_table() -> None:
    headings = list(pages.sections(read(TUTORIAL)))
    assert [int(each.split(".")[0]) for each in headings[:-1]] == list(range(1, len(headings)))
    assert headings[-1] == "Your own table"
