"""Migrations of one provider account share its pace and its cap, whoever works for them."""

from __future__ import annotations

import asyncio
import json
from decimal import Decimal
from typing import Any

import pytest

from migrator.demo.servers import Valkey
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import metrics, schedule, verbs, work
from migrator.orchestrator.schedule import Wanted
from migrator.orchestrator.tick import tick
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import account_caps, budget
from migrator.state.budget import Bill, Purpose
from migrator.state.connection import transaction
from migrator.state.slots import BURST_SECONDS
from tests.deployment import V4, Deployment
from tests.integration.several import begin_another
from tests.integration.steps import begin, stored

S = MigrationStatus
#: Requests and tokens a minute that both migrations' specs say of their account.
REQUESTS, TOKENS = 240, 60_000
#: Seconds by which a request may come late, on a busy machine, and so closer to the next one.
_LATE_SECONDS = 1.0


def most_over(entries: list[dict[str, Any]], per_minute: float, weight: str | None) -> float:
    """By how much any stretch of the bill passes its limit: rate times its length, a burst, and a request."""
    found = [(entry["at"], 1 if weight is None else entry[weight]) for entry in entries]
    worst = float("-inf")
    for first, (begin_at, _) in enumerate(found):
        total = 0
        for at, amount in found[first:]:
            allowed = per_minute / 60 * (at - begin_at + BURST_SECONDS + _LATE_SECONDS)
            worst = max(worst, total - allowed)
            total += amount
    return worst


@pytest.mark.parametrize("keeper", ["postgres", "redis"])
@pytest.mark.parametrize("binds", ["requests", "tokens"])
async def test_two_migrations_together_keep_their_accounts_limits(
    deployment: Deployment, valkey: Valkey, monkeypatch: pytest.MonkeyPatch, worker: Worker, keeper: str, binds: str
) -> None:
    """Two processes, one migration each: what the provider billed, request by request."""
    name, limit = ("requests_per_minute", REQUESTS) if binds == "requests" else ("tokens_per_minute", TOKENS)
    deployment.spec_data["limits"][name] = limit
    await begin(deployment, worker, 300)
    await begin_another(deployment, worker, "notes", 300)
    if keeper == "redis":
        monkeypatch.setenv("MIGRATOR_BROKER_URL", valkey.url)
    before = len(deployment.entries())
    workers = [Worker.make("one"), Worker.make("two")]
    await asyncio.gather(
        *[
            work.work(each, migration, until=S.INDEXING, on_line=lambda _: None)
            for each, migration in zip(workers, ("docs", "notes"), strict=True)
        ]
    )
    for each in workers:
        await each.close()
    entries = sorted(deployment.entries(), key=lambda entry: float(entry["at"]))[before:]
    assert most_over(entries, limit, None if binds == "requests" else "tokens") <= 0
    seconds = entries[-1]["at"] - entries[0]["at"]
    amount = len(entries) if binds == "requests" else sum(entry["tokens"] for entry in entries)
    assert amount > 0.5 * limit / 60 * seconds, "and they use it"
    assert deployment.mismatches("embedding__migrator", V4) == []


async def both_capped(deployment: Deployment, worker: Worker, usd: str) -> None:
    """`docs` and `notes`, each with room enough of its own, and a cap for both together."""
    await begin(deployment, worker, 300)
    await begin_another(deployment, worker, "notes", 300)
    deployment.must("limits", "docs", "--account-max-cost", usd)


async def run_into_the_cap(worker: Worker, name: str) -> str:
    with pytest.raises(CameToRest) as caught:
        await work.work(worker, name, until=S.READY, on_line=lambda _: None)
    return str(caught.value)


async def test_p7_the_cap_of_an_account_holds_over_its_migrations(deployment: Deployment, worker: Worker) -> None:
    """Two processes, a migration each: they rest together, and go on together once it is raised."""
    await both_capped(deployment, worker, "0.006")
    workers = [Worker.make("one"), Worker.make("two")]
    said = await asyncio.gather(
        *[run_into_the_cap(each, name) for each, name in zip(workers, ("docs", "notes"), strict=True)]
    )
    for name, words in zip(("docs", "notes"), said, strict=True):
        where = "TEST_PROVIDER_KEY at 127.0.0.1"
        assert f"CapReached: {name} reached the cap of all that ask with {where} of 0.01 USD" in words
    billed = deployment.simulator.ledger()["tokens"] / 1e6
    assert 0 < billed <= 0.006, "at the highest price, a dollar for a million tokens"
    (committed,) = deployment.query("SELECT sum(committed_usd) FROM migrator.budgets")[0]
    assert committed <= Decimal("0.006")
    status = json.loads(deployment.must("status", "notes", "--json"))["cost"]
    assert (status["account_max_usd"], status["account_usd"]) == (0.006, pytest.approx(float(committed)))
    assert "by all that ask with TEST_PROVIDER_KEY at 127.0.0.1, cap 0.01" in deployment.must("status", "notes")
    readings, _ = await metrics.read(worker.engine)
    for metric, usd in (("migrator_account_cost_cap_usd", 0.006), ("migrator_account_cost_usd", float(committed))):
        (found,) = [each for each in metrics.METRICS if each.name == metric]
        assert [list(found.told(each)) for each in readings] == [
            [((name,), pytest.approx(usd))] for name in ("docs", "notes")
        ]
    deployment.must("limits", "notes", "--account-max-cost", "1")
    for each, name in zip(workers, ("docs", "notes"), strict=True):
        await verbs.resume(each.engine, name, actor="test")
        await work.work(each, name, until=S.READY, on_line=lambda _: None)
        await each.close()
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_an_accounts_cap_is_tried_again_each_day_and_taken_away(deployment: Deployment, worker: Worker) -> None:
    await both_capped(deployment, worker, "0.001")
    await run_into_the_cap(worker, "docs")
    await schedule.change(worker.engine, "docs", Wanted(resume_daily="08:05 Asia/Shanghai"), actor="test")
    deployment.must("limits", "notes", "--account-max-cost", "none")
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET since = since - interval '1 day'")
        connection.execute("UPDATE migrator.schedules SET resumed_at = resumed_at - interval '1 day'")
    await tick(worker.engine, actor="test")
    await work.work(worker, "docs", until=S.READY, on_line=lambda _: None)
    assert json.loads(deployment.must("status", "docs", "--json"))["cost"]["account_max_usd"] is None
    readings, _ = await metrics.read(worker.engine)
    of_account = [each for each in metrics.METRICS if each.name.startswith("migrator_account_")]
    assert [list(found.told(each)) for found in of_account for each in readings] == 4 * [[]]


async def test_another_key_or_address_is_another_account(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    deployment.must("limits", "docs", "--account-max-cost", "0")
    deployment.query("UPDATE migrator.account_caps SET api_key_env = 'ANOTHER_KEY' RETURNING 1")
    await work.work(worker, "docs", until=S.READY, on_line=lambda _: None)
    for wrong in ("-1", "much", "nan", "inf"):
        deployment.must("limits", "docs", "--account-max-cost", wrong, code=2)


async def test_p7_two_who_reserve_at_once_do_so_one_after_the_other(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    deployment.must("limits", "docs", "--account-max-cost", "1")
    migration = await stored(worker)
    before = Decimal(deployment.value("SELECT committed_usd FROM migrator.budgets"))

    async def committed() -> Decimal:
        async with transaction(worker.engine) as connection:
            found = await account_caps.find(connection, migration.spec.to, hold=True)
        assert found is not None
        return found.committed_usd

    async with transaction(worker.engine) as connection:
        await account_caps.find(connection, migration.spec.to, hold=True)
        other = asyncio.create_task(committed())
        await asyncio.sleep(0.2)
        assert await budget.reserve(
            connection,
            migration.id,
            request_id="r1",
            purpose=Purpose.BACKFILL,
            bound=Bill(1, Decimal("0.9")),
            lease="x",
        )
    assert await other == before + Decimal("0.9")


async def test_p8_limits_lock_the_account_before_the_migration_as_whoever_reserves_does(
    deployment: Deployment, worker: Worker
) -> None:
    """In the other order a batch that reserves and an operator who types would wait for each other."""
    await begin(deployment, worker, 5)
    deployment.must("limits", "docs", "--account-max-cost", "5")
    wanted = verbs.NewLimits(max_cost_usd=0.9, account_max_cost_usd=Decimal(4))
    with deployment.connect() as reserving, reserving.transaction():
        reserving.execute("SELECT FROM migrator.account_caps FOR UPDATE")
        typed = asyncio.create_task(verbs.set_limits(worker.engine, "docs", wanted, actor="test"))
        await asyncio.sleep(0.5)
        assert not typed.done(), "it waits for the account"
        reserving.execute("SET LOCAL lock_timeout = '500ms'")
        reserving.execute("SELECT FROM migrator.budgets FOR UPDATE")
    await typed


async def test_what_rests_and_fails_takes_no_ticket_from_the_others(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await begin(deployment, worker, 20)
    await begin_another(deployment, worker, "notes", 20)
    deployment.must("pause", "notes")

    async def no_zone(*_: Any) -> None:
        raise ValueError("no such time zone here")

    monkeypatch.setattr(schedule, "wake", no_zone)
    made = await tick(worker.engine, actor="test")
    assert [each.label for each in made.tickets if each.label.startswith("docs.b")]
