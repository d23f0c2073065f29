"""What a signal does to a migration: no further request, paid vectors land, and it goes on by itself (P12)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import psycopg
import pytest
from sqlalchemy import text

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import progress, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.orchestrator.verbs import NewLimits, ThresholdsInvalid
from migrator.signals import Signal
from migrator.spec import SpecInvalid
from migrator.spending.worker import Worker
from migrator.state import signals
from migrator.state.connection import make_engine, transaction
from migrator.target.signals import UnreadableError
from migrator.throttle import operator, weigh
from tests.deployment import V4, Deployment, until
from tests.integration.steps import begin, first_tickets, stored, to

S = MigrationStatus
QUERY = "SELECT load FROM public.health"


@pytest.fixture
def gauge(deployment: Deployment) -> Iterator[psycopg.Connection]:
    """The operator's own SQL signal, as a number in a table: 0 is good, over 5 binds."""
    deployment.spec_data["throttle"] = {"sql": QUERY, "sql_max": 5}
    with deployment.connect() as connection:
        connection.execute("CREATE TABLE health AS SELECT 0.0 AS load")
        yield connection


async def reread(worker: Worker) -> signals.Reading:
    """Read every signal now, whatever the age of the last reading."""
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        await signals.forget_age(connection, migration.id)
    return await weigh.look(worker.engine, migration.id)


async def read_one(worker: Worker, signal: Signal) -> signals.Weighed:
    return next(each for each in (await reread(worker)).signals if each.signal is signal)


async def told(worker: Worker) -> dict[str, Any]:
    """What `status --json` says."""
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        return progress.as_json(await progress.read(connection, migration))


async def test_p12_a_throttled_migration_sends_nothing_says_why_and_goes_on(
    deployment: Deployment, worker: Worker, gauge: psycopg.Connection
) -> None:
    gauge.execute("UPDATE health SET load = 7")
    await begin(deployment, worker, 60)
    made = await tick(worker.engine, actor="test")
    assert made.tickets == []
    assert "binds: the operator's SQL 7 > 5" in str(made), "Flower's row says it"
    assert deployment.entries() == []
    said = await told(worker)
    assert said["status"] == "backfilling", "it keeps its status"
    assert said["throttle"]["binding"] == "the operator's SQL 7 > 5"
    signal = next(each for each in said["throttle"]["signals"] if each["signal"] == "sql")
    assert (signal["value"], signal["threshold"], signal["binds"], signal["problem"]) == (7.0, 5.0, True, None)
    assert 0 <= signal["age_seconds"] < 20
    gauge.execute("UPDATE health SET load = 1")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert (await told(worker))["throttle"]["binding"] is None


async def test_p12_what_is_in_flight_lands_when_a_signal_comes_up(
    deployment: Deployment, worker: Worker, gauge: psycopg.Connection
) -> None:
    """The batch in hand sends no more, what it paid for is written, and giving it back is no attempt."""
    await begin(deployment, worker, 300)
    deployment.simulator.admin(latency_seconds=0.2)
    (ticket,) = await first_tickets(worker)
    running = asyncio.create_task(perform(worker, ticket))
    await until(lambda: asyncio.to_thread(lambda: len(deployment.entries()) >= 2))
    gauge.execute("UPDATE health SET load = 9")
    await reread(worker)
    assert "Throttled: docs is throttled: the operator's SQL 9 > 5" in await running
    paid = sum(len(entry["digests"]) for entry in deployment.entries())
    assert 0 < paid < 300
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == paid
    assert deployment.query("SELECT status, attempts FROM migrator.batches") == [("pending", 0)]
    assert deployment.value("SELECT count(*) FROM migrator.reservations") == 0
    assert (await tick(worker.engine, actor="test")).tickets == []


async def test_p12_landings_that_take_too_long_get_smaller(deployment: Deployment, worker: Worker) -> None:
    """No transaction is done in a microsecond: the size shrinks at once, to the same vectors and the same bill."""
    await begin(deployment, worker, 60)
    wanted = NewLimits(throttle={"landing_seconds": 1e-6})
    await verbs.set_limits(worker.engine, "docs", wanted, actor="test")
    (ticket,) = await first_tickets(worker)
    assert worker.landing_size(await stored(worker)).rows == 100
    assert (await perform(worker, ticket)).startswith("60 rows, ")
    assert worker.landing_size(await stored(worker)).rows == 10
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.billed() == deployment.needed_tokens()
    assert deployment.value("SELECT sum(tokens) FROM migrator.batches") == deployment.billed()
    assert deployment.value("SELECT count(*) FROM migrator.reservations") == 0


async def test_rows_that_searches_miss_are_not_throttled(
    deployment: Deployment, worker: Worker, gauge: psycopg.Connection
) -> None:
    """Catch-up of the live column goes on, as it does outside the window; the shadow column's waits."""
    await begin(deployment, worker, 20)
    await to(worker, S.READY)
    gauge.execute("UPDATE health SET load = 9")
    await reread(worker)
    migration = await stored(worker)
    deployment.query("UPDATE docs SET body = 'edited' WHERE id = 1 RETURNING id")
    assert (await first_tickets(worker)) == []
    insert = "INSERT INTO migrator.dirty (migration_id, side, key) VALUES (%s, 'from', '{1}') RETURNING id"
    deployment.query(insert, migration.id)
    assert [each.label.split(".")[1] for each in await first_tickets(worker)] == ["catch-up"]


async def test_thresholds_change_live_and_are_checked_whole(
    deployment: Deployment, worker: Worker, gauge: psycopg.Connection
) -> None:
    gauge.execute("UPDATE health SET load = 7")
    await begin(deployment, worker, 10)
    assert (await tick(worker.engine, actor="test")).tickets == []
    await verbs.set_limits(worker.engine, "docs", NewLimits(throttle={"sql_max": 8.0}), actor="test")
    assert (await tick(worker.engine, actor="test")).tickets != [], "at the next look"
    await verbs.set_limits(worker.engine, "docs", NewLimits(throttle={"sql_max": None}), actor="test")
    assert (await stored(worker)).thresholds.sql_max == 5
    with pytest.raises(ThresholdsInvalid, match="hot_share"):
        await verbs.set_limits(worker.engine, "docs", NewLimits(throttle={"hot_share": 3.0}), actor="test")
    with pytest.raises(ThresholdsInvalid, match="http_max"):
        await verbs.set_limits(worker.engine, "docs", NewLimits(throttle={"http_max": 3.0}), actor="test")
    assert (await stored(worker)).throttle == {}, "a refused change changes nothing"


@pytest.mark.timeout(180)
def test_limits_throttle_on_the_command_line(deployment: Deployment) -> None:
    deployment.make_table(10)
    deployment.must("start", deployment.spec_file, "--yes")
    said = deployment.must("limits", "docs", "--throttle", "lag_seconds=5", "--throttle", "vacuum_seconds=off")
    assert "lag_seconds" in said
    stored_thresholds = deployment.value("SELECT throttle FROM migrator.migrations")
    assert stored_thresholds == {"lag_seconds": 5.0, "vacuum_seconds": "off"}
    assert "keys: lag_seconds" in " ".join(
        deployment.must("limits", "docs", "--throttle", "lag=5", code=2).replace("│", " ").split()
    )
    assert "a share goes from 0 to 1" in deployment.must("limits", "docs", "--throttle", "hot_share=7", code=2)
    deployment.must("limits", "docs", "--throttle", "vacuum_seconds=spec")
    assert deployment.value("SELECT throttle FROM migrator.migrations") == {"lag_seconds": 5.0}


# Fail closed


@pytest.mark.parametrize(
    ("query", "why"),
    [
        ("SELECT 1 FROM public.nowhere", "SQLSTATE 42P01"),
        ("SELECT 1/0", "SQLSTATE 22012"),
        ("SELECT 'secret-word'", "no finite number"),
        ("SELECT NULL::int", "no finite number"),
        ("SELECT 'NaN'::float8", "no finite number"),
        ("SELECT generate_series(1, 3)", "one row with one number"),
        ("SELECT 1, 2", "one row with one number"),
        ("SELECT 1 WHERE false", "one row with one number"),
        ("SELECT count(*) FROM pg_sleep(60)", "SQLSTATE 57014"),
        ("WITH gone AS (DELETE FROM public.docs RETURNING 1) SELECT count(*) FROM gone", "SQLSTATE 25006"),
        ("SELECT count(*) FROM (SELECT set_config('transaction_read_only', 'off', false)) s", "SQLSTATE"),
        ("SELECT 'secret-word'::int", "SQLSTATE 22P02"),
    ],
)
async def test_p12_an_operators_sql_that_cannot_be_read_binds_by_name(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch, query: str, why: str
) -> None:
    monkeypatch.setattr("migrator.throttle.weigh._LOOK_SECONDS", 0.5)
    deployment.spec_data["throttle"] = {"sql": query, "sql_max": 1e9}
    await begin(deployment, worker, 5)
    found = await read_one(worker, Signal.SQL)
    assert (found.binds, found.value) == (True, None)
    assert why in str(found.problem)
    assert "secret" not in str(found)
    made = await tick(worker.engine, actor="test")
    assert made.tickets == []
    assert "the operator's SQL can't be read" in str(made)
    assert deployment.value("SELECT count(*) FROM docs") == 5


@pytest.mark.parametrize("second", ["; DROP TABLE public.docs", "; COMMIT"])
async def test_an_operators_sql_is_one_statement(deployment: Deployment, worker: Worker, second: str) -> None:
    """The spec refuses it; and if it did not, the protocol would."""
    deployment.spec_data["throttle"] = {"sql": f"SELECT 1{second}", "sql_max": 5}
    with pytest.raises(SpecInvalid, match="one SELECT"):
        _ = deployment.spec
    with pytest.raises(UnreadableError, match="42601"):
        async with transaction(worker.engine, read_only=True) as connection:
            await operator.ask_sql(connection, f"SELECT 1{second}")


class Answers(BaseHTTPRequestHandler):
    """What the operator's monitoring answers, by path."""

    def do_GET(self) -> None:
        status, body, headers = {
            "/number": (200, b"3.5", {}),
            "/value": (200, b'{"value": 7, "unit": "ms"}', {}),
            "/word": (200, b"secret-word", {}),
            "/null": (200, b'{"value": null}', {}),
            "/nan": (200, b"NaN", {}),
            "/true": (200, b"true", {}),
            "/text": (200, b'"12"', {}),
            "/down": (503, b"secret-word", {}),
            "/moved": (302, b"", {"location": "/number"}),
            "/long": (200, b"1" * 100_000, {}),
            "/deep": (200, b"[" * 4000, {}),
            "/slow": (200, b"", {"content-length": "3"}),
        }[self.path.partition("?")[0]]
        self.send_response(status)
        if "content-length" not in headers:
            self.send_header("content-length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(body)
            if self.path.startswith("/slow"):
                self.server.hang.wait(30)  # type: ignore[attr-defined]
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def monitoring() -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Answers)
    server.hang = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.hang.set()  # type: ignore[attr-defined]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("path", "value", "why"),
    [
        ("/number", 3.5, None),
        ("/value", 7.0, None),
        ("/word", None, "neither a number nor"),
        ("/null", None, "no finite number"),
        ("/nan", None, "no finite number"),
        ("/true", None, "no finite number"),
        ("/text", None, "no finite number"),
        ("/down", None, "it answered 503"),
        ("/moved", None, "it answered 302"),
        ("/long", None, "longer than 4096 bytes"),
        ("/deep", None, "neither a number nor"),
        ("/slow", None, "no answer"),
    ],
)
async def test_p12_an_operators_url_gives_a_number_or_binds(
    deployment: Deployment, worker: Worker, monitoring: str, path: str, value: float | None, why: str | None
) -> None:
    deployment.spec_data["throttle"] = {"http": f"{monitoring}{path}?token=secret-word", "http_max": 5}
    await begin(deployment, worker, 5)
    found = await read_one(worker, Signal.HTTP)
    assert found.value == value
    assert found.binds is (value is None or value > 5)
    assert (why or "") in (found.problem or "")
    assert "secret" not in str(found), "P11"
    assert "secret" not in str(await told(worker))
    assert "secret" not in str(await tick(worker.engine, actor="test"))


async def test_p12_a_monitoring_that_is_gone_binds(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["throttle"] = {"http": "http://127.0.0.1:1/x", "http_max": 5}
    await begin(deployment, worker, 5)
    found = await read_one(worker, Signal.HTTP)
    assert (found.binds, found.problem) == (True, "no answer (ConnectError)")


async def test_p12_a_role_that_may_not_see_others_is_told_and_fails_closed(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 5)
    with deployment.connect() as other:
        other.execute("DROP ROLE IF EXISTS blind")
        other.execute("CREATE ROLE blind LOGIN")
        other.execute("GRANT USAGE ON SCHEMA migrator, public TO blind")
        other.execute("GRANT ALL ON ALL TABLES IN SCHEMA migrator, public TO blind")
        engine = make_engine(deployment.url.replace("postgres@", "blind@"), "migrator blind")
        blind = replace(worker, engine=engine)
        try:
            found = await read_one(blind, Signal.SNAPSHOT)
            assert found.binds
            assert found.problem == "the role may not see the transactions of others (GRANT pg_monitor TO blind)"
            other.execute("GRANT pg_monitor TO blind")
            assert not (await read_one(blind, Signal.SNAPSHOT)).binds
        finally:
            await engine.dispose()
            other.execute("DROP OWNED BY blind")
            other.execute("DROP ROLE blind")


async def test_p12_a_reading_that_nobody_makes_binds_itself(deployment: Deployment, worker: Worker) -> None:
    """Whoever reads dies with the turn: the others wait for it, then nothing is believed any more."""
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    assert (await weigh.look(worker.engine, migration.id)).binding is None
    stuck = (
        "UPDATE migrator.migrations SET signals_until = now() + interval '1 hour', signals_at = now() - %s::interval"
    )
    deployment.query(f"{stuck} RETURNING id", "10 s")
    assert (await weigh.look(worker.engine, migration.id)).binding is None, "a little old is believed"
    deployment.query(f"{stuck} RETURNING id", "40 s")
    found = (await weigh.look(worker.engine, migration.id)).binding or ""
    assert found.startswith("the database's signals were not read for 4")
    with pytest.raises(weigh.Throttled, match="were not read for"):
        await weigh.require(worker.engine, migration)
    deployment.query("UPDATE migrator.migrations SET signals_until = now() - interval '1 s' RETURNING id")
    assert (await weigh.look(worker.engine, migration.id)).binding is None, "the turn runs out, and somebody reads"


async def test_the_database_itself_refuses_an_unread_signal_that_lets_work_through(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    values = "(:id, 'lag_seconds', 2, false, '', 'unread', now())"
    columns = "(migration_id, signal, threshold, binds, detail, problem, at)"
    with pytest.raises(Exception, match="23514"):
        async with transaction(worker.engine) as connection:
            await connection.execute(
                text(f"INSERT INTO migrator.signals {columns} VALUES {values}"),
                {"id": migration.id},
            )


async def test_many_workers_read_the_catalogs_once(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    reads = 0
    real = weigh._read

    async def counted(*args: Any) -> Any:
        nonlocal reads
        reads += 1
        return await real(*args)

    monkeypatch.setattr(weigh, "_read", counted)
    async with transaction(worker.engine) as connection:
        await signals.forget_age(connection, migration.id)
    await asyncio.gather(*(weigh.look(worker.engine, migration.id) for _ in range(6)))
    await asyncio.gather(*(weigh.look(worker.engine, migration.id) for _ in range(6)))
    assert reads == 1
