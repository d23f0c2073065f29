"""Our transactions see what they waited for, whatever isolation the database gives to those who do not ask."""

from __future__ import annotations

import asyncio

import psycopg
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.state.connection import run_together, transaction
from tests.deployment import until


async def test_h4_who_waits_for_a_swap_sees_it_whatever_the_databases_default_is(
    engine: AsyncEngine, sql: psycopg.Connection
) -> None:
    """Our settings are a statement before the lock: under REPEATABLE READ all that follows would see what that saw."""
    sql.execute("CREATE TABLE public.swapped (epoch int)")
    name = psycopg.sql.Identifier(sql.info.dbname)
    sql.execute(psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_isolation = 'serializable'").format(name))
    sql.execute("INSERT INTO public.swapped VALUES (0)")
    with psycopg.connect(sql.info.dsn) as swap:
        swap.execute("LOCK TABLE public.swapped")
        swap.execute("UPDATE public.swapped SET epoch = 1")

        async def enter() -> list[tuple[int]]:
            async with transaction(engine) as connection:
                lock = psycopg.sql.SQL("LOCK TABLE public.swapped IN ROW EXCLUSIVE MODE"), None
                return await run_together(connection, [lock, (psycopg.sql.SQL("TABLE public.swapped"), None)])

        entering = asyncio.create_task(enter())
        waiting = "SELECT FROM pg_locks WHERE NOT granted AND relation = 'public.swapped'::regclass"
        await until(lambda: asyncio.to_thread(lambda: bool(sql.execute(waiting).fetchall())))
        swap.commit()
    assert await entering == [(1,)]
