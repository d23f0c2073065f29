"""Findings about what is around the table: settings, privileges, sessions, slots, poolers, clocks, statements.

Floor 2. Pure: facts in, findings out. Each has a test by its code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from migrator.planning import estimate
from migrator.planning.findings import Finding, info, refuse, warn
from migrator.planning.surroundings import OLD_SECONDS, Surroundings
from migrator.planning.survey import Survey
from migrator.settings import CONCURRENCY, connections
from migrator.signals import Signal
from migrator.target import privileges
from migrator.target.build import MAX_MEMORY_BYTES
from migrator.words import size, span

#: Seconds by which clocks may differ: leases, windows and a provider's Retry-After are told in seconds.
_CLOCK_SECONDS = 5.0
#: Share of autovacuum_freeze_max_age from which a vacuum that yields to nobody may come during the migration.
_FREEZE_SHARE = 0.8
#: WAL that a slot keeps back and that is worth a word.
_KEPT_BYTES = 1_000_000_000


def check(found: Survey, around: Surroundings, document: dict[str, Any]) -> list[Finding]:
    """Return every finding, refusals first."""
    told = [
        *_settings(around),
        *_connections(found, around),
        *_habits(around),
        *_privileges(found, around),
        *_sessions(around),
        *_slots(found, around, document),
        *_memory(found, around, document),
        *_build(document),
        *_disk(found, around, document),
        *_statements(found, around),
    ]
    return sorted(told, key=lambda finding: ("refuse", "warn", "info").index(finding.severity))


def _settings(around: Surroundings) -> Iterator[Finding]:
    said = around.settings
    if said["read_only"] == "on":
        yield warn(
            "read_only",
            "server",
            "default_transaction_read_only is on for this role or database; our sessions set it off for themselves",
            "find out why it is on: a full disk is a reason not to start",
        )
    if said["autovacuum"] != "on":
        yield warn("autovacuum_off", "server", "nothing cleans up what the backfill leaves dead", "turn autovacuum on")
    for name in ("fsync", "full_page_writes"):
        if said[name] != "on":
            yield warn("not_durable", "server", f"{name} is off: a crash may lose vectors that were paid", "turn it on")
    if said["archiver_fails"]:
        yield warn(
            "archiver_fails",
            "server",
            "the last try to archive WAL failed: what the backfill writes would pile up on the server's disk",
            "mend archive_command first; pg_stat_archiver tells more",
        )


def _connections(found: Survey, around: Surroundings) -> Iterator[Finding]:
    """Say whether the workers that are alive could all connect at once, with what each process keeps as it comes."""
    free, wanted = around.settings["free_connections"], found.worker_slots * connections(CONCURRENCY)
    if wanted > free:
        yield warn(
            "connections_short",
            "max_connections",
            f"{found.worker_slots} worker processes keep up to {wanted} connections, and {max(free, 0)} are left beside"
            " the application's",
            "fewer processes (celery's -c), or a larger max_connections",
        )


def _habits(around: Surroundings) -> Iterator[Finding]:
    frozen = around.table.get("frozen_age") or 0
    if frozen > _FREEZE_SHARE * around.settings["freeze_max_age"]:
        yield warn(
            "freeze_due",
            "table",
            f"it is {frozen:,} transactions old: a vacuum to prevent wraparound, which yields to nobody, would hold up"
            " the cutover (H12)",
            "run VACUUM (FREEZE) on it first",
        )
    if abs(around.clock_ahead) > _CLOCK_SECONDS:
        yield warn(
            "clock",
            "server",
            f"its clock is {abs(around.clock_ahead):,.0f} s {'ahead of' if around.clock_ahead > 0 else 'behind'} this"
            " machine's",
            "let both follow the same time server: windows go by the server's clock, tasks expire by this one's",
        )
    if around.pooled:
        yield warn(
            "pooler",
            "server",
            "a pooler answers in its place: in transaction mode it cuts sessions, and swap, index build and LISTEN need"
            " theirs whole (H7)",
            "point MIGRATOR_DATABASE_URL at the server itself",
        )
    for name in around.event_triggers:
        yield warn(
            "event_trigger",
            name,
            "it fires on DDL, and expand, swap and cleanup are DDL",
            "try it with `migrator cutover --rehearse`, or disable it for our steps",
        )
    for each in around.isolation:
        yield warn(
            "isolation",
            each["role"],
            f"{each['setting']}: its transactions can get SQLSTATE 40001 from any writer of the same row, us too (H17)",
            "make sure that it tries again",
        )


def _privileges(found: Survey, around: Surroundings) -> Iterator[Finding]:
    role, relation = found.server["role"], found.relation
    schema = found.spec.target.schema_name
    if not around.settings["may_use_schema"]:
        yield refuse(
            "privilege_schema",
            schema,
            f"role {role} may not look into it",
            privileges.use_schema(schema, role).as_string(),
        )
    grants = []
    if relation is not None and not relation.is_owner and around.table:
        owner = around.table["owner"]
        is_superuser = around.table["owner_is_superuser"]
        told = privileges.of_a_superuser(found.spec.target.table, owner)
        grants.append(told if is_superuser else privileges.be_owner(owner, role).as_string())
    if not around.settings["owns_state"]:
        keeper = around.settings["state_owner"]
        given = "have `migrator grants` print how schema migrator is given to it"
        is_superuser = around.settings["state_owner_is_superuser"]
        grants.append(given if is_superuser else privileges.be_owner(keeper, role).as_string())
    if not around.settings["has_schema"] and not around.settings["may_create"]:
        grants.append(privileges.own_state(role).as_string())
    if around.table and not around.table["may_create"]:
        owned = relation is not None and relation.is_owner
        grants.append(privileges.make_in_schema(schema, role if owned else around.table["owner"]).as_string())
    grants = list(dict.fromkeys(grants))
    if grants:
        yield warn(
            "privilege_missing",
            role,
            "it lacks what `migrator init` and `migrator start` need (`migrator grants SPEC` prints all of it)",
            "; ".join(grants),
        )
    if not around.settings["sees_others"]:
        yield info(
            "privilege_monitor",
            role,
            "it can't see other sessions' snapshots and statements: neither plan nor throttle can name them",
            privileges.see_others(role).as_string(),
        )


def _sessions(around: Surroundings) -> Iterator[Finding]:
    for each in around.old_snapshots:
        hours = each["seconds"] / 3600
        if each["kind"] == "prepared":
            yield warn(
                "prepared_transaction",
                each["name"],
                f"prepared {hours:.1f} h ago and never ended: it holds its locks and every dead row (H29)",
                "COMMIT PREPARED or ROLLBACK PREPARED it",
            )
        else:
            yield warn(
                "old_snapshot",
                each["name"],
                f"its transaction is {hours:.1f} h old (more than {OLD_SECONDS / 60:.0f} min): while it lasts no update"
                " stays on its page, and a cutover waits for it",
                "end it before the backfill, or keep such work out of its hours by [limits] window",
            )


def _slots(found: Survey, around: Surroundings, document: dict[str, Any]) -> Iterator[Finding]:
    for slot in around.slots:
        if not slot["active"]:
            severe = warn if (slot["kept_bytes"] or 0) + document["wal_bytes"] > _KEPT_BYTES else info
            yield severe(
                "slot_inactive",
                slot["name"],
                f"nobody reads from it: it keeps {size(slot['kept_bytes'] or 0)} of WAL, and the migration's"
                f" {size(document['wal_bytes'])} would come on top",
                "let its reader catch up, or drop it with pg_drop_replication_slot",
            )
        if slot["holds_rows"]:
            yield warn(
                "slot_holds_rows",
                slot["name"],
                "it holds back the clean-up of dead rows: no update stays on its page while it lags",
                "watch its reader's lag; turn hot_standby_feedback off where queries there may be cancelled",
            )
    for name in around.feedback:
        yield info(
            "standby_holds_rows",
            name,
            "with hot_standby_feedback its longest query holds back the clean-up of dead rows here: meanwhile no update"
            " stays on its page",
            "keep long queries there out of the backfill's hours, or turn it off where they may be cancelled",
        )
    if found.column is None:
        return
    if any(slot["decodes_us"] for slot in around.slots):
        yield _decoded(around, document)
    elif around.table.get("replica_identity") == "f" and around.settings["wal_level"] == "logical":
        yield info(
            "identity_full",
            found.spec.target.table,
            "REPLICA IDENTITY FULL: every filled row writes its old row to the WAL as well, its old vector fetched from"
            f" TOAST, about {size(_row_bytes(document) * document['rows_to_embed'])} beyond the plan's",
            f"ALTER TABLE {found.table_sql} REPLICA IDENTITY DEFAULT, where nobody reads its changes",
        )


def _row_bytes(document: dict[str, Any]) -> int:
    """Return what one row's vector and text come to in the WAL."""
    vector = estimate.vector_bytes(document["vector_type"], int(document["to"].rsplit("@", 1)[1]))
    return vector + int((document.get("lengths") or {}).get("bytes", {}).get("p50", 0))


def _decoded(around: Surroundings, document: dict[str, Any]) -> Finding:
    full = around.table.get("replica_identity") == "f"
    # FULL logs the old row whole, its old vector fetched from TOAST; else only what is new is told.
    each = _row_bytes(document) * (2 if full else 1)
    names = ", ".join(slot["name"] for slot in around.slots if slot["decodes_us"])
    identity = " with REPLICA IDENTITY FULL" if full else ""
    return info(
        "cdc_volume",
        names,
        f"every filled row is a change for its readers: about {size(each * document['rows_to_embed'])}{identity}",
        "tell them, or leave the table out of what they read for the time of the backfill",
    )


def _memory(found: Survey, around: Surroundings, document: dict[str, Any]) -> Iterator[Finding]:
    new, live = document["index_build"]["bytes"], document["live_index_bytes"]
    cache, needed = around.settings["effective_cache_size"], document["index_build"]["memory_bytes"]
    if new + live > cache:
        yield warn(
            "indexes_outgrow_memory",
            "indexes",
            f"both generations' together take {size(new + live)} and effective_cache_size is {size(cache)}:"
            " through the rollback window every search and every INSERT would wait for the disk",
            "give the server more memory, use halfvec, or keep the window short",
        )
    if needed > max(MAX_MEMORY_BYTES, around.settings["maintenance_work_mem"]):
        setting = f"{-(-needed // 1024**2)}MB"
        yield warn(
            "build_memory",
            "indexes",
            f"the graph takes {size(needed)}, and a build asks for {size(MAX_MEMORY_BYTES)} by itself: what"
            " does not fit is built on disk, about six times slower",
            f"ALTER ROLE {found.role_sql} SET maintenance_work_mem = '{setting}' (shared memory: in a"
            " container it needs as much --shm-size)",
        )
    for name in around.table.get("invalid_indexes", []):
        yield warn(
            "index_invalid_elsewhere",
            name,
            "it is INVALID: no search uses it, and every update that leaves its page pays for it",
            f"DROP INDEX CONCURRENTLY {name}, or REINDEX it",
        )


def _build(document: dict[str, Any]) -> Iterator[Finding]:
    low, high = document["index_seconds"]
    if high > OLD_SECONDS:
        yield info(
            "build_holds_rows",
            "indexes",
            f"while they are built, roughly {span(low)} to {span(high)}, no dead row is cleaned up: hardly an update"
            " stays on its page, the application's own neither, and the table grows (H18)",
            "let the backfill end before quiet hours, or expect a VACUUM to have work afterwards",
        )


def _disk(found: Survey, around: Surroundings, document: dict[str, Any]) -> Iterator[Finding]:
    """Say what will be filled: of an operator who set what may be, whether it is enough; else that nobody knows."""
    there, new = around.settings["database_bytes"], document["disk_bytes"] + document["heap_growth_bytes"]
    most = found.spec.throttle.threshold(Signal.SIZE)
    if not document["rows_to_embed"]:
        return
    live, second = document["live_index_bytes"], document["index_build"]["bytes"]
    both = f"; until cleanup both generations' indexes are there, {size(live)} and {size(second)}" if second else ""
    if most is None:
        yield info(
            "free_disk_unknown",
            "server",
            f"PostgreSQL tells nobody how much room is left: the database has {size(there)} and takes about {size(new)}"
            f" more, and {size(document['wal_bytes'])} of WAL on the way{both}",
            "look at the server's disks (df), then set [throttle] database_bytes to what may be filled",
        )
    elif there + new > most:
        yield warn(
            "disk_over_threshold",
            "[throttle] database_bytes",
            f"the database has {size(there)} and would come to {size(there + new)}, over the {size(most)} that may be"
            f" filled: the backfill would be held there{both}",
            "make room or raise it; halfvec or fewer dimensions take less",
        )


def _statements(found: Survey, around: Surroundings) -> Iterator[Finding]:
    if around.by_position is None:
        yield info(
            "statements_unread",
            "pg_stat_statements",
            "it is not there or not readable, so nobody looked for statements that lean on the order of columns",
            "look for SELECT *, and INSERT and COPY without a column list, in what uses the table (H16)",
        )
        return
    for each in around.by_position:
        yield warn(
            "by_position",
            found.spec.target.table,
            f"{each['kind']}: {each['statements']:,} statements, {each['calls']:,} calls: they see the new column at"
            " the start, and the two exchanged at the cutover (H16)",
            "name the columns; what is prepared fails once with `cached plan must not change result type`",
        )
