"""One batch: a window of heap pages, read shortly, embedded in lane order, written answer by answer.

Floor 2. Promise (P2-P5): no transaction is open while the provider is asked; a batch that dies is taken up again and
bills only what was in flight, since rows that have their vector are not read again.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import func

from migrator.backfill.classify import Classified, classify
from migrator.backfill.embedding import Progress, embed_and_land
from migrator.backfill.landing import Landing, lanes_of
from migrator.generation import Side
from migrator.provider.embedder import Embedder
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state import batches, hands, leases, migrations
from migrator.state.budget import Purpose
from migrator.state.connection import transaction
from migrator.state.dirty import Hints
from migrator.state.hands import Hand
from migrator.state.leases import Lease
from migrator.state.migrations import Migration
from migrator.target import facts
from migrator.target.facts import Heap
from migrator.target.lanes import Row


def make_landing(
    migration: Migration, side: Side, lease: Lease, hints: Hints | None = None, heap: Heap | None = None
) -> Landing:
    """Make the landing of one lease, into one heap where its rows all lie there."""
    high = migration.spec.model_of(side).price_usd_per_mtok[1]
    return Landing(migration, side, lease, high, hints or Hints({}), heap)


def classified(rows: Sequence[Row], embedder: Embedder, migration: Migration) -> Classified:
    """Sort rows by what the embedder's model takes.

    Raises: TextTooLong.
    """
    profile = embedder.profile
    return classify(
        rows,
        limit_tokens=profile.max_text_tokens,
        too_long=migration.spec.limits.too_long,
        tokenizer=profile.tokenizer,
    )


async def run(worker: Worker, lease: Lease) -> Progress:
    """Do a batch's work under its lease.

    Raises: LeaseLost, TextTooLong, KeyMissing; other failures come in the progress.
    """
    async with transaction(worker.engine) as connection:
        row = await batches.get(connection, lease.row_id)
        migration = await migrations.get_by_id(connection, row.migration_id)
        heap = await facts.heap(
            connection, migration.target_schema, migration.target_table, row.relation_oid, row.relation_file
        )
        if heap is None:
            # Rewritten (VACUUM FULL, CLUSTER) or gone: these pages mean nothing now; the next pass cuts new ones.
            await leases.finish(connection, lease, finished_at=func.clock_timestamp(), in_hand=None)
            return Progress()
        rows = await lanes_of(migration, Side.TO, heap).read_window(
            connection,
            migration.id,
            row.first_page,
            row.last_page,
            first_item=row.first_item,
            last_item=row.last_item,
        )
        hand = Hand.of([each.key for each in rows])
        await hands.take(connection, lease, hand)
    embedder = await make_embedder(worker, migration, Side.TO, lease, Purpose.BACKFILL)
    sorted_rows = classified(rows, embedder, migration)
    landing = make_landing(migration, Side.TO, lease, heap=heap)
    async with transaction(worker.engine) as connection:
        # Rows that were moved here out of a window that is being embedded: whoever has that pays for them.
        theirs = await hands.others(connection, migration.id, lease, hand)
        sorted_rows = sorted_rows.without(theirs)
        await landing.dispose(connection, sorted_rows.dispositions, last=not sorted_rows.work)
    if not sorted_rows.work:
        return Progress()
    return await embed_and_land(worker, embedder, landing, sorted_rows.work)
