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
from migrator.target.renaming import quoted, renamed

_FILE = "target/index.sql"
#: pgvector's types of columns that are moved; their operator classes have equal names behind the type's.
TYPES = frozenset({"vector", "halfvec"})


@dataclass(frozen=True, slots=True)
class Twin:
    """An index to be made over the shadow column: a live one's copy, on the table or on one of its partitions."""

    target: Target
    live: LiveIndex
    oid: int
    schema: str
    table: str
    name: str
    #: The shadow column's: an index over another type needs that type's operator class.
    type_name: str

    @classmethod
    def of(cls, target: Target, live: LiveIndex, type_name: str) -> Twin:
        """Return the copy of an index, beside it; `type_name` is the shadow column's."""
        return cls(target, live, live.heap_oid, live.schema, live.table, suffixed(live.name), type_name)

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
        words = renamed(self.live.definition, self.target.column, self.target.shadow)
        return reclassed(words, self.live, quoted(self.target.shadow), self.type_name)

    def statement(self, *, as_parent: bool = False) -> sql.Composed:
        """Return the CREATE INDEX that makes the live index again over the shadow column."""
        # The definition comes from pg_get_indexdef, not from input.
        text: Any = self.definition
        parts = {"name": sql.Identifier(self.name), "table": self.table_id, "definition": sql.SQL(text)}
        return compose(_FILE, "build_parent", parts) if as_parent else compose(_FILE, "build", parts)


def reclassed(definition: str, live: LiveIndex, column: str, type_name: str) -> str:
    """Return a definition whose first column, `column`, has its operator class for another vector type.

    Not said where it is the old type's default (IVFFlat's vector_l2_ops), so it is said for the new one.
    """
    kind, _, rest = live.opclass.partition("_")
    method, _, columns = definition.partition("(")
    if kind == type_name or kind not in TYPES or not re.match(rf"{re.escape(column)}[ ,)]", columns):
        return definition
    schema = quoted(live.opclass_schema)
    behind = columns[len(column) :].removeprefix(f" {schema}.{live.opclass}")
    return f"{method}({column} {schema}.{type_name}_{rest}{behind}"
