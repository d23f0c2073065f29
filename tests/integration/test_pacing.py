"""The pace on real servers: one suite over both keepers, and what happens when it changes hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import redis.asyncio as redis
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.demo.servers import Valkey
from migrator.spending import pacing
from migrator.spending.pacing import SharedPacer
from migrator.spending.redis_slots import RedisSlots
from migrator.state import pace, slots
from migrator.state.connection import transaction
from migrator.state.pace import Limits, Terms
from migrator.state.slots import AHEAD_SECONDS, BURST_SECONDS, PostgresSlots, Slot, Slots, Wait

NOWHERE = "redis://127.0.0.1:1/0"
GRANTED = Limits(1200, 1_200_000)  # 20 requests and 20,000 tokens a second


@pytest.fixture
async def client(valkey: Valkey) -> AsyncIterator[redis.Redis]:
    made = redis.Redis.from_url(valkey.url, decode_responses=True)
    await made.flushall()
    yield made
    await made.aclose()


@pytest.fixture(params=["postgres", "redis"])
async def keeper(
    request: pytest.FixtureRequest, engine: AsyncEngine, valkey: Valkey, client: redis.Redis
) -> AsyncIterator[Slots]:
    """Each that can keep the pace, with slow start over."""
    if request.param == "postgres":
        await warm(engine)
        yield PostgresSlots(engine)
        return
    made = RedisSlots(valkey.url)
    await warm_redis(made, client)
    yield made
    await made.close()


async def warm(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await pace.locked(connection, "a")
        hour = text("UPDATE migrator.paces SET started_at = clock_timestamp() - interval '1 h'")
        await connection.execute(hour)


async def warm_redis(made: RedisSlots, client: redis.Redis) -> None:
    await made.take("a", Limits(None, None), 1)
    (seconds, _) = await client.time()
    now = {"requests_at": seconds, "tokens_at": seconds}
    await client.hset("migrator-pace:{a}", mapping={"started_at": seconds - 3600, "requests": 0, "tokens": 0, **now})


async def all_there_are(keeper: Slots, allowed: Limits, tokens: int) -> tuple[list[float], Wait]:
    """Take slots until there is none; returns when each is, in the loop's time."""
    loop, found = asyncio.get_running_loop(), []
    while True:
        slot = await keeper.take("a", allowed, tokens)
        if isinstance(slot, Wait):
            return found, slot
        found.append(loop.time() + slot.seconds)


async def test_r15_slots_come_at_the_limits_rate_and_no_further_than_two_seconds_ahead(keeper: Slots) -> None:
    found, wait = await all_there_are(keeper, GRANTED, 10)
    passed = found[-1] - found[0]
    assert len(found) - 1 == pytest.approx(20 * (passed + BURST_SECONDS), abs=2)
    assert wait.limit == "requests/min"
    assert AHEAD_SECONDS < wait.seconds <= AHEAD_SECONDS + 0.1


async def test_r15_tokens_bind_by_themselves(keeper: Slots) -> None:
    found, wait = await all_there_are(keeper, GRANTED, 5000)
    assert len(found) - 1 == pytest.approx(4 * (found[-1] - found[0] + BURST_SECONDS), abs=1)
    assert wait.limit == "tokens/min"


async def test_what_was_charged_too_much_is_given_back(keeper: Slots) -> None:
    before, _ = await all_there_are(keeper, GRANTED, 5000)
    await keeper.correct("a", GRANTED, requests=0, tokens=-10_000)
    after, _ = await all_there_are(keeper, GRANTED, 5000)
    assert len(before) >= 8
    # Half a second's worth: two slots, or one where it would overtake a slot that was given already.
    assert 1 <= len(after) <= 3
    await keeper.correct("a", GRANTED, requests=0, tokens=100_000)
    wait = await keeper.take("a", GRANTED, 5000)
    assert isinstance(wait, Wait)
    assert wait.seconds > AHEAD_SECONDS + 4


async def test_what_was_admitted_lately_is_known(keeper: Slots) -> None:
    for _ in range(20):
        assert isinstance(await keeper.take("a", Limits(None, None), 50), Slot)
    lately = await keeper.recent("a")
    assert lately.requests == pytest.approx(120, rel=0.2)  # 20 in 10 s of an hour
    assert lately.tokens == pytest.approx(6000, rel=0.2)


async def test_r15_eight_who_ask_at_once_share_the_limit(keeper: Slots) -> None:
    each = await asyncio.gather(*(all_there_are(keeper, GRANTED, 10) for _ in range(8)))
    found = [at for mine, _ in each for at in mine]
    assert len(found) - 1 == pytest.approx(20 * (max(found) - min(found) + BURST_SECONDS), abs=5)


async def test_h28_a_clock_that_stepped_costs_a_minute_at_most(
    keeper: Slots, engine: AsyncEngine, client: redis.Redis
) -> None:
    async with transaction(engine) as connection:
        later = text("UPDATE migrator.paces SET requests_at = now() + interval '1 day', counted_at = now() + '1 day'")
        await connection.execute(later)
    await client.hset("migrator-pace:{a}", mapping={"requests_at": 9e9, "counted_at": 9e9, "started_at": 9e9})
    wait = await keeper.take("a", GRANTED, 10)
    assert isinstance(wait, Wait)
    assert wait.seconds <= slots.FARTHEST_SECONDS


async def test_h28_accounts_are_told_apart(keeper: Slots) -> None:
    await all_there_are(keeper, GRANTED, 10)
    other = await keeper.take("b", GRANTED, 10)
    assert isinstance(other, Slot)
    assert other.seconds == 0


# Who keeps it


async def terms(engine: AsyncEngine) -> Terms:
    async with transaction(engine) as connection:
        return await pace.read(connection, "a")


async def aged(engine: AsyncEngine) -> None:
    """As if the keeper had been it for long."""
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE migrator.paces SET keeper_at = now() - interval '1 h'"))


@pytest.fixture
async def pacer(engine: AsyncEngine) -> AsyncIterator[Callable[[str], SharedPacer]]:
    made: list[SharedPacer] = []

    def make(url: str) -> SharedPacer:
        made.append(SharedPacer(engine, url))
        return made[-1]

    yield make
    for each in made:
        await each.close()


async def a_slot(pacer: SharedPacer, granted: Limits = GRANTED) -> Slot:
    """The next slot, however often the keeper changes before it."""
    for _ in range(10):
        slot = await pacer.take("a", granted, 10)
        if isinstance(slot, Slot):
            return slot
        await asyncio.sleep(min(slot.seconds, 1))
    raise AssertionError("no slot came")


async def test_redis_keeps_the_pace_and_postgres_says_so(
    engine: AsyncEngine, valkey: Valkey, client: redis.Redis, pacer: Callable[[str], SharedPacer]
) -> None:
    slot = await a_slot(pacer(valkey.url))
    assert slot.keeper is not None
    assert (await terms(engine)).keeper == slot.keeper == await client.hget("migrator-pace:{a}", "keeper")
    assert (await a_slot(pacer(valkey.url))).keeper == slot.keeper
    assert [key async for key in client.scan_iter("migrator:*")] == [], "Celery's prefix is not ours"


@pytest.mark.parametrize("url", ["amqp://guest@127.0.0.1//", NOWHERE])
async def test_r17_without_redis_postgres_keeps_the_pace(
    engine: AsyncEngine, pacer: Callable[[str], SharedPacer], url: str
) -> None:
    assert (await a_slot(pacer(url))).keeper is None
    assert (await terms(engine)).keeper is None


async def test_r17_who_loses_redis_gives_the_pace_to_postgres_for_everybody(
    engine: AsyncEngine, valkey: Valkey, client: redis.Redis, pacer: Callable[[str], SharedPacer]
) -> None:
    del client
    near, far = pacer(valkey.url), pacer(NOWHERE)
    old = await a_slot(near)
    assert old.keeper is not None
    assert (await a_slot(far)).keeper is None
    now = await terms(engine)
    assert now.keeper is None, "the slot that Redis gave counts no more"
    near.hear("a", now)
    assert (await a_slot(near)).keeper is None, "Postgres keeps it for a while, so that it does not flap"
    await aged(engine)
    near.hear("a", await terms(engine))
    back = await a_slot(near)
    assert back.keeper is not None
    assert (await terms(engine)).keeper == back.keeper


async def test_h28_flushall_costs_one_burst_at_most(
    engine: AsyncEngine, valkey: Valkey, client: redis.Redis, pacer: Callable[[str], SharedPacer]
) -> None:
    near = pacer(valkey.url)
    before = [await a_slot(near) for _ in range(5)]
    await aged(engine)
    near.hear("a", await terms(engine))
    await client.flushall()
    after = await a_slot(near)
    now = await terms(engine)
    assert now.keeper == after.keeper
    assert all(slot.keeper != now.keeper for slot in before), "slots of the lost memory count no more"
    assert (await a_slot(near)).seconds > 0, "nothing is saved up"


async def test_r17_while_workers_disagree_the_sum_stays_below_the_limit(
    engine: AsyncEngine,
    valkey: Valkey,
    client: redis.Redis,
    pacer: Callable[[str], SharedPacer],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One loses its Redis again and again, two have it, it is flushed: what is sent stays within limit and bursts."""
    monkeypatch.setattr(pacing, "RETURN_SECONDS", 0.3)
    monkeypatch.setattr(pacing, "_SILENT_SECONDS", 0.2)
    loop, sent, keepers = asyncio.get_running_loop(), [], set()
    end = loop.time() + 6

    async def work(pacer: SharedPacer) -> None:
        while loop.time() < end:
            slot = await pacer.take("a", GRANTED, 10)
            await asyncio.sleep(min(slot.seconds, 0.5))
            now = await terms(engine)  # as the reserving transaction does
            pacer.hear("a", now)
            if isinstance(slot, Slot) and slot.keeper == now.keeper:
                sent.append(loop.time())
                keepers.add(slot.keeper)

    async def flush() -> None:
        while loop.time() < end:
            await asyncio.sleep(1.1)
            await client.flushall()

    await asyncio.gather(flush(), work(pacer(NOWHERE)), *(work(pacer(valkey.url)) for _ in range(3)))
    assert None in keepers
    assert len(keepers) > 2, "it changed hands"
    for first in range(len(sent)):
        for last in range(first + 1, len(sent)):
            # Late on the way is what a sleep and a look take on a busy machine.
            late = BURST_SECONDS + 0.5
            assert last - first <= (sent[last] - sent[first] + late) * 20 + 1


# What a 429 does


async def throttled(engine: AsyncEngine, seconds: float, reason: str, granted: Limits, recent: Limits) -> Terms:
    async with transaction(engine) as connection:
        await pace.throttle(connection, "a", seconds, reason, granted=granted, recent=recent)
    return await terms(engine)


async def test_r16_a_429_pauses_everybody_and_lowers_what_it_names_once(engine: AsyncEngine) -> None:
    found = await throttled(engine, 7, "requests per minute exceeded", GRANTED, Limits(1100, 900_000))
    assert 6 < found.pause_seconds <= 7
    assert found.allowed(GRANTED).requests == pytest.approx(770, rel=0.05)
    assert found.allowed(GRANTED).tokens == GRANTED.tokens
    for _ in range(5):  # what was under way is refused as well
        found = await throttled(engine, 1, "requests per minute exceeded", GRANTED, Limits(1100, 900_000))
    assert found.pause_seconds > 5, "a pause is never shortened"
    assert found.allowed(GRANTED).requests == pytest.approx(770, rel=0.05)


async def test_r16_a_429_teaches_a_ceiling_where_none_is_granted(engine: AsyncEngine) -> None:
    unlimited = Limits(None, None)
    found = await throttled(engine, 0.01, "too many requests", unlimited, Limits(900, 500_000))
    assert found.allowed(unlimited).requests == pytest.approx(630, rel=0.05)
    assert found.allowed(unlimited).tokens == pytest.approx(350_000, rel=0.05)


async def test_r16_nothing_is_lowered_to_a_standstill(engine: AsyncEngine) -> None:
    found = await throttled(engine, 0.01, "too many requests", Limits(None, 1_000_000), Limits(1, 10))
    allowed = found.allowed(Limits(None, 1_000_000))
    assert allowed.requests is not None
    assert allowed.requests >= pace.LOWEST["requests"]
    assert allowed.tokens == pytest.approx(50_000, rel=0.05)


async def test_a_pause_holds_whoever_keeps_the_pace(
    valkey: Valkey, client: redis.Redis, pacer: Callable[[str], SharedPacer]
) -> None:
    del client
    near, far = pacer(valkey.url), pacer("amqp://guest@127.0.0.1//")
    await a_slot(near)
    await near.throttle("a", 30, "too many requests", GRANTED)
    for each in (near, far):
        wait = await each.take("a", GRANTED, 10)
        assert isinstance(wait, Wait)
        assert wait.limit == "provider pause (too many requests)"
        assert 20 < wait.seconds <= 30


async def test_a_lowered_limit_says_so(pacer: Callable[[str], SharedPacer]) -> None:
    far = pacer(NOWHERE)
    await a_slot(far)
    await far.throttle("a", 0, "requests per minute exceeded", GRANTED)
    found: list[Slot | Wait] = [await far.take("a", GRANTED, 10) for _ in range(3)]
    assert "lowered to" in found[-1].limit
    assert "by a 429" in found[-1].limit
