"""What all workers know of a provider's account: its pause, what its 429s taught, and who keeps the pace (H28).

Floor 1. Promise: keyed by host, key and model, as providers count; by the database's clock. A pause after a 429 holds
for everyone, whoever keeps the pace, and is never shortened. Every 429 lowers the limit that it names to 0.7 of what
was admitted, once for all requests that were under way, and peace raises it again: to the granted limit in three
minutes at most, or without bound where none is granted. Recovery is a function of time, so it costs no writes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.settings import secret
from migrator.spec import ModelSpec
from migrator.state.tables import paces

#: What a 429 leaves of the rate: the factor of celery practice, gentler than TCP's half, since providers say 429 at
#: the limit and not far above it.
DECREASE = 0.7
#: Peace of this many seconds gives back this share: of the granted limit, or of the ceiling itself where none is
#: granted. From the lowest ceiling (5 %) to 90 % of the grant it takes 170 s.
RECOVERY_SHARE, RECOVERY_SECONDS = 0.05, 10.0
#: No ceiling is learnt below this share of a grant, nor, without one, below a request a second and, in tokens, a
#: request of 8,192 tokens in eight seconds.
LOWEST_SHARE = 0.05
LOWEST: Mapping[str, float] = {"requests": 60.0, "tokens": 60_000.0}
#: Seconds after a pause in which a 429 still belongs to a request sent before it.
_ECHO_SECONDS = 1.0
#: Seconds after which a ceiling without a grant is above anything: 1.05 ** 120 is 350 times what was learnt.
_FORGOTTEN_SECONDS = 1200.0


def account_of(model: ModelSpec) -> str:
    """Return the name under which a provider counts: host, key and model in one digest that shows none of them."""
    words = (model.base_url, secret(model.api_key_env) or "", model.model)
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Limits:
    """Requests and tokens per minute; None where there is none."""

    requests: float | None
    tokens: float | None


@dataclass(frozen=True, slots=True)
class Terms:
    """What stands in an account's row. Times are seconds from the moment of reading."""

    pause_seconds: float
    pause_reason: str
    #: The memory in Redis that keeps the pace, or None where this database does (`state.slots`).
    keeper: str | None
    #: How long it has been the keeper; None when nobody ever was.
    keeper_seconds: float | None
    #: Learnt ceilings by name, each with the seconds since: {"requests": (1200.0, 7.5)}.
    ceilings: Mapping[str, tuple[float, float]]
    #: Since when the breaker is open, and why; None while it is closed.
    breaker_since: datetime | None
    breaker_reason: str | None

    def allowed(self, granted: Limits) -> Limits:
        """Return what may be used of a grant now: less than that after a 429, or something where nothing is granted."""
        return Limits(self._allowed("requests", granted.requests), self._allowed("tokens", granted.tokens))

    def _allowed(self, name: str, granted: float | None) -> float | None:
        if name not in self.ceilings:
            return granted
        return recovered(*self.ceilings[name], granted)


def recovered(ceiling: float, seconds: float, granted: float | None) -> float | None:
    """Return what a ceiling has grown to, `seconds` after it was learnt."""
    if granted is not None:
        return min(granted, ceiling + RECOVERY_SHARE * granted * seconds / RECOVERY_SECONDS)
    if seconds > _FORGOTTEN_SECONDS:
        return None
    return float(ceiling * (1 + RECOVERY_SHARE) ** (seconds / RECOVERY_SECONDS))


def named_by(reason: str) -> tuple[str, ...]:
    """Return which limits a 429 is about, by the catalogue's name for it; both where it does not say."""
    word = reason.partition(" ")[0]
    return (word,) if word in LOWEST else tuple(LOWEST)


async def find(connection: AsyncConnection, account: str) -> Terms | None:
    """Read an account's terms; None where it was never used."""
    query = select(paces, func.clock_timestamp().label("now")).where(paces.c.account == account)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else terms_of(row)


async def read(connection: AsyncConnection, account: str) -> Terms:
    """Read an account's terms; an account that was never used gets its row."""
    found = await find(connection, account)
    return found if found is not None else terms_of(await locked(connection, account))


def terms_of(row: Row[Any]) -> Terms:
    """Read a row's terms."""
    return Terms(
        pause_seconds=max(0.0, (row.pause_until - row.now).total_seconds()),
        pause_reason=row.pause_reason or "",
        keeper=row.keeper,
        keeper_seconds=(row.now - row.keeper_at).total_seconds() if row.keeper_at is not None else None,
        ceilings={
            name: (getattr(row, f"{name}_ceiling"), (row.now - getattr(row, f"{name}_lowered_at")).total_seconds())
            for name in LOWEST
            if getattr(row, f"{name}_ceiling") is not None
        },
        breaker_since=row.breaker_since,
        breaker_reason=row.breaker_reason,
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
    await locked(connection, account)
    lower = func.least(func.coalesce(paces.c[name], value), value)
    await connection.execute(update(paces).where(paces.c.account == account).values({name: lower}))


async def learn_norm(connection: AsyncConnection, account: str, dims: int, norm: float) -> None:
    """Remember how long vectors of that many dimensions are; the first word stands."""
    await locked(connection, account)
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


async def throttle(
    connection: AsyncConnection, account: str, seconds: float, reason: str, *, granted: Limits, recent: Limits
) -> None:
    """Let nobody send for a while after a 429, and less from then on; `recent` is what was admitted lately."""
    row = await locked(connection, account)
    values: dict[str, Any] = {}
    until = row.now + timedelta(seconds=seconds)
    if until > row.pause_until:
        values = {"pause_until": until, "pause_reason": reason}
    # Requests sent before the pause are answered with a 429 each: they are one event.
    quiet_since = row.pause_until + timedelta(seconds=_ECHO_SECONDS)
    for name in named_by(reason):
        lowered_at = getattr(row, f"{name}_lowered_at")
        if lowered_at is not None and row.now < max(quiet_since, lowered_at + timedelta(seconds=_ECHO_SECONDS)):
            continue
        values |= _lowered(row, name, getattr(granted, name), getattr(recent, name))
    if values:
        await connection.execute(update(paces).where(paces.c.account == account).values(**values))


def _lowered(row: Row[Any], name: str, granted: float | None, recent: float | None) -> dict[str, Any]:
    now_allowed = getattr(terms_of(row).allowed(Limits(**{"requests": None, "tokens": None, name: granted})), name)
    known = [each for each in (now_allowed, recent) if each is not None]
    lowest = LOWEST[name] if granted is None else LOWEST_SHARE * granted
    ceiling = max(lowest, DECREASE * min(known)) if known else lowest
    return {f"{name}_ceiling": ceiling, f"{name}_lowered_at": row.now}


async def entrust(connection: AsyncConnection, account: str, *, keeper: str | None, instead_of: str | None) -> None:
    """Make somebody else the keeper of the pace, unless somebody else was made it meanwhile."""
    row = await locked(connection, account)
    if row.keeper == instead_of:
        values: dict[str, Any] = {"keeper": keeper, "keeper_at": row.now}
        if keeper is None:
            # Whoever takes over begins with nothing saved up.
            values |= {"requests_at": row.now, "tokens_at": row.now, "started_at": row.now}
        await connection.execute(update(paces).where(paces.c.account == account).values(**values))


async def learnt_max_texts(connection: AsyncConnection, account: str) -> int | None:
    """Return the texts per request that the provider was found to take, if it ever said."""
    return (await learnt(connection, account)).max_texts


async def locked(connection: AsyncConnection, account: str) -> Row[Any]:
    """Return an account's row and the database's `now`, locked until commit; makes it where it is missing."""
    now = func.clock_timestamp()
    fresh = insert(paces).values(
        account=account, requests_at=now, tokens_at=now, pause_until=now, started_at=now, counted_at=now
    )
    query = select(paces, now.label("now")).where(paces.c.account == account).with_for_update()
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        await connection.execute(fresh.on_conflict_do_nothing())
        row = (await connection.execute(query)).one()
    return row
