"""Sessions that die at a chosen moment: between statements of a message, or behind a DDL command."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg import sql

from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from migrator.target import message
from tests.chaos.proxy import Proxy
from tests.deployment import Deployment, until
from tests.integration import catalog
from tests.integration.swaps import cut_over

DIE = sql.SQL("SELECT pg_terminate_backend(pg_backend_pid())")
#: Sequences know no ROLLBACK, so commands of transactions that died are counted, too.
_ASSASSIN = """
CREATE SCHEMA assassin;
CREATE SEQUENCE assassin.commands;
CREATE TABLE assassin.order (at bigint);
INSERT INTO assassin.order VALUES (0);
CREATE FUNCTION assassin.strike() RETURNS event_trigger LANGUAGE plpgsql AS $$
BEGIN
  IF nextval('assassin.commands') = (SELECT at FROM assassin.order) THEN
    PERFORM pg_terminate_backend(pg_backend_pid());
    PERFORM pg_sleep(5);  -- a place to die at
  END IF;
END $$;
CREATE EVENT TRIGGER assassin ON ddl_command_end EXECUTE FUNCTION assassin.strike();
"""


def sent(url: str, statements: Sequence[sql.Composable]) -> bool:
    """Send statements as the one message that they are; says whether the session lived."""
    with psycopg.connect(url, autocommit=True) as connection:
        try:
            connection.execute(message.whole(statements))
        except psycopg.errors.AdminShutdown:
            return False
    return True


#: What every step that moves a migration changes.
MOVED = frozenset({"pg_proc", "migrator.migrations", "migrator.transitions"})


def sweep(deployment: Deployment, whole: Sequence[sql.Composable], changes: Collection[str] = MOVED) -> None:
    """Kill the session before each statement in turn: all is as it was. Then behind the last, COMMIT: it is done."""
    with deployment.connect() as connection:
        before = catalog.versions(connection)
        for stop in range(len(whole)):
            assert not sent(deployment.url, [*whole[:stop], DIE, *whole[stop:]])
            assert catalog.versions(connection) == before, f"killed before statement {stop}"
        assert not sent(deployment.url, [*whole, DIE])
        after = catalog.versions(connection)
        changed = {name for name in after if after[name] != before[name]}
    assert set(changes) <= changed


async def cut_over_by_a_way_that_breaks(
    deployment: Deployment, url: str, monkeypatch: pytest.MonkeyPatch
) -> attended.Swapped:
    """Cut over through a proxy before that address, which goes while the server waits for the lock."""
    proxy = Proxy(urlsplit(url).port or 0)
    proxy.start()
    monkeypatch.setenv("MIGRATOR_DATABASE_URL", re.sub(r":\d+/", f":{proxy.port}/", url))
    behind = Worker.make("behind a proxy")
    try:
        with psycopg.connect(deployment.url) as reader:
            reader.execute("SELECT count(*) FROM docs")
            swapping_it = asyncio.create_task(cut_over(behind))
            waits = "SELECT 1 FROM pg_locks WHERE relation = 'docs'::regclass AND NOT granted"
            await until(lambda: asyncio.to_thread(lambda: deployment.query(waits)))
            proxy.cut()
            await asyncio.sleep(0.1)
        return await swapping_it
    finally:
        await behind.close()
        proxy.stop()


@dataclass
class Assassin:
    """Kills whichever session ends the DDL command of that number."""

    deployment: Deployment

    def __post_init__(self) -> None:
        with self.deployment.connect() as connection:
            connection.execute(_ASSASSIN)

    @contextmanager
    def behind(self, command: int) -> Iterator[None]:
        with self.deployment.connect() as connection:
            connection.execute("SELECT setval('assassin.commands', 1, false)")
            connection.execute("UPDATE assassin.order SET at = %s", [command])
        yield
        with self.deployment.connect() as connection:
            connection.execute("UPDATE assassin.order SET at = 0")

    def leave(self) -> None:
        with self.deployment.connect() as connection:
            connection.execute("DROP EVENT TRIGGER assassin; DROP SCHEMA assassin CASCADE")

    def count(self, statements: Sequence[sql.Composable]) -> int:
        """How many DDL commands a message has, those that its DO blocks run too; it is rolled back."""
        with self.behind(0), self.deployment.connect() as connection:
            connection.execute(message.whole([*statements[:-1], sql.SQL("ROLLBACK")]))
            row = connection.execute("SELECT last_value FROM assassin.commands").fetchone()
        assert row is not None
        return int(row[0])

    def sweep(self, whole: Sequence[sql.Composable], every: int) -> int:
        """Kill the session behind each DDL command in turn, or every so many: all is as it was. Returns how many."""
        commands = self.count(whole)
        with self.deployment.connect() as connection:
            before = catalog.versions(connection)
            for command in range(1, commands + 1, every):
                with self.behind(command):
                    assert not sent(self.deployment.url, whole), f"it has no command {command}"
                assert catalog.versions(connection) == before, f"killed behind command {command}"
        return commands
