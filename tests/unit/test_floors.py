"""The house: a module imports only from below, steps never call each other, no room is too big."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted([*ROOT.glob("migrator/**/*.py"), *ROOT.glob("workers/*.py"), *ROOT.glob("migrations/**/*.py")])

#: What each package may import of ours, besides itself.
WORDS = {
    "endpoint",
    "errors",
    "events",
    "generation",
    "lifecycle",
    "limits",
    "measures",
    "queries",
    "reasons",
    "scope",
    "settings",
    "signals",
    "spec",
    "statements",
    "template",
    "thresholds",
    "tracing",
    "windows",
    "words",
}
STATE = WORDS | {"state"}
GROUND = STATE | {"provider", "target", "throttle", "spending"}
STEPS = {"planning", "pilot", "provenance", "canary", "backfill", "validation", "cutover", "hooks"}
ALLOWED = {
    **dict.fromkeys(WORDS, WORDS),
    "state": WORDS,
    "provider": WORDS,
    "target": STATE,
    "throttle": STATE | {"target"},
    "spending": STATE | {"provider", "throttle"},
    **dict.fromkeys(STEPS, GROUND),
    "orchestrator": GROUND | STEPS,
    "report": GROUND | STEPS | {"orchestrator"},
    "cli": GROUND | STEPS | {"orchestrator", "report", "demo"},
    "demo": GROUND | STEPS | {"orchestrator"},
    # What applications import: nothing of the tool may come along.
    "client": {"generation"},
    "__init__": set(),
    "__main__": {"cli"},
}
MAX_LINES, MAX_FUNCTION_LINES = 400, 50


def imports(path: Path) -> set[str]:
    """Every module that a file names in an import, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def rooms(modules: set[str]) -> set[str]:
    """Packages of ours among imported modules: migrator.state.leases -> state."""
    return {module.split(".")[1] for module in modules if module.startswith("migrator.")}


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_only_from_below(path: Path) -> None:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "migrator":
        return
    room = parts[1].removesuffix(".py") if len(parts) == 2 else parts[1]
    known = {name.removesuffix(".py") for name in (each.name for each in (ROOT / "migrator").iterdir())}
    used = rooms(imports(path)) & known
    assert used - {room} <= ALLOWED[room], f"{path} imports from its own floor or above"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_migrator_never_imports_workers_or_celery(path: Path) -> None:
    if path.relative_to(ROOT).parts[0] == "migrator":
        assert {module.split(".")[0] for module in imports(path)}.isdisjoint({"workers", "celery"})


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_rooms_are_small(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    if "revision = " in text:
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def test_rooms_of_tests_and_benchmarks_are_small() -> None:
    sizes = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for folder in ("tests", "benchmarks", "manual")
        for path in (ROOT / folder).rglob("*.py")
    }
    assert len(sizes) > 100
    assert {path: lines for path, lines in sizes.items() if lines > MAX_LINES} == {}


def test_no_room_is_named_for_its_kind() -> None:
    kinds = {"utils", "util", "helpers", "helper", "common", "manager", "misc", "models"}
    names = {path.stem for path in SOURCES} | {path.parent.name for path in SOURCES}
    assert names.isdisjoint(kinds)


def test_the_tasks_use_nothing_that_the_broker_could_lose() -> None:
    """No countdown, eta, retry or canvas: attempts and delays are in Postgres."""
    text = (ROOT / "workers/tasks.py").read_text(encoding="utf-8")
    words = {node.attr for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    words |= {node.arg for node in ast.walk(ast.parse(text)) if isinstance(node, ast.keyword) and node.arg}
    assert words.isdisjoint({"retry", "countdown", "eta", "chord", "group", "chain", "delay", "AsyncResult"})


def test_every_module_opens_with_its_floor() -> None:
    exempt = {ROOT / "migrator/__init__.py", *ROOT.glob("migrations/**/*.py")}
    silent = [
        str(path.relative_to(ROOT))
        for path in SOURCES
        if path not in exempt and "Floor" not in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
    ]
    assert silent == []
