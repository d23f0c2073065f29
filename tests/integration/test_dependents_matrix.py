"""P1, kind by kind: what hangs on the vector column is the same after the cutover, the way back, and cleanup."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from migrator.cutover import swapping
from migrator.demo.servers import Postgres
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration import catalog
from tests.integration.kinds import FIRING, KINDS, PLAIN_ONLY, ROLES, SAID
from tests.integration.steps import start, to
from tests.integration.swaps import quiet, swap
from tests.integration.test_backfill_partitions import PARTITIONED

S = MigrationStatus
#: Off from the swap until cleanup, on purpose (H23).
WITHOUT_BETWEEN = {"not null", "not null by name"}


@pytest.fixture(scope="module")
def roles(postgres: Postgres) -> Iterator[None]:
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("".join(f"CREATE ROLE {role};" for role in ROLES).encode())
    yield
    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("".join(f"DROP ROLE {role};" for role in ROLES).encode())


async def indexed(deployment: Deployment, worker: Worker) -> None:
    """Expand, fill the shadow by hand, and have its indexes built: the catalog is what matters here."""
    await start(deployment, worker)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding__migrator = embedding")
        connection.execute("UPDATE migrator.migrations SET status = 'indexing'")
    await to(worker, S.VALIDATING)
    with deployment.connect() as connection:
        connection.execute("UPDATE migrator.migrations SET status = 'ready'")


_CASES = [(table, kind) for kind in KINDS for table in ("plain", "partitioned")]


@pytest.mark.usefixtures("roles")
@pytest.mark.parametrize(
    ("table", "kind"), [(table, kind) for table, kind in _CASES if table == "plain" or kind not in PLAIN_ONLY]
)
async def test_p1_all_is_equal_but_the_generation(
    deployment: Deployment, worker: Worker, postgres: Postgres, table: str, kind: str
) -> None:
    deployment.make_table(5, PARTITIONED) if table == "partitioned" else deployment.make_table(5)
    with deployment.connect() as connection:
        connection.execute(KINDS[kind].encode())
    deployment.spec_data["target"] |= {"fire_triggers": kind in FIRING, **SAID}
    before, bound = catalog.lines(postgres, deployment.url), catalog.hanging(deployment.url, "embedding")
    await indexed(deployment, worker)
    for direction in (swapping.CUTOVER, swapping.ROLLBACK, swapping.CUTOVER):
        await swap(worker, direction)
        assert catalog.hanging(deployment.url, "embedding__migrator") == [], f"after {direction.verb}"
        if kind not in WITHOUT_BETWEEN:
            assert catalog.hanging(deployment.url, "embedding") == bound, f"after {direction.verb}"
            assert catalog.lines(postgres, deployment.url) == before, f"after {direction.verb}"
        with deployment.connect() as connection:
            connection.execute("UPDATE migrator.migrations SET status = 'ready' WHERE status = 'rolled_back'")
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)
    assert catalog.lines(postgres, deployment.url, ours=True) == before, "after cleanup"
    assert catalog.hanging(deployment.url, "embedding") == bound, "after cleanup"
