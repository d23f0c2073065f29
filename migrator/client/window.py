"""What a reader knows of the generations that it must be prepared for, and what it sends because of that.

Floor 0. Promise: no I/O; what was heard is believed for a bounded time, and whoever can't tell sends every vector that
it can make. Being wrong about it costs an embedding or an error, never a wrong answer: the database picks the vector by
its generation's name, inside the searching statement (target/readers.sql, query_vector_of).
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from migrator.generation import Generation

#: Seconds between two questions to the database. `start` to `cutover` takes longer on any table that is worth it, and
#: a swap changes nothing for whoever sends both.
MAX_AGE_SECONDS = 30.0
#: How many such times an answer is believed: one question may be late, since a reader asks when it searches.
_BELIEVED = 2
#: Seconds between two signs of life. The tool believes one for ten minutes.
SIGN_SECONDS = 60.0
#: SQLSTATE of a search that was sent no vector of the live generation (target/readers.sql).
_STALE = "MG010"
_ASK = "SELECT migrator.generations(%(target)s, %(column)s)"
_SIGN = {
    True: "SELECT migrator.reader_ready(%(target)s, %(column)s, %(can)s::text[], %(application)s, %(instance)s)",
    False: "SELECT migrator.reader_ready(%(target)s, %(column)s, %(can)s::text[], instance => %(instance)s)",
}


class WrongDimensions(ValueError):
    """A function that embeds for a generation made a vector of other dimensions."""


def is_stale(error: BaseException) -> bool:
    """Say whether a search failed because it was sent no vector of the live generation.

    `forget()`, then embed and search again, once, in a new transaction. Takes psycopg's errors and SQLAlchemy's.
    """
    cause = getattr(error, "orig", None) or error
    return getattr(cause, "sqlstate", None) == _STALE


class Window:
    """What both readers are: the generations they can embed with, and what the database said of them last.

    Safe to share between threads: two of them may ask at once, which harms nothing.
    """

    _clock = staticmethod(time.monotonic)

    def __init__(
        self,
        target: str,
        column: str,
        embedders: Mapping[str, Callable[[str], Any]],
        *,
        initial: str | None = None,
        application: str | None = None,
        vector_type: str = "vector",
        prefix: str = "query",
        max_age_seconds: float = MAX_AGE_SECONDS,
    ) -> None:
        """Make a reader of one column.

        target, column: as in the spec, `public.docs` and `embedding`; not a view over it.
        embedders: by generation, MODEL@DIMS as in the spec, a function that takes a query's text and returns its vector
        (a sequence of numbers, a NumPy array, a pgvector.Vector). An AsyncReader also takes coroutine functions.
        initial: what the column holds before its first migration began; without it a search before that fails.
        application: the name that `migrator status` shows; the connection's application_name where it is None.
        vector_type: the column's, `vector` or `halfvec`; it must be on the connection's search_path.
        prefix: begins the names of the parameters, for two readers in one statement.
        max_age_seconds: how often the database is asked, at the most; what it said is believed for a minute at most.
        Raises: ValueError for a name that is no generation, or no embedders at all.
        """
        if not embedders:
            raise ValueError("no embedders")
        self._dims = {name: Generation.parse(name).dims for name in embedders}
        if initial is not None:
            Generation.parse(initial)
        for word in (vector_type, prefix):
            if not re.fullmatch(r"[a-z_][a-z0-9_]*", word):
                raise ValueError(word)
        self.target, self.column = target, column
        self._embedders = dict(embedders)
        self._initial, self._application, self._vector_type = initial, application, vector_type
        self._prefix, self._max_age = prefix, max_age_seconds
        self._instance = os.urandom(6).hex()
        self._said: tuple[str, ...] | None = None
        self._said_at = self._asked_at = self._signed_at = float("-inf")

    @property
    def expression(self) -> str:
        """The SQL to search by, with psycopg's named parameters; it never changes, so it may stand in a constant.

        Write it into the searching statement itself: a value that a statement of its own fetched may be of the other
        generation by the time it is used (H9). It is a sub-select, so that a plan that sorts asks once and not for
        every row.
        """
        return (
            f"(SELECT migrator.query_vector(%({self._prefix}_target)s::text, %({self._prefix}_column)s::text,"
            f" %({self._prefix}_generations)s::text[],"
            f" %({self._prefix}_vectors)s::text[]::{self._vector_type}[], %({self._prefix}_initial)s::text))"
        )

    def forget(self) -> None:
        """Forget what the database said: until the next `refresh` every vector is sent."""
        self._said = None
        self._asked_at = float("-inf")

    def wanted(self) -> list[str]:
        """Return the generations that a query is embedded with: those that may be live, or all where that is not known.

        It may leave nothing out on its own account: what is live is the database's to say.
        """
        known = self._said if self._clock() - self._said_at <= _BELIEVED * min(self._max_age, MAX_AGE_SECONDS) else None
        if known == () and self._initial is not None:
            known = (self._initial,)
        return [name for name in known or () if name in self._embedders] or list(self._embedders)

    def _hurry(self) -> None:
        self._asked_at = self._signed_at = float("-inf")

    def _is_fresh(self) -> bool:
        return self._clock() - self._asked_at < self._max_age

    def _due(self) -> tuple[str, dict[str, Any]] | None:
        """Return what is to be asked now, and note that it was; None while what was heard is fresh."""
        if self._is_fresh():
            return None
        self._asked_at = now = self._clock()
        values: dict[str, Any] = {"target": self.target, "column": self.column}
        if now - self._signed_at < SIGN_SECONDS:
            return _ASK, values
        self._signed_at = now
        # What a process says last replaces what it said before; it may have been forked since.
        values |= {"can": list(self._embedders), "instance": f"{self._instance}.{os.getpid()}"}
        if self._application is not None:
            values["application"] = self._application
        return _SIGN[self._application is not None], values

    def _hear(self, said: Sequence[str]) -> None:
        self._said, self._said_at = tuple(said), self._clock()

    def _deaf(self) -> None:
        """Nothing was heard: whoever can't tell sends everything, and signs again when it asks again."""
        self._said, self._signed_at = None, float("-inf")

    def _values(self, vectors: Mapping[str, Any]) -> dict[str, Any]:
        """Return the parameters of `expression`."""
        prefix = self._prefix
        return {
            f"{prefix}_target": self.target,
            f"{prefix}_column": self.column,
            f"{prefix}_generations": list(vectors),
            f"{prefix}_vectors": [self._text(name, vector) for name, vector in vectors.items()],
            f"{prefix}_initial": self._initial,
        }

    def _text(self, generation: str, vector: Any) -> str:
        """Return a vector as pgvector reads it.

        Raises: WrongDimensions, without the vector.
        """
        as_list = getattr(vector, "tolist", None) or getattr(vector, "to_list", None)
        numbers = [float(number) for number in (as_list() if as_list is not None else vector)]
        if len(numbers) != self._dims[generation]:
            raise WrongDimensions(f"{generation} was embedded with {len(numbers)} dimensions")
        return "[" + ",".join(map(repr, numbers)) + "]"
