"""The budget: what may be spent, what is reserved, what was spent, and what may have been billed for nothing.

Floor 1. Promise (P7): reserved + spent + possibly billed never passes `max_usd`, over all workers, restarts, retries
and purposes. One row per migration carries the sum, and one guarded UPDATE adds to it; a request that did not get
its reservation is not sent. A reservation is an upper bound at the highest price. It ends in one of three ways:
settled (with the tokens that the provider reported, in the transaction that writes the vectors), refunded (the
provider certainly did not work for it), or possibly billed (nobody can know), and then it stays counted for good. It
never outlives its lease: however that ended, `tick` makes what is left of it possibly billed; a settlement that comes
later still replaces it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from functools import cache
from typing import Any

from sqlalchemy import (
    BigInteger,
    BindParameter,
    Select,
    bindparam,
    case,
    delete,
    func,
    insert,
    literal,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import AtRest
from migrator.state.tables import budgets, ledger, reservations


class Purpose(StrEnum):
    """What a paid request was for."""

    BACKFILL = "backfill"
    CATCH_UP = "catch-up"
    VALIDATION = "validation"
    ROLLBACK_DEBT = "rollback-debt"
    KEEP_FRESH = "keep-fresh"
    PROBE = "probe"
    PROVENANCE = "provenance"
    CANARY = "canary"
    PILOT = "pilot"


@dataclass(eq=False)
class CapReached(AtRest):
    """The next request could pass the cap."""

    name: str
    max_usd: Decimal
    #: Its own, or its account's, and the option of `migrator limits` that sets that.
    which: str = "its cap"
    option: str = "--max-cost"

    runbook = "budget-reached"
    happened = "{name} reached {which} of {max_usd:.2f} USD: one more request could pass it."
    state = "Every vector paid for is kept, and nothing more is spent."
    next = "Run `migrator limits {name} {option} X`, then `migrator resume {name}`, or again what was interrupted."

    @classmethod
    def of_account(cls, name: str, where: str, max_usd: Decimal) -> CapReached:
        """Return it for the cap that all migrations of an account share."""
        return cls(name, max_usd, f"the cap of all that ask with {where}", "--account-max-cost")

    @property
    def is_own(self) -> bool:
        """Whether it is the migration's own cap."""
        return self.option == "--max-cost"


@dataclass(frozen=True, slots=True)
class Bill:
    """Tokens, and what they cost in US dollars."""

    tokens: int
    usd: Decimal


def price(tokens: int, usd_per_mtok: float) -> Bill:
    """Return what that many tokens cost, exact in the price's own decimal digits."""
    return Bill(tokens, Decimal(tokens) * Decimal(str(usd_per_mtok)) / Decimal(1_000_000))


async def open_budget(connection: AsyncConnection, migration_id: int, max_usd: float) -> None:
    """Give a migration its budget, or keep the one it has."""
    statement = upsert(budgets).values(migration_id=migration_id, max_usd=Decimal(str(max_usd)))
    await connection.execute(statement.on_conflict_do_nothing())


async def set_cap(connection: AsyncConnection, migration_id: int, max_usd: float) -> None:
    """Move the cap, also below what is committed: then nothing more is reserved."""
    await connection.execute(
        update(budgets).where(budgets.c.migration_id == migration_id).values(max_usd=Decimal(str(max_usd)))
    )


async def reserve(
    connection: AsyncConnection,
    migration_id: int,
    *,
    request_id: str,
    purpose: Purpose,
    bound: Bill,
    lease: str,
) -> bool:
    """Book an upper bound before the call; False when the cap does not allow it."""
    granted = (
        update(budgets)
        .where(budgets.c.migration_id == migration_id, budgets.c.committed_usd + bound.usd <= budgets.c.max_usd)
        .values(committed_usd=budgets.c.committed_usd + bound.usd)
        .returning(budgets.c.migration_id)
        .cte("granted")
    )
    # One statement: the row that everybody's requests go through is locked for no second round trip.
    values = select(
        literal(request_id),
        granted.c.migration_id,
        literal(str(purpose)),
        literal(bound.tokens, BigInteger),
        literal(bound.usd, reservations.c.usd.type),
        literal(lease),
    )
    booked = insert(reservations).from_select(["id", "migration_id", "purpose", "tokens", "usd", "lease"], values)
    return (await connection.execute(booked.returning(reservations.c.id))).one_or_none() is not None


async def settle(connection: AsyncConnection, request_id: str, actual: Bill, *, unwritten: bool = False) -> None:
    """Replace a reservation by what the provider reported; `unwritten` where its vectors are lost all the same."""
    await settle_all(connection, {request_id: actual}, unwritten=unwritten)


#: Made once: every landing makes it.
_SETTLE = (
    delete(reservations)
    .where(reservations.c.id.in_(bindparam("requests", expanding=True)))
    .returning(
        reservations.c.id,
        reservations.c.migration_id,
        reservations.c.purpose,
        reservations.c.usd,
        reservations.c.estimated,
    )
)


async def settle_all(connection: AsyncConnection, actual: Mapping[str, Bill], *, unwritten: bool = False) -> None:
    """Replace reservations, by request, by what the provider reported."""
    together: dict[tuple[int, str], list[Any]] = {}
    for row in await connection.execute(_SETTLE, {"requests": list(actual)}):
        together.setdefault((row.migration_id, row.purpose), []).append(row)
    for (migration_id, purpose), rows in together.items():
        bills = [actual[row.id] for row in rows]
        spent = Bill(sum(bill.tokens for bill in bills), sum((bill.usd for bill in bills), Decimal(0)))
        reserved = sum((row.usd for row in rows), Decimal(0))
        await connection.execute(
            update(budgets)
            .where(budgets.c.migration_id == migration_id)
            .values(committed_usd=budgets.c.committed_usd - reserved + spent.usd)
        )
        estimated = sum(actual[row.id].tokens for row in rows if row.estimated)
        counts = {
            "requests": len(rows),
            "spent_tokens": spent.tokens,
            "estimated_tokens": estimated,
            "unwritten_tokens": spent.tokens if unwritten else 0,
        }
        await _book(connection, migration_id, purpose, spent.usd, counts)


async def _book(
    connection: AsyncConnection, migration_id: int, purpose: str, usd: Decimal, counts: Mapping[str, int]
) -> None:
    """Add to the ledger what a purpose spent."""
    added = upsert(ledger).values(migration_id=migration_id, purpose=purpose, spent_usd=usd, **counts)
    await connection.execute(
        added.on_conflict_do_update(
            index_elements=["migration_id", "purpose"],
            set_={name: ledger.c[name] + added.excluded[name] for name in ("spent_usd", *counts)},
        )
    )


async def refund(connection: AsyncConnection, request_id: str) -> None:
    """Undo a reservation for which the provider certainly did not work."""
    statement = (
        delete(reservations)
        .where(reservations.c.id == request_id, reservations.c.possibly_billed.is_(False))
        .returning(reservations.c.migration_id, reservations.c.usd)
    )
    row = (await connection.execute(statement)).one_or_none()
    if row is not None:
        await connection.execute(
            update(budgets)
            .where(budgets.c.migration_id == row.migration_id)
            .values(committed_usd=budgets.c.committed_usd - row.usd)
        )


async def write_off(connection: AsyncConnection, *, request_id: str | None = None, lease: str | None = None) -> int:
    """Keep reservations counted for good, since nobody can know whether they were billed; returns how many."""
    which = reservations.c.id == request_id if request_id is not None else reservations.c.lease == lease
    statement = update(reservations).where(which).values(possibly_billed=True)
    return (await connection.execute(statement)).rowcount


async def note_estimated(connection: AsyncConnection, request_id: str) -> None:
    """Remember that the provider told no usage: what will be settled is our own count."""
    statement = update(reservations).where(reservations.c.id == request_id).values(estimated=True)
    await connection.execute(statement)


async def leases_with_open(connection: AsyncConnection, migration_id: int) -> list[str]:
    """Return the leases under which requests are booked whose outcome is not known yet."""
    query = (
        select(reservations.c.lease)
        .distinct()
        .where(reservations.c.migration_id == migration_id, reservations.c.possibly_billed.is_(False))
    )
    return list((await connection.execute(query)).scalars())


@dataclass(frozen=True, slots=True)
class Account:
    """Where a migration's money stands. All in US dollars but what is named tokens."""

    max_usd: Decimal
    committed_usd: Decimal
    spent_usd: Decimal
    reserved_usd: Decimal
    possibly_billed_usd: Decimal
    spent_tokens: int
    possibly_billed_tokens: int
    #: Of `spent_tokens`, those that the provider did not report: our own count, an upper bound.
    estimated_tokens: int = 0
    #: Of `spent_tokens`, those whose vectors could not be written: the lease or the database was gone.
    unwritten_tokens: int = 0


@cache
def _standing() -> Select[Any]:
    """Return the statement that reads an account, made once: every tick and every status asks it."""
    mine: BindParameter[int] = bindparam("migration_id")
    limits = select(budgets.c.max_usd, budgets.c.committed_usd).where(budgets.c.migration_id == mine).subquery()
    spent = (
        select(
            func.coalesce(func.sum(ledger.c.spent_usd), 0).label("spent_usd"),
            func.coalesce(func.sum(ledger.c.spent_tokens), 0).label("spent_tokens"),
            func.coalesce(func.sum(ledger.c.estimated_tokens), 0).label("estimated_tokens"),
            func.coalesce(func.sum(ledger.c.unwritten_tokens), 0).label("unwritten_tokens"),
        )
        .where(ledger.c.migration_id == mine)
        .subquery()
    )
    billed = reservations.c.possibly_billed
    held = (
        select(
            func.coalesce(func.sum(case((billed, 0), else_=reservations.c.usd)), 0).label("reserved_usd"),
            func.coalesce(func.sum(case((billed, reservations.c.usd), else_=0)), 0).label("possibly_billed_usd"),
            func.coalesce(func.sum(case((billed, reservations.c.tokens), else_=0)), 0).label("possibly_billed_tokens"),
        )
        .where(reservations.c.migration_id == mine)
        .subquery()
    )
    everything = spent.join(held, true()).join(limits, true(), isouter=True)
    return select(spent, held, limits).select_from(everything)


async def account(connection: AsyncConnection, migration_id: int) -> Account:
    """Read where the money stands, in one statement: a request that is settled meanwhile is seen whole, or not yet."""
    row = (await connection.execute(_standing(), {"migration_id": migration_id})).one()
    return Account(
        max_usd=Decimal(row.max_usd or 0),
        committed_usd=Decimal(row.committed_usd or 0),
        spent_usd=Decimal(row.spent_usd),
        reserved_usd=Decimal(row.reserved_usd),
        possibly_billed_usd=Decimal(row.possibly_billed_usd),
        spent_tokens=int(row.spent_tokens),
        possibly_billed_tokens=int(row.possibly_billed_tokens),
        estimated_tokens=int(row.estimated_tokens),
        unwritten_tokens=int(row.unwritten_tokens),
    )


async def committed(connection: AsyncConnection, migration_id: int, purposes: Sequence[Purpose]) -> Decimal:
    """Return what these purposes have spent, reserved and possibly been billed, in US dollars, in one statement."""
    spent = select(func.coalesce(func.sum(ledger.c.spent_usd), 0)).where(
        ledger.c.migration_id == migration_id, ledger.c.purpose.in_(list(purposes))
    )
    held = select(func.coalesce(func.sum(reservations.c.usd), 0)).where(
        reservations.c.migration_id == migration_id, reservations.c.purpose.in_(list(purposes))
    )
    found = await connection.execute(select(spent.scalar_subquery() + held.scalar_subquery()))
    return Decimal(found.scalar_one())


async def purposes(connection: AsyncConnection, migration_id: int) -> list[tuple[str, int, int, float]]:
    """Return (purpose, requests, tokens, USD) of what was spent, the dearest first."""
    query = select(ledger).where(ledger.c.migration_id == migration_id).order_by(ledger.c.spent_usd.desc())
    rows = await connection.execute(query)
    return [(row.purpose, int(row.requests), int(row.spent_tokens), float(row.spent_usd)) for row in rows]
