"""`compare`: what it would cost, and then both models side by side, in somebody's terminal.

Floor 3. Promise: its price is known before anything is asked; every token is paid by the migration's own purse, under
its cap, as validation; it moves nothing, and one of them runs at a time.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from migrator import queries as files
from migrator.errors import OperatorError, StatusConflict, TransientError
from migrator.generation import Side
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.attendance import Attended, Overtaken
from migrator.provider import profiles, tokens
from migrator.queries import Query
from migrator.spending.renewal import renewed
from migrator.spending.worker import Worker
from migrator.state import budget, leases, migrations
from migrator.state.connection import transaction
from migrator.state.leases import Duty, LeaseLost
from migrator.state.migrations import Migration
from migrator.validation import comparing
from migrator.validation.comparing import Comparison

S = MigrationStatus
#: Where both columns are whole: the backfill is proved, and nothing was dropped yet.
BOTH_WHOLE = frozenset({S.VALIDATING, S.READY, S.COMPLETED, S.ROLLED_BACK})
_SEEDS = 2**31


@dataclass(eq=False)
class QueriesUnusable(OperatorError):
    """A file of queries can't be used."""

    problems: list[str]

    runbook = "compare-refused"
    state = "Nothing was asked and nothing was changed."
    next = "Mend the file, then run it again."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with a line per problem."""
        lines = "".join(f"\n  - {problem}" for problem in self.problems)
        return f"The file of queries can't be used:{lines}\n", self.state, self.next


@dataclass(eq=False)
class SwappedMeanwhile(TransientError):
    """A cutover or a rollback came between the searches of a comparison."""

    name: str

    runbook = "compare-refused"
    happened = "The columns of {name} changed places while they were compared, so what was found is of no column."
    state = "Nothing was changed; the queries that were asked stay paid for."
    next = "Run `migrator compare {name}` again, with the same words."


@dataclass(frozen=True, slots=True)
class Price:
    """What a comparison would cost: tokens as counted or estimated, and dollars at the highest price."""

    queries: int
    tokens: int
    usd: float
    method: str


async def comparable(worker: Worker, name: str) -> Migration:
    """Return a migration both of whose columns are whole.

    Raises: MigrationUnknown, StatusConflict.
    """
    async with transaction(worker.engine, read_only=True) as connection:
        migration = await migrations.get(connection, name)
    if not BOTH_WHOLE & {migration.status, migration.paused_from}:
        wanted = "ready, or live with the old column still there"
        raise StatusConflict(name, "compare", wanted, migration.status, f"migrator status {name}")
    return migration


def from_file(migration: Migration, path: Path) -> list[Query]:
    """Read a file of queries.

    Raises: QueriesUnusable.
    """
    found, wrong = files.read(path, len(migration.key_columns))
    if wrong:
        raise QueriesUnusable([f"{where}: {what}; {mend}" for where, what, mend in wrong])
    return found


async def from_table(worker: Worker, place: str, *, sample: int) -> list[Query]:
    """Draw queries from a table of real ones.

    Raises: NoSample, PrivilegeMissing, LockBusy.
    """
    return await comparing.drawn(worker.engine, place, wanted=sample, seed=secrets.randbelow(_SEEDS))


def price(migration: Migration, queries: Sequence[Query]) -> Price:
    """Return what asking both models would cost.

    Raises: ProfileUnknown.
    """
    total, usd, how = 0, 0.0, ""
    for side in Side:
        model = migration.spec.model_of(side)
        counts, how = tokens.count_all([each.text for each in queries], profiles.of(model).tokenizer)
        total += sum(counts)
        usd += float(budget.price(sum(counts), model.price_usd_per_mtok[1]).usd)
    return Price(len(queries), total, usd, how)


async def run(worker: Worker, migration: Migration, queries: Sequence[Query]) -> Comparison:
    """Ask both models the same queries, and search both columns.

    Raises: Attended, Overtaken, SwappedMeanwhile, Throttled, KeyMissing, and what providers and the purse raise.
    """
    async with transaction(worker.engine) as connection:
        lease = await leases.take(
            connection, migration.id, Duty.COMPARE, holder=worker.holder, seconds=worker.lease_seconds
        )
    if lease is None:
        raise Attended(migration.name, "compare")
    try:
        async with renewed(worker, lease):
            found = await comparing.compare(worker, migration, lease, queries, seed=secrets.randbelow(_SEEDS))
    except LeaseLost:
        raise Overtaken(migration.name, "compare", lease.seconds) from None
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)
    # A swap between exchanged the columns under the searches: what was found then is nobody's.
    if (await comparable(worker, migration.name)).epoch != migration.epoch:
        raise SwappedMeanwhile(migration.name)
    return found
