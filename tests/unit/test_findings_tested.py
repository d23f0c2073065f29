"""Every finding that a plan can make has a test of its own, by its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.planning.findings import Severity

ROOT = Path(__file__).resolve().parents[2]
_MAKERS = frozenset({*map(str, Severity), "severe", "for_the_owner"})
#: Those that are put together from the kind of what hangs on the column are no constants: `test_preflight` goes through
#: the kinds.
_CODE = re.compile(r"[a-z][a-z_]{2,}")


def _codes() -> Iterator[str]:
    """Every code that a finding is made with, also one of several."""
    for path in sorted((ROOT / "migrator" / "planning").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and _maker(node.func) in _MAKERS and node.args:
                for each in ast.walk(node.args[0]):
                    if isinstance(each, ast.Constant) and isinstance(each.value, str) and _CODE.fullmatch(each.value):
                        yield each.value


def _maker(function: ast.expr) -> str:
    while isinstance(function, ast.Call):
        function = function.func
    return function.id if isinstance(function, ast.Name) else ""


CODES = sorted(set(_codes()))
_TESTS = "\n".join(
    path.read_text(encoding="utf-8")
    for folder in ("unit", "integration")
    for path in sorted((ROOT / "tests" / folder).glob("test_*.py"))
    if path.name != Path(__file__).name
)


def test_the_codes_are_found() -> None:
    assert {"key_missing", "trigger_always", "broker_evicts", "free_disk_unknown", "publication_typed"} <= set(CODES)


@pytest.mark.parametrize("code", CODES)
def test_every_finding_has_a_test(code: str) -> None:
    assert f'"{code}"' in _TESTS
