"""A world to be destroyed: servers of the test's own, real workers, an application that goes on writing."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from tests.chaos.world import World
from tests.deployment import Deployment

#: Kills of one test: in CI, and with --long.
_KILLS, _LONG_KILLS = 6, 50


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How many kills: `--runs N`, else 50 with --long, else 6."""
    asked: int | None = request.config.getoption("--runs")
    return asked or (_LONG_KILLS if request.config.getoption("--long") else _KILLS)


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
