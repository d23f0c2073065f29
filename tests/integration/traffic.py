"""An application under way: readers whose every answer is checked, and writers of both generations, a twin beside.

`truth` holds both models' vectors of every text that is ever written, so one statement tells of many rows whether
their vectors are of the generation that the column has in that same statement. Writers note in `twin`, in the
transaction that changes a row, which text it has.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import psycopg
import sqlalchemy
from pgvector.sqlalchemy import VECTOR  # type: ignore[import-untyped]
from sqlalchemy import orm
from sqlalchemy.orm.attributes import flag_modified

from benchmarks.cutover_application import SEARCH, checking
from migrator.demo.simulator.backends import Deterministic
from tests.deployment import DIMS, V3, V4, Deployment, literal

NEW = f"qwen/{V4}@{DIMS}"
#: Rows that there are at first, of which each writer has its quarter, and texts that there are in all.
ROWS, TEXTS = 160, 400
_QUARTER = ROWS // 4
_TRUTH = """
CREATE TABLE truth (id bigint PRIMARY KEY, title text, body text UNIQUE, v3 vector(64), v4 vector(64));
CREATE TABLE twin (id bigint PRIMARY KEY, title text, body text);
CREATE VIEW docs_outer AS SELECT d.body, v.embedding FROM docs d JOIN docs_view v USING (id);
"""
_TWIN = """
INSERT INTO twin SELECT %(row)s, title, body FROM truth WHERE id = %(text)s
ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body
"""
_UPSERT = """
INSERT INTO docs (id, title, body, embedding) SELECT %(row)s, title, body, {vector} FROM truth WHERE id = %(text)s
ON CONFLICT (id) DO UPDATE SET title = excluded.title, body = excluded.body, embedding = excluded.embedding
"""
_UPDATE = """
UPDATE docs SET title = t.title, body = t.body, embedding = t.{vector} FROM truth t
 WHERE docs.id = %(row)s AND t.id = %(text)s
"""


class _Base(orm.DeclarativeBase):
    pass


class _Doc(_Base):
    __tablename__ = "docs"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    body: orm.Mapped[str]
    n: orm.Mapped[int]
    embedding: orm.Mapped[Any] = orm.mapped_column(VECTOR(DIMS))


class _Twin(_Base):
    __tablename__ = "twin"
    id: orm.Mapped[int] = orm.mapped_column(primary_key=True)
    title: orm.Mapped[str]
    body: orm.Mapped[str]


class Traffic:
    """Runs from `with` to its end; then `wrong`, `failed` and `answers` tell what was seen. Rows: `ROWS`."""

    def __init__(self, deployment: Deployment) -> None:
        self._url = deployment.url
        self.stopped = threading.Event()
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.answers: dict[str, int] = {}
        self.written: dict[str, int] = {}
        self._texts = [deployment.words(number) for number in range(1, TEXTS + 1)]
        texts = [f"{title}\n{body}" for title, body in self._texts]
        self._vectors = {model: Deterministic().embed(model, texts, DIMS).tolist() for model in (V3, V4)}
        with deployment.connect() as connection:
            connection.execute(_TRUTH.encode())
            with connection.cursor().copy("COPY truth FROM STDIN") as copy:
                for number, (words, old, new) in enumerate(zip(self._texts, *self._vectors.values(), strict=True)):
                    copy.write_row((number + 1, *words, literal(old), literal(new)))
            connection.execute("INSERT INTO twin SELECT id, title, body FROM docs; ANALYZE truth")
        table, view = checking("docs", NEW), checking("docs_outer", NEW)
        readers = {"ad hoc": table, "prepared": table, "view": view, "search": SEARCH, "repeatable read": table}
        writers: dict[str, Callable[[psycopg.Connection, int], None]] = {
            "old": self._old, "new": self._new, "copy": self._copy
        }  # fmt: skip
        self._threads = [threading.Thread(target=self._read, args=reader) for reader in readers.items()]
        self._threads += [threading.Thread(target=self._write, args=writer) for writer in writers.items()]
        self._threads.append(threading.Thread(target=self._orm))

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    # Readers

    def _ask(self, kind: str, connection: psycopg.Connection, query: str) -> None:
        answers, wrong = connection.execute(query.encode(), prepare=kind == "prepared").fetchone() or (0, 0)
        self.answers[kind] = self.answers.get(kind, 0) + answers
        if wrong:
            self.wrong.append(f"{kind}: {wrong} of {answers}")

    def _read(self, kind: str, query: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            if kind == "repeatable read":
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            if kind == "prepared":
                connection.execute("SET plan_cache_mode = force_generic_plan")
            while not self.stopped.is_set():
                try:
                    if kind == "repeatable read":
                        with connection.transaction():
                            connection.execute("SELECT 1")  # the snapshot is taken before the table is first touched
                            time.sleep(0.1)
                            self._ask(kind, connection, query)
                            self._ask(kind, connection, query)
                    else:
                        self._ask(kind, connection, query)
                except psycopg.Error as error:
                    self.failed.append(f"{kind}: {error}")
                time.sleep(0.1)

    # Writers: each has its own quarter of the rows, so no two of them wait for one another.

    def _write(self, kind: str, once: Callable[[psycopg.Connection, int], None]) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            if kind == "new":
                connection.execute("SELECT set_config('migrator.generation', %s, false)", [NEW])
            number = 0
            while not self.stopped.is_set():
                number += 1
                try:
                    with connection.transaction():
                        once(connection, number)
                    self.written[kind] = number
                except psycopg.Error as error:
                    self.failed.append(f"writer {kind}: {error}")
                time.sleep(0.25)

    def _old(self, connection: psycopg.Connection, number: int) -> None:
        self._edit(connection, number, 0, "v3")

    def _new(self, connection: psycopg.Connection, number: int) -> None:
        self._edit(connection, number, 1, "v4")

    @staticmethod
    def _edit(connection: psycopg.Connection, number: int, quarter: int, vector: str) -> None:
        """Update one row, upsert another (there or not), delete a third."""
        row = 1 + quarter * _QUARTER + number % (_QUARTER - 2)
        for statement, key in ((_UPDATE, row), (_UPSERT, row + 1)):
            values = {"row": key, "text": 1 + (number * 7 + key) % TEXTS}
            if connection.execute(statement.format(vector=vector).encode(), values).rowcount:
                connection.execute(_TWIN, values)
        if number % 3 == 0:
            for table in ("docs", "twin"):
                connection.execute(f"DELETE FROM {table} WHERE id = %s".encode(), [row + 2])

    def _copy(self, connection: psycopg.Connection, number: int) -> None:
        """Replace a few rows by COPY, which has no ON CONFLICT."""
        first = 1 + 2 * _QUARTER + (number * 3) % (_QUARTER - 3)
        rows = {first + more: (number * 11 + more) % TEXTS for more in range(3)}
        for table, columns in (("docs", "id, title, body, embedding"), ("twin", "id, title, body")):
            connection.execute(f"DELETE FROM {table} WHERE id = ANY(%s)".encode(), [list(rows)])
            with connection.cursor().copy(f"COPY {table} ({columns}) FROM STDIN".encode()) as copy:
                for row, text in rows.items():
                    vector = [literal(self._vectors[V3][text])] if table == "docs" else []
                    copy.write_row((row, *self._texts[text], *vector))

    def _orm(self) -> None:
        """Read a row, think, and write every column back: as it was, or with another text and its vector."""
        engine = sqlalchemy.create_engine(self._url.replace("postgresql", "postgresql+psycopg"), pool_size=1)
        number = 0
        while not self.stopped.is_set():
            number += 1
            try:
                with orm.Session(engine, expire_on_commit=False) as session:
                    self._save(session, 1 + 3 * _QUARTER + number % _QUARTER, number)
                self.written["orm"] = number
            except sqlalchemy.exc.DBAPIError as error:
                self.failed.append(f"writer orm: {error}")
        engine.dispose()

    def _save(self, session: orm.Session, key: int, number: int) -> None:
        doc, twin = session.get_one(_Doc, key), session.get_one(_Twin, key)
        session.commit()
        # What was read stays in hand, over a swap too.
        time.sleep(0.25)
        doc.n += 1
        if number % 2:
            text = (number * 13) % TEXTS
            (doc.title, doc.body), doc.embedding = self._texts[text], self._vectors[V3][text]
            twin.title, twin.body = doc.title, doc.body
        for name in ("title", "body", "n", "embedding"):
            flag_modified(doc, name)
        session.commit()
