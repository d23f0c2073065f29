"""What `refresh` does to an application's connections: it leaves them as it found them, and fails nothing."""

from __future__ import annotations

import asyncio
import threading

import psycopg
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

import migrator.client.sqlalchemy as alchemy
from migrator import client
from migrator.client import AsyncReader, Reader
from migrator.lifecycle import MigrationStatus
from migrator.spending.worker import Worker
from tests.deployment import Deployment, until
from tests.integration.applications import (
    EMBEDDERS,
    NEW,
    OLD,
)
from tests.integration.searching import nearest, reader, ready
from tests.integration.swaps import swap

S = MigrationStatus
ROWS = 40
GENERATIONS = "SELECT migrator.generations('public.docs', 'embedding')"


async def test_p8_signs_of_life_fail_no_serializable_transaction(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    """Two at once, each of which sees nothing of the other: a unique key or a look before the write would end one."""
    await ready(deployment, worker, 5)
    with psycopg.connect(app_url) as one, psycopg.connect(app_url) as other:
        for connection in (one, other):
            connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
            connection.execute("SELECT count(*) FROM docs")
        found = reader(application="shop")
        for connection in (one, other):
            found.sign(connection)
        one.commit()
        other.commit()
    assert deployment.value("SELECT count(*) FROM migrator.readers") == 2


async def test_a_read_only_transaction_is_asked_and_not_written(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    await ready(deployment, worker, 5)
    with psycopg.connect(app_url) as connection:
        connection.read_only = True
        found = reader()
        found.refresh(connection)
        assert found.wanted() == [OLD, NEW]
    assert deployment.value("SELECT count(*) FROM migrator.readers") == 0


async def test_a_database_that_can_not_answer_now_fails_no_transaction(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    await ready(deployment, worker, ROWS)
    found = reader()
    with psycopg.connect(app_url) as connection:
        connection.execute("SET lock_timeout = '50ms'")
        found._hear((OLD,))
        with psycopg.connect(deployment.url) as upgrade:
            upgrade.execute("LOCK migrator.migrations IN ACCESS EXCLUSIVE MODE")
            found.refresh(connection)
            assert found.wanted() == [OLD, NEW], "who can't tell sends both"
            assert nearest(connection, found), "and the transaction goes on"
        found.forget()
        found.refresh(connection)
        assert found._said == (OLD, NEW)


async def test_a_refresh_leaves_a_connection_as_it_found_it(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    await ready(deployment, worker, 5)
    idle = psycopg.pq.TransactionStatus.IDLE
    for autocommit in (True, False):
        with psycopg.connect(app_url, autocommit=autocommit, row_factory=psycopg.rows.dict_row) as connection:
            found = reader()
            found.refresh(connection)
            assert found.wanted() == [OLD, NEW]
            assert connection.info.transaction_status == idle
    url = app_url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    for options in ({}, {"isolation_level": "AUTOCOMMIT"}):
        with engine.connect().execution_options(**options) as plain:
            other = alchemy.Reader("public.docs", "embedding", EMBEDDERS)
            other.refresh(plain)
            assert other.wanted() == [OLD, NEW]
            assert not plain.in_transaction()
    engine.dispose()
    async_engine = create_async_engine(url)
    async with async_engine.connect() as connected:
        third = alchemy.AsyncReader("public.docs", "embedding", EMBEDDERS)
        await third.refresh(connected)
        assert third.wanted() == [OLD, NEW]
        assert not connected.in_transaction()
    await async_engine.dispose()


async def test_a_broken_connection_is_the_applications_to_hear_of(
    deployment: Deployment, worker: Worker, app_url: str
) -> None:
    await ready(deployment, worker, 5)
    with psycopg.connect(app_url, autocommit=True) as connection:
        deployment.query("SELECT pg_terminate_backend(%s)", connection.info.backend_pid)
        with pytest.raises(psycopg.OperationalError):
            reader().refresh(connection)


async def test_readers_that_listen_forget_at_the_swap(deployment: Deployment, worker: Worker, app_url: str) -> None:
    await ready(deployment, worker, 5)
    found, other = reader(), AsyncReader("public.docs", "embedding", EMBEDDERS)
    with psycopg.connect(app_url, autocommit=True) as connection:
        thread = threading.Thread(target=lambda: client.listen(connection, found, timeout_seconds=3))
        thread.start()
        task = asyncio.create_task(_listen(app_url, other))
        listening = "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen%%'"

        async def both() -> bool:
            return bool(deployment.value(listening) == 2)

        await until(both)
        await asyncio.sleep(0.2)
        for each in (found, other):
            each._hear((OLD,))
        await swap(worker)
        await until(lambda: _forgot(found, other), 3)
        thread.join()
        await task


async def _listen(url: str, found: AsyncReader) -> None:
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        await client.listen_async(connection, found, timeout_seconds=3)


async def _forgot(*found: Reader | AsyncReader) -> bool:
    return all(each.wanted() == [OLD, NEW] for each in found)
