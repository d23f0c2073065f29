"""`migrator.client` without a database: what is sent because of what is known, and what is imported with it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import numpy as np
import psycopg
import pytest

from migrator.client import Reader, WrongDimensions, is_stale, options
from migrator.client.window import _BELIEVED, MAX_AGE_SECONDS, SIGN_SECONDS
from migrator.state.readers import BELIEVED_SECONDS, HEARD_SECONDS

V3, V4, V5 = "v3@2", "v4@2", "v5@2"


class Clocked(Reader):
    """A reader whose time is told."""

    now = 1000.0

    def _clock(self) -> float:  # type: ignore[override]
        return self.now


def reader(*generations: str, **more: Any) -> Clocked:
    return Clocked("public.docs", "embedding", dict.fromkeys(generations or (V3, V4), lambda _: [1.0, 2.0]), **more)


def test_who_can_not_tell_sends_every_vector() -> None:
    made = reader()
    assert made.wanted() == [V3, V4]
    assert made.parameters("q") == {
        "query_target": "public.docs",
        "query_column": "embedding",
        "query_generations": [V3, V4],
        "query_vectors": ["[1.0,2.0]", "[1.0,2.0]"],
        "query_initial": None,
    }


@pytest.mark.parametrize(
    ("said", "wanted"),
    [((V3, V4), [V3, V4]), ((V4, V3), [V4, V3]), ((V4,), [V4]), ((V5,), [V3, V4]), ((V4, V5), [V4]), ((), [V3, V4])],
    ids=["both", "after the swap", "the old one is given up", "unknown to us", "one of them is", "never moved"],
)
def test_what_the_database_said_is_what_is_sent(said: tuple[str, ...], wanted: list[str]) -> None:
    made = reader()
    made._hear(said)
    assert made.wanted() == wanted


def test_before_the_first_migration_the_initial_generation_is_sent() -> None:
    made = reader(initial=V3)
    assert made.wanted() == [V3, V4], "nobody was asked yet"
    made._hear(())
    assert made.wanted() == [V3]
    assert made.parameters("q")["query_initial"] == V3


def test_what_was_heard_is_believed_for_a_bounded_time_only() -> None:
    made = reader()
    made._hear((V4,))
    made.now += 2 * MAX_AGE_SECONDS
    assert made.wanted() == [V4]
    made.now += 1
    assert made.wanted() == [V3, V4]


def test_what_is_forgotten_is_asked_again_at_once() -> None:
    made = reader()
    assert made._due() is not None
    made._hear((V4,))
    assert made._due() is None
    made.forget()
    assert made.wanted() == [V3, V4]
    assert made._due() is not None


def test_the_tool_waits_for_as_long_as_a_reader_believes() -> None:
    assert BELIEVED_SECONDS == _BELIEVED * MAX_AGE_SECONDS
    assert HEARD_SECONDS >= 5 * SIGN_SECONDS


def test_questions_and_signs_of_life_come_at_a_bounded_rate() -> None:
    made = reader(application="shop")
    asked = []
    for _ in range(1200):
        due = made._due()
        if due is not None:
            asked.append("reader_ready" in due[0])
            made._hear((V3, V4))
        made.now += 1
    assert len(asked) == 1200 / MAX_AGE_SECONDS
    assert sum(asked) == 1200 / SIGN_SECONDS


def test_a_database_that_did_not_answer_is_not_asked_by_every_search() -> None:
    made = reader()
    made._hear((V4,))
    made.now += MAX_AGE_SECONDS
    assert made._due() is not None
    made._deaf()
    made._asked_at = float("-inf")
    again = made._due()
    assert again is not None
    assert "reader_ready" in again[0], "what was said may not have been heard: it signs again when it asks again"
    assert made.wanted() == [V3, V4]
    assert made._due() is None


def test_a_vector_may_come_as_numbers_as_an_array_or_as_pgvectors_own() -> None:
    from pgvector import Vector  # noqa: PLC0415

    for vector in ([0.5, 1], (0.5, 1.0), np.array([0.5, 1.0], dtype=np.float32), Vector([0.5, 1.0])):
        made = Reader("docs", "embedding", {V3: lambda _, found=vector: found})
        assert made.parameters("q")["query_vectors"] == ["[0.5,1.0]"]


def test_a_vector_of_other_dimensions_is_refused_and_not_told() -> None:
    made = Reader("docs", "embedding", {"v3@3": lambda _: [0.125, 2.0]})
    with pytest.raises(WrongDimensions, match="v3@3 was embedded with 2 dimensions") as caught:
        made.parameters("a canary")
    assert "0.125" not in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("embedders", "more", "word"),
    [({}, {}, "no embedders"), ({"v3": str}, {}, "v3"), ({V3: str}, {"initial": "v4"}, "v4"),
     ({V3: str}, {"vector_type": "vector)"}, "vector"), ({V3: str}, {"prefix": "a b"}, "a b")],
)  # fmt: skip
def test_what_can_not_be_meant_is_refused(embedders: Any, more: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        Reader("docs", "embedding", embedders, **more)


def test_the_option_of_a_writer_goes_behind_others() -> None:
    assert options(V4) == "-c migrator.generation=v4@2"
    assert options(V4, "-c statement_timeout=5s") == "-c statement_timeout=5s -c migrator.generation=v4@2"
    with pytest.raises(ValueError, match="row_security"):
        options("v4@2 -c row_security=off")


def test_only_a_search_that_was_sent_the_wrong_vectors_is_stale() -> None:
    assert not is_stale(psycopg.errors.SerializationFailure())
    assert not is_stale(ValueError())


def imported(module: str) -> set[str]:
    """Every module that a new process has after importing one."""
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found: set[str] = set(json.loads(done.stdout))
    return found


def test_nothing_of_the_tool_is_imported_with_the_client() -> None:
    found = imported("migrator.client")
    ours = {name for name in found if name.split(".")[0] == "migrator"}
    assert {name for name in ours if not name.startswith("migrator.client")} == {"migrator", "migrator.generation"}
    assert "migrator.client.sqlalchemy" not in ours
    strangers = {
        "sqlalchemy",
        "celery",
        "kombu",
        "pydantic",
        "numpy",
        "alembic",
        "httpx",
        "pgvector",
        "psycopg",
        "typer",
    }
    assert strangers.isdisjoint(name.split(".")[0] for name in found)


def test_sqlalchemy_alone_comes_with_its_own_module() -> None:
    found = imported("migrator.client.sqlalchemy")
    ours = {name for name in found if name.split(".")[0] == "migrator" and not name.startswith("migrator.client")}
    assert ours == {"migrator", "migrator.generation"}
    assert {"celery", "pydantic", "numpy", "alembic", "httpx", "typer"}.isdisjoint(name.split(".")[0] for name in found)
