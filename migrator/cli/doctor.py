"""`migrator doctor`.

Floor 4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from migrator.cli import console, options


def command(
    spec: Annotated[
        Path | None, typer.Argument(metavar="[SPEC]", help="Also check this spec's target and provider.")
    ] = None,
    *,
    json: options.Json = False,
) -> int:
    """Check everything that a migration needs.

    Servers, versions, privileges, broker, workers and provider; each with ok, warn or fail, and its mend.

    With a spec, one word is sent to the provider (a few tokens), to see that key, model and dimensions are right.

    Examples:
        migrator doctor

        migrator doctor docs.toml
    """
    import asyncio

    from migrator import settings
    from migrator import spec as specs
    from migrator.orchestrator import checkup

    wanted = specs.load(spec) if spec is not None else None
    found = asyncio.run(checkup.run(settings.load(), wanted))
    failed = [each for each in found if each.level == "fail"]
    if json:
        console.as_json([each.as_json() for each in found])
        return 2 if failed else 0
    for each in found:
        console.say(f"{each.level:4}  {each.name}: {each.message}")
        if each.level != "ok":
            console.say(f"      {each.mend}")
    console.say(f"{len(found) - len(failed)} of {len(found)} checks passed." if found else "Nothing was checked.")
    return 2 if failed else 0
