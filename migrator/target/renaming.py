"""One column's name in PostgreSQL's own words for an index or a CHECK, replaced by another's.

Floor 1. Pure. Promise: only the column is renamed; types, collations, functions, strings and storage parameters of the
same name stay.
"""

from __future__ import annotations

import re

from psycopg import sql

#: What a definition is made of: a string, a quoted or plain word, or any other character.
_TOKEN = re.compile(
    r"""(?P<string>'(?:[^']|'')*') | (?P<quoted>"(?:[^"]|"")*") | (?P<word>[^\W\d][\w$]*) | (?P<space>\s+)
        | (?P<cast>::) | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_PLAIN = re.compile(r"[a-z_][a-z0-9_]*")
#: A word behind one of these names something else than a column: a qualified name's end, a type, a collation.
_NO_COLUMN_AFTER = frozenset({".", "::", "COLLATE"})


def renamed(definition: str, old: str, new: str) -> str:
    """Return an index definition, from the method on, with one column's name replaced.

    `definition` is PostgreSQL's own (pg_get_indexdef with search_path = pg_catalog), where all else is qualified.
    """
    made, before, depth, storage = [], "", 0, False
    tokens = [(found.lastgroup, found[0]) for found in _TOKEN.finditer(definition)]
    for at, (kind, text) in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(text, 0)
        if depth == 0 and kind == "word":
            storage = text == "WITH"  # until WHERE: a storage parameter may be called as the column is
        is_call = next((each for other, each in tokens[at + 1 :] if other != "space"), "") == "("
        name = text[1:-1].replace('""', '"') if kind == "quoted" else text
        hit = kind in {"word", "quoted"} and name == old and before not in _NO_COLUMN_AFTER
        made.append(quoted(new) if hit and not storage and not is_call and depth > 0 else text)
        if kind != "space":
            before = text
    return "".join(made)


def quoted(name: str) -> str:
    """Write a name as PostgreSQL does: in quotes only where it must; a suffixed name is no keyword."""
    return name if _PLAIN.fullmatch(name) else sql.Identifier(name).as_string()
