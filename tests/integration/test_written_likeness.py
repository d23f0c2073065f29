"""What a landing says of its vectors and the old ones: only of rows that are named, whatever the old column holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from migrator.backfill.landing import lanes_of
from migrator.generation import Side
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from migrator.target.lanes import Row, Written
from tests.deployment import V3, V4, Deployment, embed
from tests.integration.steps import begin, stored

_ROWS = 6


async def _write(worker: Worker, column: str, model: str, compared: list[bool]) -> Written:
    """Write all rows' vectors of a model beside some old column, and roll it back."""
    lanes = dataclasses.replace(lanes_of(await stored(worker), Side.TO), from_column=column)
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        rows: list[Row] = await lanes.read_window(connection, migration.id, 0, 100)
        vectors = np.stack([embed(model, each.body) for each in rows]).astype("<f4")
        written = await lanes.write(connection, migration.id, rows, vectors, compared=compared)
        await connection.rollback()
    assert len(written.keys) == _ROWS
    return written


@pytest.fixture
async def table(deployment: Deployment, worker: Worker) -> Worker:
    await begin(deployment, worker, _ROWS)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD half halfvec(64), ADD short vector, ADD flat vector(64)")
        connection.execute("UPDATE docs SET half = embedding, short = '[1,2,3]', flat = array_fill(0, '{64}')::vector")
    return worker


@pytest.mark.parametrize("column", ["embedding", "half"])
async def test_r4_the_old_model_s_answer_is_known_by_what_the_row_holds(table: Worker, column: str) -> None:
    for named in range(_ROWS):
        one = [number == named for number in range(_ROWS)]
        assert (await _write(table, column, V3, one)).likeness == pytest.approx(1.0, abs=1e-3)
    assert (await _write(table, column, V3, [False] * _ROWS)).likeness is None
    other = (await _write(table, column, V4, [True] * _ROWS)).likeness
    assert other is not None
    assert other < 0.9


@pytest.mark.parametrize("column", ["short", "flat"])
async def test_old_vectors_of_other_dimensions_or_no_length_say_nothing(table: Worker, column: str) -> None:
    assert (await _write(table, column, V3, [True] * _ROWS)).likeness is None


async def test_an_old_vector_that_is_not_there_says_nothing(table: Worker, deployment: Deployment) -> None:
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD gone vector(64)")
    assert (await _write(table, "gone", V3, [True] * _ROWS)).likeness is None
