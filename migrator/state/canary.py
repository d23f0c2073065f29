"""The canary: fixed texts whose vectors were kept when the migration began, and what became of them since.

Floor 1. Promise: one row per migration says whether the provider still answers with the model that the migration began
with, since when, and from which transaction on that is not known any more. While `moved_at` stands, no worker writes.
The mark is a transaction id and no list of rows: whatever a later transaction wrote carries a later xmin, whichever
batch, catch-up or page it came by, so nothing has to be booked on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.errors import OperatorError
from migrator.state.tables import batches
from migrator.state.trust_tables import canaries

#: Batches between two checks: 25 of about 500 rows are some 12,500 rows, a few million tokens, against about a hundred
#: of the canary's; so it costs less than 0.01 %, and a canary that moved puts at most that much to be paid again.
EVERY_BATCHES = 25
#: Seconds between two checks while there is work, for slow limits: a gateway that was switched is noticed within ten
#: minutes, at 144 checks a day.
EVERY_SECONDS = 600.0
#: Cosine from which the vectors that two models gave for one text are the same vector: unrelated models stay near 0,
#: and what rounding or another region makes of one model stays above 0.999.
SAME_COSINE = 0.99
#: Cosine below which one model's answers for one text are not steady: equal machines give 1 but for rounding.
STEADY_COSINE = 0.9999


@dataclass(eq=False)
class OldModelAnswered(OperatorError):
    """The provider was asked for the new generation and answered with the old one's vectors."""

    name: str
    asked: str
    answered: str

    runbook = "canary"
    happened = "Asked for {asked}, the provider answers {name} with the vectors of {answered}."
    state = "None of that answer was written; every vector written earlier passed the same comparison."
    next = "Ask the provider which model answers, then run `migrator resume {name}`, which asks the canary first."


@dataclass(eq=False)
class CanaryMoved(OperatorError):
    """The same texts come back as other vectors than when the migration began."""

    name: str
    cosine: float
    since: str
    batches: int

    runbook = "canary"
    happened = (
        "The canary of {name} moved: its texts come back with cosine {cosine:.4f}; they were right at {since}, "
        "{batches} batches ago."
    )
    state = "It is paused; vectors written since then are suspect, all others and the live column are as they were."
    next = "Ask the provider what changed, then run `migrator resume {name}`, which says what is to be paid again."


@dataclass(frozen=True, slots=True)
class Canary:
    """A migration's canary as it stands."""

    probes: tuple[str, ...]
    vectors: bytes
    told_apart: bool | None
    compares_replies: bool
    demanded: bool
    checks: int
    lowest_cosine: float
    good_at: datetime
    good_xid: int
    moved_at: datetime | None
    moved_cosine: float | None
    #: Since the last good check.
    batches_since: int
    age_seconds: float

    @property
    def is_due(self) -> bool:
        """Whether it is time to ask again."""
        return self.demanded or self.batches_since >= EVERY_BATCHES or self.age_seconds >= EVERY_SECONDS

    def refuse_moved(self, name: str) -> None:
        """Make sure that it did not move.

        Raises: CanaryMoved.
        """
        if self.moved_cosine is not None:
            raise CanaryMoved(name, self.moved_cosine, f"{self.good_at:%Y-%m-%d %H:%M:%S %Z}", self.batches_since)


async def find(connection: AsyncConnection, migration_id: int) -> Canary | None:
    """Return a migration's canary, or None before it was asked for the first time."""
    since = (
        select(func.count())
        .where(
            batches.c.migration_id == migration_id,
            batches.c.status == "done",
            batches.c.finished_at > canaries.c.good_at,
        )
        .correlate(canaries)
        .scalar_subquery()
    )
    age = func.extract("epoch", func.clock_timestamp() - canaries.c.good_at)
    query = select(canaries, since.label("batches_since"), age.label("age_seconds"))
    row = (await connection.execute(query.where(canaries.c.migration_id == migration_id))).one_or_none()
    if row is None:
        return None
    values = {name: row._mapping[name] for name in Canary.__slots__}  # noqa: SLF001 - its public name
    return Canary(**{**values, "probes": tuple(row.probes), "age_seconds": float(row.age_seconds)})


async def horizon(connection: AsyncConnection) -> int:
    """Return the oldest transaction id that is still at work: whatever is written from now on has none before it.

    Not the newest: a transaction that is open now may carry a suspect vector on, in a row that it updates later.
    """
    query = text("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")
    return int((await connection.execute(query)).scalar_one())


def row_xid(horizon: int) -> str:
    """Return a transaction id without its epoch, as rows carry it."""
    return str(horizon % 2**32)


async def fingerprint(
    connection: AsyncConnection,
    migration_id: int,
    probes: Sequence[str],
    vectors: bytes,
    *,
    told_apart: bool | None,
    compares_replies: bool,
    good_xid: int,
) -> None:
    """Keep the texts' vectors as the measure of everything that follows, over an earlier one."""
    values = {
        "probes": list(probes),
        "vectors": vectors,
        "told_apart": told_apart,
        "compares_replies": compares_replies,
        "demanded": False,
        "checks": 1,
        "lowest_cosine": 1.0,
        "good_at": func.clock_timestamp(),
        "good_xid": good_xid,
        "moved_at": None,
        "moved_cosine": None,
    }
    statement = upsert(canaries).values(migration_id=migration_id, **values)
    await connection.execute(statement.on_conflict_do_update(index_elements=["migration_id"], set_=values))


async def passed(connection: AsyncConnection, migration_id: int, *, cosine: float, good_xid: int) -> None:
    """Write down a check that passed."""
    await connection.execute(
        update(canaries)
        .where(canaries.c.migration_id == migration_id)
        .values(
            demanded=False,
            checks=canaries.c.checks + 1,
            lowest_cosine=func.least(canaries.c.lowest_cosine, cosine),
            good_at=func.clock_timestamp(),
            good_xid=good_xid,
        )
    )


async def moved(connection: AsyncConnection, migration_id: int, *, cosine: float) -> None:
    """Write down that it moved; what was good last stays, and with it what is suspect."""
    await connection.execute(
        update(canaries)
        .where(canaries.c.migration_id == migration_id)
        .values(
            checks=canaries.c.checks + 1,
            moved_at=func.coalesce(canaries.c.moved_at, func.clock_timestamp()),
            moved_cosine=cosine,
        )
    )


async def demand(connection: AsyncConnection, migration_id: int) -> None:
    """Let nobody send anything before the canary was asked again; a mark that it moved is taken away."""
    await connection.execute(
        update(canaries)
        .where(canaries.c.migration_id == migration_id)
        .values(demanded=True, moved_at=None, moved_cosine=None)
    )


async def compares_replies(connection: AsyncConnection, migration_id: int) -> bool:
    """Say whether answers are to be compared with the rows' old vectors."""
    query = select(canaries.c.compares_replies).where(canaries.c.migration_id == migration_id)
    return (await connection.execute(query)).scalar_one_or_none() is not False
