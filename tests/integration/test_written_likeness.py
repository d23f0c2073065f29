"""What a landing writes where, and what it says of its vectors and the old ones, whatever the old column holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from psycopg import sql

from migrator.backfill.landing import lanes_of
from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state.connection import fetch, transaction
from migrator.target.lanes import Written
from tests.deployment import V3, V4, Deployment, embed
from tests.integration.steps import begin, stored

_ROWS = 12


async def _write(
    worker: Worker,
    model: str,
    *,
    old: str = "embedding",
    new: tuple[str, str] = ("embedding__migrator", "vector"),
    answers: list[int] | None = None,
    compared: int = _ROWS,
) -> Written:
    """Write all rows' vectors of a model beside some old column, look where they went, and roll it back."""
    migration = await stored(worker)
    lanes = dataclasses.replace(lanes_of(migration, Side.TO), from_column=old, column=new[0], type_name=new[1])
    async with transaction(worker.engine) as connection:
        rows = await lanes.read_window(connection, migration.id, 0, 100)
        rows.sort(key=lambda each: -int(each.key[0]))  # not in the order they lie in
        vectors = np.stack([embed(model, each.body) for each in rows]).astype("<f4")
        came_with = answers or [0] * len(rows)
        written = await lanes.write(connection, migration.id, rows, vectors, answers=came_with, compared=compared)
        found = await fetch(
            connection,
            sql.SQL("SELECT id::text AS id, {}::real[] AS vector FROM public.docs WHERE {} IS NOT NULL").format(
                sql.Identifier(new[0]), sql.Identifier(new[0])
            ),
        )
        await connection.rollback()
    given = {each.key: vector for each, vector in zip(rows, vectors, strict=True)}
    assert sorted(written.keys) == sorted((each["id"],) for each in found)
    for each in found:
        assert np.allclose(each["vector"], given[each["id"],], atol=1e-3), "each row has its own vector"
    return written


@pytest.fixture
async def table(deployment: Deployment, worker: Worker) -> Worker:
    await begin(deployment, worker, _ROWS)
    with deployment.connect() as connection:
        connection.execute(
            "ALTER TABLE docs ADD half halfvec(64), ADD short vector, ADD flat vector(64), ADD gone vector(64),"
            " ADD new_half halfvec(64)"
        )
        connection.execute("UPDATE docs SET half = embedding, short = '[1,2,3]', flat = array_fill(0, '{64}')::vector")
    return worker


@pytest.mark.parametrize("old", ["embedding", "half"])
@pytest.mark.parametrize("new", [("embedding__migrator", "vector"), ("new_half", "halfvec")])
async def test_r4_the_old_model_s_answer_is_known_by_what_the_row_holds(
    table: Worker, old: str, new: tuple[str, str]
) -> None:
    assert (await _write(table, V3, old=old, new=new)).likeness == pytest.approx(1.0, abs=1e-3)
    assert (await _write(table, V3, old=old, new=new, compared=0)).likeness is None
    other = (await _write(table, V4, old=old, new=new)).likeness
    assert other is not None
    assert other < 0.9


async def test_r4_so_many_of_each_answer_are_compared_as_are_written(table: Worker, deployment: Deployment) -> None:
    """The first ones may be held by the application, and the rest of their answer lands all the same."""
    with deployment.connect() as connection:
        # Every old vector is another one but that of row 1, which comes last.
        connection.execute("UPDATE docs SET half = flat WHERE id > 1")
    every_two = [number // 2 for number in range(_ROWS)]
    assert (await _write(table, V3, old="half", answers=every_two, compared=1)).likeness is None
    assert (await _write(table, V3, old="half", answers=every_two, compared=2)).likeness == pytest.approx(1, abs=1e-3)
    with deployment.connect() as other, other.transaction():
        other.execute("SELECT FROM docs WHERE id > 1 FOR UPDATE")
        written = await _write(table, V3, old="half", compared=1)
    assert written.keys == [("1",)]
    assert written.likeness == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("old", ["short", "flat", "gone"])
async def test_old_vectors_of_other_dimensions_or_no_length_or_none_say_nothing(table: Worker, old: str) -> None:
    assert (await _write(table, V3, old=old)).likeness is None
