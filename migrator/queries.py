"""The operator's queries: one JSON object a line, each a text and, where known, the keys that it must find.

Floor 0. Promise: every line that can't be used is named by its number, all at once; no text of a line is quoted (P11).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

#: Queries in a file: each is embedded twice and searched twice, and ten thousand bound a difference to 0.01.
MOST = 10_000
_KEYS = frozenset({"text", "relevant"})
#: Words of a row that make a known-item query: a title and a little more, as somebody remembers it.
_ITEM_WORDS = 12


@dataclass(frozen=True, slots=True)
class Query:
    """A text, and the keys that it must find, as texts of the key's columns; None where nobody said."""

    text: str
    relevant: tuple[tuple[str, ...], ...] | None


def known_item(text: str) -> str:
    """Return the query that must find the row of this text, where no operator's queries say what people ask for."""
    return " ".join(text.split()[:_ITEM_WORDS])


def read(path: Path, key_columns: int | None) -> tuple[list[Query], list[tuple[str, str, str]]]:
    """Read a file; returns the queries, and (where, what is wrong, what mends it) of what can't be used."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        return [], [(path.name, f"it can't be read ({error.strerror})", "name a file beside the spec")]
    except UnicodeDecodeError:
        return [], [(path.name, "it is no UTF-8", "write it as UTF-8")]
    found, wrong = parse(text, key_columns)
    mend = 'write each line as {"text": "red bicycle", "relevant": [17]}'
    return found, [(f"{path.name}:{line}", what, mend) for line, what in wrong]


def parse(lines: str, key_columns: int | None = None) -> tuple[list[Query], list[tuple[int, str]]]:
    """Read a file's text; returns the queries, and (line, what is wrong) of what can't be used.

    `key_columns`: of how many columns a key is, where that is known.
    """
    queries: list[Query] = []
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            queries.append(_query(json.loads(line), key_columns))
        except json.JSONDecodeError:
            problems.append((number, "it is no JSON"))
        except ValueError as error:
            problems.append((number, str(error)))
    if not queries and not problems:
        problems.append((1, "there is no query in it"))
    if len(queries) > MOST:
        problems.append((MOST + 1, f"there are more than {MOST:,} queries in it"))
    if not problems and len({query.relevant is None for query in queries}) > 1:
        problems.append((1, "some queries say what is relevant and others do not: all or none must"))
    return queries, problems


def _query(data: object, key_columns: int | None) -> Query:
    if not isinstance(data, dict):
        raise ValueError('it is no object such as {"text": "red bicycle", "relevant": [17]}')  # noqa: TRY004
    unknown = sorted(map(str, data.keys() - _KEYS))
    if unknown:
        raise ValueError(f"there is no such key as {', '.join(unknown)[:40]} (known: text, relevant)")
    text = data.get("text")
    if not isinstance(text, str) or not text.strip():
        raise ValueError("its text is missing or empty")
    if data.get("relevant") is None:
        return Query(text, None)
    keys = data["relevant"]
    if not isinstance(keys, list) or not keys:
        raise ValueError("its relevant is no list of keys")
    return Query(text, tuple(_key(key, key_columns) for key in keys))


def _key(key: object, key_columns: int | None) -> tuple[str, ...]:
    """Read a key: a value, or a list of values where it has several columns."""
    parts: Sequence[object] = key if isinstance(key, list) else [key]
    if not parts or not all(isinstance(part, str | int) and not isinstance(part, bool) for part in parts):
        raise ValueError("a key in its relevant is neither a number nor a text, nor a list of those")
    if key_columns is not None and len(parts) != key_columns:
        raise ValueError(f"a key in its relevant has {len(parts)} columns, and the table's has {key_columns}")
    return tuple(str(part) for part in parts)
