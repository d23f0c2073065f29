"""P6 as a property: whatever is in a table and whatever happens to it meanwhile, every row is accounted for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import count

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import verbs, work
from migrator.orchestrator.perform import perform
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import dirty, dispositions, migrations
from migrator.state.connection import transaction
from tests.deployment import V3, V4, Deployment, embed, literal, until

#: What becomes of a row -> the text that does it to it. Any other text is embedded.
TEXTS = {"null": None, "empty": "", "whitespace": " \t", "content": "POISON-CONTENT", "too_long": "long " * 9000}
FATES = {text: fate for fate, text in TEXTS.items()}
TABLE = (
    """CREATE TABLE {0} (id bigint PRIMARY KEY, body text, gone bool NOT NULL DEFAULT false, embedding vector(64))"""
)
#: As an ORM's updated_at: our landings silence it, and whatever else is no ALWAYS trigger.
TRIGGER = (
    "CREATE FUNCTION touch_{0}() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE TRIGGER touch BEFORE UPDATE ON {0} FOR EACH ROW EXECUTE FUNCTION touch_{0}()",
)
KEYS = st.integers(1, 25)
WANTED = st.sampled_from([*TEXTS, "embedded"])
_numbers = count(1)


@dataclass(frozen=True)
class Write:
    """One statement of the application."""

    verb: str
    key: int
    wanted: str

    @property
    def text(self) -> str | None:
        return TEXTS.get(self.wanted, f"words of {self.key}")


WRITES = st.builds(Write, st.sampled_from(["insert", "update", "delete", "hide", "show", "renumber"]), KEYS, WANTED)


def write(deployment: Deployment, table: str, each: Write) -> None:
    text = each.text
    vector = literal(embed(V3, text)) if text is not None and text.strip() else None
    statements = {
        "insert": "INSERT INTO {0} (id, body, embedding) VALUES (%(key)s, %(text)s, %(vector)s) ON CONFLICT DO NOTHING",
        "update": "UPDATE {0} SET body = %(text)s, embedding = %(vector)s WHERE id = %(key)s",
        "delete": "DELETE FROM {0} WHERE id = %(key)s",
        "hide": "UPDATE {0} SET gone = true WHERE id = %(key)s",
        "show": "UPDATE {0} SET gone = false WHERE id = %(key)s",
        "renumber": "UPDATE {0} SET id = id + 100 WHERE id = %(key)s AND NOT EXISTS"
        " (SELECT FROM {0} WHERE id = %(key)s + 100)",
    }
    with deployment.connect() as connection:
        connection.execute(
            statements[each.verb].format(table).encode(), {"key": each.key, "text": text, "vector": vector}
        )


async def settled(worker: Worker, name: str) -> None:
    """Let catch-up finish what is dirty."""

    async def clean() -> bool:
        for ticket in (await tick(worker.engine, actor="test", only=name)).tickets:
            await perform(worker, ticket)
        async with transaction(worker.engine) as connection:
            found = await migrations.get(connection, name)
            return all([(await dirty.count(connection, found.id, side))[0] == 0 for side in Side])

    await until(clean)


def faults(deployment: Deployment, table: str, name: str) -> list[str]:
    """Rows whose fate is not what their text says, seen from the table and from the dispositions."""
    rows = deployment.query(f"SELECT id, body, gone, embedding__migrator::real[] FROM {table}")
    told = dict(
        deployment.query(
            """SELECT d.key[1]::bigint, d.kind || ' ' || d.reason FROM migrator.dispositions d
                 JOIN migrator.migrations m ON m.id = d.migration_id WHERE m.name = %s AND kind <> 'truncated'""",
            name,
        )
    )
    kinds = {"null": "skipped", "empty": "skipped", "whitespace": "skipped", "embedded": "", "filtered": ""}
    bad = []
    for key, body, gone, vector in rows:
        fate = "filtered" if gone else FATES.get(body, "embedded")
        kind = kinds.get(fate, "quarantined")
        right = vector is not None and np.dot(vector, embed(V4, body or "")) > 0.999
        wanted = f"{kind} {fate}" if kind else None
        if (fate == "embedded") != right or (not gone and told.get(key) != wanted):
            bad.append(f"{key}: should be {fate}, has {told.get(key)} and {'a' if vector else 'no'} vector")
    return bad


@pytest.mark.timeout(400)
@settings(
    max_examples=6,
    deadline=None,
    derandomize=True,
    # Each example is a whole migration: a failing one is shown as it is, not shrunk for minutes.
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(rows=st.lists(WANTED, min_size=5, max_size=25), writes=st.lists(WRITES, min_size=5, max_size=30))
async def test_p6_every_row_is_accounted_for_under_concurrent_writes(
    deployment: Deployment, worker: Worker, rows: list[str], writes: list[Write]
) -> None:
    number = next(_numbers)
    table, name = f"docs_{number}", f"docs{number}"
    with deployment.connect() as connection:
        connection.execute(TABLE.format(table).encode())
        for statement in TRIGGER if number % 2 else ():
            connection.execute(statement.format(table).encode())
    for key, wanted in enumerate(rows, start=1):
        await asyncio.to_thread(write, deployment, table, Write("insert", key, wanted))
    deployment.spec_data["name"] = name
    deployment.spec_data["target"] = {
        "table": f"public.{table}", "column": "embedding", "text": "{body}", "where": "NOT gone",
    }  # fmt: skip
    deployment.spec_data["gates"] = {"assignment_sample": 1, "max_quarantined_share": 1.0}
    deployment.simulator.admin(latency_seconds=0.02)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=lambda *_: None)

    async def application() -> None:
        for each in writes:
            await asyncio.to_thread(write, deployment, table, each)

    writing = asyncio.create_task(application())
    await work.work(worker, name, until=MigrationStatus.INDEXING, on_line=lambda _: None)
    await writing
    await settled(worker, name)
    assert faults(deployment, table, name) == []
    async with transaction(worker.engine) as connection:
        migration = await migrations.get(connection, name)
        counted = await dispositions.counts(connection, migration.id)
    stored = deployment.query(
        "SELECT kind, reason, count(*) FROM migrator.dispositions WHERE migration_id = %s GROUP BY 1, 2", migration.id
    )
    assert {each: rows for each, rows in counted.items() if rows} == {(kind, why): rows for kind, why, rows in stored}
