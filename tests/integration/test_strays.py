"""Who was diverted is told exactly, from sums and what came since, and cleanup heeds it (H7)."""

from __future__ import annotations

import asyncio

import psycopg
import pytest

from migrator.cutover.cleaning import StraysSeen
from migrator.orchestrator import attended, diverted, progress
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from migrator.state import migrations, strays
from migrator.state.connection import transaction
from tests.deployment import V3, V4, Deployment, embed, literal
from tests.integration.steps import drain, ready, stored
from tests.integration.swaps import cut_over, quiet

FROM, TO = f"{V3}@64", f"qwen/{V4}@64"


def bring(
    deployment: Deployment, application: str, count: int, *, hours_ago: float = 0, generation: str = FROM
) -> None:
    """Diverted writes as the trigger notes them: what it costs to look at them must not hang on their number."""
    with deployment.connect() as connection:
        connection.execute(
            "INSERT INTO migrator.strays (migration_id, generation, application, role, at)"
            " SELECT m.id, %s, %s, 'app', clock_timestamp() - make_interval(secs => %s)"
            " FROM migrator.migrations m, generate_series(1, %s)",
            [generation, application, 3600 * hours_ago, count],
        )


async def seen(worker: Worker) -> dict[str, int]:
    async with transaction(worker.engine) as connection:
        found = await strays.seen(connection, await migrations.get(connection, "docs"))
    return {each.application: each.writes for each in found}


async def fold(worker: Worker, limit: int = 1000) -> None:
    found = await stored(worker)
    for _ in range(limit):
        async with transaction(worker.engine) as connection:
            if not await strays.fold(connection, found.id):
                return


async def test_h7_status_names_a_diverted_writer_with_what_it_wrote_and_when(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    with psycopg.connect(deployment.url, autocommit=True, application_name="nightly job") as old:
        for number in (1, 2):
            old.execute("UPDATE docs SET embedding = %s WHERE id = %s", [literal(embed(V3, f"{number}")), number])
    async with transaction(worker.engine) as connection:
        found = await progress.read(connection, await migrations.get(connection, "docs"))
    told = progress.as_json(found)
    assert told["diverted"] == {"nightly job (role postgres)": 2}
    (full,) = told["diverted_writers"]
    assert (full["application"], full["role"], full["generation"], full["writes"]) == (
        "nightly job",
        "postgres",
        FROM,
        2,
    )
    (line, mend) = diverted.lines(found.migration, found.strays)
    assert line[1].startswith(f"nightly job (role postgres): 2 writes of {FROM} in 24 h, last 20")
    assert f"`migrator fence docs --role ROLE --generation {TO}`" in mend[1]


async def test_h7_sums_and_lines_together_are_exact_whoever_adds_up_meanwhile(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    await ready(deployment, worker, 5)
    await cut_over(worker)
    monkeypatch.setattr(strays, "FOLD_LINES", 7)
    bring(deployment, "a", 100)
    bring(deployment, "b", 50)

    async def look() -> list[dict[str, int]]:
        return [await seen(worker) for _ in range(15)]

    _, _, looked = await asyncio.gather(fold(worker), fold(worker), look())
    assert looked == [{"a": 100, "b": 50}] * 15
    await fold(worker)
    assert deployment.value("SELECT count(*) FROM migrator.strays") == 0
    assert await seen(worker) == {"a": 100, "b": 50}
    bring(deployment, "a", 1)
    assert await seen(worker) == {"a": 101, "b": 50}


async def test_h7_a_tick_adds_up_so_that_a_look_reads_few_rows(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 5)
    await cut_over(worker)
    await drain(worker)
    bring(deployment, "busy", 5000)
    await tick(worker.engine, actor="test")
    assert deployment.value("SELECT count(*) FROM migrator.strays") == 0
    assert deployment.value("SELECT count(*) FROM migrator.stray_sums") <= 2
    assert await seen(worker) == {"busy": 5000}


async def test_h7_cleanup_refuses_for_a_day_after_the_last_diverted_write(
    deployment: Deployment, worker: Worker
) -> None:
    """Also when the lines were added up long ago; a writer of the day before yesterday is nobody's hindrance."""
    await ready(deployment, worker, 5)
    await cut_over(worker)
    bring(deployment, "weekly", 3, hours_ago=40)
    await fold(worker)
    assert await seen(worker) == {}
    bring(deployment, "nightly", 3, hours_ago=23.9)
    bring(deployment, "deployed", 3, generation=TO)  # once, before the cutover: it is no stray any more
    await fold(worker)
    with pytest.raises(StraysSeen, match=r"nightly \(role app\): 3\."):
        await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="t", tell=quiet)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.stray_sums SET last_seen = last_seen - interval '2 hours'")
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=False, actor="t", tell=quiet)
    assert deployment.status == "cleaned"
