"""P2: whatever is killed, whenever, and however often."""

from __future__ import annotations

import random
import time

import pytest

from tests.chaos import invariants
from tests.chaos.world import World
from tests.chaos.writer import Writer

#: What can happen to a deployment, one at a time.
DISASTERS = (
    World.worker_is_killed,
    World.child_is_killed,
    World.child_stalls,
    World.beat_is_killed,
    World.broker_is_killed,
    World.broker_is_flushed,
    World.postgres_is_killed,
    World.backends_are_terminated,
)


@pytest.mark.timeout(3600)
def test_p2_random_kills_lose_nothing_and_bill_only_what_was_in_flight(world: World, kills: int) -> None:
    seed = int(time.time())
    print(f"seed {seed}")  # noqa: T201 - to run it again
    dice = random.Random(seed)  # noqa: S311 - dice
    deployment = world.deployment
    deployment.spec_data["limits"]["requests_per_minute"] = 600
    writer = Writer(deployment, seed)
    world.begin(800, writer, latency=0.2)
    # Each kind once before any comes again.
    menu = [each for _ in range(kills // len(DISASTERS) + 1) for each in dice.sample(DISASTERS, len(DISASTERS))]
    with writer:
        for disaster in menu[:kills]:
            seen = deployment.simulator.ledger()["requests"]
            deployment.wait(lambda seen=seen: deployment.simulator.ledger()["requests"] >= seen + 3, log="it goes on")  # type: ignore[misc]
            time.sleep(dice.uniform(0, 0.5))
            print(disaster.__name__)  # noqa: T201
            disaster(world)
    world.wait_until_ready_and_clean()
    assert writer.transactions > 10
    invariants.check(deployment, unwritten_tokens=kills * world.most_tokens_in_flight())
