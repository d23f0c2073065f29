"""The demo's application: writers and readers that go on through everything, and check every answer they get.

Floor 4. Promise: it shares nothing with the tool but the database: it declares a generation or it does not, asks
`migrator.query_vector` for the query vector that fits, and tells the generation of every vector it is shown by looking
at the vector itself. One writer never declares anything and writes old vectors to the end.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import psycopg
from numpy.typing import NDArray
from pgvector import Vector
from pgvector.psycopg import register_vector

from migrator.demo.corpus import Article
from migrator.demo.endpoint import Endpoint
from migrator.demo.simulator.backends import MODEL_DIMS, NEW_MODEL, OLD_MODEL, is_old

NEW_GENERATION = f"{NEW_MODEL}@{MODEL_DIMS}"
#: Seconds between two writes of one writer and two searches of one reader: a busy small shop, on a shared machine.
_WRITE_SECONDS, _READ_SECONDS = 0.25, 0.1

_SEARCH = """
SELECT s.embedding, migrator.query_vector('public.docs', 'embedding', %(old)s, %(new)s)
  FROM {source} AS s
 WHERE s.embedding IS NOT NULL
 ORDER BY s.embedding <=> migrator.query_vector('public.docs', 'embedding', %(old)s, %(new)s) LIMIT 5
"""


@dataclass(slots=True)
class Seen:
    """What the application lived through."""

    answers: int = 0
    wrong: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    #: Every text that was written, once per time: (side that we had to embed, text).
    written: list[tuple[str, str]] = field(default_factory=list)


class Application:
    """Writers and readers in threads. `deploy_new_writer` and `stop_old_writer` are what operators do to it."""

    def __init__(
        self,
        url: str,
        endpoint: Endpoint,
        articles: list[Article],
        queries: tuple[NDArray[np.float32], NDArray[np.float32]],
    ) -> None:
        self._url = url
        self._endpoint = endpoint
        self._articles = articles
        self._old_queries, self._new_queries = queries
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._old_writer_stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self._old_writer: threading.Thread | None = None
        self.seen = Seen()

    def start(self) -> None:
        """Start the readers and the writer that will never declare its generation."""
        self._run("reader", lambda: self._read("docs_search", psycopg.IsolationLevel.READ_COMMITTED))
        self._run("reader", lambda: self._read("docs", psycopg.IsolationLevel.READ_COMMITTED))
        self._run("reader", lambda: self._read("docs_search", psycopg.IsolationLevel.REPEATABLE_READ))
        self._old_writer = self._run("writer", lambda: self._write(None, self._old_writer_stop))

    def deploy_new_writer(self) -> None:
        """Start a writer that declares the new generation and sends its vectors."""
        self._run("writer", lambda: self._write(NEW_GENERATION, self._stop))

    def stop_old_writer(self) -> None:
        """Stop the writer that never declared anything, and wait until it is gone: what a deployment does at last."""
        self._old_writer_stop.set()
        if self._old_writer is not None:
            self._old_writer.join(60)
            if self._old_writer.is_alive():
                self._fail("the old writer did not end in a minute")

    def stop(self) -> None:
        """Stop everybody."""
        self._stop.set()
        self._old_writer_stop.set()
        for thread in self._threads:
            thread.join(20)

    def _run(self, name: str, body: Callable[[], None]) -> threading.Thread:
        def guarded() -> None:
            try:
                body()
            except Exception as error:  # noqa: BLE001 - a thread that dies is a failed application
                self._fail(f"{name} died: {type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded, daemon=True)
        self._threads.append(thread)
        thread.start()
        return thread

    def _fail(self, what: str) -> None:
        with self._lock:
            self.seen.failed.append(what)

    def _connect(self, name: str) -> psycopg.Connection:
        connection = psycopg.connect(self._url, autocommit=True, application_name=name)
        register_vector(connection)
        return connection

    # Readers

    def _read(self, source: str, isolation: psycopg.IsolationLevel) -> None:
        dice = random.Random(source)  # noqa: S311 - which query comes next is no secret
        with self._connect("shop reader") as connection:
            connection.isolation_level = isolation
            while not self._stop.is_set():
                number = dice.randrange(len(self._old_queries))
                try:
                    if isolation is psycopg.IsolationLevel.REPEATABLE_READ:
                        with connection.transaction():
                            connection.execute("SELECT 1")  # the snapshot comes before the table is touched
                            time.sleep(_READ_SECONDS)
                            self._search(connection, source, number)
                            self._search(connection, source, number)
                    else:
                        self._search(connection, source, number)
                except psycopg.Error as error:
                    self._fail(f"search in {source}: {type(error).__name__}: {error}")
                self._stop.wait(_READ_SECONDS)

    def _search(self, connection: psycopg.Connection, source: str, number: int) -> None:
        statement = psycopg.sql.SQL(_SEARCH).format(source=psycopg.sql.Identifier(source))
        vectors = {"old": Vector(self._old_queries[number]), "new": Vector(self._new_queries[number])}
        rows = connection.execute(statement, vectors).fetchall()
        if not rows:
            return
        found = is_old(np.stack([row[0].to_numpy() for row in rows]))
        asked = is_old(rows[0][1].to_numpy())[0]
        with self._lock:
            self.seen.answers += len(rows)
            if (found != asked).any():
                self.seen.wrong.append(f"{source}: query of one generation, answers of another")

    # Writers

    def _write(self, declared: str | None, stop: threading.Event) -> None:
        dice = random.Random(str(declared))  # noqa: S311 - which row is edited next is no secret
        model = NEW_MODEL if declared else OLD_MODEL
        with self._connect("shop writer v4" if declared else "shop writer (old)") as connection:
            if declared:
                connection.execute("SELECT set_config('migrator.generation', %s, false)", [declared])
            number = 0
            while not stop.is_set() and not self._stop.is_set():
                number += 1
                article = self._articles[dice.randrange(len(self._articles))]
                try:
                    self._write_once(connection, model, article, number, dice)
                except psycopg.Error as error:
                    self._fail(f"write: {type(error).__name__}: {error}")
                stop.wait(_WRITE_SECONDS)

    def _write_once(
        self, connection: psycopg.Connection, model: str, article: Article, number: int, dice: random.Random
    ) -> None:
        title, body = article.title, f"{article.body} (edition {number} of {model})"
        vector = Vector(self._endpoint.embed(model, [f"{title}\n\n{body}"])[0])
        kind = number % 4
        count = connection.execute("SELECT max(id) FROM docs").fetchone()
        key = dice.randrange(1, (count[0] if count and count[0] else 1) + 1)
        wrote = 1
        if kind == 0:
            connection.execute(
                "INSERT INTO docs (language, title, body, embedding) VALUES ('en', %s, %s, %s)", [title, body, vector]
            )
        elif kind == 1:
            connection.execute("DELETE FROM docs WHERE id = %s AND id %% 7 = 0", [key])
            wrote = 0
        elif kind == 2:  # noqa: PLR2004 - the third of four kinds: an update of nothing that matters
            connection.execute("UPDATE docs SET seen = seen + 1 WHERE id = %s", [key])
            wrote = 0
        else:
            done = connection.execute(
                "UPDATE docs SET title = %s, body = %s, embedding = %s WHERE id = %s", [title, body, vector, key]
            )
            wrote = done.rowcount
        if wrote:
            # The tool has to embed what this writer did not: the other generation's vector of the same text.
            side = "from" if model == NEW_MODEL else "to"
            with self._lock:
                self.seen.written.append((side, f"{title}\n\n{body}"))
