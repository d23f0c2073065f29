"""The application beside the swaps: readers whose every answer is checked, and writers of both generations, timed.

A process of its own. `truth` holds both models' vectors of every text that there is, so one statement tells of a whole
table which vectors are not of the generation that `live_generation` names in that same statement.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from migrator.demo.simulator.backends import Deterministic

V3, V4, DIMS = "text-embedding-v3", "text-embedding-v4", 64
NEW = f"{V4}@{DIMS}"
#: Texts of rows, and texts that writers write over the first fifty of them.
ROWS, SPARE = 2_000, 200
#: What readers find nearest must be of the generation of the vector that they searched with.
SEARCH = """
SELECT count(*), count(*) FILTER (WHERE a.embedding <=> CASE WHEN a.chosen = q.v4 THEN t.v4 ELSE t.v3 END > 0.001)
  FROM (SELECT v3, v4 FROM truth ORDER BY random() LIMIT 5) AS q
 CROSS JOIN LATERAL (
    SELECT d.body, d.embedding, migrator.query_vector('public.docs', 'embedding', q.v3, q.v4) AS chosen FROM docs AS d
     ORDER BY d.embedding <=> migrator.query_vector('public.docs', 'embedding', q.v3, q.v4) LIMIT 10) AS a
  JOIN truth AS t USING (body)
 WHERE a.embedding IS NOT NULL
"""


def checking(relation: str, new: str) -> str:
    """Return the statement that counts a relation's vectors, and those that are not of the live generation."""
    return f"""
    SELECT count(*), count(*) FILTER (WHERE d.embedding <=> CASE
             migrator.live_generation('public.docs', 'embedding') WHEN '{new}' THEN t.v4 ELSE t.v3 END > 0.001)
      FROM {relation} AS d JOIN truth AS t USING (body) WHERE d.embedding IS NOT NULL
    """  # noqa: S608 - names of our own


#: Name -> statement; readers return (answers, wrong ones).
READERS = {"table": checking("docs", NEW), "view": checking("docs_outer", NEW), "search": SEARCH}
WRITERS = {
    "old": "UPDATE docs SET body = t.body, embedding = t.v3 FROM truth t WHERE docs.id = %(row)s AND t.id = %(spare)s",
    "new": "UPDATE docs SET body = t.body, embedding = t.v4 FROM truth t WHERE docs.id = %(row)s AND t.id = %(spare)s",
    "other": "UPDATE docs SET n = n + 1 WHERE id = %(id)s",
}
#: Seconds between two statements of a thread: two cores are to be idle most of the time, for what waits is measured.
_PAUSES = {"table": 0.25, "view": 0.25, "search": 0.05, "old": 0.05, "new": 0.05, "other": 0.01}


def texts() -> list[str]:
    """Every text, in the order of the ids in `truth`."""
    return [f"alpha{number % 13} beta{number % 7} gamma{number} and the rest" for number in range(1, ROWS + SPARE + 1)]


def literals(model: str, words: Sequence[str]) -> list[str]:
    """Return a model's vectors as text."""
    found = Deterministic().embed(model, list(words), DIMS).tolist()
    return ["[" + ",".join(f"{number:.7g}" for number in vector) + "]" for vector in found]


@dataclass
class Told:
    """What a turn saw: seconds of the slowest statement by kind, answers, those of a wrong generation, and errors."""

    slowest: dict[str, float] = field(default_factory=dict)
    answers: int = 0
    wrong: int = 0
    failed: list[str] = field(default_factory=list)


def live(url: str, pipe: Any) -> None:
    """Run until the pipe says "end"; at each "tell" before that, tell what was seen since the last one."""
    told, stop, lock = Told(), threading.Event(), threading.Lock()

    def serve(kind: str, statement: str) -> None:
        number = 0
        with psycopg.connect(url, autocommit=True, application_name=f"bench {kind}") as connection:
            if kind == "new":
                connection.execute("SELECT set_config('migrator.generation', %s, false)", [NEW])
            while not stop.is_set():
                number += 1
                values = {"id": 100 + number % 1000, "row": 1 + number % 50, "spare": ROWS + 1 + number % SPARE}
                began = time.perf_counter()
                try:
                    cursor = connection.execute(statement.encode(), values)
                    answers, wrong = (cursor.fetchone() or (0, 0)) if kind in READERS else (0, 0)
                    error = None
                except psycopg.Error as caught:
                    answers, wrong, error = 0, 0, f"{kind}: {type(caught).__name__}"
                took = time.perf_counter() - began
                with lock:
                    told.slowest[kind] = max(took, told.slowest.get(kind, 0.0))
                    told.answers += answers
                    told.wrong += wrong
                    told.failed += [error] if error else []
                time.sleep(_PAUSES[kind])

    threads = [threading.Thread(target=serve, args=each) for each in {**READERS, **WRITERS}.items()]
    for thread in threads:
        thread.start()
    while pipe.recv() == "tell":
        with lock:
            pipe.send(told)
            told = Told()
    stop.set()
    for thread in threads:
        thread.join()
