"""Cancelling: how a statement that stands in the way of our lock is cancelled, and whose never is.

Floor 1. Promise (P8): only where it was asked for; only what had held the table since before a try that failed, so
that no bystander of a moment is hit; only by pg_cancel_backend, which ends a statement and no session. Never a session
of ours, a background process or a replication connection; what the database refuses is told and does no harm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.state.connection import PrivilegeMissing, fetch, transaction
from migrator.statements import compose
from migrator.target.message import DEADLINE_SECONDS, Blocker

_FILE = "target/cancelling.sql"
#: How every session of ours begins its application_name.
_OURS = "migrator "


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one blocker; `why_not` is None where what it ran was, or would be, cancelled."""

    blocker: Blocker
    why_not: str | None = None

    @property
    def cancelled(self) -> bool:
        """Whether what it ran was, or would be, cancelled."""
        return self.why_not is None


def why_not(blocker: Blocker) -> str | None:
    """Return why a blocker is left alone, or None where it may be cancelled."""
    reasons = (
        (blocker.pid == 0, "a prepared transaction runs nothing; COMMIT PREPARED or ROLLBACK PREPARED ends it"),
        (blocker.application.startswith(_OURS), "a session of this tool, which is done in a moment"),
        (not blocker.state, "what it does can't be seen: our role lacks pg_read_all_stats"),
        (blocker.kind != "client backend", f"a {blocker.kind} is no client's session"),
        (blocker.state != "active", "it runs no statement; whoever owns it has to end its transaction"),
        (blocker.age_seconds < DEADLINE_SECONDS, "it came a moment ago, and may be gone before the next try"),
    )
    return next((words for applies, words in reasons if applies), None)


def foreseen(blockers: Sequence[Blocker]) -> list[Outcome]:
    """Return whom `cancel` would cancel, and whom not."""
    return [Outcome(each, why_not(each)) for each in blockers]


async def cancel(engine: AsyncEngine, blockers: Sequence[Blocker]) -> list[Outcome]:
    """Cancel what these sessions run, each by itself; returns what became of each."""
    return [await _cancel(engine, each) if each.cancelled else each for each in foreseen(blockers)]


async def _cancel(engine: AsyncEngine, outcome: Outcome) -> Outcome:
    blocker = outcome.blocker
    try:
        async with transaction(engine) as connection:
            rows = await fetch(connection, compose(_FILE, "cancel"), {"pid": blocker.pid, "since": blocker.since})
    except PrivilegeMissing:
        return Outcome(blocker, "the database does not let our role cancel it (pg_signal_backend, or a superuser's)")
    if not rows or not rows[0]["cancelled"]:
        return Outcome(blocker, "it was done by itself")
    return outcome
