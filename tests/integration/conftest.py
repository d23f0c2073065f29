"""What several files of integration tests ask for."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from migrator.demo.simulator.control import Simulator
from tests.deployment import Deployment
from tests.integration.applications import ROLE
from tests.integration.asking import KEY
from tests.receiving import SECRET, SECRET_ENV, Receiver, receiving


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


@pytest.fixture
def receiver(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """Who is told by the deployment's hooks."""
    monkeypatch.setenv(SECRET_ENV, SECRET)
    with receiving() as made:
        deployment.spec_data["hooks"] = {"url": f"{made.url}/hooks?token=url-canary", "secret_env": SECRET_ENV}
        yield made
