"""An application under way: readers that know which generation every answer is of, and writers of both generations."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Any

import psycopg

from tests.deployment import DIMS, V3, V4, Deployment, embed, generation_of, literal

NAMES = {f"{V3}@{DIMS}": V3, f"qwen/{V4}@{DIMS}": V4}
_TEXT = "coalesce(title, '') || E'\\n' || coalesce(body, '')"
_LIVE = "migrator.live_generation('public.docs', 'embedding')"
_TABLE = f"SELECT {_TEXT}, embedding::real[], {_LIVE} FROM docs ORDER BY random() LIMIT 5"
_VIEW = _TABLE.replace(
    "FROM docs", "FROM (SELECT d.title, d.body, v.embedding FROM docs d JOIN docs_view v USING (id)) x"
)


class Traffic:
    """Runs from `with` to its end; then `wrong`, `failed` and `answers` tell what was seen."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.stopped = threading.Event()
        self.wrong: list[str] = []
        self.failed: list[str] = []
        self.answers = 0
        readers = [("ad hoc", _TABLE), ("prepared", _TABLE), ("view", _VIEW), ("repeatable read", _TABLE)]
        self._threads = [threading.Thread(target=self._read, args=reader) for reader in readers]
        self._threads += [threading.Thread(target=self._write, args=[who]) for who in (None, f"qwen/{V4}@{DIMS}")]

    def __enter__(self) -> None:
        for thread in self._threads:
            thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stopped.set()
        for thread in self._threads:
            thread.join()

    def _check(self, kind: str, rows: list[Any]) -> None:
        for text, vector, generation in rows:
            self.answers += 1
            if vector is not None and generation_of(vector, text) != NAMES[generation]:
                self.wrong.append(f"{kind}: the vector of {text!r} is not of {generation}")

    def _read(self, kind: str, query: str) -> None:
        with psycopg.connect(self._url, autocommit=True) as connection:
            if kind == "repeatable read":
                connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
            if kind == "prepared":
                connection.execute("SET plan_cache_mode = force_generic_plan")
            while not self.stopped.is_set():
                try:
                    if kind == "repeatable read":
                        self._read_twice(connection, query)
                    else:
                        self._check(kind, connection.execute(query.encode(), prepare=kind == "prepared").fetchall())
                except psycopg.Error as error:
                    self.failed.append(f"{kind}: {error}")
                time.sleep(0.01)

    def _read_twice(self, connection: psycopg.Connection, query: str) -> None:
        with connection.transaction():
            connection.execute("SELECT 1")  # the snapshot is taken before the table is first touched
            time.sleep(0.05)
            for _ in range(2):
                self._check("repeatable read", connection.execute(query.encode()).fetchall())

    def _write(self, declared: str | None) -> None:
        model, number = V4 if declared else V3, 0
        with psycopg.connect(self._url, autocommit=True) as connection:
            if declared:
                connection.execute("SELECT set_config('migrator.generation', %s, false)", [declared])
            while not self.stopped.is_set():
                number += 1
                try:
                    self._write_once(connection, model, number)
                except psycopg.Error as error:
                    self.failed.append(f"writer {declared}: {error}")
                time.sleep(0.05)

    @staticmethod
    def _write_once(connection: psycopg.Connection, model: str, number: int) -> None:
        # Words as the other rows have: of two kinds of text, one of them rare, a discriminant learns only the other.
        body = f"{Deployment.words(number)[1]} by {model}"
        vector = literal(embed(model, f"t\n{body}"))
        connection.execute(
            "UPDATE docs SET title = 't', body = %s, embedding = %s WHERE id = %s", [body, vector, 1 + number % 50]
        )
        connection.execute(
            """INSERT INTO docs (title, body, embedding) VALUES ('t', %s, %s)
               ON CONFLICT (id) DO UPDATE SET embedding = excluded.embedding""",
            [body, vector],
        )
        connection.execute("DELETE FROM docs WHERE id = %s", [60 + number])
