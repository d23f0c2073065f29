"""Preflight: facts in, findings out.

Floor 2. Pure. Promise: whatever can't work yet is refused here by name, with its mend, and never met as a traceback
later. Each finding has a test by its code.
"""

from __future__ import annotations

from collections.abc import Iterator

from packaging.version import InvalidVersion, Version

from migrator.generation import Side
from migrator.planning import dependents, retyping
from migrator.planning.dependents import LATER, for_the_owner
from migrator.planning.findings import Finding, info, refuse, warn
from migrator.planning.survey import Survey
from migrator.target import capture, facts, privileges
from migrator.target.relation import KEY_TYPES, TEXT_TYPES
from migrator.target.twins import TYPES

#: halfvec came with 0.7.0.
OLDEST_PGVECTOR = Version("0.7.0")
#: Faults of pgvector, each with the version that is without it (its CHANGELOG).
_FAULTS = (
    (Version("0.8.2"), "parallel builds of HNSW can overflow a buffer (before 0.8.2)"),
    (Version("0.8.3"), "vacuum can corrupt an HNSW index (before 0.8.3)"),
)
#: `CREATE OR REPLACE TRIGGER` (14) is part of the swap.
OLDEST_SERVER = 140000

_KINDS = {"v": "a view", "m": "a materialized view", "f": "a foreign table"}


def check(survey: Survey) -> list[Finding]:
    """Return every finding, refusals first."""
    found = [*_server(survey)]
    if survey.relation is None:
        target = survey.spec.target
        found.append(
            refuse(
                "table_missing",
                target.table,
                "there is no such table, or the role may not see it",
                "check [target] table and the role's privileges",
            )
        )
        return found
    for part in (_table, _column, _text, _key, _triggers, dependents.check, _state):
        found += part(survey)
    return sorted(found, key=lambda finding: ("refuse", "warn", "info").index(finding.severity))


def _server(survey: Survey) -> Iterator[Finding]:
    if survey.server.get("in_recovery"):
        yield refuse("standby", "server", "this is a standby", "connect to the primary")
    if survey.server.get("version", 0) < OLDEST_SERVER:
        yield refuse("server_too_old", "server", "PostgreSQL is older than 14", "upgrade the server")
    if names := survey.server.get("standbys"):
        yield info(
            "standbys",
            "server",
            f"readers on {', '.join(names)} can hold back the replay of a swap: whoever reads the table there meanwhile"
            " waits, and after max_standby_streaming_delay they are cancelled (H13)",
            "for the cutover, drain standbys of long readers, or lower max_standby_streaming_delay there",
        )
    if survey.extension is None:
        yield refuse(
            "extension_missing",
            "vector",
            "pgvector is not installed in this database",
            "run CREATE EXTENSION vector as a superuser",
        )
        return
    version = survey.extension[0]
    try:
        parsed = Version(version)
    except InvalidVersion:
        return
    if parsed < OLDEST_PGVECTOR:
        yield refuse("extension_too_old", "vector", f"pgvector {version} is older than 0.7.0", "upgrade it")
    elif faults := [what for fixed, what in _FAULTS if parsed < fixed]:
        yield warn(
            "extension_unsafe",
            "vector",
            f"pgvector {version}: {' and '.join(faults)}",
            "upgrade it before the index is built",
        )


def _table(survey: Survey) -> Iterator[Finding]:
    relation, name = survey.relation, survey.spec.target.table
    assert relation is not None  # noqa: S101 - check() looked
    if relation.kind not in {"r", "p"}:
        yield refuse(
            "table_kind",
            name,
            f"it is {_KINDS.get(relation.kind, 'no plain table')}, which this version does not move",
            "name a plain or a partitioned table",
        )
    if relation.is_partition:
        yield refuse("partition", name, "it is a partition", "name the partitioned table that it belongs to")
    elif relation.inherits and relation.kind == "r":
        yield refuse("inheritance", name, "it has parents or children", "name a plain or a partitioned table")
    yield from _partitions(survey)
    if relation.persistence == "u":
        yield warn("unlogged", name, "it is unlogged: a crash empties it", f"ALTER TABLE {survey.table_sql} SET LOGGED")
    if relation.persistence == "t":
        yield refuse("temporary", name, "it is temporary", "name a permanent table")
    if not relation.may_select:
        yield refuse(
            "privilege_select",
            name,
            f"role {survey.server['role']} may not read it",
            privileges.read_table(
                survey.spec.target.schema_name, survey.spec.target.table_name, survey.server["role"]
            ).as_string(),
        )
    if not relation.is_owner:
        yield warn(
            "privilege_owner",
            name,
            f"role {survey.server['role']} does not own it, and only the owner may add a column",
            "run `migrator start` as the owner, or as a member of the owning role (`migrator grants SPEC`)",
        )
    bypasses = relation.bypasses_rls or (relation.is_owner and not relation.force_row_security)
    if relation.row_security and not bypasses:
        yield refuse(
            "row_security",
            name,
            "row security would hide rows from this role (H22)",
            f"{privileges.see_every_row(survey.server['role']).as_string()}, or use the owner",
        )


def _partitions(survey: Survey) -> Iterator[Finding]:
    for heap in survey.heaps:
        name = f"{heap.schema}.{heap.table}"
        if heap.kind != "r":
            yield refuse(
                "partition_kind", name, f"this partition is {_KINDS.get(heap.kind, 'no plain table')}", "detach it"
            )
        elif heap.level > 1:
            yield refuse("partition_levels", name, "it is a partition of a partition", LATER)
    for partition, kind, name in survey.partition_dependents:
        yield refuse("partition_dependent", partition, f"{kind} {name} hangs on this partition's column alone", LATER)


def _column(survey: Survey) -> Iterator[Finding]:
    spec, column = survey.spec, survey.column
    name = f"{spec.target.table}.{spec.target.column}"
    if column is None:
        yield refuse("column_missing", name, "there is no such column", "check [target] column")
        return
    if column.type_name not in TYPES:
        yield refuse("column_type", name, f"it is of type {column.type}", "name a vector or halfvec column")
        return
    if column.generated:
        yield refuse("column_generated", name, "it is a generated column", LATER)
    old = spec.generation(Side.FROM)
    dims = facts.dims_of(column)
    if dims is not None and dims != old.dims:
        yield refuse(
            "dims_differ_from_spec",
            name,
            f"it holds {dims} dimensions and [from] says {old.dims}",
            "mend [from] dimensions",
        )
    yield from retyping.check(survey, column)


def _text(survey: Survey) -> Iterator[Finding]:
    target = survey.spec.target
    for name in target.template.columns:
        column = survey.columns.get(name)
        if column is None:
            yield refuse("text_column_missing", name, f"{target.table} has no such column", "check [target] text")
        elif column.generated:
            yield refuse(
                "text_column_generated",
                name,
                "it is generated: a trigger sees it empty, or never sees it change (H21)",
                "put the columns that it is made from into the template",
            )
        elif column.type not in TEXT_TYPES:
            yield refuse(
                "text_column_type",
                name,
                f"{column.type} has no text that is the same in every session",
                "use text, varchar, char, citext, integer or uuid columns",
            )
    if target.scope is not None:
        for function in sorted(target.scope.functions - survey.immutable_functions):
            yield refuse(
                "where_function",
                f"{function}()",
                "it is not an immutable built-in, and `where` runs in a trigger as its definer (H25)",
                "write the condition with columns, constants and immutable built-in functions",
            )
    if survey.expression_error is not None:
        yield refuse(
            "expression_fails",
            "[target] text, where",
            f"PostgreSQL can't evaluate them with search_path = pg_catalog: {survey.expression_error}",
            "mend the expression",
        )


def _key(survey: Survey) -> Iterator[Finding]:
    name = survey.spec.target.table
    if survey.key is None:
        wanted = survey.spec.target.key
        what = "it has no primary key" if wanted is None else f"({', '.join(wanted)}) is no unique key of it"
        usable = "; ".join(", ".join(key.columns) for key in survey.keys) or "none"
        yield refuse(
            "key_missing",
            name,
            f"{what} (usable keys: {usable})",
            "a key is a primary key or a plain unique index over NOT NULL columns",
        )
        return
    for column, kind in zip(survey.key.columns, survey.key.types, strict=True):
        if kind not in KEY_TYPES:
            yield refuse(
                "key_type",
                column,
                f"{kind} has no text that casts back to the same value in every session",
                f"use a key of {', '.join(sorted(KEY_TYPES))}",
            )


def _triggers(survey: Survey) -> Iterator[Finding]:
    for trigger in survey.triggers:
        name = trigger["name"] if trigger.get("table") is None else f"{trigger['name']} on {trigger['table']}"
        fires = trigger["on_update"] and trigger["enabled"] != "D"
        if trigger["before"] and fires and trigger["name"] > capture.TRIGGERS["update"]:
            yield refuse(
                "trigger_after_ours",
                name,
                "BEFORE triggers fire in name order, and it would change rows after our capture trigger looked",
                f"rename it so that it sorts before {capture.TRIGGERS['update']}",
            )
        if fires:
            yield _on_our_writes(survey, name, trigger["enabled"])


def _on_our_writes(survey: Survey, name: str, enabled: str) -> Finding:
    """Say whether a trigger fires on rows that we fill: O in plain sessions, R in silenced ones (H26), A in both."""
    if enabled in {"A", "R" if silences(survey) else "O"}:
        if survey.spec.target.fire_triggers:
            return warn("trigger_allowed", name, "it fires on every row that is filled", "the spec says that it may")
        if enabled == "O":
            return for_the_owner(survey)(
                "trigger_fires",
                name,
                "it would fire on every backfilled row, and this role may not silence it",
                f"{privileges.silence_triggers(survey.server['role']).as_string()} (PostgreSQL 15), or say"
                " fire_triggers = true in [target]",
            )
        what = "ALWAYS" if enabled == "A" else "REPLICA, as which our sessions run to silence the others,"
        return refuse(
            "trigger_always" if enabled == "A" else "trigger_replica",
            name,
            f"it is ENABLE {what} and would fire on every backfilled row",
            "say fire_triggers = true in [target] if it may, or disable it for the time of the backfill",
        )
    return info("trigger_silenced", name, "it does not fire on our own writes", "nothing needs to be done")


def silences(survey: Survey) -> bool:
    """Say whether our writing sessions silence the table's own triggers: where there are any, and we may."""
    return would_fire(survey) and survey.may_silence_triggers and not survey.spec.target.fire_triggers


def would_fire(survey: Survey) -> bool:
    """Say whether the table has triggers of its own that fire on rows that a plain session fills."""
    return any(each["on_update"] and each["enabled"] == "O" for each in survey.triggers)


def _state(survey: Survey) -> Iterator[Finding]:
    for name, status, column in survey.open_migrations:
        yield refuse(
            "migration_open",
            name,
            f"it moves {survey.spec.target.table}.{column} and is {status}",
            f"finish it, then `migrator cleanup {name}`",
        )
    if not survey.open_migrations and not survey.is_open:
        for kind, name in survey.leftovers:
            yield refuse(
                "leftover",
                name,
                f"this {kind} carries our suffix and belongs to no open migration here",
                f"look at it, then drop the {kind} by hand",
            )
    if survey.earlier is not None:
        yield warn(
            "readers_of_earlier_migration",
            survey.earlier,
            "applications that still pass its two vectors to query_vector would get the wrong one from `start` on",
            "deploy applications that pass the vectors of [from] and [to]",
        )
    if survey.workers is None:
        yield info(
            "state_unread", "schema migrator", "it is missing or unreadable for this role", "run `migrator init`"
        )
    elif not survey.workers:
        yield warn(
            "no_workers",
            "workers",
            "no worker is alive: nothing would happen after `start`",
            "run `celery -A workers.app worker`, or use `migrator work NAME`",
        )
    for name, variable in survey.keyless:
        yield warn(
            "worker_without_key",
            name,
            f"{variable} is not set there: its requests would be refused, and the migration paused",
            "set it in that worker's environment or .env, and start it again",
        )
