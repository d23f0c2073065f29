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

    With a spec, one word is sent to each model five times (a few tokens), to see that key, model and dimensions are
    right and that the answer is always the same. Then a random sample of rows is embedded again with the old model, to
    see whether the stored vectors come out: at most 100,000 tokens, on the budget of the migration where it is planned,
    else on nobody's. A check that fitted is not made again within a day of a planned migration.

    Examples:
        migrator doctor

        migrator doctor docs.toml
    """
    import asyncio

    from migrator import settings
    from migrator import spec as specs
    from migrator.orchestrator import checkup
    from migrator.provenance.page import lines

    wanted = specs.load(spec) if spec is not None else None
    found = asyncio.run(checkup.run(settings.load(), wanted))
    failed = [each for each in found if each.level == "fail"]
    # A gate of its own: everything else is well, and the old vectors are not what the spec says.
    code = 0 if not failed else (3 if all(each.page is not None for each in failed) else 2)
    if json:
        console.as_json([each.as_json() for each in found])
        return code
    for each in found:
        console.say(f"{each.level:4}  {each.name}: {each.message}")
        if each.level != "ok":
            console.say(f"      {each.mend}")
    for each in found:
        if each.page is not None:
            console.say()
            for line in lines(each.page):
                console.say(line)
            console.say()
    console.say(f"{len(found) - len(failed)} of {len(found)} checks passed." if found else "Nothing was checked.")
    return code
