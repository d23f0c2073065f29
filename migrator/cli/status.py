"""`migrator status`.

Floor 4.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import completing, console, options

if TYPE_CHECKING:
    from migrator.orchestrator.progress import Progress
    from migrator.spending.worker import Worker
    from migrator.state.budget import Account

#: Seconds between two lines of --watch.
_WATCH_SECONDS = 2.0


def command(
    name: Annotated[
        str | None, typer.Argument(help="The migration's name; all of them without.", autocompletion=completing.names)
    ] = None,
    *,
    watch: Annotated[bool, typer.Option("--watch", help="A line every two seconds, until it rests.")] = False,
    exit_code: Annotated[
        bool,
        typer.Option(
            "--exit-code", help="0 at rest and well, 3 gate failed, 4 paused, 75 under way or not converging."
        ),
    ] = False,
    json: options.Json = False,
) -> int:
    """Say where a migration stands, why, since when, and what follows.

    Examples:
        migrator status

        migrator status docs --watch

        migrator status docs --json --exit-code
    """
    from migrator.cli import session
    from migrator.orchestrator import progress

    if name is None:
        found = session.run(_all)
        if json:
            console.as_json([progress.as_json(each) for each in found])
        elif not found:
            console.say("There is no migration in this database yet. Next: `migrator plan SPEC`.")
        else:
            console.table([_row(each) for each in found], header=("name", "target", "status", "since", "next"))
        return max((progress.exit_code(each) for each in found), default=0) if exit_code else 0
    if watch:
        last = session.run(lambda worker: _watch(worker, name))
    else:
        last = session.run(lambda worker: _one(worker, name))
        if json:
            console.as_json(progress.as_json(last))
        else:
            show(last)
    return progress.exit_code(last) if exit_code else 0


async def _one(worker: Worker, name: str) -> Progress:
    from migrator.orchestrator import progress
    from migrator.state import migrations
    from migrator.state.connection import transaction

    async with transaction(worker.engine) as connection:
        return await progress.read(connection, await migrations.get(connection, name))


async def _all(worker: Worker) -> list[Progress]:
    from migrator.orchestrator import progress
    from migrator.state import migrations
    from migrator.state.connection import transaction

    async with transaction(worker.engine) as connection:
        return [await progress.read(connection, each) for each in await migrations.list_all(connection)]


async def _watch(worker: Worker, name: str) -> Progress:
    from migrator.lifecycle import MigrationStatus
    from migrator.orchestrator import position

    moving = {MigrationStatus.BACKFILLING, MigrationStatus.INDEXING, MigrationStatus.VALIDATING}
    while True:
        found = await _one(worker, name)
        console.say(position.line(found))
        if found.migration.status not in moving:
            return found
        await asyncio.sleep(_WATCH_SECONDS)


def _row(found: Progress) -> tuple[str, ...]:
    migration = found.migration
    return (migration.name, migration.target, migration.status, f"{migration.since:%Y-%m-%d %H:%M}", found.next_step)


def show(found: Progress) -> None:
    """Print a migration for people."""
    from migrator.lifecycle import FINAL
    from migrator.orchestrator import diverted, judgement, position, progress, readers, suspicious

    migration, counts = found.migration, found.counts
    console.heading(
        f"{migration.name}   {migration.target}   {migration.from_generation} -> {migration.to_generation}"
        f"   {progress.status_word(found)}"
    )
    rows: list[tuple[str, str]] = [("since", f"{migration.since:%Y-%m-%d %H:%M:%S %Z}")]
    if found.reason:
        rows.append(("reason", found.reason))
    extras = [f"{found.skipped:,} skipped", f"{found.quarantined:,} quarantined", f"{found.dirty_to:,} dirty"]
    extras += [f"{found.rows_arrived:,} arrived since the start"] if found.rows_arrived else []
    rows.append(
        ("rows", f"{found.rows_done:,} of {found.rows_total:,} ({100 * found.share:.1f} %), {', '.join(extras)}")
    )
    if found.rows_per_second:
        eta = position.eta(found)
        rows.append(
            ("rate", f"{found.rows_per_second:,.0f} rows/s, {found.tokens_per_minute:,.0f} tokens/min, ETA {eta}")
        )
    failed = f" (migrator batches {migration.name} --failed)" if counts.failed else ""
    open_batches = f"{counts.leased} leased, {counts.pending} pending"
    rows.append(("batches", f"{counts.done} done, {open_batches}, {counts.failed} failed{failed}"))
    rows.append(("cost", _cost(found.account)))
    if (shared := found.shared_cap) is not None:
        committed = f"{shared.committed_usd:.4f} USD spent, reserved or possibly billed"
        rows.append(("account", f"{committed} by all that ask with {shared.where}, cap {shared.max_usd:.2f}"))
    rows += [("building", found.building)] if found.building else []
    rows += [("built", note) for note in found.built]
    rows += [("binds", found.binding)] if found.binding else []
    rows += [("priority", str(found.priority))] if found.priority else []
    rows += [("signals", line) for line in _signals(found)]
    rows += [("catch-up", f"{found.flow} (runbooks/not-converging.md)")] if found.not_converging else []
    if found.hot_ratio is not None:
        rows.append(("writes", f"{100 * found.hot_ratio:.1f} % HOT"))
    rows.append(("live", f"{migration.live_generation} (readers must use this)"))
    off = None if migration.status in FINAL else migration.capture_off_at
    rows += [("capture", f"OFF since {off:%Y-%m-%d %H:%M:%S %Z} (runbooks/unblock.md)")] if off is not None else []
    rows += [("rollback", _way_back(found))] if found.window_open else []
    rows += [("readers", each) for each in readers.told(found.readers)]
    rows += diverted.lines(migration, found.strays)
    rows += [("suspects", each) for each in suspicious.lines(migration, found.suspects)]
    rows += [("canary", progress.canary_line(found.canary))] if found.canary is not None else []
    rows += [("gate", judgement.line(each)) for each in found.verdicts]
    rows.append(("workers", str(found.workers_alive) if found.workers_alive else _nobody(found)))
    rows.append(("next", found.next_step))
    console.table([(f"  {name}", value) for name, value in rows])


def _cost(account: Account) -> str:
    own = f", {account.estimated_tokens:,} of them by our own count" if account.estimated_tokens else ""
    own += (
        f", {account.unwritten_tokens:,} for answers that were lost and asked again" if account.unwritten_tokens else ""
    )
    spent = f"{account.spent_usd:.4f} USD spent ({account.spent_tokens:,} tokens{own})"
    open_usd = f"{account.reserved_usd:.4f} reserved, {account.possibly_billed_usd:.4f} possibly billed"
    return f"{spent}, {open_usd}, cap {account.max_usd:.2f}"


def _way_back(found: Progress) -> str:
    from migrator.orchestrator import progress

    kept = "kept fresh; " if found.migration.keep_fresh else ""
    price = f"about {found.debt_tokens:,} tokens, {console.usd(progress.debt(found)['debt_usd'])} USD"
    return f"window open; {kept}debt {found.dirty_from:,} rows, {price}"


def _signals(found: Progress) -> list[str]:
    """Return a line per signal that binds, and one for all others."""
    reading = found.reading
    if reading.age_seconds is None or not reading.signals:
        return []
    over = [each for each in reading.signals if each.binds]
    well = len(reading.signals) - len(over)
    return [*map(str, over), f"{well} within their thresholds, read {reading.age_seconds:.0f} s ago"]


def _nobody(found: Progress) -> str:
    from migrator.lifecycle import UNATTENDED, MigrationStatus

    if found.migration.status not in UNATTENDED:
        return "none alive"
    under_way = {MigrationStatus.BACKFILLING, MigrationStatus.INDEXING, MigrationStatus.VALIDATING}
    foreground = f", or `migrator work {found.migration.name}`" if found.migration.status in under_way else ""
    return f"none alive: run `celery -A workers.app worker`{foreground}"
