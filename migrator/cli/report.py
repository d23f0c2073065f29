"""`migrator report`.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.report.gather import Report
    from migrator.spending.worker import Worker

#: What `-o` takes for stdout.
_STDOUT = "-"


def command(
    name: options.Name,
    *,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Where to; - is stdout. Without: NAME.html or NAME.md."),
    ] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a ticket, instead of a page.")] = False,
    json: Annotated[bool, typer.Option("--json", help="All of it as JSON, on stdout without -o.")] = False,
) -> None:
    """Tell a migration on one page, to be looked at, signed and kept.

    In any status, also after cleanup. The page needs no network; its plots need the extra `report`. It reads a few
    pages of your table at the most, and holds no text of a row.

    Examples:
        migrator report docs

        migrator report docs -o docs-signed.html

        migrator report docs --markdown -o -
    """
    from migrator.cli import session
    from migrator.report import output as outputs
    from migrator.report.gather import gather

    if json and markdown:
        raise typer.BadParameter("one of --json and --markdown", param_hint="--markdown")
    if output is not None and str(output) != _STDOUT and output.is_dir():
        raise outputs.ReportNotWritten(str(output), "it is a folder")

    async def step(worker: Worker) -> Report:
        return await gather(worker.engine, name)

    found = session.run(step)
    text = _text(found, json=json, markdown=markdown)
    if output is None and json:
        output = Path(_STDOUT)
    if str(output) == _STDOUT:
        typer.echo(text, nl=False)
        return
    path = output or Path(f"{found.name}.{'md' if markdown else 'html'}")
    outputs.write(path, text)
    console.say(f"The report of {found.name} ({found.status}) is in {path}.")


def _text(found: Report, *, json: bool, markdown: bool) -> str:
    """Return the report in its form.

    Raises: PlotsMissing.
    """
    if json:
        return console.json_text(found.as_json()) + "\n"
    if markdown:
        from migrator.report.markdown import render

        return render(found)
    from migrator.report.output import PlotsMissing

    try:
        from migrator.report import page
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in {"matplotlib", "jinja2", "markupsafe"}:
            raise
        raise PlotsMissing(missing) from None
    return page.render(found)
