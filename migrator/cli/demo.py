"""`migrator demo`.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    *,
    rows: Annotated[int, typer.Option(min=100, max=26_000, help="Rows of the Wikipedia corpus.")] = 3000,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running at the end, until Ctrl-C.")] = False,
    summary: Annotated[Path | None, typer.Option(help="Write the summary there as JSON.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Write the report there. Without: .demo/pgvector-migrator-demo.html.")
    ] = None,
) -> int:
    """Show the whole job on embedded servers.

    With real models: plan to cleanup, with live traffic and a killed worker.

    Needs the extras `embedded`, `demo`, `report` and `tokens`. Everything listens on loopback and is gone at the end.

    Examples:
        migrator demo

        migrator demo --rows 1000 --summary summary.json
    """
    from migrator.demo import story

    return story.run(rows=rows, keep=keep, summary=summary, report=report)
