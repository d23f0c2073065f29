"""Processes that stall, are told to end, or lose their connections: leases end, fences hold, money is counted."""

from __future__ import annotations

import os
import signal

from tests.chaos import invariants
from tests.chaos.world import World
from tests.chaos.writer import Writer


def _pid_at_work(world: World) -> int:
    """The process that holds a batch, while its requests are at the provider: not one that has yet to ask.

    A reservation is booked just before its request is sent.
    """
    deployment = world.deployment
    asking = (
        "SELECT b.holder FROM migrator.batches b JOIN migrator.reservations r"
        " ON r.lease = 'batch:' || b.id || '#' || b.fence"
        " WHERE b.status = 'leased' AND r.at < clock_timestamp() - interval '0.15 s' ORDER BY r.at"
    )
    deployment.wait(lambda: deployment.simulator.ledger()["in_flight"] > 0)
    found: list[tuple[str]] = []
    deployment.wait(lambda: found.extend(deployment.query(asking)) or found)
    return int(found[0][0].rsplit(":", 1)[1])


def _logged(world: World) -> list[str]:
    return [line for path in world.deployment.home.glob("w*.log") for line in path.read_text().splitlines()]


def test_r7_a_worker_that_wakes_after_its_lease_overwrites_nothing(world: World) -> None:
    deployment = world.deployment
    world.begin(300, Writer(deployment, 0), latency=0.5)
    slept = _pid_at_work(world)
    os.kill(slept, signal.SIGSTOP)
    try:
        deployment.wait(
            lambda: deployment.query("SELECT 1 FROM migrator.batches WHERE deaths > 0 OR fence > 1"), log="rescued"
        )
        world.wait_until_ready_and_clean()
        before = deployment.query("SELECT id, xmin::text FROM docs ORDER BY id")
    finally:
        os.kill(slept, signal.SIGCONT)
    deployment.wait(lambda: any("warning" in line and "was lost" in line for line in _logged(world)))
    assert deployment.query("SELECT id, xmin::text FROM docs ORDER BY id") == before, "it wrote nothing when it woke"
    others = deployment.value(
        "SELECT sum(spent_tokens) FROM migrator.ledger WHERE purpose NOT IN ('backfill', 'catch-up')"
    )
    woken = deployment.simulator.ledger()["tokens"] - deployment.needed_tokens() - int(others)
    assert woken > 0

    def booked() -> int:
        """Each token is in one of two places: its answer was read and could not be written, or never read any more."""
        ((unwritten, unread),) = deployment.query(
            "SELECT (SELECT sum(unwritten_tokens) FROM migrator.ledger)::bigint,"
            " ARRAY(SELECT id FROM migrator.reservations WHERE possibly_billed)"
        )
        entries = deployment.entries()
        return int(unwritten) + sum(entry["tokens"] for entry in entries if entry["request_id"] in unread)

    # Who woke may still be at its books.
    deployment.wait(lambda: booked() == woken, log=f"{woken} tokens in the books")
    invariants.check(deployment, unwritten_tokens=woken)


def test_r25_a_terminated_process_gives_its_batch_back_at_once(world: World) -> None:
    """SIGTERM to a pool's process, as by a cold shutdown or Flower's "terminate": no attempt, nothing waited for."""
    deployment = world.deployment
    deployment.lease_seconds = 30
    world.begin(200, Writer(deployment, 0), workers=1, latency=2.0)
    os.kill(_pid_at_work(world), signal.SIGTERM)
    deployment.wait(lambda: deployment.query("SELECT 1 FROM migrator.batches WHERE failure = 'shut down'"), seconds=10)
    assert deployment.query("SELECT attempts, deaths FROM migrator.batches WHERE failure = 'shut down'") == [(0, 0)]
    deployment.simulator.admin(latency_seconds=0.0)
    world.wait_until_ready_and_clean()
    invariants.check(deployment)


def test_p2_connections_cut_between_statements(world: World) -> None:
    """pg_terminate_backend again and again, wherever a transaction of ours stands."""
    deployment = world.deployment
    writer = Writer(deployment, 9)
    deployment.spec_data["limits"]["requests_per_minute"] = 900
    world.begin(400, writer, latency=0.05)
    with writer:
        for number in range(1, 6):
            deployment.wait(lambda number=number: deployment.simulator.ledger()["requests"] >= 4 * number)  # type: ignore[misc]
            world.backends_are_terminated()
    world.wait_until_ready_and_clean()
    invariants.check(deployment, unwritten_tokens=5 * world.most_tokens_in_flight())
