"""Every finding about the server and the rows, by its code: facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from migrator import spec as specs
from migrator.measures.sampling import Total
from migrator.planning import data_findings, population, server_findings
from migrator.planning.findings import Severity
from migrator.planning.population import Population
from migrator.planning.scan import Drawn, Row
from migrator.planning.surroundings import Surroundings
from migrator.planning.survey import Survey
from migrator.spec import Spec
from migrator.target.facts import Heap
from migrator.windows import Window
from tests.unit.test_preflight import relation, spec, survey

R, W, I = Severity.REFUSE, Severity.WARN, Severity.INFO  # noqa: E741 - the three severities
World = tuple[Survey, Surroundings, dict[str, Any]]


def filling(most: float | str) -> Spec:
    """A spec whose operator says what of the disk may be filled."""
    return specs.parse({**spec().dump(), "throttle": {"database_bytes": most}}, "test")


def quiet() -> World:
    """A server and a table of which there is nothing to say."""
    around = Surroundings(
        settings={
            "autovacuum": "on", "fsync": "on", "full_page_writes": "on", "read_only": "off", "wal_level": "replica",
            "maintenance_work_mem": 64 * 2**20, "effective_cache_size": 4 * 2**30, "freeze_max_age": 200_000_000,
            "pid": 1, "clock": 0.0, "sees_others": True, "has_schema": True, "may_create": True,
            "may_use_schema": True, "archiver_fails": False, "statements_in": "public", "state_owner": "keeper",
            "owns_state": True, "state_owner_is_superuser": False, "database_bytes": 10**9,
            "free_connections": 60,
        },
        table={
            "owner": "the owner", "owner_is_superuser": False, "replica_identity": "d", "frozen_age": 1000,
            "invalid_indexes": [], "may_create": True,
        },
        by_position=[],
    )  # fmt: skip
    found = survey()
    found.spec = filling(10**12)
    found.server |= {"role": "me", "database": "shop"}
    document = {
        "wal_bytes": 10**6, "vector_type": "vector", "to": "v4@1024", "lengths": {"bytes": {"p50": 300}},
        "rows_to_embed": 1000, "index_build": {"bytes": 10**6, "memory_bytes": 10**6}, "live_index_bytes": 10**6,
        "disk_bytes": 2 * 10**9, "heap_growth_bytes": 10**9, "index_seconds": [10, 60],
    }  # fmt: skip
    return found, around, document


def settings(**values: Any) -> Callable[[World], None]:
    return lambda world: world[1].settings.update(values)


def around(**values: Any) -> Callable[[World], None]:
    def change(world: World) -> None:
        for name, value in values.items():
            setattr(world[1], name, value)

    return change


def table(**values: Any) -> Callable[[World], None]:
    return lambda world: world[1].table.update(values)


def build(**values: int) -> Callable[[World], None]:
    return lambda world: world[2]["index_build"].update(values)


def slot(**values: Any) -> dict[str, Any]:
    plain = {"name": "s", "type": "logical", "active": True, "decodes_us": False, "holds_rows": False, "kept_bytes": 0}
    return {**plain, **values}


def another_owner(world: World) -> None:
    relation(is_owner=False)(world[0])


def another_owner_who_may_not_create(world: World) -> None:
    another_owner(world)
    table(may_create=False)(world)


def logged_whole(world: World) -> None:
    settings(wal_level="logical")(world)
    table(replica_identity="f")(world)


def slots(count: int) -> Callable[[World], None]:
    return lambda world: setattr(world[0], "worker_slots", count)


def may_fill(most: float | str) -> Callable[[World], None]:
    return lambda world: setattr(world[0], "spec", filling(most))


def table_of_a_superuser(world: World) -> None:
    another_owner(world)
    table(owner="root", owner_is_superuser=True)(world)


OLD = {"kind": "session", "name": "nightly", "seconds": 7200.0}
SERVER: list[tuple[str, Severity, Callable[[World], Any], str]] = [
    ("read_only", W, settings(read_only="on"), "set it off for themselves"),
    ("autovacuum_off", W, settings(autovacuum="off"), "dead"),
    ("not_durable", W, settings(fsync="off"), "fsync is off"),
    ("not_durable", W, settings(full_page_writes="off"), "full_page_writes is off"),
    ("archiver_fails", W, settings(archiver_fails=True), "archive_command"),
    ("freeze_due", W, table(frozen_age=170_000_000), "170,000,000 transactions"),
    ("clock", W, around(clock_ahead=12.0), "12 s ahead of"),
    ("clock", W, around(clock_ahead=-60.0), "60 s behind"),
    ("connections_short", W, slots(11), "up to 66 connections, and 60 are left"),
    ("pooler", W, around(pooled=True), "MIGRATOR_DATABASE_URL"),
    ("event_trigger", W, around(event_triggers=["audit_ddl"]), "audit_ddl"),
    ("isolation", W, around(isolation=[{"role": "app", "setting": "default_transaction_isolation=serializable"}]),
     "40001"),
    ("privilege_schema", R, settings(may_use_schema=False), "GRANT USAGE ON SCHEMA public TO me"),
    ("privilege_missing", W, another_owner, 'GRANT "the owner" TO me'),
    ("privilege_missing", W, table_of_a_superuser, "superuser root owns public.docs"),
    ("privilege_missing", W, settings(owns_state=False), "GRANT keeper TO me"),
    ("privilege_missing", W, settings(owns_state=False, state_owner_is_superuser=True), "`migrator grants`"),
    ("privilege_missing", W, table(may_create=False), "GRANT USAGE, CREATE ON SCHEMA public TO me"),
    ("privilege_missing", W, another_owner_who_may_not_create,
     'GRANT "the owner" TO me; GRANT USAGE, CREATE ON SCHEMA public TO "the owner"'),
    ("privilege_missing", W, settings(has_schema=False, may_create=False),
     "CREATE SCHEMA IF NOT EXISTS migrator AUTHORIZATION me"),
    ("privilege_monitor", I, settings(sees_others=False), "GRANT pg_monitor TO me"),
    ("old_snapshot", W, around(old_snapshots=[OLD]), "2.0 h old"),
    ("prepared_transaction", W, around(old_snapshots=[{**OLD, "kind": "prepared"}]), "ROLLBACK PREPARED"),
    ("slot_inactive", W, around(slots=[slot(active=False, kept_bytes=5 * 10**9)]), "keeps 5.0 GB of WAL"),
    ("slot_inactive", I, around(slots=[slot(active=False, kept_bytes=1000)]), "1.0 MB would come on top"),
    ("slot_holds_rows", W, around(slots=[slot(holds_rows=True)]), "hot_standby_feedback"),
    ("standby_holds_rows", I, around(feedback=["standby1"]), "hot_standby_feedback"),
    ("cdc_volume", I, around(slots=[slot(decodes_us=True)]), "about 4.4 MB"),
    ("identity_full", I, logged_whole, "about 4.4 MB beyond the plan's"),
    ("indexes_outgrow_memory", W, build(bytes=5 * 10**9), "both generations' together take 5.0 GB"),
    ("build_memory", W, build(memory_bytes=4_804_000_000), "SET maintenance_work_mem = '4582MB'"),
    ("index_invalid_elsewhere", W, table(invalid_indexes=["docs_old"]), "DROP INDEX CONCURRENTLY docs_old"),
    ("build_holds_rows", I, lambda world: world[2].update(index_seconds=[300, 1200]), "5 min 0 s to 20 min 0 s"),
    ("free_disk_unknown", I, may_fill("off"), "the database has 1.0 GB and takes about 3.0 GB more"),
    ("free_disk_unknown", I, may_fill("off"), "both generations' indexes are there, 1.0 MB and 1.0 MB"),
    ("disk_over_threshold", W, may_fill(3.9e9), "would come to 4.0 GB, over the 3.9 GB that may be filled"),
    ("statements_unread", I, around(by_position=None), "SELECT *"),
    ("by_position", W, around(by_position=[{"kind": "SELECT *", "statements": 2, "calls": 70_000}]),
     "2 statements, 70,000 calls"),
]  # fmt: skip


def test_a_quiet_server_has_no_findings() -> None:
    assert server_findings.check(*quiet()) == []


@pytest.mark.parametrize(
    ("code", "severity", "change", "words"), SERVER, ids=[f"{code}-{n}" for n, (code, *_) in enumerate(SERVER)]
)
def test_finding_about_the_server(code: str, severity: Severity, change: Callable[[World], Any], words: str) -> None:
    world = quiet()
    change(world)
    (told,) = server_findings.check(*world)
    assert (told.code, told.severity) == (code, severity)
    assert words in f"{told.object}: {told.message}; {told.mend}"


@pytest.mark.parametrize(
    "change",
    [
        around(clock_ahead=4.0),
        table(frozen_age=150_000_000),
        slots(10),
        around(slots=[slot()]),
        table(replica_identity="f"),
        lambda world: (settings(maintenance_work_mem=8 * 2**30)(world), build(memory_bytes=4_804_000_000)(world)),
        settings(has_schema=True, may_create=False),
        settings(has_schema=False, may_create=True),
    ],
)
def test_what_is_within_bounds_is_not_told(change: Callable[[World], Any]) -> None:
    world = quiet()
    change(world)
    assert server_findings.check(*world) == []


def test_replica_identity_full_logs_the_old_vector_too() -> None:
    """1,000 rows of 4,104 + 300 bytes, and as much of what stood there before."""
    world = quiet()
    around(slots=[slot(decodes_us=True)])(world)
    table(replica_identity="f")(world)
    (told,) = server_findings.check(*world)
    assert "about 8.8 MB with REPLICA IDENTITY FULL" in told.message


# The rows


def scanned(**counts: int) -> Population:
    """1,000 rows on 100 pages, all of them read."""
    rows = [
        Row(n // 10, 0, "(0,1)", 40, in_scope=True, all_null=False, blank=False, has_vector=True) for n in range(1000)
    ]
    drawn = Drawn(100, list(range(100)), rows, max_tokens=8192)
    drawn.counts = {
        "rows": 1000, "in_scope": 1000, "all_null": 0, "empty": 0, "blank": 0, "text_without_vector": 0,
        "vector_without_text": 0, "too_long": 0, "octets": 40_000, **counts,
    }  # fmt: skip
    heaps = [Heap(1, "public", "docs", "r", 1, 100, 0, counted_pages=100, tuples=1000)]
    return population.of(drawn, heaps, tokenizer="qwen", truncates=False)


def document(**values: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "cost_usd": {"high": 0.5}, "hours": 1.0, "rows_to_embed": 1000, "hours_bound_by": "tokens_per_minute",
        "finish": {"backfilled": "2026-11-26T12:00:00+00:00"}, "growth": {"rows_per_day": 10.0},
    }  # fmt: skip
    return {**plain, **values}


def changed(found: Population, **values: Any) -> Population:
    from dataclasses import replace  # noqa: PLC0415

    return replace(found, **values)


def alone() -> Population:
    found = scanned()
    found.drawn.rows[:] = found.drawn.rows[::10]
    return found


ROWS: list[tuple[str, Severity, Population, dict[str, Any], str]] = [
    ("text_without_vector", I, scanned(text_without_vector=7), {}, "7 rows have text and no vector"),
    ("vector_without_text", W, scanned(vector_without_text=7), {}, "7 rows have a vector and no text"),
    ("texts_too_long", W, scanned(too_long=7), {}, "longer than the model's 8,192 tokens: they get no vector"),
    ("nothing_to_embed", W, scanned(all_null=1000), {}, "no row has a text"),
    ("statistics_beyond_file", W, changed(scanned(), beyond_file=True), {}, "run ANALYZE"),
    ("never_analyzed", W, changed(scanned(), analyzed=False), {}, "run ANALYZE"),
    ("one_row_a_page", I, alone(), {}, "hardly a page holds two rows"),
    ("cap_below_estimate", W, scanned(), {"cost_usd": {"high": 1.5}}, "goes up to 1.50 USD and the cap is 1.00"),
    ("never_done", W, scanned(), {"finish": {"backfilled": None}}, "do not end within a year (tokens_per_minute)"),
    ("arrivals_outpace", W, scanned(), {"growth": {"rows_per_day": 13_000.0}}, "about 24,000 through"),
]


@pytest.mark.parametrize(("code", "severity", "found", "values", "words"), ROWS, ids=[code for code, *_ in ROWS])
def test_finding_about_the_rows(
    code: str, severity: Severity, found: Population, values: dict[str, Any], words: str
) -> None:
    (told,) = data_findings.check(spec(), found, document(**values))
    assert (told.code, told.severity) == (code, severity)
    assert words in f"{told.object}: {told.message}; {told.mend}"
    assert told.mend


def test_rows_of_which_there_is_nothing_to_say() -> None:
    assert data_findings.check(spec(), scanned(), document()) == []
    assert data_findings.check(spec(), None, document()) == []
    assert data_findings.check(spec(), scanned(), document(growth={"rows_per_day": 11_000.0})) == []
    assert data_findings.check(spec(), scanned(), document(growth={"rows_per_day": None})) == []
    assert data_findings.check(spec(only_embedded=True), scanned(text_without_vector=7), document()) == []


def test_arrivals_meet_a_third_of_a_day_where_the_window_is_the_night() -> None:
    made = specs.parse({**spec().dump(), "limits": {"max_cost_usd": 1.0, "window": ["22:00-06:00 UTC"]}}, "test")
    (told,) = data_findings.check(made, scanned(), document(growth={"rows_per_day": 5000.0}))
    assert (told.code, "about 8,000 through" in told.message) == ("arrivals_outpace", True)


def test_the_share_of_a_day_that_windows_leave() -> None:
    assert data_findings.open_share(()) == 1
    assert data_findings.open_share((Window.parse("22:00-06:00 UTC"),)) == pytest.approx(1 / 3)
    assert data_findings.open_share((Window.parse("sat,sun 00:00-24:00 UTC"),)) == pytest.approx(2 / 7)
    assert data_findings.open_share((Window.parse("00:00-23:00 UTC"), Window.parse("12:00-14:00 UTC"))) == 1


def test_what_a_sample_found_is_told_as_about() -> None:
    found = changed(scanned(vector_without_text=7), counted=False, rows=Total(1000, 0.01, 100))
    (told,) = data_findings.check(spec(), found, document())
    assert "about 7 rows" in told.message
