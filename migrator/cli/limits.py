"""`migrator limits`.

Floor 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.state.migrations import Migration


def command(
    name: options.Name,
    *,
    rpm: Annotated[
        int | None, typer.Option(min=0, help="Requests per minute, all workers together; 0 for none.")
    ] = None,
    tpm: Annotated[int | None, typer.Option(min=0, help="Tokens per minute, all workers together; 0 for none.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0, help="The cap in US dollars, over all purposes.")] = None,
    account_max_cost: Annotated[
        str | None, typer.Option(metavar="X", help="The cap of all that ask with its key at its address; or none.")
    ] = None,
    window: Annotated[
        list[str] | None, typer.Option(help='"22:00-06:00 Asia/Shanghai"; repeatable; "always" takes them away.')
    ] = None,
    throttle: Annotated[
        list[str] | None,
        typer.Option(help='A threshold of [throttle], KEY=VALUE; repeatable; "off" silences it, "spec" takes it back.'),
    ] = None,
    keep_fresh: Annotated[
        bool | None,
        typer.Option("--keep-fresh/--no-keep-fresh", help="Embed with the old model too while the window is open."),
    ] = None,
    json: options.Json = False,
) -> None:
    """Change limits while it runs.

    Workers read them before every request, and signals within five seconds.

    Examples:
        migrator limits docs --rpm 600 --max-cost 80

        migrator limits docs --account-max-cost 120

        migrator limits docs --window "22:00-06:00 Asia/Shanghai"

        migrator limits docs --no-keep-fresh

        migrator limits docs --throttle lag_seconds=5 --throttle vacuum_seconds=off
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    windows = None if window is None else () if window == ["always"] else tuple(window)
    try:
        cap, changes = _usd(account_max_cost), _thresholds(throttle or ())
        wanted = verbs.NewLimits(rpm, tpm, max_cost, windows, changes, keep_fresh, cap)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window") from None
    found = session.run(lambda worker: verbs.set_limits(worker.engine, name, wanted, actor=session.actor()))
    _show(found, max_cost, account_max_cost, json=json)


def _thresholds(words: Sequence[str]) -> dict[str, object]:
    from migrator import signals

    try:
        return dict(signals.parse_change(each) for each in words)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--throttle") from None


def _usd(text: str | None) -> Decimal | None:
    """Read the cap of an account; NaN where it is to be none."""
    if text is None:
        return None
    try:
        made = Decimal("NaN") if text == "none" else Decimal(text)
    except InvalidOperation:
        made = Decimal(-1)
    if made.is_infinite() or (made < 0 if not made.is_nan() else text != "none"):
        raise typer.BadParameter('write US dollars, such as 120, or "none"', param_hint="--account-max-cost")
    return made


def _show(found: Migration, max_cost: float | None, account_max_cost: str | None, *, json: bool) -> None:
    shown: dict[str, object] = {
        "requests_per_minute": found.requests_per_minute,
        "tokens_per_minute": found.tokens_per_minute,
        "windows": list(found.windows),
        "throttle": found.throttle,
        "keep_fresh": found.keep_fresh,
    }
    if max_cost is not None:
        shown["max_cost_usd"] = max_cost
    if account_max_cost is not None:
        shown["account_max_cost_usd"] = account_max_cost
    if json:
        console.as_json({"name": found.name, **shown})
    else:
        for key, value in shown.items():
            console.say(f"{key}: {str(value).lower() if isinstance(value, bool) else value or 'none'}")
