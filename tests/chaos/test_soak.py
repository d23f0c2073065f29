"""P2 for longer than CI has: three migrations, a window, and whatever can be killed, for as long as is asked for."""

from __future__ import annotations

import contextlib
import random
import time

import httpx
import pytest

from tests.chaos import invariants
from tests.chaos.soak import Exporter, Moved, Windows, power_is_cut
from tests.chaos.test_random_kills import DISASTERS
from tests.chaos.world import World
from tests.deployment import V3, V4

#: Requests a minute that the three share, and rows of each per minute of the soak: done after about two thirds of it.
_REQUESTS, _ROWS_PER_MINUTE = 240, 300
#: Every fifth disaster is all of them at once.
_POWER_CUTS = 5
#: Seconds that all three may take for the rest, once nothing is killed any more.
_PATIENCE_SECONDS = 900


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_p2_p5_p6_p7_three_migrations_and_a_window_survive_everything(
    world: World, request: pytest.FixtureRequest
) -> None:
    minutes = float(request.config.getoption("--soak"))
    seed = int(time.time())
    say(f"seed {seed}, {minutes:g} minutes")
    dice = random.Random(seed)  # noqa: S311 - dice
    base, rows = world.deployment, int(minutes * _ROWS_PER_MINUTE)
    base.simulator.admin(latency_seconds=0.2)
    moved = [
        Moved.make(world, schema, rows, seed + number, requests_per_minute=_REQUESTS)
        for number, schema in enumerate(("public", "mails", "notes"))
    ]
    exporter = Exporter(base)
    exporter.start()
    for _ in range(2):
        world.start_worker()
    world.start_beat()
    for each in moved:
        each.deployment.must("start", each.deployment.spec_file, "--yes")
    windows = Windows.coming(int(minutes) + _PATIENCE_SECONDS // 60)
    base.must("schedule", "docs", *windows.words())
    kills = 0
    with contextlib.ExitStack() as applications:
        for each in moved:
            applications.enter_context(each.writer)
        ends = time.monotonic() + minutes * 60
        while time.monotonic() < ends:
            time.sleep(dice.uniform(5, 25))
            kills += 1
            if kills % _POWER_CUTS:
                disaster = dice.choice(DISASTERS)
                disaster(world)
                say(f"{disaster.__name__}: {'; '.join(each.told() for each in moved)}")
            else:
                power_is_cut(world, exporter)
                say(f"power_is_cut: {'; '.join(each.told() for each in moved)}")
    base.wait(lambda: all(each.is_clean() for each in moved), log="all are ready and clean", seconds=_PATIENCE_SECONDS)
    say(f"{kills} disasters; {sum(each.writer.transactions for each in moved)} transactions of the applications")
    others = [each.deployment for each in moved[1:]]
    invariants.check(base, unwritten_tokens=2 * kills * world.most_tokens_in_flight(), others=others)
    assert windows.outside(moved[0]) == []
    assert "migrator_up 1.0" in httpx.get(f"http://127.0.0.1:{exporter.port}/metrics", timeout=20).text
    base.must("schedule", "docs", "--window", "always")
    for each in moved:
        there_and_back(each)


def there_and_back(moved: Moved) -> None:
    """Cut over and roll back: both columns are what their names say, all the time."""
    deployment = moved.deployment
    deployment.must("cutover", moved.name, "--yes", "--readers-ready")
    assert deployment.mismatches("embedding", V4) == []
    deployment.must("rollback", moved.name, "--yes")
    assert deployment.mismatches("embedding", V3) == []
    assert deployment.mismatches("embedding__migrator", V4) == []


def say(line: str) -> None:
    """Tell whoever watches."""
    print(f"{time.strftime('%H:%M:%S')} {line}", flush=True)  # noqa: T201 - somebody watches it for half an hour
