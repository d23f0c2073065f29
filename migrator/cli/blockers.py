"""What `--cancel-blockers` asks before it is done, and tells instead of doing it; shared by the verbs that lock.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from migrator.cli import console

if TYPE_CHECKING:
    from migrator.cutover.swapping import Direction
    from migrator.target.cancelling import Outcome


def asked(wanted: bool) -> str:  # noqa: FBT001 - the flag itself
    """Return what a question says of it."""
    return " Statements of others that hold the table may be cancelled." if wanted else ""


def foreseen(name: str, direction: Direction | None) -> list[Outcome]:
    """Return whom the verb would cancel if it tried now, and whom not."""
    from migrator.cli import session
    from migrator.orchestrator import blocking

    return session.run(lambda worker: blocking.in_the_way(worker, name, direction))


def show(outcomes: Sequence[Outcome], *, asked: bool) -> None:
    """Print them for people."""
    if asked and not outcomes:
        console.say("Nobody holds the table now, so nothing would be cancelled.")
    for each in outcomes:
        why = "would be cancelled" if each.cancelled else f"would not be cancelled: {each.why_not}"
        console.say(f"  {each.blocker}: {why}")


def as_json(outcome: Outcome) -> dict[str, Any]:
    """Return one for `--json`."""
    who = outcome.blocker
    shown = {name: getattr(who, name) for name in ("pid", "role", "application", "state", "age_seconds", "query")}
    return {**shown, "would_be_cancelled": outcome.cancelled, "why_not": outcome.why_not}
