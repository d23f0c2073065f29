"""R8: a row that kills whoever works on it is found, quarantined, and holds up nobody."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import threading
from collections.abc import Iterator

import psycopg

from tests.chaos import invariants
from tests.chaos.world import World
from tests.chaos.writer import Writer

#: Who has the row in hand: a batch whose window holds it and that has not written it yet.
_HOLDER_OF_ROW = """
SELECT b.holder, b.id, b.fence FROM migrator.batches b JOIN docs d
    ON d.ctid >= format('(%%s,%%s)', b.first_page, b.first_item)::tid
   AND d.ctid < CASE WHEN b.last_item IS NULL THEN format('(%%s,0)', b.last_page + 1)
                     ELSE format('(%%s,%%s)', b.last_page, b.last_item + 1) END::tid
 WHERE b.status = 'leased' AND d.id = %s AND d.embedding__migrator IS NULL
"""
#: The same of catch-up, once its request is under way: the row is the oldest hint, so it is in every handful.
_HOLDER_OF_HINT = """
SELECT b.holder, b.id, b.fence FROM migrator.duties b
 WHERE b.duty = 'catch-up' AND b.status = 'leased' AND EXISTS (SELECT FROM migrator.dirty WHERE key = ARRAY[%s::text])
   AND EXISTS (SELECT FROM migrator.reservations r WHERE r.lease = format('duty:%%s#%%s', b.id, b.fence))
"""
POISON = 11


@contextlib.contextmanager
def killer(world: World, query: str) -> Iterator[set[tuple[int, int]]]:
    """SIGKILL whoever has the poisoned row in hand, at once; yields the attempts that died."""
    died: set[tuple[int, int]] = set()
    stop = threading.Event()

    def hunt() -> None:
        with psycopg.connect(world.deployment.url, autocommit=True) as connection:
            while not stop.wait(0.01):
                for holder, row, fence in connection.execute(query.encode(), [POISON]).fetchall():
                    if (row, fence) not in died:
                        died.add((row, fence))
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(int(holder.rsplit(":", 1)[1]), signal.SIGKILL)

    thread = threading.Thread(target=hunt, daemon=True)
    thread.start()
    try:
        yield died
    finally:
        stop.set()
        thread.join(10)


def test_r8_a_row_that_kills_its_worker_is_quarantined_in_few_attempts(world: World) -> None:
    rows = 16
    deployment = world.deployment
    deployment.lease_seconds = 1
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.9
    world.begin(rows, Writer(deployment, 0), workers=1, latency=0.5)
    with killer(world, _HOLDER_OF_ROW) as died:
        deployment.wait(lambda: deployment.query("SELECT 1 FROM migrator.dispositions"), log="quarantined", seconds=120)
    world.wait_until_ready_and_clean()
    assert 3 <= len(died) <= 5 * math.log2(rows), died
    assert deployment.query("SELECT key, kind, reason FROM migrator.dispositions") == [
        ([str(POISON)], "quarantined", "worker_died")
    ]
    assert deployment.value("SELECT count(embedding__migrator) FROM docs") == rows - 1
    invariants.check(deployment, quarantined=frozenset({POISON}))


def test_r8_an_edit_that_kills_catch_up_holds_up_no_other_edit(world: World) -> None:
    deployment = world.deployment
    deployment.lease_seconds = 1
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.9
    world.begin(20, Writer(deployment, 0), workers=1, latency=0.3)
    deployment.wait_for("ready")
    with killer(world, _HOLDER_OF_HINT) as died, deployment.connect() as connection:
        for key in (POISON, 3, 4, 5):
            connection.execute("UPDATE docs SET body = 'edited ' || id WHERE id = %s", [key])
            connection.execute(
                "UPDATE twin t SET text = title || E'\\n' || body FROM docs d WHERE d.id = t.id AND d.id = %s", [key]
            )
        deployment.wait(lambda: not deployment.value("SELECT count(*) FROM migrator.dirty"), seconds=120)
    assert len(died) <= 5 * math.log2(20), died
    assert deployment.value("SELECT reason FROM migrator.dispositions") == "worker_died"
    assert deployment.query("SELECT id FROM docs WHERE embedding__migrator IS NULL") == [(POISON,)]
