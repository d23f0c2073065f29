"""P3: the broker repeats, delays, reorders, loses, goes away and comes back; nothing is billed twice."""

from __future__ import annotations

import random
import threading
from typing import Self

import redis

from migrator.orchestrator.tick import FEWEST_TICKETS, PER_SLOT
from tests.chaos import invariants
from tests.chaos.proxy import Proxy
from tests.chaos.world import World
from tests.chaos.writer import Writer
from workers.schedule import MOST_WAITING

TICKETS = ("migrator:backfill", "migrator:live", "migrator:index")


class Postman:
    """Reads along what is sent to the queues; can deliver all of it again."""

    def __init__(self, world: World) -> None:
        self.client = redis.Redis.from_url(world.broker.url)
        self.seen: dict[str, str] = {}
        self.longest = 0
        self.most_bytes = 0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._measure, self._read_along)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self.client.ping()  # one more command for whoever reads along
        for thread in self._threads:
            thread.join(10)
        self.client.close()

    def _measure(self) -> None:
        while not self._stop.wait(0.01):
            self.longest = max(self.longest, self.client.llen("migrator:backfill"))
            self.most_bytes = max(self.most_bytes, self.client.info("memory")["used_memory_dataset"])

    def _read_along(self) -> None:
        with self.client.monitor() as monitor:
            for command in monitor.listen():
                if self._stop.is_set():
                    return
                words = command["command"].split(" ", 2)
                if words[0] == "LPUSH" and words[1] in TICKETS:
                    self.seen[words[2]] = words[1]

    def deliver_again(self, dice: random.Random) -> int:
        """Put everything that was ever seen into its queue again, twice and in any order."""
        messages = [*self.seen.items(), *self.seen.items()]
        dice.shuffle(messages)
        for message, queue in messages:
            self.client.lpush(queue, message)
        return len(messages)

    def is_empty(self) -> bool:
        """Whether everything was taken."""
        return not any(self.client.llen(queue) for queue in TICKETS)


def test_p3_messages_repeated_reordered_and_late_bill_nothing_twice(world: World) -> None:
    deployment = world.deployment
    dice = random.Random(5)  # noqa: S311 - dice
    with Postman(world) as postman:
        world.begin(600, Writer(deployment, 0), workers=1, latency=0.15)
        for share in (0.1, 0.4, 0.7):
            wanted = int(600 * share)
            deployment.wait(
                lambda wanted=wanted: deployment.value("SELECT count(embedding__migrator) FROM docs") > wanted
            )  # type: ignore[misc]
            postman.deliver_again(dice)
        world.wait_until_ready_and_clean()
        late = postman.deliver_again(dice)
        assert late > 4
        deployment.wait(postman.is_empty)
    invariants.check(deployment)
    billed = deployment.simulator.ledger()["tokens"]
    others = "SELECT sum(spent_tokens) FROM migrator.ledger WHERE purpose NOT IN ('backfill', 'catch-up')"
    assert billed == deployment.needed_tokens() + deployment.value(others)
    assert "stale ticket" in (deployment.home / "w1.log").read_text()


def test_r9_the_broker_never_holds_more_than_w_tickets(world: World) -> None:
    deployment = world.deployment
    with Postman(world) as postman:
        world.begin(900, workers=1, latency=0.05)
        deployment.wait_for("ready")
    slots = 2 * len(world.workers)
    assert postman.seen, "tickets went through the broker"
    assert postman.longest <= max(FEWEST_TICKETS, PER_SLOT * slots)
    assert postman.most_bytes < 10_000_000


def test_r9_ticks_that_nobody_takes_do_not_pile_up(world: World) -> None:
    deployment = world.deployment
    deployment.lease_seconds = 1  # three ticks a second
    world.start_beat()
    deployment.wait(lambda: "no tick is sent" in (deployment.home / "beat-1.log").read_text())
    with redis.Redis.from_url(world.broker.url) as client:
        assert client.llen("migrator:control") == MOST_WAITING
        world.start_worker()
        deployment.wait(lambda: client.llen("migrator:control") == 0, log="a worker takes them")
        world.broker_is_flushed()
        deployment.wait(lambda: "nothing to do" in (deployment.home / "w2.log").read_text())


def test_r4_a_broker_that_swallows_its_connections_is_left_for_new_ones(world: World) -> None:
    """Redis behind a router that forgot: no error, no answer. Workers and beat come back by their timeouts."""
    deployment = world.deployment
    proxy = Proxy(world.broker.port)
    proxy.start()
    deployment.broker_url = f"redis://127.0.0.1:{proxy.port}/0"
    try:
        writer = Writer(deployment, 3, pause_seconds=0.2)
        world.begin(600, writer, workers=1, latency=0.2)
        with writer:
            deployment.wait(lambda: deployment.simulator.ledger()["requests"] >= 5)
            proxy.swallow()
            world.wait_for("ready", seconds=120)
        world.wait_until_ready_and_clean(120)
        assert proxy.swallowed > 3
        invariants.check(deployment)
    finally:
        deployment.close()
        proxy.stop()


def test_p3_flushed_without_anybody_mending_it(world: World) -> None:
    """R3: every message and every binding gone, several times; tickets are given again when their time is over."""
    deployment = world.deployment
    world.begin(400, Writer(deployment, 0), workers=1, latency=0.2)
    for number in (1, 2, 3):
        deployment.wait(lambda number=number: deployment.simulator.ledger()["requests"] >= 5 * number)  # type: ignore[misc]
        world.broker_is_flushed()
    world.wait_until_ready_and_clean()
    invariants.check(deployment)


def test_p3_two_beats_and_no_ticket_given_twice(world: World) -> None:
    """R14."""
    deployment = world.deployment
    deployment.lease_seconds = 10  # nobody stalls here, however busy the machine is
    with Postman(world) as postman:
        world.begin(400, Writer(deployment, 0), workers=1, latency=0.1)
        world.start_beat()
        world.wait_until_ready_and_clean()
    assert postman.longest <= max(FEWEST_TICKETS, 2 * PER_SLOT)
    claims = deployment.query("SELECT number, attempts, fence, failure FROM migrator.batches WHERE fence <> 1")
    assert claims == [], "no batch was claimed twice"
    invariants.check(deployment)
