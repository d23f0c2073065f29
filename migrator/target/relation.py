"""The target as SQL sees it: its names, the one expression that composes a row's text, and its scope.

Floor 1. Promise: a row's text is composed by `text_of` everywhere (read, compare-and-set, trigger, proof), so two
places can't disagree about what was embedded. Names are quoted by psycopg; `where` is the operator's own SQL and was
read by `scope.read` and tried by the plan.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from psycopg import sql
from psycopg.adapt import PyFormat

from migrator.generation import Side
from migrator.state.migrations import Migration
from migrator.statements import Verbatim
from migrator.template import Template

#: Everything that we add to an operator's table ends in this, so "what is left behind?" has an answer.
SUFFIX = "__migrator"
_MAX_NAME_BYTES = 63  # PostgreSQL's NAMEDATALEN - 1
#: Letters of a digest that tell long names apart: 32 bits, among the few dozen indexes of one table.
_DIGEST_LETTERS = 8


def suffixed(name: str, suffix: str = SUFFIX) -> str:
    """Return `name` with our suffix, within what PostgreSQL keeps of a name.

    A name that must be cut carries a digest of the whole, so that two long ones which begin alike stay two.
    """
    room = _MAX_NAME_BYTES - len(suffix.encode())
    if len(name.encode()) <= room:
        return name + suffix
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:_DIGEST_LETTERS]
    kept = name.encode()[: room - len(digest) - 1].decode(errors="ignore")
    return f"{kept}_{digest}{suffix}"


@dataclass(frozen=True, slots=True)
class Target:
    """A live table with its vector column, shadow column, key and template. Names are as the catalog has them."""

    schema: str
    table: str
    column: str
    shadow: str
    key_columns: tuple[str, ...]
    key_types: tuple[str, ...]
    template: Template
    where: str | None
    only_embedded: bool

    @classmethod
    def of(cls, migration: Migration) -> Target:
        """Return the target of a stored migration."""
        return cls(
            schema=migration.target_schema,
            table=migration.target_table,
            column=migration.target_column,
            shadow=migration.shadow_column,
            key_columns=migration.key_columns,
            key_types=migration.key_types,
            template=migration.spec.target.template,
            where=migration.spec.target.where,
            only_embedded=migration.spec.target.only_embedded,
        )

    def __str__(self) -> str:
        return f"{self.schema}.{self.table}.{self.column}"

    @property
    def table_id(self) -> sql.Identifier:
        """The table, qualified."""
        return sql.Identifier(self.schema, self.table)

    def column_of(self, side: Side, live_side: Side) -> str:
        """Return the column that holds that side while `live_side` is live."""
        return self.column if side is live_side else self.shadow

    def text_of(self, row: str) -> sql.Composable:
        """Return the expression for a row's text; NULL counts as the empty text.

        Its collation is the database's own. A column's may be one that no regular expression takes, and columns that
        differ in theirs leave none at all; "C" would know of no blank and no capital beyond ASCII.
        """
        parts = [
            sql.SQL("coalesce({}::text, '')").format(_field(row, value)) if is_column else sql.Literal(value)
            for is_column, value in self.template.parts
        ]
        joined = sql.SQL(" || ").join([sql.SQL("''::text"), *parts])
        return sql.SQL('(({}) COLLATE pg_catalog."default")').format(joined)

    def octets_of(self, row: str) -> sql.Composable:
        """Return the expression for the length of a row's text in bytes; no long value is fetched for it."""
        literals = sum(len(value.encode()) for is_column, value in self.template.parts if not is_column)
        parts = [
            sql.SQL("coalesce(octet_length({}::text), 0)").format(_field(row, value))
            for is_column, value in self.template.parts
            if is_column
        ]
        return sql.SQL("({})").format(sql.SQL(" + ").join([sql.Literal(literals), *parts]))

    def all_null(self, row: str) -> sql.Composable:
        """Return the condition that every column of the template is NULL."""
        columns = [sql.SQL("{} IS NULL").format(_field(row, name)) for name in self.template.columns]
        return sql.SQL("({})").format(sql.SQL(" AND ").join(columns))

    def in_where(self, row: str) -> sql.Composable:
        """Return the condition that the spec's `where` takes a row, whatever vectors it has."""
        if self.where is None:
            return sql.SQL("true")
        # A sub-select of its own keeps `where`'s names from meeting ours; the alias lets it say docs.deleted_at.
        where: Any = self.where
        return sql.SQL("coalesce((SELECT ({}) FROM (SELECT {}.*) AS {}), false)").format(
            Verbatim(where), sql.SQL(_alias(row)), sql.Identifier(self.table)
        )

    def in_scope(self, row: str, *vectors: str) -> sql.Composable:
        """Return the condition that a row is to have a vector, read from `where` and the vector columns named.

        `only_embedded` asks for a vector in any of them: once both columns are written, name both. A row whose vector
        is NULL only because we owe it one stands in `dirty`: those are asked for `where` alone.
        """
        if not self.only_embedded:
            return self.in_where(row)
        return sql.SQL("({} AND {})").format(self.in_where(row), self.embedded(row, *vectors))

    def embedded(self, row: str, *vectors: str) -> sql.Composable:
        """Return the condition that a row has a vector in any of these columns."""
        filled = [sql.SQL("{} IS NOT NULL").format(_field(row, name)) for name in vectors]
        return sql.SQL("({})").format(sql.SQL(" OR ").join(filled))

    def key_of(self, row: str) -> sql.Composable:
        """Return a row's key as text[], in the database's own collation: columns may differ in theirs."""
        fields = [
            sql.SQL('{}::text COLLATE pg_catalog."default"').format(_field(row, name)) for name in self.key_columns
        ]
        return sql.SQL("ARRAY[{}]").format(sql.SQL(", ").join(fields))

    def key_equals(self, row: str, keys: str) -> sql.Composable:
        """Return the condition that a row's key is the one in columns k1, k2 ... of the relation `keys`."""
        pairs = [
            sql.SQL("{} = {}::{}").format(_field(row, name), _field(keys, f"k{number}"), _cast_to(kind))
            for number, (name, kind) in enumerate(zip(self.key_columns, self.key_types, strict=True), start=1)
        ]
        return sql.SQL("({})").format(sql.SQL(" AND ").join(pairs))

    def key_arrays(self) -> tuple[sql.Composable, sql.Composable]:
        """Return unnest's arguments for the key (%(k1)b::text[], ...) and their names (k1, ...).

        In binary: in text each word of an array is looked through for what has to be quoted.
        """
        names = [f"k{number}" for number in range(1, len(self.key_columns) + 1)]
        arrays = [sql.SQL("{}::text[]").format(sql.Placeholder(name, PyFormat.BINARY)) for name in names]
        return sql.SQL(", ").join(arrays), sql.SQL(", ").join(map(sql.Identifier, names))

    def key_values(self, keys: list[tuple[str, ...]]) -> dict[str, list[str]]:
        """Return the parameters that `key_arrays` names."""
        return {f"k{number}": [key[number - 1] for key in keys] for number in range(1, len(self.key_columns) + 1)}


#: Types whose text form does not depend on a session's settings and casts back to the same value.
KEY_TYPES = frozenset({"smallint", "integer", "bigint", "uuid", "text", "character varying"})
#: Those whose values are equal exactly where their texts are.
PLAIN_TYPES = frozenset({"smallint", "integer", "bigint", "uuid"})
#: Types with a stable text, that a template may name (design: others are refused).
TEXT_TYPES = KEY_TYPES | {"character", "citext"}


def _cast_to(kind: str) -> sql.SQL:
    """Return a key type's name for a cast; only names of the fixed list above ever get here."""
    if kind not in KEY_TYPES:
        raise ValueError(kind)
    name: Any = kind
    return sql.SQL(name)


def _alias(row: str) -> Any:
    """Return a row's alias; ours alone: t, OLD, NEW, v, w."""
    if row not in {"t", "OLD", "NEW", "v", "w"}:
        raise ValueError(row)
    return row


def _field(row: str, column: str) -> sql.Composable:
    return sql.SQL("{}.{}").format(sql.SQL(_alias(row)), sql.Identifier(column))
