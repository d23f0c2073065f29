"""An application that never stops writing, and a twin table that it fills in the same transactions.

Whatever is killed, table and twin say the same: so the twin knows what every row's text is, and the vectors of the
table must be those of the twin's texts. No two texts are ever the same, so that the bill can be read text by text.
"""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass, field
from typing import Self

import psycopg

from tests.deployment import V3, Deployment, embed, literal

_TWIN = """
CREATE TABLE twin (id bigint PRIMARY KEY, text text);
INSERT INTO twin SELECT id, coalesce(title, '') || E'\n' || coalesce(body, '') FROM docs
"""


@dataclass
class Writer:
    """Writes until it is stopped; `seed` decides what."""

    deployment: Deployment
    seed: int
    pause_seconds: float = 0.05
    transactions: int = 0
    #: Every text it ever wrote.
    texts: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def make_twin(self) -> None:
        with self.deployment.connect() as connection:
            connection.execute(_TWIN)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._write, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(30)
        assert not self._thread.is_alive(), "the application hangs"

    def _write(self) -> None:
        dice = random.Random(self.seed)  # noqa: S311 - dice
        while not self._stop.is_set():
            try:
                with self.deployment.connect(connect_timeout=2) as connection:
                    while not self._stop.wait(self.pause_seconds):
                        self.step(connection, dice)
            except psycopg.OperationalError:  # the server is away or was killed: so is the application
                self._stop.wait(0.2)

    def step(self, connection: psycopg.Connection, dice: random.Random) -> None:
        """Do one transaction in table and twin."""
        self.transactions += 1
        title, body = "live", f"delta{dice.randint(0, 20)} text {self.transactions} of {self.seed}"
        text = f"{title}\n{body}"
        vector = literal(embed(V3, text))
        self.texts.append(text)
        with connection.transaction():
            key = self._some_key(connection, dice)
            kind = dice.choices(["insert", "edit", "touch", "delete", "empty"], weights=[3, 6, 2, 1, 1])[0]
            if kind == "insert" or key is None:
                made = connection.execute(
                    "INSERT INTO docs (title, body, embedding) VALUES (%s, %s, %s) RETURNING id", [title, body, vector]
                ).fetchone()
                assert made is not None
                connection.execute("INSERT INTO twin VALUES (%s, %s)", [made[0], text])
            elif kind == "edit":
                connection.execute(
                    "UPDATE docs SET title = %s, body = %s, embedding = %s WHERE id = %s", [title, body, vector, key]
                )
                connection.execute("UPDATE twin SET text = %s WHERE id = %s", [text, key])
            elif kind == "touch":
                connection.execute("UPDATE docs SET n = n + 1 WHERE id = %s", [key])
            elif kind == "delete":
                connection.execute("DELETE FROM docs WHERE id = %s", [key])
                connection.execute("DELETE FROM twin WHERE id = %s", [key])
            else:
                connection.execute("UPDATE docs SET title = NULL, body = NULL, embedding = NULL WHERE id = %s", [key])
                connection.execute("UPDATE twin SET text = E'\\n' WHERE id = %s", [key])

    @staticmethod
    def _some_key(connection: psycopg.Connection, dice: random.Random) -> int | None:
        newest = connection.execute("SELECT max(id) FROM twin").fetchone()
        if newest is None or newest[0] is None:
            return None
        # The newest rows are edited most, as in life.
        at_least = max(1, newest[0] - int(dice.expovariate(1 / 100)))
        found = connection.execute("SELECT min(id) FROM twin WHERE id >= %s", [at_least]).fetchone()
        return None if found is None else found[0]
