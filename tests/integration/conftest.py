"""What several files of integration tests ask for."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from migrator.demo.simulator.control import Simulator
from tests.deployment import Deployment
from tests.integration.applications import ROLE
from tests.integration.asking import KEY


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    """An application's plain client; it knows nothing of ours."""
    with httpx.Client(base_url=simulator.base_url, headers=KEY, timeout=5) as made:
        yield made


@pytest.fixture
def app_url(deployment: Deployment) -> Iterator[str]:
    """The URL of a role that may read the table, and has no right of its own on anything of ours."""
    with deployment.connect() as connection:
        connection.execute(f"DO $$ BEGIN CREATE ROLE {ROLE} LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$")
    yield deployment.url.replace("postgres@", f"{ROLE}@")
    with deployment.connect() as connection:
        connection.execute(f"DROP OWNED BY {ROLE}")
