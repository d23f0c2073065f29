"""`migrator limits`.

Floor 4.
"""

from __future__ import annotations

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

        migrator limits docs --window "22:00-06:00 Asia/Shanghai"

        migrator limits docs --no-keep-fresh

        migrator limits docs --throttle lag_seconds=5 --throttle vacuum_seconds=off
    """
    from migrator import signals
    from migrator.cli import session
    from migrator.orchestrator import verbs

    windows = None if window is None else () if window == ["always"] else tuple(window)
    try:
        changes = dict(signals.parse_change(each) for each in throttle or ())
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--throttle") from None
    try:
        wanted = verbs.NewLimits(rpm, tpm, max_cost, windows, changes, keep_fresh)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--window") from None
    found = session.run(lambda worker: verbs.set_limits(worker.engine, name, wanted, actor=session.actor()))
    _show(found, max_cost, json=json)


def _show(found: Migration, max_cost: float | None, *, json: bool) -> None:
    shown: dict[str, object] = {
        "requests_per_minute": found.requests_per_minute,
        "tokens_per_minute": found.tokens_per_minute,
        "windows": list(found.windows),
        "throttle": found.throttle,
        "keep_fresh": found.keep_fresh,
    }
    if max_cost is not None:
        shown["max_cost_usd"] = max_cost
    if json:
        console.as_json({"name": found.name, **shown})
    else:
        for key, value in shown.items():
            console.say(f"{key}: {str(value).lower() if isinstance(value, bool) else value or 'none'}")
