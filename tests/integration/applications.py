"""Applications under way that search with `migrator.client`, one of each kind; every answer is checked.

A search asks for the text of a row that nobody changes: the nearest row is that one, at no distance, if query and
column are of one generation, and far away if not.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from pgvector.sqlalchemy import Vector
from sqlalchemy import Engine, create_engine, select
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import migrator.client.sqlalchemy as alchemy
from migrator.client import AsyncReader, Reader
from tests.deployment import DIMS, V3, V4, Deployment, embed

OLD, NEW = f"{V3}@{DIMS}", f"qwen/{V4}@{DIMS}"
EMBEDDERS: dict[str, Callable[[str], Any]] = {OLD: lambda text: embed(V3, text), NEW: lambda text: embed(V4, text)}
ROLE = "app_reader"
#: The farthest that a text is from itself, in one generation; two generations are farther apart by far.
NEAR = 1e-3
#: Seconds between two questions of a reader: short, so that they fall into every moment of a swap.
MAX_AGE_SECONDS = 0.05
#: Seconds between two searches: seven applications share one process with the tool that moves their column.
PAUSE_SECONDS = 0.03
Answer = list[tuple[int, float]]


async def _embed_old(text: str) -> list[float]:
    return embed(V3, text)


async def _embed_new(text: str) -> list[float]:
    return embed(V4, text)


ASYNC_EMBEDDERS: dict[str, Callable[[str], Any]] = {OLD: _embed_old, NEW: _embed_new}


class Base(DeclarativeBase):
    """The application's own mapping."""


class Doc(Base):
    """A row, as an ORM sees it."""

    __tablename__ = "docs"
    id: Mapped[int] = mapped_column(primary_key=True)
    embedding: Mapped[Any] = mapped_column(Vector(DIMS))


def statement(reader: Reader | AsyncReader) -> str:
    distance = f"embedding <=> {reader.expression}"
    return f"SELECT id, {distance} FROM docs ORDER BY {distance} LIMIT 3"


def text_of(number: int) -> str:
    return "\n".join(Deployment.words(number))


def plain(url: str, stop: threading.Event, check: Callable[[Answer], None], dice: Callable[[], str], how: str) -> None:
    reader = Reader(
        "public.docs", "embedding", EMBEDDERS, application=f"psycopg {how}", max_age_seconds=MAX_AGE_SECONDS
    )
    search = statement(reader).encode()
    with psycopg.connect(url, autocommit=True) as connection:
        if how == "prepared":
            connection.execute("SET plan_cache_mode = force_generic_plan")
        if how in {"repeatable read", "serializable"}:
            connection.isolation_level = psycopg.IsolationLevel[how.upper().replace(" ", "_")]
        while not stop.wait(PAUSE_SECONDS):
            query = reader.parameters(dice())
            if how not in {"repeatable read", "serializable"}:
                reader.refresh(connection)
                check(connection.execute(search, query, prepare=how == "prepared").fetchall())
                continue
            with connection.transaction():
                # The snapshot is taken before the table is first touched, and the transaction outlives a swap.
                reader.refresh(connection)
                connection.execute("SELECT 1")
                stop.wait(0.05)
                for _ in range(2):
                    check(connection.execute(search, query).fetchall())


async def asynchronous(
    url: str, stop: threading.Event, check: Callable[[Answer], None], dice: Callable[[], str]
) -> None:
    reader = AsyncReader(
        "public.docs", "embedding", ASYNC_EMBEDDERS, application="psycopg async", max_age_seconds=MAX_AGE_SECONDS
    )
    search = statement(reader).encode()
    async with await psycopg.AsyncConnection.connect(url, autocommit=True) as connection:
        while not stop.is_set():
            await asyncio.sleep(PAUSE_SECONDS)
            query = await reader.parameters(dice())
            await reader.refresh(connection)
            found = await connection.execute(search, query)
            check(await found.fetchall())


def orm(url: str, stop: threading.Event, check: Callable[[Answer], None], dice: Callable[[], str]) -> None:
    reader = alchemy.Reader(
        "public.docs", "embedding", EMBEDDERS, application="sqlalchemy", max_age_seconds=MAX_AGE_SECONDS
    )
    engine = create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    turn = 0
    while not stop.wait(PAUSE_SECONDS):
        turn += 1
        text = dice()
        reader.refresh(engine)
        distance = Doc.embedding.cosine_distance(reader.query_vector(text))
        query = select(Doc.id, distance).order_by(distance).limit(3)
        with Session(engine) as session:
            if turn % 2:
                reader.refresh(session)
            check([(key, far) for key, far in session.execute(query)])
    engine.dispose()


async def async_orm(url: str, stop: threading.Event, check: Callable[[Answer], None], dice: Callable[[], str]) -> None:
    reader = alchemy.AsyncReader(
        "public.docs", "embedding", ASYNC_EMBEDDERS, application="sqlalchemy async", max_age_seconds=MAX_AGE_SECONDS
    )
    engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    while not stop.is_set():
        await asyncio.sleep(PAUSE_SECONDS)
        text = dice()
        await reader.refresh(engine)
        distance = Doc.embedding.cosine_distance(await reader.query_vector(text))
        async with AsyncSession(engine) as session:
            found = await session.execute(select(Doc.id, distance).order_by(distance).limit(3))
            check([(key, far) for key, far in found])
    await engine.dispose()


KINDS: dict[str, Callable[..., Awaitable[None] | None]] = {
    **{
        f"psycopg {how}": lambda *words, _how=how: plain(*words, _how)
        for how in ("ad hoc", "prepared", "repeatable read", "serializable")
    },
    "psycopg async": asynchronous,
    "sqlalchemy": orm,
    "sqlalchemy async": async_orm,
}


class Applications:
    """One of each kind. Afterwards `wrong`, `failed` and `answers` (by kind) tell what was seen."""

    def __init__(self, url: str, rows: int) -> None:
        self._url, self._rows = url, rows
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.answers = dict.fromkeys(KINDS, 0)

    @contextmanager
    def searching(self) -> Iterator[None]:
        stop = threading.Event()
        threads = [threading.Thread(target=self._run, args=(kind, stop)) for kind in KINDS]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join(30)

    def _run(self, kind: str, stop: threading.Event) -> None:
        rng, asked = random.Random(kind), [0]  # noqa: S311 - which row is asked for is no secret

        def dice() -> str:
            asked[0] = rng.randrange(1, self._rows + 1)
            return text_of(asked[0])

        def check(found: Answer) -> None:
            self.answers[kind] += 1
            if not found or found[0][0] != asked[0] or found[0][1] > NEAR:
                self.wrong.append(f"{kind}: asked for {asked[0]}, found {found}")

        try:
            done = KINDS[kind](self._url, stop, check, dice)
            if done is not None:
                asyncio.run(done)
        except Exception as error:  # noqa: BLE001 - a thread that dies is a failed application
            self.failed.append(f"{kind}: {type(error).__name__}: {error}")


def explain(engine: Engine, query: Any) -> str:
    """The plan of a SQLAlchemy statement."""
    compiled = query.compile(engine)
    with engine.connect() as connection:
        connection.exec_driver_sql("SET enable_seqscan = off")
        connection.exec_driver_sql("SET enable_sort = off")
        found = connection.exec_driver_sql(f"EXPLAIN {compiled}", compiled.params)
        return "\n".join(line for (line,) in found)
