"""The whole loop against the simulator: bad texts alone are set aside, copies are paid for once, limits are learnt."""

from __future__ import annotations

import pytest

from migrator.backfill.embedding import _Crew
from migrator.demo.simulator.app import CRASH, POISON
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import progress
from migrator.orchestrator.work import CameToRest
from migrator.planning import plan as plans
from migrator.provider import profiles, tokens
from migrator.provider.embedder import Answer
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from tests.deployment import V4, Deployment, embed
from tests.integration.steps import begin, start, to

S = MigrationStatus


def _set_bodies(deployment: Deployment, bodies: dict[int, str]) -> None:
    with deployment.connect() as connection:
        for key, body in bodies.items():
            connection.execute("UPDATE docs SET body = %s WHERE id = %s", (body, key))


async def test_r19_a_refused_text_is_quarantined_and_its_neighbours_are_written(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(40)
    _set_bodies(deployment, {7: f"{POISON} of one", 23: f"{CRASH} of another"})
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    rows = "SELECT key, kind, reason FROM migrator.dispositions ORDER BY key[1]::int"
    assert deployment.query(rows) == [(["7"], "quarantined", "content"), (["23"], "quarantined", "server_error")]
    assert deployment.mismatches("embedding__migrator", V4) == [7, 23]
    texts = deployment.value("SELECT count(embedding__migrator) FROM docs")
    assert texts == 38
    # What a server failed for may have been billed, and stays counted; the control word was billed.
    assert deployment.value("SELECT count(*) FROM migrator.reservations WHERE NOT possibly_billed") == 0
    spent = deployment.value("SELECT sum(spent_tokens) FROM migrator.ledger")
    assert spent == deployment.simulator.ledger()["tokens"]


async def test_r11_copies_of_a_text_are_billed_once_and_all_rows_get_it(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(60)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET title = 'n/a', body = 'n/a' WHERE id % 2 = 0")
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    assert deployment.mismatches("embedding__migrator", V4) == []
    entries = deployment.entries()
    digests = [each for entry in entries for each in entry["digests"]]
    assert len(digests) == len(set(digests)) == 31
    spent = deployment.value("SELECT sum(spent_tokens) FROM migrator.ledger")
    assert spent == deployment.simulator.ledger()["tokens"]


@pytest.mark.parametrize("order", ["together", "copies first", "copies last"])
async def test_p7_copies_that_land_with_their_text_or_before_it_leave_its_bill_alone(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    async def wait(self: _Crew, answer: Answer) -> None:
        self.arrived.append(answer)

    def take(self: _Crew) -> list[Answer]:
        if order == "together":
            taken, self.arrived = self.arrived, []
            return taken
        return [self.arrived.pop(-1 if order == "copies first" else 0)]

    monkeypatch.setattr(_Crew, "_land", wait)
    monkeypatch.setattr(_Crew, "_take_along", take)
    deployment.make_table(24)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET title = 'n/a', body = 'n/a' WHERE id % 2 = 0")
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    assert deployment.mismatches("embedding__migrator", V4) == []
    spent = deployment.value("SELECT sum(spent_tokens) FROM migrator.ledger")
    assert spent == deployment.simulator.ledger()["tokens"]
    assert deployment.query("SELECT id FROM migrator.reservations") == []


async def test_r7_a_token_limit_is_learnt_and_kept_for_every_later_batch(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.spec_data["to"]["profile_overrides"] = {"max_text_tokens": 100_000, "max_request_tokens": 100_000}
    deployment.simulator.admin(max_text_tokens=200)
    deployment.make_table(30)
    _set_bodies(deployment, {5: "word " * 400})
    await start(deployment, worker)
    await to(worker, S.INDEXING)
    assert deployment.query("SELECT max_text_tokens FROM migrator.paces WHERE max_text_tokens IS NOT NULL") == [(200,)]
    assert deployment.query("SELECT key, reason FROM migrator.dispositions") == [(["5"], "too_long")]
    assert deployment.mismatches("embedding__migrator", V4) == [5]


async def test_r14_the_norm_is_kept_and_a_reply_of_another_length_stops(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 30)
    await to(worker, S.INDEXING)
    # Both models': the canary asked the old one, too.
    assert deployment.query("SELECT DISTINCT norms FROM migrator.paces") == [({"64": 1.0},)]
    deployment.query("UPDATE migrator.paces SET norms = '{\"64\": 3.0}' RETURNING 1")
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = body || ' edited' WHERE id = 3")
    with pytest.raises(CameToRest, match="a vector is 1 long, and this model's were 3"):
        await to(worker, S.READY)


async def test_r17_tokens_that_were_not_reported_are_told(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 1)
    title, body = deployment.words(1)
    text = f"{title}\n{body}"
    silent = {"data": [{"index": 0, "embedding": embed(V4, text)}], "model": V4}
    deployment.simulator.admin(faults=[{"count": 1, "status": 200, "body": silent}])
    await to(worker, S.INDEXING)
    own = tokens.bound(text)
    assert deployment.query(
        "SELECT spent_tokens, estimated_tokens FROM migrator.ledger WHERE purpose = 'backfill'"
    ) == [(own, own)]
    async with transaction(worker.engine) as connection:
        told = progress.as_json(await progress.read(connection, await migrations.get(connection, "docs")))
    assert told["cost"]["estimated_tokens"] == own


async def test_the_plan_names_profile_and_overrides(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(10)
    deployment.spec_data["to"]["profile_overrides"] = {"max_texts": 7}
    made = await plans.make(worker.engine, deployment.spec)
    assert made.document["provider"]["profile"] == profiles.GENERIC
    assert made.document["provider"]["overridden"] == {"max_texts": 7}
    assert made.document["tokens"]["method"].startswith("counted with Qwen's tokenizer")
