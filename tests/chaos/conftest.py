"""A world to be destroyed: servers of the test's own, real workers, an application that goes on writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from migrator.spending.worker import Worker
from tests.chaos.world import World
from tests.deployment import Deployment

#: Kills of one test: in CI, and with --long.
_KILLS, _LONG_KILLS = 6, 50
#: Runs of the state machine, likewise; twenty steps each.
_MACHINES, _LONG_MACHINES = 4, 200


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many kills: `--runs N`, else 50 with --long, else 6."""
    asked: int | None = request.config.getoption("--runs")
    return asked or (_LONG_KILLS if request.config.getoption("--long") else _KILLS)


@pytest.fixture
def machine_runs(request: pytest.FixtureRequest) -> int:
    """How many runs of the state machine: `--runs N`, else 200 with --long, else 4."""
    asked: int | None = request.config.getoption("--runs")
    return asked or (_LONG_MACHINES if request.config.getoption("--long") else _MACHINES)


Made = tuple[Deployment, Worker, Callable[[], None]]


@pytest.fixture
def make_deployment(
    postgres: Postgres, template: str, simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Made]:
    """Make deployments with a database and a worker each, and what drops it again."""
    numbers = iter(range(1, 1_000_000))

    def admin(statement: str) -> None:
        with psycopg.connect(postgres.url, autocommit=True) as connection:
            connection.execute(statement.encode())

    def make() -> Made:
        name = f"machine_{next(numbers)}"
        admin(f"CREATE DATABASE {name} TEMPLATE {template}")
        simulator.admin(reset=True)
        made = Deployment(postgres.database_url(name), tmp_path, simulator)
        for variable, value in made.env.items():
            if variable.startswith(("MIGRATOR_", "TEST_")):
                monkeypatch.setenv(variable, value)
        worker = Worker.make("test")
        worker.backoff_seconds = 0.01
        return made, worker, lambda: admin(f"DROP DATABASE {name} WITH (FORCE)")

    return make


@pytest.fixture
def world(
    scratch_server: Callable[..., Postgres], simulator: Simulator, tmp_path: Path, scratch: Path
) -> Iterator[World]:
    postgres, broker = scratch_server(), Valkey(scratch / f"valkey-{tmp_path.name}")
    broker.start()
    made = World(Deployment(postgres.database_url("app"), tmp_path, simulator, broker.url), postgres, broker)
    try:
        yield made
    finally:
        made.deployment.close()
        with contextlib.suppress(AssertionError):
            broker.remove()
