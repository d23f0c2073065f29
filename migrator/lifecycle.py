"""The life of a migration: its eleven statuses, the edges between them, and why each edge is taken.

Floor 0. Promise: TRANSITIONS is the only place where an edge exists. `state.migrations.move` refuses any
other, `status` prints the reasons, runbooks/lifecycle.md draws them, and a test tries all pairs.

Expand, swap and swap back are one transaction each, and the commit is the move: so there is no
"expanding" or "cutting over" to be stuck in.
"""

from __future__ import annotations

from enum import StrEnum


class MigrationStatus(StrEnum):
    """Where a migration stands. `-ing`: the workers carry it on. Otherwise it rests and waits for someone."""

    PLANNED = "planned"  #: Plan stored; the live table is untouched. The operator starts it.
    BACKFILLING = "backfilling"  #: Batches and catch-up fill the shadow column. The workers go on.
    INDEXING = "indexing"  #: The shadow column's indexes are being built. A worker goes on.
    VALIDATING = "validating"  #: The gates are being measured. A worker goes on.
    READY = "ready"  #: Every gate passed. Workers keep it fresh; the operator cuts over.
    COMPLETED = "completed"  #: Readers see the new generation; the way back is open.
    ROLLED_BACK = "rolled_back"  #: Readers see the old generation again; the operator decides.
    CLEANING = "cleaning"  #: What is no longer needed is being dropped; run `cleanup` again if it died.
    CLEANED = "cleaned"  #: Final: nothing of ours is left on the table.
    PAUSED = "paused"  #: At rest with a reason; everything paid for is kept. The operator resumes.
    CANCELLED = "cancelled"  #: Stopped for good, everything kept. Only `cleanup` destroys.


S = MigrationStatus

#: The edges, each with its reason. Keys and values are the whole truth about who may go where.
TRANSITIONS: dict[MigrationStatus, dict[MigrationStatus, str]] = {
    S.PLANNED: {
        S.BACKFILLING: "the operator ran `migrator start`: shadow column and triggers are in place",
        S.CLEANED: "cancelled before it began; nothing had been touched",
    },
    S.BACKFILLING: {
        S.INDEXING: "the proof found no row in scope without a vector or a disposition",
        S.PAUSED: "the operator paused it, or a cap, the breaker or the provider stopped it",
        S.CANCELLED: "the operator ran `migrator cancel`",
    },
    S.INDEXING: {
        S.VALIDATING: "every index of the live column stands valid on the shadow column",
        S.PAUSED: "the operator paused it, or the build failed",
        S.CANCELLED: "the operator ran `migrator cancel`",
    },
    S.VALIDATING: {
        S.READY: "every gate passed or was waived",
        S.BACKFILLING: "a gate found rows without a vector; they are embedded and proved again",
        S.PAUSED: "a gate did not pass, or the operator, a cap or the provider stopped it",
        S.CANCELLED: "the operator ran `migrator cancel`",
    },
    S.READY: {
        S.COMPLETED: "the operator ran `migrator cutover`",
        S.VALIDATING: "the operator ran `migrator validate`, or a verdict went stale",
        S.PAUSED: "the operator paused it, or a cap or the provider stopped catch-up",
        S.CANCELLED: "the operator ran `migrator cancel`",
    },
    S.COMPLETED: {
        S.ROLLED_BACK: "the operator ran `migrator rollback`",
        S.CLEANING: "the operator ran `migrator cleanup --close-window`",
        S.PAUSED: "the operator paused it, or a cap or the provider stopped catch-up",
    },
    S.ROLLED_BACK: {
        S.BACKFILLING: "the operator ran `migrator resume`: what was written since is embedded again",
        S.CLEANING: "the operator ran `migrator cleanup`",
    },
    S.CLEANING: {
        S.CLEANED: "nothing of ours is left on the table",
    },
    S.PAUSED: {
        S.BACKFILLING: "the operator ran `migrator resume`",
        S.INDEXING: "the operator ran `migrator resume`",
        S.VALIDATING: "the operator ran `migrator resume`",
        S.READY: "the operator ran `migrator resume`",
        S.COMPLETED: "the operator ran `migrator resume`",
        S.ROLLED_BACK: "the operator ran `migrator rollback` while paused in the rollback window",
        S.CANCELLED: "the operator ran `migrator cancel`",
    },
    S.CANCELLED: {
        S.CLEANING: "the operator ran `migrator cleanup`",
    },
    S.CLEANED: {},
}

#: Workers carry these on without anybody asking; `tick` looks at no others. After a rollback they only keep the live
#: column whole: writers that declare the new generation leave rows there without a vector.
UNATTENDED = frozenset({S.BACKFILLING, S.INDEXING, S.VALIDATING, S.READY, S.COMPLETED, S.ROLLED_BACK})
#: Something of ours stands on the operator's table: one such migration per target column.
OPEN = frozenset(S) - {S.PLANNED, S.CLEANED}
#: Which generation is live may still change, so readers are prepared for both.
SWAPPABLE = OPEN - {S.CLEANING, S.CANCELLED}
#: Where `resume` may lead back to; what `paused_from` may hold.
PAUSABLE = frozenset(s for s in S if S.PAUSED in TRANSITIONS[s])
#: Nothing follows.
FINAL = frozenset(s for s in S if not TRANSITIONS[s])

#: What an operator at the terminal may do next; shown as "next: ..." by `status`. {name} is filled in.
NEXT_STEP: dict[MigrationStatus, str] = {
    S.PLANNED: "`migrator start SPEC` adds the shadow column and begins",
    S.BACKFILLING: "indexing, when the proof finds no row left",
    S.INDEXING: "validating, when the indexes are built",
    S.VALIDATING: "ready, when every gate passes",
    S.READY: "`migrator cutover {name}` (try `--rehearse` first)",
    S.COMPLETED: "`migrator rollback {name}`, or `migrator cleanup {name} --close-window`",
    S.ROLLED_BACK: "`migrator resume {name}` to try again, or `migrator cleanup {name}`",
    S.CLEANING: "`migrator cleanup {name}` goes on where it stopped",
    S.CLEANED: "nothing; it is finished",
    S.PAUSED: "`migrator resume {name}`, when the reason is mended",
    S.CANCELLED: "`migrator cleanup {name}` drops the shadow column and the triggers",
}


def is_allowed(old: MigrationStatus, new: MigrationStatus) -> bool:
    """Say whether the edge exists."""
    return new in TRANSITIONS[old]


def mermaid() -> str:
    """Draw TRANSITIONS as a Mermaid state diagram; runbooks/lifecycle.md holds exactly this."""
    lines = ["stateDiagram-v2", "    [*] --> planned"]
    lines += [f"    {old} --> {new}" for old, edges in TRANSITIONS.items() for new in edges]
    lines += [f"    {status} --> [*]" for status in sorted(FINAL)]
    return "\n".join(lines)
