"""The breaker: a provider that fails is left alone by everybody, and asked by one request at a time whether it is back.

Floor 1. Promise: kept in the account's row, so all workers see it; work that it turns away is no attempt. It opens when
enough requests failed lately and most did; then one request an interval is let through, and the first that is answered
closes it. It does not pause the migration: a provider comes back by itself, also at night, and so does the work.
Nothing is written while requests succeed.
"""

from __future__ import annotations

from datetime import timedelta

from sqlalchemy import func, update
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state import pace
from migrator.state.pace import Terms
from migrator.state.tables import paces

#: Failures within the window from which on a share means something, and the share; and the batches that they must come
#: from: a text that makes the provider fail is the trouble of one batch, or two, and no outage.
FLOOR, SHARE, SOURCES = 10, 0.5, 3
WINDOW_SECONDS = 30.0
#: Seconds between two probes: as often as `tick` looks, so that work goes on within two ticks of the provider's return.
PROBE_SECONDS = 10.0


async def count_failure(connection: AsyncConnection, account: str, reason: str, *, source: str, answers: int) -> bool:
    """Count a failure of `source`, and the answers that it had since its last one; True when that opens the breaker."""
    row = await pace.locked(connection, account)
    fresh = row.counting_since is None or row.now - row.counting_since > timedelta(seconds=WINDOW_SECONDS)
    failures = 1 if fresh else row.failures + 1
    answered = answers if fresh else row.answers + answers
    sources = sorted({source} if fresh else {source, *row.failing})
    values = {
        "failures": failures,
        "answers": answered,
        "failing": sources,
        "counting_since": row.now if fresh else row.counting_since,
    }
    many = failures >= FLOOR and failures >= SHARE * (failures + answered) and len(sources) >= SOURCES
    opens = many and row.breaker_since is None
    if opens:
        probe_at = row.now + timedelta(seconds=PROBE_SECONDS)
        values |= {"breaker_since": row.now, "breaker_reason": reason, "probe_at": probe_at}
    await connection.execute(update(paces).where(paces.c.account == account).values(**values))
    return opens


async def take_probe(connection: AsyncConnection, account: str) -> float:
    """Take the right to be this interval's probe; returns 0, or the seconds until there is one."""
    row = await pace.locked(connection, account)
    if row.breaker_since is None:
        return 0.0
    if row.probe_at > row.now:
        return float((row.probe_at - row.now).total_seconds())
    probe_at = row.now + timedelta(seconds=PROBE_SECONDS)
    await connection.execute(update(paces).where(paces.c.account == account).values(probe_at=probe_at))
    return 0.0


async def close(connection: AsyncConnection, account: str) -> None:
    """Close it: the probe was answered."""
    await connection.execute(
        update(paces)
        .where(paces.c.account == account, paces.c.breaker_since.is_not(None))
        .values(
            breaker_since=None,
            breaker_reason=None,
            probe_at=None,
            failures=0,
            answers=0,
            failing=[],
            counting_since=func.clock_timestamp(),
        )
    )


def words(terms: Terms) -> str | None:
    """Return what `status` says of it; None while it is closed."""
    if terms.breaker_since is None:
        return None
    return f"breaker open since {terms.breaker_since:%Y-%m-%d %H:%M:%S %Z}: {terms.breaker_reason}"
