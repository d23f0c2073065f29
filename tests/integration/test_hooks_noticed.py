"""What becomes an event: costs, what lasts, failed cutovers and gates, suspects; and what is cut out of it."""

from __future__ import annotations

from decimal import Decimal

import psycopg
import pytest

from migrator.errors import MigratorError
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs
from migrator.orchestrator.tick import tick
from migrator.orchestrator.verbs import NewLimits
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import budget, migrations
from migrator.state.budget import Bill, Purpose
from migrator.state.connection import transaction
from tests.deployment import V3, Deployment
from tests.integration.hooking import tell
from tests.integration.steps import begin, ready, stored, to
from tests.integration.swaps import cut_over
from tests.integration.test_written import NEW, WHO, bring, watched
from tests.receiving import Receiver

S = MigrationStatus


async def test_costs_are_told_once_for_each_cap(deployment: Deployment, worker: Worker, receiver: Receiver) -> None:
    deployment.spec_data["hooks"]["on"] = ["cost_50", "cost_80", "cost_100"]
    await begin(deployment, worker, 40)
    migration = await stored(worker)

    async def reserve(name: str, usd: str) -> None:
        bound = Bill(1, Decimal(usd))
        async with transaction(worker.engine) as connection:
            assert await budget.reserve(
                connection, migration.id, request_id=name, purpose=Purpose.BACKFILL, bound=bound, lease="batch:0#0"
            )
        await tell(worker)

    async def at_the_cap() -> None:
        with pytest.raises(CameToRest, match="CapReached"):
            await to(worker, S.READY)

    await reserve("first", "0.45")
    assert receiver.events == []
    await reserve("second", "0.10")
    assert receiver.events == ["cost_50"]
    await tell(worker)
    await reserve("third", "0.30")
    assert receiver.events == ["cost_50", "cost_80"]
    await reserve("fourth", "0.149")
    await at_the_cap()
    assert receiver.events == ["cost_50", "cost_80", "cost_100"]
    assert receiver.bodies[2]["reason"].endswith(" of 1.00 USD are spent, reserved or possibly billed")
    await verbs.resume(worker.engine, "docs", actor="test")
    await at_the_cap()
    assert len(receiver.events) == 3, "the same cap is the same news"
    await verbs.set_limits(worker.engine, "docs", NewLimits(max_cost_usd=1.5), actor="test")
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert receiver.events[3:] == ["cost_50"], "of another cap it is news again"


async def test_a_failed_cutover_is_told_with_its_reason(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    await ready(deployment, worker)
    receiver.received.clear()
    with psycopg.connect(deployment.url) as other:
        other.execute("LOCK TABLE docs IN ACCESS SHARE MODE")
        deployment.query("UPDATE migrator.verdicts SET at = at - interval '90 days' RETURNING 1")
        with pytest.raises(MigratorError):
            await cut_over(worker)
    await tell(worker)
    assert receiver.events == ["cutover_failed"], "tried is noise, unless it is asked for"
    (told,) = receiver.bodies
    assert told["reason"].startswith("VerdictsMissing: docs can't be cut over on its verdicts")
    assert told["status"] == "ready"


async def test_a_failed_gate_is_told_without_the_keys_it_lists(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    await begin(deployment, worker, 40)
    migration = await stored(worker)
    reason = "a gate failed: structure is 2 against 0 (rows at fault: 2 zero [key-canary; other], 0 shared)"
    async with transaction(worker.engine) as connection:
        await migrations.pause(connection, migration.id, reason=reason, actor="test")
    await tell(worker)
    assert receiver.events == ["started", "paused"]
    assert "structure is 2 against 0" in receiver.bodies[1]["reason"]
    assert b"key-canary" not in receiver.received[1][1]


async def test_what_lasts_is_told_once_and_again_only_after_an_hour(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    deployment.spec_data["hooks"] |= {"on": ["throttled"], "throttled_minutes": 10}
    deployment.spec_data["throttle"] = {"sql": "SELECT 9", "sql_max": 1}
    await begin(deployment, worker, 5)

    def back(minutes: int, *columns: str) -> None:
        moved = ", ".join(f"{each} = {each} - interval '{minutes} min'" for each in columns)
        deployment.query(f"UPDATE migrator.hook_watches SET {moved} RETURNING 1")

    await tell(worker)
    back(9, "since", "seen_at")
    await tell(worker)
    back(9, "since")
    await tell(worker)
    assert receiver.events == [], "nobody saw it for nine minutes, so it began anew"
    back(1, "since")
    await tell(worker)
    await tell(worker)
    assert receiver.events == ["throttled"]
    assert receiver.bodies[0]["reason"].startswith("throttled for 10 minutes: ")
    back(20, "since", "seen_at", "told_at")
    await tell(worker)
    back(11, "since")
    await tell(worker)
    assert len(receiver.events) == 1, "it began anew, and somebody was told a moment ago"
    back(60, "told_at")
    await tell(worker)
    assert len(receiver.events) == 2


async def test_the_operators_own_limits_and_hours_are_no_throttle(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    for binding in ("window", "requests/min", "tokens/min"):
        async with transaction(worker.engine) as connection:
            await migrations.set_binding(connection, migration.id, binding)
        await tick(worker.engine, actor="test")
        assert deployment.query("SELECT 1 FROM migrator.hook_watches") == []
    assert receiver.received == []


@pytest.mark.timeout(120)
async def test_suspects_are_told_without_their_keys(deployment: Deployment, worker: Worker, receiver: Receiver) -> None:
    deployment.spec_data["hooks"]["on"] = ["suspects"]
    await ready(deployment, worker, 150)
    await cut_over(worker)
    bring(deployment, (7, 8), V3, NEW)
    assert await watched(worker) == ["2 written vectors looked at, 2 suspect"]
    await tell(worker)
    (told,) = receiver.bodies
    assert told["event"] == "suspects"
    assert told["reason"] == f"2 vectors in the column of {NEW} look like {V3}@64, written by {WHO}"
