"""Reference of the errors and of what a plan finds, from the classes and the calls that make them.

Floor 5.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import migrator
from manual.markdown import code, table
from migrator.errors import MigratorError
from migrator.planning.findings import Severity

_ERRORS = """# Errors

Every way in which a request can fail: its words, its exit code and its runbook. Words in capitals stand for what the
message fills in. `--json` prints an error as JSON on stderr, with the keys `error`, `happened`, `state`, `next`,
`exit_code`, `runbook` and `fields`; `error` is the name in the heading.
"""
_FINDINGS = """# Findings

What a plan can find, by the code that `plan --json` and `doctor --json` give it. `refuse` keeps `start` from
beginning; `warn` wants somebody to think; `info` was seen. What is filled in stands in braces.
"""
#: What makes a finding, besides those named as the severities are: both weigh by whom the plan is made for.
_MAKERS = {"severe": "refuse or warn", "for_the_owner": "refuse or warn"} | {str(each): str(each) for each in Severity}


def errors() -> list[type[MigratorError]]:
    """Return every error with words of its own: all modules are imported, since errors stand where they are raised."""
    for module in pkgutil.walk_packages(migrator.__path__, "migrator."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found = {kind for kind in _below(MigratorError) if {"happened", "sentences"} & vars(kind).keys()}
    return sorted((kind for kind in found if kind.__module__.startswith("migrator.")), key=lambda kind: kind.__name__)


def _below(kind: type[MigratorError]) -> Iterator[type[MigratorError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


def errors_page() -> str:
    """Return the page about errors."""
    parts = [_ERRORS]
    for kind in errors():
        runbook = f"[{kind.runbook}](../runbooks/{kind.runbook}.md)"
        parts.append(f"## `{kind.__name__}`\n\nExit {kind.exit_code}. Runbook: {runbook}.")
        parts.append(f"\n```text\n{_words(kind)}\n```\n")
    return "\n".join(parts)


class _Blank(str):
    """A field's name in capitals, which reads as any value that a sentence formats or walks through."""

    __slots__ = ()

    def __format__(self, spec: str) -> str:
        return str(self)


def _words(kind: type[MigratorError]) -> str:
    """Return an error's sentences, the fields as their names."""
    values = {each.name: _Blank(each.name.upper()) for each in fields(kind)}
    if kind.sentences is MigratorError.sentences:
        return " ".join(line.format(**values) for line in (kind.happened, kind.state, kind.next))
    for each in fields(kind):
        named = str(each.type)
        if named.startswith(("list", "Sequence", "tuple")):
            values[each.name] = [values[each.name]]  # type: ignore[assignment]
        elif named in {"int", "float", "Decimal"}:
            values[each.name] = 0  # type: ignore[assignment]
    return " ".join(kind(**values).sentences())


@dataclass(frozen=True, slots=True)
class Found:
    """One way to make a finding."""

    code: str
    severity: str
    message: str
    mend: str


def findings() -> list[Found]:
    """Return every finding that the planning makes, by its code."""
    made = []
    for path in sorted((Path(migrator.__file__).parent / "planning").glob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        constants = _constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and _maker(node.func) in _MAKERS and len(node.args) > 1:
                words = [constants.get(_text(each), _text(each)) for each in node.args]
                # Makers take (code, object, message, mend); those with a mend of their own take what comes before.
                message, mend = [*words[2:4], "", ""][:2]
                made += [Found(each, _MAKERS[_maker(node.func)], message, mend) for each in _codes(node.args[0])]
    return sorted(made, key=lambda each: (each.code, each.message))


def _constants(tree: ast.Module) -> dict[str, str]:
    """Return a module's texts with a name, by how the name is shown."""
    return {
        f"{{{node.targets[0].id.lower()}}}": str(node.value.value)
        for node in tree.body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }


def _codes(node: ast.expr) -> list[str]:
    if isinstance(node, ast.IfExp):
        return [*_codes(node.body), *_codes(node.orelse)]
    return [_text(node)] if isinstance(node, ast.Constant | ast.JoinedStr) else []


def _maker(function: ast.expr) -> str:
    while isinstance(function, ast.Call):
        function = function.func
    return function.id if isinstance(function, ast.Name) else ""


def _text(node: Any) -> str:
    """Return a text as it stands in the code; what is computed in braces."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(each) if isinstance(each, ast.Constant) else _braced(each) for each in node.values)
    if isinstance(node, ast.IfExp):
        return f"{_text(node.body)}, or {_text(node.orelse)}"
    return _braced(node)


def _braced(node: ast.expr) -> str:
    while isinstance(node, ast.FormattedValue | ast.Call | ast.Subscript | ast.Attribute):
        if isinstance(node, ast.Attribute):
            return f"{{{node.attr}}}"
        if isinstance(node, ast.Call):
            return "{...}"
        node = node.value
    return f"{{{node.id.lower()}}}" if isinstance(node, ast.Name) else "{...}"


def findings_page() -> str:
    """Return the page about findings."""
    rows = [[code(each.code), each.severity, code(each.message), code(each.mend)] for each in findings()]
    return "\n".join([_FINDINGS, table(["code", "severity", "message", "mend"], rows)])
