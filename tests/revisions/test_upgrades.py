"""Schema `migrator` is upgraded while a migration is under way and the application writes."""

from __future__ import annotations

import asyncio

import pytest
from alembic.script import ScriptDirectory

from migrator.state import schema
from migrator.state.connection import make_engine, transaction
from tests.deployment import V3, V4, Deployment

#: Every revision that a running migration may stand at, newest first. The engine's own tables came with 0007.
EARLIER = [
    each.revision for each in ScriptDirectory.from_config(schema.config()).walk_revisions() if each.revision >= "0007"
][1:]
#: Rows whose text the application writes before and after the upgrade.
EDITED = {1, 2, 3}


def go_back(deployment: Deployment, revision: str) -> None:
    """Take the schema back to how an earlier version of the tool has it."""

    async def down() -> None:
        engine = make_engine(deployment.url, "test")
        async with transaction(engine) as connection:
            await schema.downgrade(connection, revision)
        await engine.dispose()

    asyncio.run(down())


@pytest.mark.parametrize("revision", [EARLIER[0], EARLIER[-1]])
def test_a_migration_under_way_goes_on_after_an_upgrade(deployment: Deployment, revision: str) -> None:
    deployment.make_table(300)
    deployment.must("start", deployment.spec_file, "--yes")
    process = deployment.work()
    deployment.wait(lambda: deployment.value("SELECT count(embedding__migrator) FROM docs") > 10, process, "rows")
    deployment.must("pause", "--all")
    process.wait(60)
    written = deployment.value("SELECT count(embedding__migrator) FROM docs")
    go_back(deployment, revision)
    deployment.query("UPDATE docs SET body = body || ' before init' WHERE id IN (1, 2, 3) RETURNING id")
    refused = deployment.must("status", "docs", code=2)
    assert f"is at revision {revision}, and this version of the tool needs {schema.head()}" in refused
    assert f"is at revision {schema.head()} (before: {revision})" in deployment.must("init")
    deployment.query("UPDATE docs SET body = body || ' after it' WHERE id IN (1, 2, 3) RETURNING id")
    kept = deployment.value("SELECT count(embedding__migrator) FROM docs")
    assert written - len(EDITED) <= kept <= written, "but for the edited rows, what was paid is there"
    deployment.must("resume", "docs")
    deployment.must("work", "docs", "--until", "ready")
    # Rows that were just edited may still be waited with while it is `ready`; the cutover settles them first.
    assert set(deployment.mismatches("embedding__migrator", V4)) <= EDITED
    deployment.must("cutover", "docs", "--readers-ready", "--yes")
    assert deployment.mismatches("embedding", V4) == []
    deployment.must("rollback", "docs", "--yes")
    # Their old vectors are as the application left them: it wrote texts alone.
    assert set(deployment.mismatches("embedding", V3)) <= EDITED
    deployment.must("cleanup", "docs", "--yes")
