"""docs/json.md: every document is printed, in one life of a migration, and has the keys that stand there, no others."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from migrator.cli import app as cli
from tests.deployment import Deployment
from tests.docs import pages
from tests.docs.pages import ROOT, read
from tests.docs.test_runbooks import VERBS, deployed, options_of

__all__ = ["deployed"]
SECTIONS = pages.sections(read(ROOT / "docs" / "json.md"))
#: The commands of the table in their order, with the keys that it gives them.
OTHERS = re.findall(r"^\| `([^`]+)` \| (?:`\[\]` )?(`.+`) \|$", SECTIONS["The other verbs"], re.MULTILINE)
#: Not of this table: their documents have sections, or pages, of their own.
ELSEWHERE = {"status", "plan", "pilot", "report"}


def told(section: str) -> set[str]:
    """The keys in the first column of a section's table."""
    rows = re.findall(r"^\| (`.+?`) \| .+ \|$", SECTIONS[section], re.MULTILINE)
    return {key for row in rows for key in re.findall(r"`([^`]+)`", row)}


def deep(value: Any, at: str = "") -> Iterator[str]:
    """Every key with the way to it."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield (path := f"{at}.{key}".lstrip("."))
            yield from deep(each, path)
    elif isinstance(value, list):
        for each in value:
            yield from deep(each, f"{at}[]")


def leaves(keys: set[str]) -> set[str]:
    """The keys without those that only hold others, but for the lists."""
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def run(capfd: pytest.CaptureFixture[str], command: str) -> Any:
    capfd.readouterr()
    code = cli.run([*command.split(), "--json"])
    out, err = capfd.readouterr()
    assert code == 0, f"{command}: {err}"
    return json.loads(out)


def top(document: Any) -> set[str]:
    return {key for each in (document if isinstance(document, list) else [document]) for key in each}


def test_every_document_has_the_keys_that_are_told(deployed: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    assert len(OTHERS) > 18
    deployed.query("UPDATE docs SET title = NULL, body = NULL WHERE id = 1 RETURNING id")  # so that `rows` has one
    for command, keys in OTHERS:
        if command.startswith("start"):
            assert top(run(capfd, "plan docs.toml")) == told("`plan`")
        if command.startswith(("batches", "cancel")):  # `unblock` comes before that
            assert cli.run(["work", "docs"]) == 0 if command.startswith("batches") else cli.run(["resume", "docs"]) == 0
        if command.startswith("fence"):
            found = set(deep(run(capfd, "status docs")))
            assert leaves(found) == leaves(told("`status`"))
        assert top(run(capfd, command)) == set(re.findall(r"`(\w+)`", keys)), command
    assert deployed.status == "cleaned"


def test_every_verb_with_json_is_there() -> None:
    printing = {verb for verb in VERBS if "--json" in options_of(verb)}
    assert {command.split()[0] for command, _ in OTHERS} == printing - ELSEWHERE


def test_an_error_has_the_keys_that_are_told(deployed: Deployment, capfd: pytest.CaptureFixture[str]) -> None:
    assert deployed.spec_file.exists()
    assert cli.run(["status", "nobody", "--json"]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert set(json.loads(err)) == told("Errors")
