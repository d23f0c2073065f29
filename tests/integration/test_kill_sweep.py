"""P9: whatever dies in an attended step, at any moment: it is done as a whole or not at all, and can be finished."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import psycopg
import pytest
from psycopg import sql as psql

from migrator.cutover import cleaning, expand, readiness
from migrator.cutover.swapping import CUTOVER, ROLLBACK, Direction
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.orchestrator.attendance import Overtaken
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import DatabaseGone, transaction
from migrator.target import message, outcome
from migrator.target.outcome import OutcomeUnknown, Undone
from tests.deployment import V3, V4, Deployment, until
from tests.integration import catalog
from tests.integration.killing import DIE, Assassin, cut_over_by_a_way_that_breaks, sweep
from tests.integration.steps import ready, start, stored, to
from tests.integration.swaps import ANY, cut_over, quiet, roll_back, swap
from tests.integration.test_dependents import EVERYTHING, whole

pytestmark = pytest.mark.timeout(240)
S = MigrationStatus
DeploymentOn = Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]]
ROWS = 12


@pytest.fixture
def everything(deployment: Deployment) -> Iterator[Deployment]:
    """A table on which everything hangs that is taken along, and whose vector is NOT NULL."""
    deployment.make_table(ROWS)
    with deployment.connect() as connection:
        connection.execute("CREATE ROLE dependents_reader")
        connection.execute(EVERYTHING.encode())
        connection.execute("ALTER TABLE docs ALTER embedding SET NOT NULL")
    yield deployment
    with deployment.connect() as connection:
        connection.execute("DROP OWNED BY dependents_reader; DROP ROLE dependents_reader")


async def swapping(worker: Worker, direction: Direction) -> list[psql.Composable]:
    """The whole transaction of a swap."""
    looked = await readiness.look(worker.engine, await stored(worker), verb=direction.verb)
    return looked.statements(direction.side, direction.status, bounds=ANY, actor="test")


async def expanding(worker: Worker) -> list[psql.Composable]:
    return (await expand.prepare(worker.engine, await stored(worker), actor="test")).framed


async def cleaning_up(worker: Worker) -> list[psql.Composable]:
    prepared = await cleaning.prepare(worker.engine, await stored(worker), actor="test")
    assert prepared is not None
    return prepared[1]


async def clean_up(worker: Worker) -> None:
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)


async def started(deployment: Deployment, worker: Worker) -> message.Timing:
    return await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=quiet)


async def test_p9_killed_before_and_after_every_statement(everything: Deployment, worker: Worker) -> None:
    """Setup, cutover, rollback, cleanup: the session dies before each statement, and behind the last."""
    await verbs.make_plan(worker.engine, everything.spec, actor="test")
    sweep(everything, await expanding(worker))
    assert everything.status == "backfilling"
    await to(worker, S.READY)
    for direction, model in ((CUTOVER, V4), (ROLLBACK, V3)):
        sweep(everything, await swapping(worker, direction))
        assert (await stored(worker)).status is direction.status
        assert everything.mismatches("embedding", model) == []
    async with transaction(worker.engine) as connection:
        await migrations.move(connection, await stored(worker), S.CLEANING, actor="test")
    sweep(everything, await cleaning_up(worker))
    assert everything.status == "cleaned"
    await clean_up(worker)
    assert (await stored(worker)).not_null is None


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.long)])
async def test_p9_killed_inside_of_every_statement(everything: Deployment, worker: Worker, every: int) -> None:
    """The session dies behind each DDL command that the statements run, those in their DO blocks too."""
    assassin = Assassin(everything)
    await verbs.make_plan(worker.engine, everything.spec, actor="test")
    assert assassin.sweep(await expanding(worker), every) > 10
    await started(everything, worker)
    await to(worker, S.READY)
    assert assassin.sweep(await swapping(worker, CUTOVER), every) > 40
    await cut_over(worker)
    assert assassin.sweep(await swapping(worker, ROLLBACK), every) > 40
    await roll_back(worker)
    async with transaction(worker.engine) as connection:
        await migrations.move(connection, await stored(worker), S.CLEANING, actor="test")
    assert assassin.sweep(await cleaning_up(worker), every) > 6
    await clean_up(worker)
    assert everything.mismatches("embedding", V3) == []


async def dies_and_goes_on(
    deployment: Deployment, assassin: Assassin, verb: str, command: int, step: Callable[[], Awaitable[object]]
) -> None:
    """The step's session dies behind a command; the tool says that nothing is done, and a second run does it."""
    with deployment.connect() as connection:
        before = catalog.picture(deployment.url), catalog.versions(connection)["pg_class"]
        with assassin.behind(command), pytest.raises(Undone) as caught:
            await step()
        assert (catalog.picture(deployment.url), catalog.versions(connection)["pg_class"]) == before
    told = str(caught.value)
    assert f"during `{verb}` of docs (57P01), and all of it was rolled back" in told
    assert told.endswith(f"Run `migrator {verb} {'SPEC' if verb == 'start' else 'docs'}` again.")
    assert caught.value.exit_code == 75
    await step()


async def test_p9_the_tool_says_what_became_of_a_step_that_died_and_does_it_again(
    deployment: Deployment, worker: Worker
) -> None:
    assassin = Assassin(deployment)
    deployment.make_table(ROWS)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    await dies_and_goes_on(deployment, assassin, "start", 5, lambda: started(deployment, worker))
    await to(worker, S.READY)
    await dies_and_goes_on(deployment, assassin, "cutover", 9, lambda: cut_over(worker))
    await dies_and_goes_on(deployment, assassin, "rollback", 1, lambda: roll_back(worker))
    assert deployment.status == "rolled_back"
    assert deployment.mismatches("embedding", V3) == []


async def test_p9_a_cleanup_goes_on_wherever_it_died(
    everything: Deployment, worker: Worker, postgres: Postgres
) -> None:
    """Each run dies one command further on: DROP INDEX, triggers, functions, column, NOT NULL, its validation."""
    before = whole(postgres, everything.url)
    await start(everything, worker)
    await to(worker, S.READY)
    await cut_over(worker)
    assassin = Assassin(everything)
    with everything.connect() as connection:
        # What has no command: the last look has it forgotten that the column was NOT NULL.
        connection.execute("""
            CREATE FUNCTION assassin.forget() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
              IF nextval('assassin.commands') < 1000 THEN
                PERFORM setval('assassin.commands', 1000), pg_terminate_backend(pg_backend_pid());
              END IF;
              RETURN NEW;
            END $$;
            CREATE TRIGGER forget BEFORE UPDATE ON migrator.migrations FOR EACH ROW
              WHEN (OLD.not_null IS NOT NULL AND NEW.not_null IS NULL) EXECUTE FUNCTION assassin.forget();
        """)
    deaths, statuses = 0, set[str]()
    for command in range(1, 40):
        try:
            with assassin.behind(command):
                await clean_up(worker)
            break
        except (DatabaseGone, Overtaken, Undone):  # a slow machine may lose its lease over it
            deaths += 1
            statuses.add(everything.status)
    assert deaths > 8
    assert statuses == {"cleaning", "cleaned"}
    assassin.leave()
    assert whole(postgres, everything.url) == before
    assert everything.mismatches("embedding", V4) == []


async def test_p9_an_index_half_dropped_is_dropped_by_the_next_cleanup(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    with psycopg.connect(deployment.url) as reader:
        reader.execute("SELECT count(*) FROM docs")
        cleaning_it = asyncio.create_task(clean_up(worker))
        waits = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'DROP INDEX CONC%%' AND wait_event_type = 'Lock'"
        await until(lambda: asyncio.to_thread(lambda: deployment.query(waits)))
        deployment.query(f"SELECT pg_terminate_backend(pid) FROM ({waits}) w")
        with pytest.raises(DatabaseGone):
            await cleaning_it
    left = "SELECT indisvalid FROM pg_index WHERE indexrelid = 'docs_embedding_idx__migrator'::regclass"
    assert deployment.query(left) == [(False,)]
    await clean_up(worker)
    assert deployment.value("SELECT to_regclass('docs_embedding_idx__migrator')") is None
    assert deployment.status == "cleaned"


async def test_p9_the_connection_lost_just_after_commit_is_told_as_done(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.make_table(ROWS)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    original = message.whole
    committed = psql.SQL("COMMIT")
    monkeypatch.setattr(message, "whole", lambda each: original([*each, DIE] if each[-1] == committed else each))
    assert (await started(deployment, worker)).lost
    assert deployment.status == "backfilling"
    await to(worker, S.READY)
    assert (await cut_over(worker)).timing.lost
    assert deployment.mismatches("embedding", V4) == []
    assert (await roll_back(worker)).timing.lost
    assert deployment.mismatches("embedding", V3) == []
    await clean_up(worker)
    assert deployment.status == "cleaned"


async def test_p9_a_server_that_goes_on_without_its_client_is_waited_for(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way breaks while the server waits for the lock: looked up at once, the swap would not be there yet."""
    await ready(deployment, worker, ROWS)
    swapped = await cut_over_by_a_way_that_breaks(deployment, deployment.url, monkeypatch)
    assert swapped.timing.lost
    assert deployment.status == "completed"
    assert deployment.mismatches("embedding", V4) == []


async def test_p9_a_database_that_does_not_answer_is_no_proof_of_anything(
    scratch_server: Callable[..., Postgres], deployment_on: DeploymentOn, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = scratch_server()
    deployment, worker = await deployment_on(server)
    await ready(deployment, worker, ROWS)
    monkeypatch.setattr(outcome, "PATIENCE_SECONDS", 0.5)
    reader = psycopg.connect(deployment.url)
    reader.execute("SELECT count(*) FROM docs")
    swapping_it = asyncio.create_task(swap(worker))
    waits = "SELECT 1 FROM pg_locks WHERE relation = 'docs'::regclass AND NOT granted"
    await until(lambda: asyncio.to_thread(lambda: deployment.query(waits)))
    server.kill()
    with pytest.raises(OutcomeUnknown, match="done as a whole, or nothing of it is") as caught:
        await swapping_it
    reader.close()
    assert caught.value.exit_code == 75
    server.start()
    await cut_over(worker)
    assert deployment.mismatches("embedding", V4) == []
