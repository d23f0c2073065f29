"""The rehearsal of the application's writes, behind the new column and before it is too late.

H16: a history trigger that says `INSERT INTO history SELECT OLD.*` breaks with ADD COLUMN, and with it every UPDATE of
the application. So expand does one INSERT, UPDATE and DELETE, with all triggers, behind its ADD COLUMN, in savepoints.

Floor 2. Promise: nothing of a rehearsal survives, and it makes nobody wait beyond its bounds. Each operation is first
tried on the table as it is: only what goes well there and fails with the column is the column's fault, and refused.
What can't be rehearsed (no row to copy, a trigger that needs the application's session) is said.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from migrator.errors import OperatorError
from migrator.statements import compose
from migrator.target import message
from migrator.target.facts import Column
from migrator.target.relation import Target

_FILE = "cutover/rehearsal.sql"
#: SQLSTATE of a rehearsal that failed (rehearsal.sql).
FAILED = "MG005"
#: Seconds that an operation may take on the table as it is to be tried again under the lock, and its bound there: a
#: bystander waits for that. A write takes milliseconds; one that takes longer cascades, or its triggers are slow.
SLOW_SECONDS, BOUND_SECONDS = 0.1, 0.2
#: Types that a character can be added to, so that triggers see a change.
_TEXTS = frozenset({"text", "character varying", "citext"})
_NO_ROW, _CANCELLED = "P0002", "57014"


@dataclass(eq=False)
class WritesWouldFail(OperatorError):
    """With the shadow column on the table, the application's own statements fail."""

    name: str
    operation: str
    kind: str
    sqlstate: str
    function: str

    runbook = "column-breaks-writes"
    happened = (
        "With one more column on the table of {name}, every {operation} fails in {function}: {kind} ({sqlstate})."
    )
    state = "That was a rehearsal, and it was rolled back with the column: the table is as it was."
    next = "Make the function name its columns, then run `migrator start SPEC` again."


@dataclass(frozen=True, slots=True)
class Found:
    """What is tried under the lock, and what can't be: (operation, why)."""

    scripts: dict[str, sql.Composable]
    left_out: dict[str, str]
    path: str

    def __str__(self) -> str:
        done = f"rehearsed with the new column: {', '.join(self.scripts) or 'nothing'}"
        return "; ".join([done, *(f"not {operation} ({why})" for operation, why in self.left_out.items())])


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """One table's three operations. `columns` are those that it has without ours."""

    target: Target
    columns: Sequence[Column]

    async def find(self, raw: psycopg.AsyncConnection[Any]) -> Found:
        """Try the operations on the table as it is; returns what went well, in the way that did.

        Raises: psycopg.Error, when a lock was not to be had or the connection broke.
        """
        cursor = await raw.execute(compose(_FILE, "standing"))
        row = await cursor.fetchone()
        path = f"{row[0] if row else ''}, {sql.Identifier(self.target.schema).as_string()}".removeprefix(", ")
        scripts: dict[str, sql.Composable] = {}
        left_out: dict[str, str] = {}
        for operation, ways in self._operations():
            for way in ways:
                why = await self._try(raw, operation, way, path)
                if why is None:
                    scripts[operation] = way
                    left_out.pop(operation, None)
                    break
                left_out.setdefault(operation, why)
        return Found(scripts, left_out, path)

    def statements(self, found: Found) -> list[sql.Composable]:
        """Return what expand runs behind its own statements, under the lock."""
        blocks = [self._block(operation, script, found.path) for operation, script in found.scripts.items()]
        return [compose(_FILE, "bound", _bounds(BOUND_SECONDS)), *blocks, message.moment("rehearsal")] if blocks else []

    async def _try(
        self, raw: psycopg.AsyncConnection[Any], operation: str, script: sql.Composable, path: str
    ) -> str | None:
        """Return why an operation can't be rehearsed that way, or None where it can."""
        block = self._block(operation, script, path)
        whole = message.whole([compose(_FILE, "begin", _bounds(message.DEADLINE_SECONDS)), block, sql.SQL("ROLLBACK")])
        began = time.monotonic()
        try:
            await message.send(raw, whole)
        except psycopg.Error as error:
            if error.sqlstate == _CANCELLED:
                return "it takes too long"
            if error.sqlstate != FAILED:
                raise
            failed = read(error)
            return "there is no row to copy" if failed.sqlstate == _NO_ROW else f"it fails: {failed.kind}"
        return "it takes too long" if time.monotonic() - began > SLOW_SECONDS else None

    def _block(self, operation: str, script: sql.Composable, path: str) -> sql.Composed:
        order = sql.SQL(", ").join([sql.Identifier("t", name) for name in self.target.key_columns])
        parts = {
            "search_path": sql.Literal(path),
            "table": self.target.table_id,
            "order": order,
            "script": script,
            "operation": sql.Literal(operation),
        }
        return compose(_FILE, "rehearse", parts)

    def _operations(self) -> Iterator[tuple[str, list[sql.Composable]]]:
        """Tell the ways to do each operation, the better one first."""
        fresh, insert, delete = self._fresh(), self._insert(), self._delete()
        yield "INSERT", [_script(fresh, insert), _script(delete, insert)]
        yield "UPDATE", [_script(self._update(changing=True)), _script(self._update(changing=False))]
        yield "DELETE", [_script(fresh, insert, delete), _script(delete)]

    def _fresh(self) -> sql.Composed:
        """Give the copy a key that no row has: the last column of a composite key tells rows of one owner apart."""
        name, kind = self.target.key_columns[-1], self.target.key_types[-1]
        column = sql.Identifier("was", name)
        if kind == "uuid":
            fresh: sql.Composable = sql.SQL("gen_random_uuid()")
        elif kind in _TEXTS:
            fresh = sql.SQL("left(md5({0}), greatest(length({0}), 1))").format(column)
        else:
            fresh = sql.SQL("~{}").format(column)  # -n - 1: no other row's where keys are counted upwards
        return compose(_FILE, "assign", {"column": sql.Identifier(name), "fresh": fresh})

    def _insert(self) -> sql.Composed:
        names = [each.name for each in self.columns if not each.generated]
        parts = {
            "table": self.target.table_id,
            "columns": sql.SQL(", ").join(map(sql.Identifier, names)),
            "values": sql.SQL(", ").join([sql.Identifier("was", name) for name in names]),
        }
        return compose(_FILE, "insert", parts)

    def _update(self, *, changing: bool) -> sql.Composed:
        settable = [each for each in self.columns if not (each.generated or each.identity)]
        assignments = []
        for each in settable:
            value: sql.Composable = sql.Identifier("t", each.name)
            texts = changing and each.name in self.target.template.columns and each.type in _TEXTS
            if texts and each.name not in self.target.key_columns:
                value = sql.SQL("coalesce({}, '') || ' '").format(value)
            assignments.append(sql.SQL("{} = {}").format(sql.Identifier(each.name), value))
        parts = {"assignments": sql.SQL(", ").join(assignments)}
        return compose(_FILE, "update", {**parts, "table": self.target.table_id, "is_the_row": self._is_the_row()})

    def _delete(self) -> sql.Composed:
        return compose(_FILE, "delete", {"table": self.target.table_id, "is_the_row": self._is_the_row()})

    def _is_the_row(self) -> sql.Composable:
        pairs = [
            sql.SQL("{} = {}").format(sql.Identifier("t", name), sql.Identifier("was", name))
            for name in self.target.key_columns
        ]
        return sql.SQL(" AND ").join(pairs)


@dataclass(frozen=True, slots=True)
class Failed:
    """What a rehearsal's error says: no words of the server's own, which may quote a row (P11)."""

    operation: str
    sqlstate: str
    function: str

    @property
    def kind(self) -> str:
        """The condition's name: SyntaxError, UndefinedColumn."""
        try:
            return psycopg.errors.lookup(self.sqlstate).__name__
        except KeyError:
            return "an error of its own"


def read(error: psycopg.Error) -> Failed:
    """Read the error that a failed rehearsal raises."""
    _, operation, sqlstate, function = (error.diag.message_primary or "").split(" ", 3)
    return Failed(operation, sqlstate, function)


def refusal(
    kind: Callable[[str, str, str, str, str], Exception], name: str
) -> Callable[[psycopg.Error], Exception | None]:
    """Return what makes a refusal of that kind from the server's error, where that is a failed rehearsal's."""

    def refused(error: psycopg.Error) -> Exception | None:
        if error.sqlstate != FAILED:
            return None
        failed = read(error)
        return kind(name, failed.operation, failed.kind, failed.sqlstate, failed.function or "a trigger")

    return refused


def _script(*scripts: sql.Composable) -> sql.Composed:
    return sql.SQL("\n    ").join([sql.SQL("{};").format(each) for each in scripts])


def _bounds(seconds: float) -> dict[str, sql.Composable]:
    return {"lock_timeout": message.milliseconds(seconds / 2), "statement_timeout": message.milliseconds(seconds)}
