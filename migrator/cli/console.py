"""What commands print, and how: colours on a terminal, plain lines elsewhere, JSON where it was asked for.

Floor 4.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import typer

from migrator import words
from migrator.errors import Declined, MigratorError


def say(line: str = "") -> None:
    """Print a line for people, on stdout."""
    typer.echo(line)


def aside(line: str) -> None:
    """Print a line about what is going on, on stderr: it does not belong to the answer."""
    typer.echo(line, err=True)


def heading(line: str) -> None:
    """Print a heading; bold on a terminal."""
    typer.secho(line, bold=True)


def as_json(value: Any) -> None:
    """Print the answer as JSON."""
    typer.echo(json_text(value))


def json_text(value: Any) -> str:
    """Return the answer as JSON."""
    return json.dumps(value, indent=2, default=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, datetime | date):
        return value.isoformat()
    return str(value)


def failure(error: MigratorError, *, as_json_too: bool) -> None:
    """Print an error: three sentences on stderr, or JSON."""
    if as_json_too:
        typer.echo(json.dumps(error.as_json(), indent=2), err=True)
        return
    happened, state, following = error.sentences()
    typer.secho(happened, err=True, fg=typer.colors.RED)
    typer.echo(state, err=True)
    typer.echo(following, err=True)


def ask(question: str, *, verb: str, yes: bool) -> None:
    """Ask before something is changed; `yes` answers, and where nobody can be asked it is needed.

    Raises: Declined.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise Declined(verb, "there is no terminal to ask at, and --yes was not given")
    if not typer.confirm(question):
        raise Declined(verb, "the answer was no")


def table(rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...] | None = None) -> None:
    """Print rows in columns, as wide as they need to be."""
    shown = [*([header] if header else []), *rows]
    if not shown:
        return
    widths = [max(len(row[column]) for row in shown) for column in range(len(shown[0]))]
    for number, row in enumerate(shown):
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        if header and number == 0:
            typer.secho(line, bold=True)
        else:
            typer.echo(line)


#: Bytes and US dollars for people, as the report has them.
size, usd = words.size, words.dollars
