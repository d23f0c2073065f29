"""What several files of integration tests ask for."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from migrator.demo.simulator.control import Simulator
from tests.integration.asking import KEY


@pytest.fixture
def http(simulator: Simulator) -> Iterator[httpx.Client]:
    """An application's plain client; it knows nothing of ours."""
    with httpx.Client(base_url=simulator.base_url, headers=KEY, timeout=5) as made:
        yield made
