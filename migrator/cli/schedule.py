"""`migrator schedule`.

Floor 4.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.orchestrator.schedule import Shown


def command(
    name: options.Name,
    *,
    window: Annotated[
        list[str] | None,
        typer.Option(help='"mon-fri 22:00-06:00 Asia/Shanghai"; repeatable; "always" takes them away.'),
    ] = None,
    start_at: Annotated[
        str | None,
        typer.Option(metavar="TIME", help='No bulk work before, e.g. "2026-12-01T22:00+08:00"; "now" takes it away.'),
    ] = None,
    resume_daily: Annotated[
        str | None,
        typer.Option(metavar='"HH:MM ZONE"', help='When what a limit stopped is tried again, each day; "off" ends it.'),
    ] = None,
    priority: Annotated[
        int | None,
        typer.Option(min=-9, max=9, help="Higher ones of one provider account get work first; 0 unless said."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Say when it works by itself, or change that while it runs.

    Workers do it, with nobody there: they rest outside the windows and go on in the next one. --resume-daily tries a
    migration again that came to rest by its cap, its quota or a refusal; what an operator paused, a gate that failed
    and a canary that moved stay. Rows that searches miss are embedded at any hour.

    Examples:
        migrator schedule docs

        migrator schedule docs --window "mon-fri 22:00-06:00 Asia/Shanghai" --window "sat,sun 00:00-24:00 Asia/Shanghai"

        migrator schedule docs --priority 5

        migrator schedule docs --start-at 2026-12-01T22:00+08:00 --resume-daily "08:05 Asia/Shanghai"
    """
    from migrator.cli import session
    from migrator.orchestrator import schedule

    windows = None if window is None else () if window == ["always"] else tuple(window)
    moment = _moment(start_at)
    try:
        wanted = schedule.Wanted(windows, moment, start_at == "now", resume_daily, priority)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window, --resume-daily") from None
    shown = session.run(lambda worker: schedule.change(worker.engine, name, wanted, actor=session.actor()))
    if json:
        console.as_json(shown.as_json())
    else:
        console.table([(f"  {label}", value) for label, value in _lines(shown)])


def _moment(text: str | None) -> datetime | None:
    """Read a moment; one without a zone could be anybody's."""
    if text is None or text == "now":
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise typer.BadParameter("write it with its zone, such as 2026-12-01T22:00+08:00", param_hint="--start-at")
    return moment


def _lines(shown: Shown) -> list[tuple[str, str]]:
    told = shown.as_json()
    until = f", until {told['closes']}" if told["closes"] else ""
    return [
        ("windows", ", ".join(told["windows"]) or "always"),
        ("start at", told["start_at"] or "at once"),
        ("may work", f"from {told['opens']}{until}" if told["opens"] else "in no window of the next week"),
        ("resume daily", f"{told['resume_daily']}, next {told['next_try']}" if told["resume_daily"] else "off"),
        ("priority", str(told["priority"])),
    ]
