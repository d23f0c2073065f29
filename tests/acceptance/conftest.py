"""A deployment of one test's own: database, broker, processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from migrator.demo.servers import Valkey
from migrator.demo.simulator.control import Simulator
from tests.deployment import Deployment


@pytest.fixture
def broker(scratch: Path) -> Iterator[Valkey]:
    server = Valkey(scratch / f"valkey-{time.monotonic_ns()}")
    server.start()
    yield server
    server.remove()


@pytest.fixture
def deployed(database: str, simulator: Simulator, broker: Valkey, tmp_path: Path) -> Iterator[Deployment]:
    made = Deployment(database, tmp_path, simulator, broker.url)
    yield made
    made.close()
