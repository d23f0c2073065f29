"""Verdicts: stored one by one, gone on with after a kill, stale by age and by writes, renewed while ready, waived."""

from __future__ import annotations

import json
from typing import Any

import pytest

from migrator.cutover import readiness
from migrator.cutover.readiness import VerdictsMissing
from migrator.errors import GateFailed
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, judgement, progress, verbs
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.orchestrator.verbs import NothingToWaive
from migrator.spending.worker import Worker
from migrator.state import verdicts
from migrator.state.connection import transaction
from tests.deployment import Deployment
from tests.integration.steps import begin, ready, stored, to
from tests.integration.swaps import cut_over

S = MigrationStatus


def minutes_later(deployment: Deployment) -> None:
    """For the first ten minutes a verdict holds, whatever is written."""
    deployment.query("UPDATE migrator.verdicts SET at = at - interval '11 min' RETURNING 1")


def written(deployment: Deployment, rows: int) -> None:
    """What so many rows leave behind, when catch-up has embedded them, minutes after the verdicts."""
    minutes_later(deployment)
    deployment.query(
        """INSERT INTO migrator.duties (migration_id, duty, status, rows_embedded)
           SELECT id, 'catch-up', 'done', %s FROM migrator.migrations
           ON CONFLICT (migration_id, duty) DO UPDATE SET rows_embedded = duties.rows_embedded + excluded.rows_embedded
           RETURNING 1""",
        rows,
    )


def counts(deployment: Deployment) -> dict[str, int]:
    return dict(deployment.query("SELECT gate, count(*)::int FROM migrator.verdicts GROUP BY gate"))


async def validations(worker: Worker) -> list[str]:
    """What a tick offers to be validated, and does."""
    tickets = (await tick(worker.engine, actor="test")).tickets
    return [await perform(worker, ticket) for ticket in tickets if ".validate." in ticket.label]


async def test_a_validation_that_was_killed_goes_on_where_it_stopped(deployment: Deployment, worker: Worker) -> None:
    """SIGKILL between two gates: what has a verdict is neither measured nor paid for again."""
    await begin(deployment, worker, 60)
    await to(worker, S.VALIDATING)
    deployment.simulator.admin(latency_seconds=0.5)
    process = deployment.work("--until", "ready")
    deployment.wait(lambda: "latency" in counts(deployment), process)
    deployment.kill(process)
    assert "quality" not in counts(deployment)
    assert deployment.status == "validating"
    deployment.simulator.admin(latency_seconds=0)
    before = deployment.query("SELECT id FROM migrator.verdicts ORDER BY id")
    await to(worker, S.READY)
    assert counts(deployment) == dict.fromkeys(verdicts.GATES, 1)
    assert deployment.query("SELECT id FROM migrator.verdicts ORDER BY id")[: len(before)] == before


async def test_validate_measures_everything_again(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    told: list[str] = []
    await attended.validate(worker, "docs", actor="test", tell_verdict=lambda each: told.append(each.gate))
    assert counts(deployment) == dict.fromkeys(verdicts.GATES, 2)
    assert told == list(verdicts.GATES)


async def test_cutover_refuses_what_was_written_over_and_what_is_old(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20, anew=True)
    await readiness.gates(worker.engine, await stored(worker))
    written(deployment, 301)
    deployment.query("UPDATE migrator.verdicts SET at = now() RETURNING 1")
    await readiness.gates(worker.engine, await stored(worker))
    minutes_later(deployment)
    refusal = r"structure is stale \(301 rows were written since, and 300 are allowed\); quarantined is stale"
    with pytest.raises(VerdictsMissing, match=refusal) as caught:
        await cut_over(worker)
    assert caught.value.exit_code == 3
    assert "migrator validate docs" in str(caught.value)
    await attended.validate(worker, "docs", actor="test")
    await readiness.gates(worker.engine, await stored(worker))
    deployment.query("UPDATE migrator.verdicts SET at = at - interval '25 h' WHERE gate = 'quality' RETURNING 1")
    with pytest.raises(
        VerdictsMissing, match=r"verdicts: quality is stale \(it is 25\.0 h old, and 24 h are allowed\)"
    ):
        await cut_over(worker)
    deployment.query("DELETE FROM migrator.verdicts WHERE gate = 'churn' RETURNING 1")
    with pytest.raises(VerdictsMissing, match="churn was never measured"):
        await cut_over(worker)


async def test_rows_that_are_inserted_make_a_verdict_stale_and_other_updates_do_not(
    deployment: Deployment, worker: Worker
) -> None:
    """By PostgreSQL's own counters: a counter that is bumped changes no vector."""
    await ready(deployment, worker, 20, anew=True)
    with deployment.connect() as connection:
        for _ in range(20):
            connection.execute("UPDATE docs SET n = n + 1")
        connection.execute("SELECT pg_stat_force_next_flush()")
    minutes_later(deployment)
    await readiness.gates(worker.engine, await stored(worker))
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title) SELECT '' FROM generate_series(1, 301)")
        connection.execute("SELECT pg_stat_force_next_flush()")
    with pytest.raises(VerdictsMissing, match="301 rows were written since"):
        await readiness.gates(worker.engine, await stored(worker))


async def test_what_grew_stale_is_measured_again_while_ready(deployment: Deployment, worker: Worker) -> None:
    """Before cutover would have to refuse, and without leaving `ready`."""
    await ready(deployment, worker, 20, anew=True)
    assert await validations(worker) == []
    written(deployment, 250)
    await readiness.gates(worker.engine, await stored(worker))
    assert await validations(worker) == [f"docs: {len(verdicts.GATES)} of {len(verdicts.GATES)} gates passed"]
    assert deployment.status == "ready"
    assert counts(deployment) == dict.fromkeys(verdicts.GATES, 2)
    assert await validations(worker) == []
    deployment.query("UPDATE migrator.verdicts SET at = at - interval '23 h' WHERE gate = 'churn' RETURNING 1")
    assert await validations(worker) == ["docs: 1 of 1 gates passed"]
    assert counts(deployment) == {**dict.fromkeys(verdicts.GATES, 2), "churn": 3}
    assert (
        deployment.query("SELECT 1 FROM migrator.transitions WHERE from_status = 'ready' AND to_status <> 'ready'")
        == []
    )


async def test_a_renewal_that_fails_pauses_nothing_and_cutover_refuses(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    deployment.query("UPDATE migrator.budgets SET committed_usd = committed_usd + 0.01 RETURNING 1")
    written(deployment, 301)
    assert await validations(worker) == [f"docs: {len(verdicts.GATES) - 1} of {len(verdicts.GATES)} gates passed"]
    assert deployment.status == "ready"
    assert await validations(worker) == [], "what failed is not paid for again and again"
    with pytest.raises(VerdictsMissing, match=r"budget did not pass: it is 0\.01 against 0"):
        await cut_over(worker)
    found = await read(worker)
    assert progress.exit_code(found) == 3
    assert found.next_step == "`migrator validate docs`, since cutover is refused: budget"


async def test_a_renewal_that_can_not_be_paid_pauses_nothing(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 20)
    written(deployment, 301)
    await verbs.set_limits(worker.engine, "docs", verbs.NewLimits(max_cost_usd=0.0), actor="test")
    (said,) = await validations(worker)
    assert said.startswith("CapReached")
    assert deployment.status == "ready"
    assert await validations(worker) == [], "it is tried again later"


async def read(worker: Worker) -> progress.Progress:
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        return await progress.read(connection, migration)


@pytest.mark.parametrize(
    ("gate", "why"),
    [("speed", "there is no such gate"), ("churn", "it passed")],
)
async def test_a_waiver_is_for_a_gate_that_exists_and_failed(
    deployment: Deployment, worker: Worker, gate: str, why: str
) -> None:
    await ready(deployment, worker, 10)
    with pytest.raises(NothingToWaive, match=why) as caught:
        await verbs.waive(worker.engine, "docs", gate, reason="I like it", actor="me")
    assert caught.value.exit_code == 2
    assert deployment.query("SELECT 1 FROM migrator.verdicts WHERE waived_by IS NOT NULL") == []


async def test_a_stale_verdict_is_not_waived(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await fail_budget(deployment, worker)
    written(deployment, 301)
    with pytest.raises(NothingToWaive, match="its verdict is stale"):
        await verbs.waive(worker.engine, "docs", "budget", reason="known", actor="me")


async def fail_budget(deployment: Deployment, worker: Worker) -> None:
    deployment.query("UPDATE migrator.budgets SET committed_usd = committed_usd + 0.01 RETURNING 1")
    with pytest.raises(GateFailed, match="budget"):
        await attended.validate(worker, "docs", actor="test")


@pytest.mark.timeout(120)
async def test_a_waiver_is_signed_shown_and_told_at_cutover(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await fail_budget(deployment, worker)
    said = deployment.must("validate", "docs", "--waive", "budget", "--reason", "see OPS-123")
    assert "Gate budget is waived; docs is ready." in said
    (waived,) = [each for each in as_json(deployment) if each["waived_by"]]
    assert (waived["gate"], waived["passed"], waived["waiver"]) == ("budget", False, "see OPS-123")
    actor = waived["waived_by"]
    assert f"budget waived by {actor} (see OPS-123): 0.01 against 0" in deployment.must("status", "docs")
    assert (
        deployment.value("SELECT actor FROM migrator.transitions WHERE reason = 'gate budget waived: see OPS-123'")
        == actor
    )
    told = f"gate budget was waived by {actor} (see OPS-123): it is 0.01 against 0"
    assert told in deployment.must("cutover", "docs", "--dry-run")
    assert told in deployment.must("cutover", "docs", "--readers-ready", "--yes")
    assert await judgement.cautions(worker, "docs") != []


def as_json(deployment: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(deployment.must("status", "docs", "--json"))["verdicts"]
    assert [each["gate"] for each in found] == list(verdicts.GATES)
    assert all(each["stale"] is None and each["seed"] >= 0 and each["at"] for each in found)
    return found


@pytest.mark.timeout(120)
def test_validate_on_the_command_line_ends_with_3_and_names_figure_and_threshold(deployment: Deployment) -> None:
    deployment.make_table(10)
    deployment.must("start", deployment.spec_file, "--yes")
    deployment.must("work", "docs", "--until", "ready")
    deployment.query("UPDATE migrator.budgets SET committed_usd = committed_usd + 0.01 RETURNING 1")
    said = deployment.must("validate", "docs", code=3)
    assert "structure    passed: 0 against 0" in said
    assert "budget       FAILED: 0.01 against 0" in said
    assert "budget is 0.01 against 0 (USD committed beside the books" in said
    assert "runbooks/validation-failed.md" in said
    deployment.must("validate", "docs", "--waive", "budget", "--reason", " ", code=2)
    deployment.must("validate", "docs", "--waive", "budget", code=2)
