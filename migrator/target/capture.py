"""The capture trigger and the writers' fence: how live writes are seen, and why no column ever mixes generations.

Floor 1. Promise (P1, P5, H1-H3, H6, H7, H20, H21): every write of the application, by any statement, in any session,
leaves the live column with vectors of one generation only, and leaves no stale vector without a hint in `dirty`. The
rules stand in capture.sql. The functions hold the live generation as a constant: the swap replaces them in its own
transaction, so a session that waited for its lock meets the new rules.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from psycopg import sql

from migrator import scope
from migrator.generation import Generation, Side
from migrator.state.migrations import Migration
from migrator.statements import compose, quoted
from migrator.target.relation import PLAIN_TYPES, Target

_FILE = "target/capture.sql"
#: Function (and part of its name) -> trigger. BEFORE triggers fire in name order, so ours sort last.
TRIGGERS = {
    "update": "zzzz_capture__migrator",
    "insert": "zzzz_capture_insert__migrator",
    "inserted": "zzzz_divert__migrator",
}
#: server_version_num of PostgreSQL 17, where pg_column_toast_chunk_id began.
CHUNK_IDS_SINCE = 170000
#: On partitioned tables only.
PARTITION_TRIGGERS = {"insert_statement": "zzzz_statement__migrator"}


@dataclass(frozen=True, slots=True)
class Capture:
    """What the functions of one migration are made from. `vector_schema` is where pgvector lives."""

    target: Target
    migration_id: int
    from_generation: Generation
    to_generation: Generation
    vector_schema: str
    partitioned: bool = False
    #: Whether the server can tell an untouched TOASTed value by its chunk id alone (PostgreSQL 17).
    knows_chunks: bool = False
    #: Role -> the generation that its sessions write where they declare none themselves.
    writers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, migration: Migration) -> Capture:
        """Return the capture of a stored migration."""
        return cls(
            target=Target.of(migration),
            migration_id=migration.id,
            from_generation=migration.from_generation,
            to_generation=migration.to_generation,
            vector_schema=migration.plan["vector_schema"],
            partitioned=bool(migration.plan.get("partitioned")),
            knows_chunks=bool(migration.plan.get("knows_chunks")),
            writers=migration.writers,
        )

    @property
    def triggers(self) -> dict[str, str]:
        """Function -> trigger, as this table needs them."""
        return TRIGGERS | (PARTITION_TRIGGERS if self.partitioned else {})

    def function(self, name: str) -> sql.Identifier:
        """Return the name of one of our trigger functions."""
        return sql.Identifier("migrator", f"on_{name}_{self.migration_id}")

    def functions(self, live_side: Side) -> list[sql.Composed]:
        """Return CREATE OR REPLACE of every function, for that side being live."""
        parts = self._parts(live_side)
        mark: sql.Composable = sql.SQL("")
        if self.partitioned:
            mark = sql.SQL("{};\n").format(compose(_FILE, "mark_move", parts))
        kept = compose(_FILE, "keep_not_null", parts)
        told: sql.Composable = sql.SQL("")
        let_go: sql.Composable = sql.SQL("")
        take_up: sql.Composable = sql.SQL("")
        if self.target.only_embedded:
            let_go = sql.SQL("{};\n").format(compose(_FILE, "let_go", parts))
            if self.target.where:
                take_up = sql.SQL("{};\n").format(compose(_FILE, "take_up", parts))
        if self.from_generation.dims != self.to_generation.dims:
            told = sql.SQL("{};\n").format(compose(_FILE, "told_by_dims", parts))
        made = []
        for name in self.triggers:
            own = {
                **parts,
                "function": self.function(name),
                "mark_move": mark,
                "keep_not_null": kept,
                "told_by_dims": told,
                "let_go": let_go,
                "take_up": take_up,
            }
            made.append(compose(_FILE, f"on_{name}", own))
        return made

    def _parts(self, live_side: Side) -> dict[str, sql.Composable]:
        target = self.target
        generations = {Side.FROM: str(self.from_generation), Side.TO: str(self.to_generation)}
        dims = {Side.FROM: self.from_generation.dims, Side.TO: self.to_generation.dims}
        key_is_new = [sql.SQL("t.{0} = NEW.{0}").format(sql.Identifier(name)) for name in target.key_columns]
        return {
            "table": target.table_id,
            "live": sql.Identifier(target.column),
            "shadow": sql.Identifier(target.shadow),
            "live_name": sql.Literal(target.column),
            "live_generation": sql.Literal(generations[live_side]),
            "from_generation": sql.Literal(generations[Side.FROM]),
            "to_generation": sql.Literal(generations[Side.TO]),
            "live_side": sql.Literal(live_side.value),
            "shadow_side": sql.Literal(live_side.other.value),
            # What is diverted is the other generation's, whatever its session says.
            "shadow_generation": sql.Literal(generations[live_side.other]),
            # By the role that a pool's application SETs, as it is judged (`_by_role`).
            "who": sql.SQL("coalesce(nullif(current_setting('role'), 'none'), session_user)"),
            "by_role": self._by_role(),
            "migration_id": sql.Literal(self.migration_id),
            "watched": sql.Literal(self.from_generation.dims == self.to_generation.dims),
            "vector_schema": sql.Identifier(self.vector_schema),
            "live_dims": sql.Literal(dims[live_side]),
            "shadow_dims": sql.Literal(dims[live_side.other]),
            "old_text": target.text_of("OLD"),
            "new_text": target.text_of("NEW"),
            "old_key": target.key_of("OLD"),
            "new_key": target.key_of("NEW"),
            "key_is_new": sql.SQL(" AND ").join(key_is_new),
            "in_where": target.in_where("NEW"),
            "was_in_where": target.in_where("OLD"),
            "had_vector": target.embedded("OLD", target.column, target.shadow),
            "has_vector": target.embedded("NEW", target.column, target.shadow),
            "old_in_scope": target.in_scope("OLD", target.column, target.shadow),
            "new_in_scope": target.in_scope("NEW", target.column, target.shadow),
            "still_in_scope": self._still_in_scope(),
        }

    def _still_in_scope(self) -> sql.Composable:
        """Return whether an updated row is to have vectors, once the rules have emptied what an edit made stale.

        With `only_embedded`, a row leaves the scope where a native session takes its vector away. A vector that we take
        away, since it belongs to another text, is one that we owe.
        """
        target = self.target
        if not target.only_embedded:
            return target.in_where("NEW")
        return sql.SQL(
            "({where} AND ({live} OR ({shadow} AND NOT (native AND wrote)) OR (NOT native AND text_differs AND {old})))"
        ).format(
            where=target.in_where("NEW"),
            live=target.embedded("NEW", target.column),
            shadow=target.embedded("NEW", target.shadow),
            old=target.embedded("OLD", target.column, target.shadow),
        )

    def _by_role(self) -> sql.Composable:
        """Return the generation that a session's role was declared to write, or NULL, as constants.

        The role that was SET comes first, then the one that logged in: behind a pool many applications share a login
        and SET their own; elsewhere a SET ROLE to an owner must not lose what the login was declared for.
        """
        if not self.writers:
            return sql.SQL("NULL")
        pairs = [sql.SQL("WHEN {} THEN {}").format(quoted(role), quoted(each)) for role, each in self.writers.items()]
        # Our functions run as their owner, so current_user would name that one. `none` is no role's name.
        return sql.SQL("coalesce(CASE current_setting('role') {0} END, CASE session_user {0} END)").format(
            sql.SQL(" ").join(pairs)
        )

    def when(self, columns: frozenset[str]) -> sql.Composable:
        """Return the update trigger's WHEN: key, template, the columns that `where` names, and the vector (H21)."""
        target = self.target
        named = scope.read(target.where).words & columns if target.where else frozenset[str]()
        kinds = dict(zip(target.key_columns, target.key_types, strict=True))
        # PostgreSQL reads the whole condition anew for every statement, so each word of it costs: casts only where
        # two values may be equal and their texts differ, chunk ids only where values are long.
        as_they_are, as_bytes = (
            sql.SQL("OLD.{0} IS DISTINCT FROM NEW.{0}"),
            sql.SQL('OLD.{0}::text COLLATE "C" IS DISTINCT FROM NEW.{0}::text COLLATE "C"'),
        )
        short = [
            (as_they_are if kinds.get(name) in PLAIN_TYPES else as_bytes).format(sql.Identifier(name))
            for name in dict.fromkeys([*target.key_columns, *sorted(named)])
        ]
        texts = [name for name in target.template.columns if name not in kinds and name not in named]
        vector = sql.SQL("(OLD.{0} IS NULL) <> (NEW.{0} IS NULL) OR OLD.{0} OPERATOR({schema}.<>) NEW.{0}")
        long = [*(self._touched(name, as_bytes) for name in texts), self._touched(target.column, vector)]
        return sql.SQL(" OR ").join([*short, *long])

    def _touched(self, column: str, differs: sql.SQL) -> sql.Composable:
        """Return a comparison that does not fetch a value from TOAST only to find it untouched."""
        name, schema = sql.Identifier(column), sql.Identifier(self.vector_schema)
        compared = differs.format(name, schema=schema)
        if not self.knows_chunks:
            return compared
        return sql.SQL(
            "((pg_catalog.pg_column_toast_chunk_id(OLD.{0}) = pg_catalog.pg_column_toast_chunk_id(NEW.{0}))"
            " IS NOT TRUE AND ({1}))"
        ).format(name, compared)


def _trigger(capture: Capture, name: str, columns: frozenset[str]) -> list[sql.Composed]:
    parts: dict[str, Any] = {
        "trigger": sql.Identifier(capture.triggers[name]),
        "table": capture.target.table_id,
        "function": capture.function(name),
    }
    if name == "update":
        parts["when"] = capture.when(columns)
    made = [compose(_FILE, f"trigger_{name}", parts), compose(_FILE, "enable_always", parts)]
    if capture.partitioned and name in TRIGGERS:
        parts["table_name"] = sql.Literal(capture.target.table_id.as_string())
        parts["trigger_name"] = sql.Literal(capture.triggers[name])
        made.append(compose(_FILE, "enable_always_below", parts))
    return made


def installation(capture: Capture, columns: frozenset[str], live_side: Side = Side.FROM) -> list[sql.Composed]:
    """Return what creates functions and triggers; `columns` are the table's."""
    private = [compose(_FILE, "keep_private", {"function": capture.function(name)}) for name in capture.triggers]
    triggers = [each for name in capture.triggers for each in _trigger(capture, name, columns)]
    return [*capture.functions(live_side), *private, *triggers]


def swapped(capture: Capture, live_side: Side, columns: frozenset[str]) -> list[sql.Composed]:
    """Return what the swap runs, after the names have changed, so that the rules follow: `live_side` is live then."""
    return [*capture.functions(live_side), *_trigger(capture, "update", columns)]


def removal(capture: Capture) -> list[sql.Composed]:
    """Return the statements that take triggers and functions away again."""
    functions = [compose(_FILE, "drop_function", {"function": capture.function(name)}) for name in capture.triggers]
    return triggers_off(capture) + functions


def triggers_off(capture: Capture) -> list[sql.Composed]:
    """Return the statements that take the triggers away, and leave the functions."""
    table = capture.target.table_id
    return [
        compose(_FILE, "drop_trigger", {"trigger": sql.Identifier(trigger), "table": table})
        for trigger in capture.triggers.values()
    ]


def blank(capture: Capture) -> list[sql.Composed]:
    """Return the statements after which the functions do nothing: no lock on the table is needed for that."""
    return [compose(_FILE, "blank", {"function": capture.function(name)}) for name in capture.triggers]
