"""Named SQL: one readable file per subject, beside the module that uses it; each statement with its header.

Floor 0. Promise: no statement is built from strings: values are parameters, names are `psycopg.sql.Identifier`s that
fill {placeholders}. A statement begins at `-- name: x`; its header (purpose, `locks:`, `idempotent:`) is stripped, so a
percent sign or a brace in prose can't break it. No name and no expression of an operator's can end a function's body or
be read as a parameter, whatever stands in it. A test prepares every statement and fails on an unused one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import sql

_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_PART = re.compile(r"\{(\w+)\}")
#: How PostgreSQL's quotes of a block or a function's body look.
_TAG = re.compile(r"\$[a-z_]*\$")


@cache
def load(file: str) -> dict[str, str]:
    """Read a file of this package (`target/facts.sql`); returns the statements' texts by name, headers stripped."""
    text = files("migrator").joinpath(file).read_text(encoding="utf-8")
    pieces = _NAME.split(text)
    return {name: _without_header(body) for name, body in zip(pieces[1::2], pieces[2::2], strict=True)}


def _without_header(body: str) -> str:
    lines = body.strip("\n").splitlines()
    first = next(number for number, line in enumerate(lines) if not line.startswith("--"))
    return "\n".join(lines[first:]).strip().rstrip(";")


def quoted(text: str) -> sql.Composable:
    """Return a literal for the body of a function, which no text can end: a dollar sign is written by its number."""
    if "$" not in text:
        return sql.Literal(text)
    return sql.SQL("U&'{}'").format(sql.SQL("".join(f"\\+{ord(each):06X}" for each in text)))


def identifier(name: str) -> str:
    """Return a name as SQL takes it, for a statement that somebody is told to run."""
    return sql.Identifier(name).as_string()


class Verbatim(sql.SQL):
    """SQL in the operator's own words (a spec's `where`): a percent sign in it is one, also beside parameters."""


def compose(file: str, name: str, parts: Mapping[str, sql.Composable] | None = None) -> sql.Composed:
    """Return a statement with its {placeholders} filled; no name or value in it ends a block that it stands in."""
    return _filled(file, name, parts) if parts else _without_parts(file, name)


@cache
def _without_parts(file: str, name: str) -> sql.Composed:
    return _filled(file, name, {})


def _filled(file: str, name: str, parts: Mapping[str, sql.Composable]) -> sql.Composed:
    # The text comes from a file of this package, never from input: psycopg asks for a literal and can't know.
    text: Any = load(file)[name]
    # Parts are often those of several statements: what another one takes as parameters is no matter here.
    named = set(_PART.findall(text))
    filled = {key: each for key, each in parts.items() if key in named}
    text = _with_free_tags(text, filled.values())
    if "%(" in text or any(_has_parameters(each) for each in filled.values()):
        filled = {key: _percent_signs_doubled(each) for key, each in filled.items()}
    return sql.SQL(text).format(**filled)


def dollar_quoted(body: sql.Composable) -> sql.Composed:
    """Return a block's body in dollar quotes, which nothing in it can end."""
    text: Any = _with_free_tags("$migrator${}$migrator$", [body])
    return sql.SQL(text).format(body)


def _with_free_tags(text: str, parts: Iterable[sql.Composable]) -> str:
    """Return a statement with dollar quotes that no part of it ends: a column may be named $capture$."""
    tags = set(_TAG.findall(text))
    said = "".join(each.as_string() for each in parts) if tags else ""
    for tag in tags:
        number, free = 0, tag
        while free in said:
            number, free = number + 1, f"{tag[:-1]}_{number}$"
        text = text.replace(tag, free)
    return text


def _has_parameters(part: sql.Composable) -> bool:
    if isinstance(part, sql.Composed):
        return any(_has_parameters(each) for each in part)
    return isinstance(part, sql.Placeholder)


def _percent_signs_doubled(part: sql.Composable) -> sql.Composable:
    """Return a part as psycopg takes it beside parameters, where a single percent sign begins one."""
    if isinstance(part, sql.Composed):
        return sql.Composed([_percent_signs_doubled(each) for each in part])
    if isinstance(part, sql.Identifier | sql.Literal | Verbatim):
        said: Any = part.as_string()
        return sql.SQL(said.replace("%", "%%"))
    return part
