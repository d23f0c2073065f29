"""The canary (R3, R4): another model gets no vector into the table, and what a drift wrote can be taken back."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from migrator import settings
from migrator.canary import watch
from migrator.canary.suspects import SuspectVectors
from migrator.errors import GateFailed, OperatorError
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, checkup, progress, trust, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import canary
from migrator.state.canary import CanaryMoved, OldModelAnswered
from migrator.state.connection import transaction
from migrator.target import pages
from tests.deployment import V3, V4, Deployment
from tests.integration.steps import begin, first_tickets, ready, start, stored, to

S = MigrationStatus
#: 1 - cosine of two models; how far two regions are apart (cosine 0.99955).
DRIFT, REGIONS = 0.106, {"noise": 0.03}


@pytest.fixture
def every_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The canary is asked before every batch."""
    monkeypatch.setattr(canary, "EVERY_BATCHES", 0)


def vectors(deployment: Deployment) -> int:
    found: int = deployment.value("SELECT count(embedding__migrator) FROM docs")
    return found


def canary_row(deployment: Deployment, columns: str) -> tuple[object, ...]:
    (row,) = deployment.query(f"SELECT {columns} FROM migrator.canaries")
    return tuple(row)


async def begin_blind(deployment: Deployment, worker: Worker, rows: int | None = None) -> None:
    """Start without asking the canary, as a start that was signed does."""
    if rows is not None:
        deployment.make_table(rows)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=lambda *_: None)


async def test_r4_the_first_batch_takes_the_fingerprint_and_its_cost_is_counted(
    deployment: Deployment, worker: Worker
) -> None:
    await begin_blind(deployment, worker, 60)
    await to(worker, S.READY)
    checks, told_apart, lowest = canary_row(deployment, "checks, told_apart, lowest_cosine")
    assert (checks, told_apart) == (2, True), "at the start, and before validation"
    assert isinstance(lowest, float)
    assert lowest > 0.999999
    (requests, tokens) = deployment.query(
        "SELECT requests, spent_tokens FROM migrator.ledger WHERE purpose = 'canary'"
    )[0]
    assert requests == 3, "the new model twice, the old one once"
    billed = deployment.simulator.ledger()["tokens"]
    assert billed == deployment.value("SELECT sum(spent_tokens) FROM migrator.ledger")
    assert 0 < tokens < 400


async def test_r4_a_gateway_that_answers_v3_from_the_first_request_writes_nothing(
    deployment: Deployment, worker: Worker
) -> None:
    await begin_blind(deployment, worker, 60)
    deployment.simulator.admin(answer_with=V3)
    with pytest.raises(CameToRest, match=f"answers docs with the vectors of {V3}@64"):
        await to(worker, S.READY)
    assert vectors(deployment) == 0
    assert canary_row_count(deployment) == 0, "no fingerprint of the wrong model was kept"
    deployment.simulator.admin(answer_with=None)
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


def canary_row_count(deployment: Deployment) -> int:
    found: int = deployment.value("SELECT count(*) FROM migrator.canaries")
    return found


async def test_r4_a_gateway_that_answers_v3_from_the_middle_writes_none_of_it(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 400)
    tickets = await first_tickets(worker)
    deployment.simulator.admin(latency_seconds=0.05)
    running = [asyncio.create_task(perform(worker, ticket)) for ticket in tickets]
    await asyncio.to_thread(lambda: deployment.wait(lambda: vectors(deployment) >= 40))
    deployment.simulator.admin(answer_with=V3)
    await asyncio.gather(*running)
    assert deployment.status == "paused"
    reason = deployment.value("SELECT reason FROM migrator.migrations")
    assert reason.startswith("OldModelAnswered: Asked for qwen/text-embedding-v4@64, the provider answers docs with")
    written = deployment.query("SELECT id FROM docs WHERE embedding__migrator IS NOT NULL")
    wrong = set(deployment.mismatches("embedding__migrator", V4)) & {key for (key,) in written}
    assert wrong == set(), "0 vectors of the old model in the shadow"
    assert 40 <= len(written) < 400
    billed = deployment.simulator.ledger()["tokens"]
    assert billed == deployment.value("SELECT sum(spent_tokens) FROM migrator.ledger"), "refused answers were billed"
    # Resumed while it still does: the canary is asked before anything else.
    await verbs.resume(worker.engine, "docs", actor="test")
    with pytest.raises(CameToRest, match="CanaryMoved"):
        await to(worker, S.READY)
    deployment.simulator.admin(answer_with=None, latency_seconds=0)
    with pytest.raises(SuspectVectors):
        await verbs.resume(worker.engine, "docs", actor="test")
    await trust.reembed(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_r4_a_held_row_that_is_not_to_be_believed_keeps_no_other_from_its_vector(
    deployment: Deployment, worker: Worker
) -> None:
    """Rows that the application held land later, together; what is wrong with one of them still stops the work."""
    deployment.make_table(6)
    deployment.half_moved([5])
    await start(deployment, worker)
    (ticket,) = await first_tickets(worker)
    with deployment.connect() as longer, longer.transaction():
        longer.execute("SELECT FROM docs WHERE id = 4 FOR UPDATE")
        with deployment.connect() as holder, holder.transaction():
            holder.execute("SELECT FROM docs WHERE id > 4 FOR UPDATE")
            running = asyncio.create_task(perform(worker, ticket))
            await asyncio.to_thread(lambda: deployment.wait(lambda: vectors(deployment) == 3))
        await asyncio.to_thread(lambda: deployment.wait(lambda: vectors(deployment) == 4))
    assert (await running).startswith("OldModelAnswered: ")
    assert deployment.query("SELECT id FROM docs WHERE embedding__migrator IS NULL") == [(5,)]
    assert deployment.status == "paused"
    assert deployment.value("SELECT status FROM migrator.batches") == "pending", "a row of it is left"


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("every_batch")
async def test_r4_a_drift_in_the_middle_stops_it_and_what_is_suspect_is_embedded_again(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "MIN_PAGES", 3)
    monkeypatch.setattr(pages, "BATCH_ROWS", 50)
    await begin(deployment, worker, 240)
    tickets = await first_tickets(worker)
    assert len(tickets) >= 3
    await perform(worker, tickets[0])
    good = vectors(deployment)
    await perform(worker, tickets[1])
    fresh = vectors(deployment) - good
    assert 0 < good < vectors(deployment)
    deployment.simulator.admin(drift=DRIFT)
    before = vectors(deployment)
    line = await perform(worker, tickets[2])
    assert "CanaryMoved" in line
    assert vectors(deployment) == before, "nothing was written by the batch that asked"
    assert deployment.status == "paused"
    with pytest.raises(SuspectVectors) as refused:
        await verbs.resume(worker.engine, "docs", actor="test")
    assert refused.value.rows == fresh, "what the batch after the last good canary wrote"
    assert deployment.status == "paused"
    with pytest.raises(CanaryMoved):
        await watch.keep(worker, await stored(worker))
    deployment.simulator.admin(drift=0)
    assert await trust.reembed(worker.engine, "docs", actor="test") == fresh
    assert vectors(deployment) == good
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []
    assert deployment.value("SELECT count(*) FROM migrator.dirty") == 0, "taking back is no edit"


async def test_r4_wrong_vectors_of_a_drift_are_the_ones_that_are_taken_back(
    deployment: Deployment, worker: Worker
) -> None:
    """The drift comes after a good canary, catch-up writes too, and rows move to other pages: their xmin tells."""
    await begin(deployment, worker, 300)
    await watch.keep(worker, await stored(worker))
    deployment.simulator.admin(drift=DRIFT)
    for ticket in await first_tickets(worker):
        await perform(worker, ticket)
    wrong = len(deployment.mismatches("embedding__migrator", V4))
    assert wrong == 300
    deployment.query("UPDATE docs SET n = n + 1 WHERE id %% 3 = 0 RETURNING id")
    deployment.query("UPDATE docs SET body = body || ' edited' WHERE id = 7 RETURNING id")
    with pytest.raises(CanaryMoved):
        await watch.keep(worker, await stored(worker), must=True)
    async with transaction(worker.engine) as connection:
        found = await canary.find(connection, (await stored(worker)).id)
    assert found is not None
    assert found.moved_cosine == pytest.approx(0.894, abs=0.05)
    await verbs.pause(worker.engine, "docs", actor="test")
    deployment.simulator.admin(drift=0)
    assert await trust.reembed(worker.engine, "docs", actor="test") == 299, "the edited row had lost its vector already"
    assert vectors(deployment) == 0
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_r4_a_suspect_vector_that_an_older_transaction_carries_on_is_found(
    deployment: Deployment, worker: Worker
) -> None:
    """Its row's xmin is older than everything that the canary's drift wrote."""
    await begin(deployment, worker, 30)
    with psycopg.connect(deployment.url) as older:
        older.execute("CREATE TEMP TABLE something ()")  # it has its transaction id now
        await watch.keep(worker, await stored(worker), must=True)
        deployment.simulator.admin(drift=DRIFT)
        for ticket in await first_tickets(worker):
            await perform(worker, ticket)
        older.execute("UPDATE docs SET n = n + 1 WHERE id = 5")
    with pytest.raises(CanaryMoved):
        await watch.keep(worker, await stored(worker), must=True)
    await verbs.pause(worker.engine, "docs", actor="test")
    assert await trust.reembed(worker.engine, "docs", actor="test") == 30
    assert vectors(deployment) == 0


async def test_r4_a_canary_that_moved_keeps_everything_from_ready_and_cutover(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker)
    deployment.simulator.admin(drift=DRIFT)
    with pytest.raises(CanaryMoved):
        await attended.validate(worker, "docs", actor="test")
    with pytest.raises(CanaryMoved):
        await verbs.waive(worker.engine, "docs", "assignment", reason="no", actor="test")
    with pytest.raises(CameToRest, match="CanaryMoved"):
        await to(worker, S.READY)
    assert deployment.status == "paused"


async def test_r4_an_accepted_drift_is_signed_and_goes_on(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 60)
    await watch.keep(worker, await stored(worker))
    deployment.simulator.admin(drift=DRIFT)
    async with transaction(worker.engine) as connection:
        await canary.demand(connection, (await stored(worker)).id)
    with pytest.raises(CameToRest, match="CanaryMoved"):
        await to(worker, S.READY)
    await trust.accept(worker, "docs", reason="announced, OPS-123", actor="test")
    reasons = [row[0] for row in deployment.query("SELECT reason FROM migrator.transitions")]
    assert "canary accepted: announced, OPS-123" in reasons
    await to(worker, S.READY)
    assert vectors(deployment) == 60


async def test_r4_the_old_model_is_never_accepted_as_the_new_one(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    await verbs.pause(worker.engine, "docs", actor="test")
    deployment.simulator.admin(answer_with=V3)
    with pytest.raises(OldModelAnswered):
        await trust.accept(worker, "docs", reason="hm", actor="test")
    assert deployment.status == "paused"


async def test_rows_that_hold_the_new_vectors_already_are_an_alarm_until_it_is_signed(
    deployment: Deployment, worker: Worker
) -> None:
    """A column that was half moved by hand: the provider is right, and the rows are what is odd."""
    deployment.make_table(40)
    deployment.half_moved(range(1, 41))
    await start(deployment, worker)
    with pytest.raises(CameToRest, match="OldModelAnswered"):
        await to(worker, S.READY)
    assert vectors(deployment) == 0
    await trust.accept(worker, "docs", reason="moved by hand in May", actor="test")
    with pytest.raises(GateFailed, match="churn is 1 against"):
        await to(worker, S.READY)
    for gate in ("churn", "sentinel"):
        await verbs.waive(worker.engine, "docs", gate, reason="moved by hand in May", actor="test")
    assert deployment.status == "ready"
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_r3_two_regions_are_a_warning_and_no_stop(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    deployment.simulator.admin(second_region=REGIONS)
    checks = {each.name: each for each in await checkup.run(settings.load(), deployment.spec)}
    assert checks["provider [to]"].level == "warn"
    assert "came back as different vectors (lowest cosine 0.9995" in checks["provider [to]"].message
    deployment.simulator.admin(second_region=None)
    await begin_blind(deployment, worker)
    await watch.keep(worker, await stored(worker))
    deployment.simulator.admin(drift=0.00045)
    await watch.keep(worker, await stored(worker), must=True)
    (lowest,) = canary_row(deployment, "lowest_cosine")
    assert lowest == pytest.approx(0.99955, abs=1e-4)
    async with transaction(worker.engine) as connection:
        found = await progress.read(connection, await stored(worker))
    assert found.canary is not None
    assert progress.canary_line(found.canary).startswith("unsteady: lowest cosine 0.999")
    checks = {each.name: each for each in await checkup.run(settings.load(), None)}
    assert checks["canary of docs"].level == "warn"
    deployment.simulator.admin(drift=0)
    await to(worker, S.READY)


async def test_only_one_of_many_workers_asks(deployment: Deployment, worker: Worker) -> None:
    await begin_blind(deployment, worker, 30)
    migration = await stored(worker)
    await asyncio.gather(*(watch.keep(worker, migration) for _ in range(6)))
    assert deployment.simulator.ledger()["requests"] == 2
    async with transaction(worker.engine) as connection:
        await canary.demand(connection, migration.id)
    await asyncio.gather(*(watch.keep(worker, migration) for _ in range(6)))
    assert deployment.simulator.ledger()["requests"] == 3


async def test_p7_the_canary_stops_at_the_cap(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["limits"]["max_cost_usd"] = 0.0001
    await begin_blind(deployment, worker, 30)
    with pytest.raises(CameToRest, match="CapReached"):
        await to(worker, S.READY)
    assert deployment.simulator.ledger()["tokens"] == 0


async def test_resume_offers_both_answers_at_the_command_line(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    await watch.keep(worker, await stored(worker))
    await to(worker, S.INDEXING)
    deployment.simulator.admin(drift=DRIFT)
    with pytest.raises(OperatorError):
        await watch.keep(worker, await stored(worker), must=True)
    await verbs.pause(worker.engine, "docs", actor="test")
    done = deployment.run("resume", "docs")
    assert done.returncode == 2
    assert "30 rows of docs got their new vector after its canary was right last" in done.stderr
    assert "migrator resume docs --reembed" in done.stderr
    assert deployment.run("resume", "docs", "--reembed").returncode == 2, "it asks, and nobody answers"
    assert deployment.run("resume", "docs", "--reembed", "--accept-canary", "x").returncode == 2
    deployment.simulator.admin(drift=0)
    assert "30 vectors were taken back" in deployment.must("resume", "docs", "--reembed", "--yes")
    assert deployment.status == "backfilling"
