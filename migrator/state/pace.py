"""The pace of all workers together: requests and tokens per minute, and their per-second slices, kept in Postgres.

Floor 1. Promise: whatever the number of workers and hosts, no more is admitted than the limits grant, by the
database's clock; a pause after a 429 holds for everyone. A generic cell rate algorithm: each limit keeps one
"theoretical arrival time", moved on by every admission. Source: ITU-T I.371 (virtual scheduling), in two dimensions.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.state.tables import paces

#: Providers enforce a minute's limit also by the second (limit / 60): so much may come at once.
BURST_SECONDS = 1.0
#: A clock that stepped back would leave arrival times far in the future; nothing waits longer than this (H28).
FARTHEST_SECONDS = 120.0


def account_of(base_url: str, api_key: str | None, model: str) -> str:
    """Return the name under which a provider counts: host, key and model in one digest that shows none of them."""
    return hashlib.sha256("\0".join((base_url, api_key or "", model)).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Wait:
    """Not admitted: come again after `seconds`; `limit` names what binds."""

    seconds: float
    limit: str


async def admit(
    connection: AsyncConnection,
    account: str,
    *,
    requests_per_minute: int | None,
    tokens_per_minute: int | None,
    tokens: int,
) -> Wait | None:
    """Admit one request of that many tokens, or say how long to wait. Holds the account's row until commit."""
    row = await _locked(connection, account)
    now: datetime = row.now
    if row.pause_until > now:
        return Wait((row.pause_until - now).total_seconds(), f"provider pause ({row.pause_reason})")
    arrivals: dict[str, datetime] = {}
    wait: Wait | None = None
    for name, per_minute, cost in (
        ("requests", requests_per_minute, 1),
        ("tokens", tokens_per_minute, tokens),
    ):
        if per_minute is None:
            continue
        farthest = now + timedelta(seconds=FARTHEST_SECONDS)
        earlier = min(max(getattr(row, f"{name}_at"), now), farthest)
        arrival = earlier + timedelta(seconds=cost * 60 / per_minute)
        # A single request larger than the slice passes when nothing else is under way.
        allowance = max(BURST_SECONDS, cost * 60 / per_minute)
        excess = (arrival - now).total_seconds() - allowance
        if excess > 0 and (wait is None or excess > wait.seconds):
            wait = Wait(excess, f"{name}/min")
        arrivals[f"{name}_at"] = arrival
    if wait is None and arrivals:
        await connection.execute(update(paces).where(paces.c.account == account).values(**arrivals))
    return wait


async def pause(connection: AsyncConnection, account: str, seconds: float, reason: str) -> None:
    """Let nobody send anything to that account for a while; never shortens a longer pause."""
    await _locked(connection, account)
    until = func.clock_timestamp() + timedelta(seconds=seconds)
    await connection.execute(
        update(paces)
        .where(paces.c.account == account, paces.c.pause_until < until)
        .values(pause_until=until, pause_reason=reason)
    )


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the provider's own answers taught about an account; None until they did."""

    max_texts: int | None = None
    max_text_tokens: int | None = None
    max_request_tokens: int | None = None
    #: How long vectors are, by dimensions; 0 where each has a length of its own.
    norms: dict[str, float] = field(default_factory=dict)


async def learn_limit(connection: AsyncConnection, account: str, name: str, value: int) -> None:
    """Remember a limit (a field of Learnt) that the provider itself named; only ever downwards."""
    await _locked(connection, account)
    lower = func.least(func.coalesce(paces.c[name], value), value)
    await connection.execute(update(paces).where(paces.c.account == account).values({name: lower}))


async def learn_norm(connection: AsyncConnection, account: str, dims: int, norm: float) -> None:
    """Remember how long vectors of that many dimensions are; the first word stands."""
    await _locked(connection, account)
    first = func.jsonb_build_object(str(dims), norm).op("||")(paces.c.norms)
    await connection.execute(update(paces).where(paces.c.account == account).values(norms=first))


async def learnt(connection: AsyncConnection, account: str) -> Learnt:
    """Return what is known of an account."""
    names = [each.name for each in fields(Learnt)]
    query = select(*(paces.c[name] for name in names)).where(paces.c.account == account)
    row = (await connection.execute(query)).one_or_none()
    return Learnt() if row is None else Learnt(**row._mapping)  # noqa: SLF001 - SQLAlchemy's public name


async def learn_max_texts(connection: AsyncConnection, account: str, max_texts: int) -> None:
    """Remember how many texts a request may have."""
    await learn_limit(connection, account, "max_texts", max_texts)


async def learnt_max_texts(connection: AsyncConnection, account: str) -> int | None:
    """Return the texts per request that the provider was found to take, if it ever said."""
    return (await learnt(connection, account)).max_texts


async def _locked(connection: AsyncConnection, account: str) -> Any:
    now = func.clock_timestamp()
    fresh = insert(paces).values(account=account, requests_at=now, tokens_at=now, pause_until=now)
    await connection.execute(fresh.on_conflict_do_nothing())
    query = select(paces, now.label("now")).where(paces.c.account == account).with_for_update()
    return (await connection.execute(query)).one()
