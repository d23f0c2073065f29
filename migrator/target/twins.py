"""Twins: every index over the live column once more over the shadow, whatever its kind.

Floor 1. Pure. Promise: a twin says word for word what the live index says (method, opclass, options, collation,
expression, INCLUDE, predicate), but for the column's name; it is read from PostgreSQL's own definition, so a kind of
index that this module never heard of is copied too. Its name can meet no other twin's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from migrator.statements import compose
from migrator.target.dependents import LiveIndex
from migrator.target.relation import Target, suffixed

_FILE = "target/index.sql"
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
        made.append(_quoted(new) if hit and not storage and not is_call and depth > 0 else text)
        if kind != "space":
            before = text
    return "".join(made)


def _quoted(name: str) -> str:
    """Write a name as PostgreSQL does: in quotes only where it must; a suffixed name is no keyword."""
    return name if _PLAIN.fullmatch(name) else sql.Identifier(name).as_string()


@dataclass(frozen=True, slots=True)
class Twin:
    """An index to be made over the shadow column: a live one's copy, on the table or on one of its partitions."""

    target: Target
    live: LiveIndex
    oid: int
    schema: str
    table: str
    name: str

    @classmethod
    def of(cls, target: Target, live: LiveIndex) -> Twin:
        """Return the copy of an index, beside it."""
        return cls(target, live, live.heap_oid, live.schema, live.table, suffixed(live.name))

    @property
    def index_id(self) -> sql.Identifier:
        """The index, qualified: it lies in its table's schema."""
        return sql.Identifier(self.schema, self.name)

    @property
    def table_id(self) -> sql.Identifier:
        """The table or partition that it is on, qualified."""
        return sql.Identifier(self.schema, self.table)

    @property
    def definition(self) -> str:
        """What stands behind USING, over the shadow column."""
        return renamed(self.live.definition, self.target.column, self.target.shadow)

    def statement(self, *, as_parent: bool = False) -> sql.Composed:
        """Return the CREATE INDEX that makes the live index again over the shadow column."""
        # The definition comes from pg_get_indexdef, not from input.
        text: Any = self.definition
        parts = {"name": sql.Identifier(self.name), "table": self.table_id, "definition": sql.SQL(text)}
        return compose(_FILE, "build_parent", parts) if as_parent else compose(_FILE, "build", parts)
