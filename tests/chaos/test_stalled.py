"""Processes that stall, are told to end, or lose their connections: leases end, fences hold, money is counted."""

from __future__ import annotations

import os
import signal
import time

from tests.chaos import invariants
from tests.chaos.world import World
from tests.chaos.writer import Writer

#: Seconds an answer takes while a process is to be stopped before it: two looks fit in, also on a slow machine.
_LATENCY = 1.0


#: Requests that were booked a moment ago: a reservation is booked just before its request is sent.
_ASKING = (
    "SELECT b.holder, r.id FROM migrator.batches b JOIN migrator.reservations r"
    " ON r.lease = 'batch:' || b.id || '#' || b.fence"
    " WHERE b.status = 'leased' AND r.at < clock_timestamp() - interval '0.15 s' ORDER BY r.at"
)


def _asking(world: World) -> list[tuple[int, str]]:
    """Return which processes have asked for batches of theirs, and those requests' ids."""
    return [(int(holder.rsplit(":", 1)[1]), request) for holder, request in world.deployment.query(_ASKING)]


def _one_that_asks(world: World) -> tuple[int, str]:
    found: list[tuple[int, str]] = []
    world.deployment.wait(lambda: found.extend(_asking(world)) or found)
    return found[0]


def _stop_one_that_asked(world: World) -> int:
    """Stop a process while the provider works for it: its request has arrived, and its answer has not.

    One that was stopped a moment too early or too late goes on, and another is tried.
    """

    def billed(request: str) -> bool:
        return any(entry["request_id"] == request for entry in world.deployment.entries())

    for _ in range(20):
        pid, request = _one_that_asks(world)
        os.kill(pid, signal.SIGSTOP)
        if (pid, request) in _asking(world) and not billed(request):
            time.sleep(_LATENCY)
            if billed(request):
                return pid
        os.kill(pid, signal.SIGCONT)
    raise AssertionError("no process was found between its question and the answer")


def _logged(world: World) -> list[str]:
    return [line for path in world.deployment.home.glob("w*.log") for line in path.read_text().splitlines()]


def test_r7_a_worker_that_wakes_after_its_lease_overwrites_nothing(world: World) -> None:
    deployment = world.deployment
    world.begin(300, Writer(deployment, 0), latency=_LATENCY)
    slept = _stop_one_that_asked(world)
    deployment.simulator.admin(latency_seconds=0.1)
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
    asked_otherwise = (
        "SELECT sum(spent_tokens)::bigint FROM migrator.ledger WHERE purpose NOT IN ('backfill', 'catch-up')"
    )

    def beyond_need() -> int:
        return int(
            deployment.simulator.ledger()["tokens"] - deployment.needed_tokens() - deployment.value(asked_otherwise)
        )

    def booked() -> int:
        """Each token is in one of two places: its answer was read and could not be written, or never read any more."""
        ((unwritten, unread),) = deployment.query(
            "SELECT (SELECT sum(unwritten_tokens) FROM migrator.ledger)::bigint,"
            " ARRAY(SELECT id FROM migrator.reservations WHERE possibly_billed)"
        )
        entries = deployment.entries()
        return int(unwritten) + sum(entry["tokens"] for entry in entries if entry["request_id"] in unread)

    assert beyond_need() > 0
    # Who woke may still be at its books, or send what it had booked.
    deployment.wait(lambda: booked() == beyond_need(), log="every token beyond need in the books")
    invariants.check(deployment, unwritten_tokens=beyond_need())


def test_r25_a_terminated_process_gives_its_batch_back_at_once(world: World) -> None:
    """SIGTERM to a pool's process, as by a cold shutdown or Flower's "terminate": no attempt, nothing waited for."""
    deployment = world.deployment
    deployment.lease_seconds = 30
    world.begin(200, Writer(deployment, 0), workers=1, latency=2.0)
    os.kill(_one_that_asks(world)[0], signal.SIGTERM)
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
