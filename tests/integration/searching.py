"""A table that an application's own role may read, and what it finds there with `migrator.client`."""

from __future__ import annotations

from typing import Any

import psycopg

from migrator.client import Reader
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration import steps
from tests.integration.applications import (
    EMBEDDERS,
    NEAR,
    NEW,
    OLD,
    ROLE,
    statement,
    text_of,
)


def reader(*generations: str, **more: Any) -> Reader:
    chosen = {name: EMBEDDERS[name] for name in generations or (OLD, NEW)}
    return Reader("public.docs", "embedding", chosen, **more)


def let_in(deployment: Deployment) -> None:
    """Let the application's role read the table, where there is that role."""
    grant = f"GRANT SELECT ON docs TO {ROLE}"
    with deployment.connect() as connection:
        connection.execute(f"DO $$ BEGIN {grant}; EXCEPTION WHEN undefined_object THEN NULL; END $$".encode())


async def ready(deployment: Deployment, worker: Worker, rows: int) -> None:
    await steps.ready(deployment, worker, rows)
    let_in(deployment)


def search(connection: psycopg.Connection, found: Reader, number: int = 7) -> tuple[int, float]:
    row = connection.execute(statement(found).encode(), found.parameters(text_of(number))).fetchone()
    assert row is not None
    return row[0], row[1]


def nearest(connection: psycopg.Connection, found: Reader, number: int = 7) -> bool:
    key, distance = search(connection, found, number)
    return key == number and distance < NEAR
