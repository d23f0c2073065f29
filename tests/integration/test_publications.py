"""H5, H16: a published vector column, against real subscribers: none of them stops, and each gets what it was sent."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from migrator.demo.servers import Postgres
from migrator.errors import OperatorError
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, verbs
from migrator.spending.worker import Worker
from tests.deployment import V4, Deployment, until
from tests.integration import catalog
from tests.integration.steps import settled, start, to
from tests.integration.swaps import cut_over, quiet, roll_back
from tests.integration.test_backfill_partitions import PARTITIONED

S = MigrationStatus
_ROWS = 8
_TABLE = """CREATE TABLE docs (id bigint PRIMARY KEY, title text, body text, n int, embedding vector(64));
            CREATE TABLE other (id int PRIMARY KEY, n int)"""
_SHADOW = "ALTER TABLE docs ADD COLUMN embedding__migrator vector(64)"


class Subscriber:
    """A database that subscribes to a deployment's publication `p`; it has schema migrator, too."""

    def __init__(self, publisher: Deployment, url: str) -> None:
        self.publisher, self.url = publisher, url
        self.name = url.rsplit("/", 1)[1]

    def query(self, statement: str) -> list[tuple[object, ...]]:
        with psycopg.connect(self.url, autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def subscribe(self) -> None:
        # On one server, a slot that CREATE SUBSCRIPTION makes would wait for that very transaction.
        self.publisher.query(f"SELECT pg_create_logical_replication_slot('{self.name}', 'pgoutput')")
        self.query(
            f"CREATE SUBSCRIPTION {self.name} CONNECTION '{self.publisher.url}' PUBLICATION p"
            f" WITH (create_slot = false, slot_name = '{self.name}')"
        )

    def end(self) -> None:
        self.query(f"DROP SUBSCRIPTION IF EXISTS {self.name}")

    def errors(self) -> int:
        return int(
            str(self.query("SELECT sum(apply_error_count + sync_error_count) FROM pg_stat_subscription_stats")[0][0])
        )

    async def has(self, columns: str, table: str = "docs") -> None:
        """Wait until it has what the publisher has."""
        select = f"SELECT {columns} FROM {table} ORDER BY 1"

        async def equal() -> bool:
            assert self.errors() == 0
            return self.query(select) == self.publisher.query(select)

        await until(equal, 20)


@pytest.fixture
def subscriber(deployment: Deployment, postgres: Postgres, template: str) -> Iterator[Subscriber]:
    name = deployment.url.rsplit("/", 1)[1] + "_subscriber"
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    made = Subscriber(deployment, postgres.database_url(name))
    made.query(_TABLE)
    yield made
    made.end()
    with psycopg.connect(postgres.url, autocommit=True) as admin:
        admin.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


def published(deployment: Deployment, publication: str, table: str = "plain", **said: object) -> None:
    partitioned = table == "partitioned"
    deployment.make_table(_ROWS, PARTITIONED) if partitioned else deployment.make_table(_ROWS)
    deployment.spec_data["target"] |= said
    with deployment.connect() as connection:
        if partitioned:
            # What subscribers to whole rows can't have of their own is no business of this test.
            connection.execute("DROP VIEW docs_view; ALTER TABLE docs DROP COLUMN kind")
        connection.execute("CREATE TABLE other (id int PRIMARY KEY, n int)")
        connection.execute(publication.encode())


def edit(deployment: Deployment, word: str) -> None:
    """What an application does that has heard nothing of all this."""
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET body = %s WHERE id IN (2, 5)", [word])
        connection.execute("UPDATE docs SET n = n + 1 WHERE id = 3")
        connection.execute("INSERT INTO docs (title, body) VALUES ('new', %s)", [word])
        connection.execute("DELETE FROM docs WHERE title = 'new' AND body <> %s", [word])
        connection.execute("INSERT INTO other VALUES ((SELECT count(*) FROM other), 1)")


_VIA_ROOT = "WITH (publish_via_partition_root)"
LISTED = (
    f"CREATE PUBLICATION p FOR TABLE docs (id, title, body, embedding) WHERE (id > 0), TABLE other (id) {_VIA_ROOT}"
)
WHOLE = f"CREATE PUBLICATION p FOR TABLE docs, other {_VIA_ROOT}"
ALL = "CREATE PUBLICATION p FOR ALL TABLES"
SCHEMA = "CREATE PUBLICATION p FOR TABLES IN SCHEMA public"


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("table", "publication"),
    [
        ("plain", LISTED),
        ("partitioned", LISTED),
        ("plain", WHOLE),
        ("partitioned", WHOLE),
        ("plain", SCHEMA),
    ],
)
async def test_h5_subscribers_that_are_not_searched_go_on_through_all_of_it(
    deployment: Deployment, worker: Worker, postgres: Postgres, subscriber: Subscriber, table: str, publication: str
) -> None:
    whole = publication != LISTED
    published(deployment, publication, table, subscribers="not-searched", subscribers_have_shadow=whole)
    if whole:
        subscriber.query(_SHADOW)
    before = [line for line in catalog.lines(postgres, deployment.url) if "PUBLICATION" in line]
    subscriber.subscribe()
    await subscriber.has("id, title, body, embedding")
    await start(deployment, worker)
    edit(deployment, "started")
    await to(worker, S.READY)
    await subscriber.has("id, title, body, embedding, embedding__migrator" if whole else "id, title, body, embedding")
    for swap, word in ((cut_over, "cut over"), (roll_back, "rolled back")):
        await swap(worker)
        edit(deployment, word)
        await settled(deployment, worker)
        await subscriber.has("id, title, body")
        # What nobody edited since is not sent again: the columns change places for the publisher alone.
        await subscriber.has("id, embedding", "docs WHERE id IN (2, 5)")
    await attended.clean_up(worker, "docs", close_window=False, strays_gone=True, actor="test", tell=quiet)
    edit(deployment, "cleaned")
    await subscriber.has("id, title, body")
    await subscriber.has("id", "other")
    assert [line for line in catalog.lines(postgres, deployment.url) if "PUBLICATION" in line] == before
    assert subscriber.errors() == 0


async def test_h5_after_a_cutover_and_cleanup_subscribers_go_on_as_well(
    deployment: Deployment, worker: Worker, subscriber: Subscriber
) -> None:
    published(deployment, LISTED, subscribers="not-searched")
    subscriber.subscribe()
    await start(deployment, worker)
    await to(worker, S.READY)
    await cut_over(worker)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)
    with deployment.connect() as connection:
        connection.execute("UPDATE docs SET embedding = embedding, n = 7")
        connection.execute("UPDATE docs SET embedding = (SELECT embedding FROM docs WHERE id = 1) WHERE id = 2")
    await subscriber.has("id, title, body, embedding", "docs WHERE id = 2")
    assert deployment.mismatches("embedding", V4) == [2]
    assert subscriber.errors() == 0


@pytest.mark.parametrize(
    ("publication", "said", "codes"),
    [
        (LISTED, {}, {"publication"}),
        (WHOLE, {}, {"publication"}),
        (WHOLE, {"subscribers": "not-searched"}, {"publication_whole_row"}),
        (ALL, {"subscribers": "not-searched"}, {"publication_all_tables", "publication_whole_row"}),
        (SCHEMA, {}, {"publication"}),
        (
            f"{WHOLE}; ALTER TABLE docs REPLICA IDENTITY FULL",
            {"subscribers": "not-searched", "subscribers_have_shadow": True},
            {"publication_identity_full"},
        ),
        (f"CREATE PUBLICATION p FOR TABLE docs (id, title) {_VIA_ROOT}", {}, set()),
    ],
)
@pytest.mark.parametrize("table", ["plain", "partitioned"])
async def test_h5_without_the_operators_word_a_published_vector_is_refused(
    deployment: Deployment, worker: Worker, publication: str, said: dict[str, object], codes: set[str], table: str
) -> None:
    published(deployment, publication, table, **said)
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert {each.code for each in made.refused} == codes
    if codes:
        with pytest.raises(OperatorError, match="publication"):
            await start(deployment, worker)


async def test_h16_without_the_shadow_column_a_subscriber_to_whole_rows_stops(
    deployment: Deployment, worker: Worker, subscriber: Subscriber
) -> None:
    """Why the second word is asked for: what is said here is not so."""
    published(deployment, WHOLE, subscribers="not-searched", subscribers_have_shadow=True)
    subscriber.subscribe()
    await subscriber.has("id, title, body, embedding")
    await start(deployment, worker)
    edit(deployment, "started")

    async def stopped() -> bool:
        return subscriber.errors() > 0

    await until(stopped, 20)
    subscriber.query(_SHADOW)

    async def goes_on() -> bool:
        return subscriber.query("SELECT count(*) FROM docs WHERE body = 'started'") == [(3,)]

    await until(goes_on, 20)
