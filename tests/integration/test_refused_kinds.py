"""What can't be taken along is refused by its name and with a mend, before anything is touched."""

from __future__ import annotations

import pytest

from migrator.demo.servers import Postgres
from migrator.orchestrator import verbs
from migrator.planning.findings import PlanRefused
from migrator.planning.plan import PlanStale
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration import catalog
from tests.integration.swaps import quiet

_MATERIALIZED = "CREATE MATERIALIZED VIEW kept AS SELECT id, embedding FROM"


async def refused(deployment: Deployment, worker: Worker, server: Postgres, statement: str) -> dict[str, str]:
    """Each refusal's code and the object that it names; the table is what it was."""
    deployment.make_table(3)
    with deployment.connect() as connection:
        connection.execute(statement.encode())
    before = catalog.dump(server, deployment.url)
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert all(each.mend for each in made.refused)
    # A plan that names no usable table is not even stored.
    with pytest.raises((PlanRefused, PlanStale)):
        await verbs.start(worker.engine, deployment.spec, path="docs.toml", actor="test", on_wait=quiet)
    assert catalog.dump(server, deployment.url) == before
    return {each.code: each.object for each in made.refused}


@pytest.mark.parametrize("over", ["docs", "docs_view"])
async def test_h8_a_materialized_view_is_refused_also_over_a_view(
    deployment: Deployment, worker: Worker, postgres: Postgres, over: str
) -> None:
    found = await refused(deployment, worker, postgres, f"{_MATERIALIZED} {over}")
    assert found == {"dependent_materialized_view": "public.kept"}


async def test_a_generated_column_over_the_vector_is_refused(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    statement = "ALTER TABLE docs ADD COLUMN norm float8 GENERATED ALWAYS AS (vector_norm(embedding)) STORED"
    assert await refused(deployment, worker, postgres, statement) == {"dependent_generated_column": "norm"}


async def test_a_vector_column_that_is_generated_itself_is_refused(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    deployment.spec_data["target"]["column"] = "half"
    statement = "ALTER TABLE docs ADD COLUMN half vector(64) GENERATED ALWAYS AS (l2_normalize(embedding)) STORED"
    found = await refused(deployment, worker, postgres, statement)
    assert found == {"column_generated": "public.docs.half"}


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE child () INHERITS (docs)", "CREATE TABLE parent (n int NOT NULL); ALTER TABLE docs INHERIT parent"],
)
async def test_inheritance_is_refused(
    deployment: Deployment, worker: Worker, postgres: Postgres, statement: str
) -> None:
    assert (await refused(deployment, worker, postgres, statement))["inheritance"] == "public.docs"


async def test_a_check_of_a_parent_is_refused_by_its_name(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    found = await refused(
        deployment, worker, postgres,
        """CREATE TABLE parent (embedding vector(64), CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5));
           ALTER TABLE docs ADD CONSTRAINT unit CHECK (vector_norm(embedding) < 1.5);
           ALTER TABLE docs INHERIT parent""",
    )  # fmt: skip
    assert found == {"inheritance": "public.docs", "dependent_inherited_check_constraint": "unit"}


async def test_a_foreign_table_is_refused(deployment: Deployment, worker: Worker, postgres: Postgres) -> None:
    deployment.spec_data["target"]["table"] = "public.far"
    found = await refused(
        deployment, worker, postgres,
        """CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER elsewhere FOREIGN DATA WRAPPER nowhere;
           CREATE FOREIGN TABLE far (id bigint, title text, body text, embedding vector(64)) SERVER elsewhere""",
    )  # fmt: skip
    assert found["table_kind"] == "public.far"


async def test_a_policy_of_another_table_is_refused(deployment: Deployment, worker: Worker, postgres: Postgres) -> None:
    found = await refused(
        deployment, worker, postgres,
        """CREATE TABLE seen (id bigint);
           CREATE POLICY embedded ON seen USING (id IN (SELECT d.id FROM docs d WHERE d.embedding IS NOT NULL))""",
    )  # fmt: skip
    assert found == {"dependent_row_policy_of_another_table": "embedded"}


async def test_a_grant_that_is_another_roles_is_refused(
    deployment: Deployment, worker: Worker, postgres: Postgres
) -> None:
    """Said again by the owner, it would be another grant."""
    try:
        found = await refused(
            deployment, worker, postgres,
            """CREATE ROLE refused_giver; CREATE ROLE refused_reader;
               GRANT SELECT (embedding) ON docs TO refused_giver WITH GRANT OPTION;
               SET ROLE refused_giver; GRANT SELECT (embedding) ON docs TO refused_reader; RESET ROLE""",
        )  # fmt: skip
        assert found == {"dependent_column_grant_of_another_role": "embedding"}
    finally:
        with deployment.connect() as connection:
            connection.execute("DROP OWNED BY refused_reader, refused_giver; DROP ROLE refused_reader, refused_giver")
