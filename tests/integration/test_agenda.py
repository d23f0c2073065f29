"""What waits for a tick is on the agenda, each thing by its own name, and of no other migration."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrator.spending.worker import Worker
from migrator.state import agenda
from migrator.state.agenda import Agenda
from migrator.state.connection import transaction
from migrator.state.splits import MAX_ATTEMPTS, MAX_DEATHS
from tests.deployment import Deployment
from tests.integration.several import begin_another
from tests.integration.steps import begin, first_tickets

#: What makes each word true of the migration that `{id}` names.
_MAKING = {
    "a lease of a batch that ran out": (
        (
            "UPDATE migrator.batches SET status = 'leased', holder = 'x', lease_until = now() - interval '1 s'"
            " WHERE migration_id = {id} RETURNING 1"
        ),
        "silent",
    ),
    "a lease of a duty that ran out": (
        (
            "INSERT INTO migrator.duties (migration_id, duty, status, holder, lease_until)"
            " VALUES ({id}, 'index', 'leased', 'x', now() - interval '1 s') RETURNING 1"
        ),
        "silent",
    ),
    "a request whose outcome is open": (
        (
            "INSERT INTO migrator.reservations (id, migration_id, purpose, lease, tokens, usd)"
            " VALUES ('r1', {id}, 'backfill', 'batch:1#1', 10, 0.1) RETURNING 1"
        ),
        "booked",
    ),
    "a batch without attempts left": (
        f"UPDATE migrator.batches SET fence = 9, attempts = {MAX_ATTEMPTS} WHERE migration_id = {{id}} RETURNING 1",
        "worn",
    ),
    "a batch whose workers died": (
        f"UPDATE migrator.batches SET fence = 9, deaths = {MAX_DEATHS} WHERE migration_id = {{id}} RETURNING 1",
        "worn",
    ),
    "a batch that is done": (
        (
            "UPDATE migrator.batches SET fence = 1, status = 'done', finished_at = now() WHERE migration_id = {id}"
            " RETURNING 1"
        ),
        "finished",
    ),
    "a row that was quarantined": (
        (
            "INSERT INTO migrator.dispositions (migration_id, key, kind, reason)"
            " VALUES ({id}, '{{1}}', 'quarantined', 'content') RETURNING 1"
        ),
        "disposed",
    ),
    "a diverted write": (
        (
            "INSERT INTO migrator.strays (migration_id, application, role, generation) VALUES ({id}, 'a', 'r', 'g')"
            " RETURNING 1"
        ),
        "diverted",
    ),
    "a vector of a client's own": (
        (
            "INSERT INTO migrator.written (migration_id, side, key, application, role)"
            " VALUES ({id}, 'to', '{{1}}', 'a', 'r') RETURNING 1"
        ),
        "written",
    ),
    "a suspect of long ago": (
        (
            "INSERT INTO migrator.suspects (migration_id, side, key, application, role, looked_at)"
            " VALUES ({id}, 'to', '{{1}}', 'a', 'r', now() - interval '1 hour') RETURNING 1"
        ),
        "written",
    ),
}


@pytest.mark.parametrize("what", _MAKING)
async def test_p3_what_waits_for_a_tick_is_on_its_agenda(deployment: Deployment, worker: Worker, what: str) -> None:
    await begin(deployment, worker, 10)
    await begin_another(deployment, worker, "notes", 10)
    await first_tickets(worker)
    ids = {
        name: int(deployment.value(f"SELECT id FROM migrator.migrations WHERE name = '{name}'"))
        for name in ("docs", "notes")
    }

    async def read() -> dict[str, Agenda]:
        async with transaction(worker.engine) as connection:
            found = await agenda.read(connection, list(ids.values()))
        return {name: found[each] for name, each in ids.items()}

    assert await read() == {"docs": Agenda(), "notes": Agenda()}
    statement, word = _MAKING[what]
    deployment.query(statement.format(id=ids["docs"]))
    assert await read() == {"docs": replace(Agenda(), **{word: True}), "notes": Agenda()}


async def test_p3_leases_and_suspects_that_can_wait_are_on_no_agenda(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 10)
    await first_tickets(worker)
    found = int(deployment.value("SELECT id FROM migrator.migrations"))
    for what, (statement, _) in _MAKING.items():
        if "interval" in statement:
            made = deployment.query(statement.format(id=found).replace("now() - interval", "now() + interval"))
            assert made, f"{what} was not made"
    async with transaction(worker.engine) as connection:
        assert await agenda.read(connection, [found]) == {found: Agenda()}
