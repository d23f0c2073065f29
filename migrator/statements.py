"""Named SQL: one readable file per subject, beside the module that uses it; each statement with its header.

Floor 0. Promise: no statement is built from strings: values are parameters, names are `psycopg.sql.Identifier`s that
fill {placeholders}. A statement begins at `-- name: x`; its header (purpose, `locks:`, `idempotent:`) is stripped, so a
percent sign or a brace in prose can't break it. A test prepares every statement and fails on an unused one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from psycopg import sql

#: How PostgreSQL's quotes of a block or a function's body look.
_TAG = re.compile(r"\$([a-z_]+)\$")
_NAME = re.compile(r"^-- name: (\w+)$", re.MULTILINE)


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


def compose(file: str, name: str, parts: Mapping[str, sql.Composable] | None = None) -> sql.Composed:
    """Return a statement with its {placeholders} filled; no name or value in it ends a block that it stands in."""
    # The text comes from a file of this package, never from input: psycopg asks for a literal and can't know.
    text: Any = load(file)[name]
    parts = parts or {}
    for tag in set(_TAG.findall(text)):
        free = tag
        while any(f"${free}$" in part.as_string() for part in parts.values()):
            free += "_"
        text = text.replace(f"${tag}$", f"${free}$")
    return sql.SQL(text).format(**parts)
