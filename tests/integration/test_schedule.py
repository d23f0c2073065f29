"""Schedules: it begins when it was told to, and is tried again each day, with nobody there."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import schedule, verbs
from migrator.orchestrator.schedule import Wanted
from migrator.orchestrator.tick import tick
from migrator.orchestrator.work import CameToRest
from migrator.spending.worker import Worker
from migrator.state import schedules
from migrator.state.connection import transaction
from tests.deployment import V4, Deployment
from tests.integration.steps import begin, first_tickets, stored, to

S = MigrationStatus
DAILY = "08:05 Asia/Shanghai"
RESUMED = "SELECT count(*) FROM migrator.transitions WHERE actor = 'schedule' AND to_status = 'backfilling'"


def a_day_passes(deployment: Deployment) -> None:
    """Everything that was noted of rests and tries is a day older."""
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET since = since - interval '1 day'")
        connection.execute("UPDATE migrator.schedules SET resumed_at = resumed_at - interval '1 day'")


async def capped(deployment: Deployment, worker: Worker) -> None:
    """A migration that came to rest by its cap, and is to be tried again each day."""
    deployment.spec_data["limits"]["max_cost_usd"] = 0.003
    await begin(deployment, worker, 400)
    with pytest.raises(CameToRest, match="CapReached"):
        await to(worker, S.READY)
    await schedule.change(worker.engine, "docs", Wanted(resume_daily=DAILY), actor="test")


async def test_it_begins_when_it_was_told_to(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    later = datetime.now(tz=UTC) + timedelta(hours=3)
    await schedule.change(worker.engine, "docs", Wanted(start_at=later), actor="test")
    made = await tick(worker.engine, actor="test")
    assert made.tickets == []
    assert f"binds: start at {later:%Y-%m-%d %H:%M} UTC" in str(made)
    await schedule.change(
        worker.engine, "docs", Wanted(start_at=datetime.now(tz=UTC) - timedelta(seconds=1)), actor="test"
    )
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_what_a_limit_stopped_goes_on_the_next_day(deployment: Deployment, worker: Worker) -> None:
    await capped(deployment, worker)
    await tick(worker.engine, actor="test")
    assert deployment.status == "paused", "its time of the day has not come since"
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(max_cost_usd=1.0), actor="test")
    a_day_passes(deployment)
    await asyncio.gather(*[tick(worker.engine, actor=f"test {number}") for number in range(4)])
    assert deployment.value(RESUMED) == 1, "by one of them, once"
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", V4) == []


async def test_whoever_asks_for_daily_tries_after_their_hour_means_tomorrow(
    deployment: Deployment, worker: Worker
) -> None:
    await capped(deployment, worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET since = since - interval '1 day'")
    await schedule.change(worker.engine, "docs", Wanted(resume_daily=DAILY), actor="test")
    await tick(worker.engine, actor="test")
    assert deployment.status == "paused", "today's hour was over when it was asked for"
    a_day_passes(deployment)
    await tick(worker.engine, actor="test")
    assert deployment.value(RESUMED) == 1


async def test_a_refusal_is_the_days_try(deployment: Deployment, worker: Worker) -> None:
    await capped(deployment, worker)
    deployment.query("UPDATE migrator.canaries SET moved_at = now(), moved_cosine = 0.4 RETURNING 1")
    noted = (
        "SELECT count(*) FROM migrator.transitions WHERE reason LIKE 'the day''s try came to nothing: %%rows of docs%%'"
    )
    for days in (1, 2):
        a_day_passes(deployment)
        for _ in range(3):
            await tick(worker.engine, actor="test")
        assert deployment.status == "paused"
        assert deployment.value(noted) == days


@pytest.mark.parametrize("act", ["pause", "off", "cap"])
async def test_whoever_acts_as_the_hour_comes_is_not_overruled(
    deployment: Deployment, worker: Worker, act: str
) -> None:
    """Between the tick's look at what rests and its try."""
    await capped(deployment, worker)
    a_day_passes(deployment)
    seen = await stored(worker)
    if act == "off":
        await schedule.change(worker.engine, "docs", Wanted(resume_daily="off"), actor="test")
    else:
        await verbs.resume(worker.engine, "docs", actor="test")
        if act == "pause":
            await verbs.pause(worker.engine, "docs", actor="test")
        else:
            with pytest.raises(CameToRest, match="CapReached"):
                await to(worker, S.READY)
    async with transaction(worker.engine) as connection:
        read = (await schedules.find_all(connection, [seen.id]))[seen.id]
    tried = read if act != "off" else replace(read, resume_daily=DAILY)
    await schedule._try_again(worker.engine, seen, tried)
    assert deployment.status == "paused"
    assert deployment.value(RESUMED) == 0


async def test_what_is_still_so_is_tried_once_a_day(deployment: Deployment, worker: Worker) -> None:
    await capped(deployment, worker)
    for days in (1, 2):
        a_day_passes(deployment)
        await tick(worker.engine, actor="test")
        assert deployment.status == "backfilling"
        with pytest.raises(CameToRest, match="CapReached"):
            await to(worker, S.READY)
        for _ in range(3):
            await first_tickets(worker)
        assert deployment.status == "paused"
        assert deployment.value(RESUMED) == days


@pytest.mark.parametrize(
    "reason",
    [
        "paused by the operator",
        "a gate failed: assignment",
        "CanaryMoved: the canary",
        "ProviderBusy: it did not answer",
    ],
)
async def test_what_somebody_has_to_look_at_waits_for_somebody(
    deployment: Deployment, worker: Worker, reason: str
) -> None:
    await begin(deployment, worker, 10)
    await schedule.change(worker.engine, "docs", Wanted(resume_daily=DAILY), actor="test")
    await verbs.pause(worker.engine, "docs", actor="test")
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET reason = %s", [reason])
    a_day_passes(deployment)
    await tick(worker.engine, actor="test")
    assert deployment.status == "paused"


async def test_answers_that_can_not_be_believed_are_not_paid_for_again_each_day(
    deployment: Deployment, worker: Worker
) -> None:
    await begin(deployment, worker, 10)
    await schedule.change(worker.engine, "docs", Wanted(resume_daily=DAILY), actor="test")
    deployment.simulator.admin(faults=[{"kind": "zero", "count": None}])
    with pytest.raises(
        CameToRest, match=r"AnswersUnbelievable: The provider at 127\.0\.0\.1 answered what can't be believed"
    ):
        await to(worker, S.READY)
    billed = deployment.simulator.ledger()["tokens"]
    a_day_passes(deployment)
    await tick(worker.engine, actor="test")
    assert deployment.status == "paused"
    assert deployment.simulator.ledger()["tokens"] == billed


async def test_a_schedule_is_set_and_told_by_its_verb(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    words = ["--window", "mon-fri 22:00-06:00 Asia/Shanghai", "--window", "Sat,Sun 00:00-24:00 Asia/Shanghai"]
    told = json.loads(
        deployment.run(
            "schedule", "docs", *words, "--start-at", "2099-01-01T00:00+08:00", "--resume-daily", DAILY, "--json"
        ).stdout
    )
    assert told["windows"] == ["mon-fri 22:00-06:00 Asia/Shanghai", "sat,sun 00:00-24:00 Asia/Shanghai"]
    assert told["start_at"] == "2098-12-31T16:00:00+00:00"
    assert told["opens"] == told["start_at"], "a Thursday's midnight in Shanghai, within Wednesday's night"
    assert told["closes"] == "2098-12-31T22:00:00+00:00"
    assert datetime.fromisoformat(told["next_try"]).astimezone(UTC).strftime("%H:%M") == "00:05"
    shown = deployment.must("schedule", "docs")
    assert "resume daily  08:05 Asia/Shanghai, next" in shown
    cleared = deployment.must("schedule", "docs", "--window", "always", "--start-at", "now", "--resume-daily", "off")
    assert "at once" in cleared
    assert "always" in cleared
    for wrong in (["--window", "some day"], ["--start-at", "2026-12-01T22:00"], ["--resume-daily", "8 UTC"]):
        assert deployment.run("schedule", "docs", *wrong).returncode == 2
    assert deployment.run("schedule", "nothing").returncode == 2
    notes = deployment.query("SELECT reason FROM migrator.transitions WHERE reason LIKE 'schedule:%%' ORDER BY id")
    assert len(notes) == 2, "whoever only looks changes nothing"


async def test_what_is_not_the_operators_mistake_is_not_called_so(deployment: Deployment, worker: Worker) -> None:
    """A stored window that can't be read, by another version's hand, is no wrong `--window`."""
    await begin(deployment, worker, 10)
    deployment.query("UPDATE migrator.migrations SET windows = '{by night}' RETURNING 1")
    for words in (["schedule", "docs", "--resume-daily", DAILY], ["limits", "docs", "--rpm", "5"]):
        done = deployment.run(*words)
        assert "Invalid value" not in done.stderr
    assert deployment.run("schedule", "docs").returncode == 1
    assert deployment.run("schedule", "docs", "--window", "always").returncode == 0
    assert "Invalid value for --window" in deployment.must("limits", "docs", "--window", "by night", code=2)


async def test_what_is_cancelled_has_no_schedule_any_more(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    await schedule.change(worker.engine, "docs", Wanted(resume_daily=DAILY), actor="test")
    await verbs.cancel(worker.engine, "docs", actor="test")
    for words in (["--window", "always"], ["--start-at", "now"], ["--resume-daily", "off"]):
        said = deployment.must("schedule", "docs", *words, code=2)
        assert "`schedule` needs docs to be neither cancelled nor cleaned up, and it is cancelled." in " ".join(
            said.split()
        )
    assert deployment.value("SELECT resume_daily FROM migrator.schedules") == DAILY
    assert "resume daily" in deployment.must("schedule", "docs"), "it can be looked at"
