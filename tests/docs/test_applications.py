"""docs/applications.md: each application of it is run as it is written, through a cutover, a rollback and a cleanup."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import re
import subprocess
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, text

from migrator.cutover import readiness
from migrator.cutover.swapping import CUTOVER
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from tests import pgbouncer as poolers
from tests.deployment import DIMS, V3, V4, Deployment, embed, generation_of, literal, until
from tests.docs import pages
from tests.docs.pages import ROOT, read
from tests.integration.steps import ready, start, stored, to
from tests.integration.swaps import ANY, cut_over, quiet, roll_back

S = MigrationStatus
PAGE = read(ROOT / "docs/applications.md")
SECTIONS = pages.sections(PAGE)
#: The page's generations, as they are called here.
OLD, NEW = f"{V3}@{DIMS}", f"qwen/{V4}@{DIMS}"
NAMES = {"qwen/text-embedding-v3@1024": OLD, "qwen/text-embedding-v4@1024": NEW, "Vector(1024)": f"Vector({DIMS})"}
ONE_SERVER = [
    "psycopg",
    "SQLAlchemy",
    "Async",
    "Behind PgBouncer in transaction mode",
    "One model at a time, by LISTEN",
]
STANDBY = "A standby is searched"
ROWS = 30


def renamed(body: str) -> str:
    for theirs, ours in NAMES.items():
        body = body.replace(theirs, ours)
    return body


def code(section: str, language: str) -> list[str]:
    return [renamed(block.body) for block in pages.blocks(SECTIONS[section]) if block.language == language]


@pytest.fixture(autouse=True)
def shop(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the page's applications have already: functions that embed a text."""
    made: Any = types.ModuleType("shop")

    async def old(words: str) -> list[float]:
        return embed(V3, words)

    async def new(words: str) -> list[float]:
        return embed(V4, words)

    made.embed_v3, made.embed_v4 = (lambda words: embed(V3, words)), (lambda words: embed(V4, words))
    made.async_embed_v3, made.async_embed_v4 = old, new
    monkeypatch.setitem(sys.modules, "shop", made)


class Application:
    """A section's code, loaded as a module of its own."""

    def __init__(self, section: str) -> None:
        self.section = section
        (body,) = code(section, "python")
        self.module: Any = types.ModuleType(f"application: {section}")
        sys.modules[self.module.__name__] = self.module  # where SQLAlchemy looks annotations up
        exec(compile(body, f"docs/applications.md {section}", "exec"), vars(self.module))  # noqa: S102 - our own page

    async def call(self, name: str, *words: str) -> Any:
        found = getattr(self.module, name)(*words)
        return await found if inspect.isawaitable(found) else found

    def waits_a_minute(self) -> None:
        """It no longer believes what it was told before the start; a table of this size is ready sooner than that."""
        if hasattr(self.module, "reader"):
            self.module.reader.forget()

    async def finds_what_is_there(self) -> None:
        for number in (3, 7, 11):
            found = await self.call("search", "\n".join(Deployment.words(number)))
            assert found[0] == number, f"{self.section}: asked for {number}, found {found}"

    async def close(self) -> None:
        engine = vars(self.module).get("engine")
        if engine is not None:
            done = engine.dispose()
            if inspect.isawaitable(done):
                await done
        del sys.modules[self.module.__name__]


async def saves(application: Application, deployment: Deployment, column: str) -> None:
    """What it writes is in the new generation's column, wherever that is."""
    if not hasattr(application.module, "save"):
        return
    # Words as the other rows have: the sentinel learns what vectors of such texts look like.
    title, body = Deployment.words(deployment.value("SELECT 1000 + max(id) FROM docs"))
    await application.call("save", title, body)
    (found,) = deployment.query(f"SELECT {column}::real[] FROM docs WHERE title = %s", title)
    assert generation_of(found[0], f"{title}\n{body}") == V4, application.section


async def lives(applications: list[Application], deployment: Deployment, worker: Worker) -> None:
    """A migration's life, and a search of each application's at every stage of it."""

    async def all_find() -> None:
        for each in applications:
            await each.finds_what_is_there()

    for each in applications:
        each.waits_a_minute()
    await all_find()
    await to(worker, S.READY)
    await all_find()
    for each in applications:
        await saves(each, deployment, "embedding__migrator")
    await cut_over(worker)
    await all_find()
    for each in applications:
        await saves(each, deployment, "embedding")
    await roll_back(worker)
    await all_find()
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    await cut_over(worker)
    await all_find()
    assert deployment.mismatches("embedding", V4) == []
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)
    await all_find()


def test_every_block_is_run_by_a_test() -> None:
    of = {name: [block.language for block in pages.blocks(body)] for name, body in SECTIONS.items()}
    assert of == {
        **{name: ["python"] for name in [*ONE_SERVER, STANDBY]},
        "Only the connection string can be changed": ["console"],
        "Without the package": ["sql"],
        "What mixes all the same": ["sql", "sql"],
    }
    assert pages.blocks(PAGE[: PAGE.index("\n## ")]) == []


@pytest.mark.timeout(240)
async def test_p1_each_application_as_it_is_written(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", deployment.url)
    deployment.make_table(ROWS)
    applications = [Application(section) for section in ONE_SERVER]
    try:
        # Before the first migration: those that said what the column holds.
        for each in applications:
            if hasattr(each.module, "reader"):
                await each.finds_what_is_there()
        await start(deployment, worker)
        listening = next(each for each in applications if hasattr(each.module, "follow"))
        thread = threading.Thread(target=lambda: _follow(listening), daemon=True)
        thread.start()
        await until(lambda: _says(listening, OLD))
        await lives(applications, deployment, worker)
        await until(lambda: _says(listening, NEW))
    finally:
        for each in applications:
            await each.close()
    strays = deployment.query("SELECT DISTINCT generation FROM migrator.strays")
    assert strays in ([], [(NEW,)]), "whoever was diverted had declared the new one, before it was live"


def _follow(application: Application) -> None:
    with contextlib.suppress(psycopg.OperationalError):  # it ends with its database
        application.module.follow()


async def _says(application: Application, generation: str) -> bool:
    return bool(application.module.live.get("generation") == generation)


@pytest.mark.timeout(240)
async def test_h13_the_application_that_searches_a_standby(
    standby: tuple[Postgres, Postgres],
    deployment_on: Callable[[Postgres], Awaitable[tuple[Deployment, Worker]]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    primary, replica = standby
    deployment, worker = await deployment_on(primary)
    monkeypatch.setenv("DATABASE_URL", deployment.url)
    monkeypatch.setenv("STANDBY_URL", replica.database_url("app"))
    await ready(deployment, worker, ROWS)
    application = Application(STANDBY)

    async def replayed() -> None:
        position = deployment.value("SELECT pg_current_wal_lsn()::text")
        with psycopg.connect(replica.database_url("app"), autocommit=True) as connection:
            query = "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn"

            async def there() -> bool:
                await asyncio.sleep(0)
                return connection.execute(query, [position]).fetchone() == (True,)

            await until(there)

    for change in (None, cut_over, roll_back):
        if change is not None:
            await change(worker)
        await replayed()
        await application.finds_what_is_there()
    application.module.every_minute()
    assert deployment.query("SELECT application FROM migrator.readers") == [("shop (standby)",)]
    await application.close()


@pytest.fixture
def pgbouncer(deployment: Deployment, scratch: Path) -> Iterator[str]:
    """PgBouncer in transaction mode before the deployment's database, with one connection to it; returns its URL."""
    with poolers.pooler(deployment.url, scratch, size=1) as url:
        yield url


@pytest.mark.system
@pytest.mark.timeout(240)
async def test_h7_behind_a_real_pgbouncer(
    deployment: Deployment, worker: Worker, pgbouncer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", pgbouncer)
    deployment.make_table(ROWS)
    application = Application("Behind PgBouncer in transaction mode")
    await application.finds_what_is_there()
    await start(deployment, worker)
    await lives([application], deployment, worker)
    await application.close()
    declared = b"SELECT current_setting('migrator.generation', true)"
    with psycopg.connect(pgbouncer, autocommit=True, prepare_threshold=None) as one:
        assert one.execute(declared).fetchone() in {("",), (None,)}, "a declaration ended with its transaction"
        one.execute("SET migrator.generation = 'x@1'")
        with psycopg.connect(pgbouncer, autocommit=True, prepare_threshold=None) as other:
            assert other.execute(declared).fetchone() == ("x@1",), "a plain SET speaks for whoever comes next"
    with pytest.raises(psycopg.OperationalError, match="unsupported startup parameter"):
        psycopg.connect(pgbouncer, options="-c migrator.generation=x@1")


def exported() -> str:
    """The connection string, as a shell takes it."""
    (block,) = pages.blocks(SECTIONS["Only the connection string can be changed"])
    shell = block.body.removeprefix("$ ") + '\nprintf %s "$DATABASE_URL"'
    return subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True).stdout


async def test_the_connection_string_declares(deployment: Deployment, worker: Worker) -> None:
    url = exported().replace("postgresql://app@db.example/shop", deployment.url).replace("v4%401024", f"v4%40{DIMS}")
    assert url.startswith(deployment.url + "?options=")
    await ready(deployment, worker, ROWS)
    await cut_over(worker)
    write = "INSERT INTO docs (title, body, embedding) VALUES ('a', 'b', '{}')"
    vector = literal(embed(V4, "a\nb"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(write.format(vector).encode())
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.begin() as begun:
        begun.execute(text(write.format(vector)))
    engine.dispose()
    found = deployment.query("SELECT embedding::real[] FROM docs WHERE title = 'a'")
    assert [generation_of(each, "a\nb") for (each,) in found] == [V4, V4]
    assert deployment.query("SELECT * FROM migrator.strays") == []


async def test_the_plain_statements_run(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, ROWS)
    (body,) = code("Without the package", "sql")
    vectors = [literal(embed(model, "\n".join(Deployment.words(5)))) for model in (V3, V4)]
    statements = [each.strip() for each in re.sub(r"--.*", "", body).split(";")]
    by_name, by_position, told, says = [each for each in statements if each]
    both = (OLD, NEW)
    for change in (None, cut_over):
        if change is not None:
            await change(worker)
            both = (NEW, OLD)
        with deployment.connect() as connection:
            for query in (by_name, by_position):
                found = connection.execute(re.sub(r"\$\d", "%s", query).encode(), vectors).fetchone()
                assert found == (5,), query
            for query in (told, says):
                assert connection.execute(query.encode()).fetchone() == (list(both),)
    assert deployment.query("SELECT DISTINCT generations FROM migrator.readers") == [([OLD, NEW],)]


@pytest.mark.parametrize(("function", "mixes"), [("nearest_wrong", True), ("nearest", False)])
async def test_h9_a_swap_between_two_statements(
    deployment: Deployment, worker: Worker, function: str, *, mixes: bool
) -> None:
    """The search waits for the swap's lock: what it asked for before is of the old generation then."""
    await ready(deployment, worker, ROWS)
    wrong, right = code("What mixes all the same", "sql")
    with deployment.connect() as connection:
        connection.execute(wrong.encode())
        connection.execute(right.encode())
    looked = await readiness.look(worker.engine, await stored(worker), verb="cutover")
    *most, commit = looked.statements(CUTOVER.side, CUTOVER.status, bounds=ANY, actor="test")
    vectors = [literal(embed(model, "\n".join(Deployment.words(5)))) for model in (V3, V4)]
    found: list[Any] = []

    def search() -> None:
        with deployment.connect() as connection:
            query = f"SELECT * FROM {function}(%s::vector, %s::vector)"
            found.extend(connection.execute(query.encode(), vectors).fetchall())

    thread = threading.Thread(target=search)
    with psycopg.connect(deployment.url, autocommit=True) as swapping:
        for statement in most:
            swapping.execute(psycopg.sql.Composed([statement]))
            # This test takes longer between two statements than the swap, which is sent as one message.
            swapping.execute("SET LOCAL transaction_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0")
        thread.start()
        waiting = "SELECT count(*) FROM pg_locks WHERE relation = 'docs'::regclass AND NOT granted"
        deployment.wait(lambda: deployment.value(waiting) == 1)
        swapping.execute(psycopg.sql.Composed([commit]))
    thread.join()
    assert (found[0][0] != 5) is mixes
