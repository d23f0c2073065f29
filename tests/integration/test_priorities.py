"""Several migrations on one deployment: who goes first, who shares, and what they may never pass together."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from migrator.backfill import proof
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import schedule, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.schedule import Wanted
from migrator.orchestrator.tick import FEWEST_TICKETS, tick
from migrator.spending.worker import Worker
from migrator.state.leases import Ticket
from tests.deployment import Deployment
from tests.integration.several import begin_another
from tests.integration.steps import begin

S = MigrationStatus


@pytest.fixture
async def both(deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Migrations `docs` and `notes` of one account, each with many small batches, planned and at work."""
    monkeypatch.setattr(proof.pages, "width", lambda *_: 1)
    await begin(deployment, worker, 250)
    await begin_another(deployment, worker, "notes", 250)
    await tick(worker.engine, actor="test")  # plans the passes
    deployment.free_tickets()
    return deployment


async def prefer(worker: Worker, **priorities: int) -> None:
    for name, priority in priorities.items():
        await schedule.change(worker.engine, name, Wanted(priority=priority), actor="test")


async def handed_out(worker: Worker) -> list[Ticket]:
    made = await tick(worker.engine, actor="test", ticket_seconds=worker.ticket_seconds)
    return [each for each in made.tickets if ".b0" in each.label]


def names(tickets: list[Ticket]) -> Counter[str]:
    return Counter(each.label.partition(".")[0] for each in tickets)


async def test_the_higher_goes_first_and_the_lower_says_why_it_waits(both: Deployment, worker: Worker) -> None:
    await prefer(worker, notes=5)
    for _ in range(2):
        tickets = await handed_out(worker)
        assert names(tickets) == {"notes": FEWEST_TICKETS}
        for each in tickets:
            await perform(worker, each)
    binding = "SELECT binding FROM migrator.migrations WHERE name = 'docs'"
    assert both.value(binding) == "priority: others of its provider account go first"


@pytest.mark.usefixtures("both")
async def test_equal_ones_share(worker: Worker) -> None:
    half = FEWEST_TICKETS // 2
    for _ in range(2):
        tickets = await handed_out(worker)
        assert names(tickets) == {"docs": half, "notes": half}
        for each in tickets:
            await perform(worker, each)


@pytest.mark.parametrize("how", ["pause", "window", "throttle", "cap", "done"])
async def test_the_lower_does_not_wait_for_one_that_does_nothing(
    both: Deployment, worker: Worker, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    await prefer(worker, notes=5)
    first = await handed_out(worker)
    assert names(first) == {"notes": FEWEST_TICKETS}
    match how:
        case "pause":
            await verbs.pause(worker.engine, "notes", actor="test")
        case "window":
            hour = int(both.value("SELECT extract(hour FROM now() AT TIME ZONE 'UTC')"))
            window = f"{(hour + 5) % 24:02}:00-{(hour + 6) % 24:02}:30 UTC"
            await schedule.change(worker.engine, "notes", Wanted(windows=(window,)), actor="test")
        case "throttle":
            both.query("UPDATE migrator.migrations SET signals_at = now() WHERE name = 'notes' RETURNING 1")
            both.query(
                "UPDATE migrator.signals SET binds = true, value = 9 WHERE signal = 'lag_seconds' AND migration_id ="
                " (SELECT id FROM migrator.migrations WHERE name = 'notes') RETURNING 1"
            )
        case "cap":
            await verbs.set_limits(worker.engine, "notes", verbs.NewLimits(max_cost_usd=0.0), actor="test")
            await perform(worker, first[0])
        case _:
            both.query(
                "UPDATE migrator.batches SET status = 'done', finished_at = now() WHERE migration_id ="
                " (SELECT id FROM migrator.migrations WHERE name = 'notes') RETURNING 1"
            )
    both.free_tickets()
    assert names(await handed_out(worker))["docs"] == FEWEST_TICKETS
    assert "could not be looked at" not in caplog.text


async def test_who_has_nothing_to_hand_out_is_not_said_to_wait_for_others(both: Deployment, worker: Worker) -> None:
    await prefer(worker, notes=5)
    both.query(
        "UPDATE migrator.batches SET not_before = now() + interval '1 h' WHERE migration_id ="
        " (SELECT id FROM migrator.migrations WHERE name = 'docs') RETURNING 1"
    )
    assert names(await handed_out(worker)) == {"notes": FEWEST_TICKETS}
    assert both.value("SELECT binding FROM migrator.migrations WHERE name = 'docs'") is None


async def test_other_accounts_and_those_who_are_asked_by_name_wait_for_nobody(both: Deployment, worker: Worker) -> None:
    await prefer(worker, notes=5)
    made = await tick(worker.engine, actor="test", only="docs")
    assert names([each for each in made.tickets if ".b0" in each.label]) == {"docs": FEWEST_TICKETS}
    both.free_tickets()
    both.query(
        "UPDATE migrator.migrations SET spec = jsonb_set(spec, '{to,model}', '\"another-model\"') WHERE name = 'docs'"
        " RETURNING 1"
    )
    assert names(await handed_out(worker)) == {"docs": FEWEST_TICKETS, "notes": FEWEST_TICKETS}


async def test_a_priority_is_set_and_told(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    assert json.loads(deployment.must("status", "docs", "--json"))["priority"] == 0
    assert "priority" not in deployment.must("status", "docs")
    told = json.loads(deployment.run("schedule", "docs", "--priority", "-3", "--json").stdout)
    assert told["priority"] == -3
    assert json.loads(deployment.must("status", "docs", "--json"))["priority"] == -3
    assert "priority  -3" in deployment.must("status", "docs")
    assert "priority      -3" in deployment.must("schedule", "docs", "--start-at", "now"), "it is left as it is"
    for wrong in ("10", "-10", "high"):
        deployment.must("schedule", "docs", "--priority", wrong, code=2)
    (note,) = deployment.query("SELECT reason FROM migrator.transitions WHERE reason LIKE 'schedule: priority%%'")
    assert note == ("schedule: priority = -3",)
