"""`migrator fence`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.orchestrator.writers import Declared


def command(
    name: options.Name,
    *,
    role: Annotated[str | None, typer.Option(help="The database role whose sessions are declared.")] = None,
    generation: Annotated[
        str | None, typer.Option(metavar="MODEL@DIMS", help="What they write; '' takes the declaration back.")
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Take the role's declaration back.")] = False,
    listing: Annotated[bool, typer.Option("--list", help="Print who is declared; so does the name alone.")] = False,
    yes: options.Yes = False,
    dry_run: options.DryRun = False,
    json: options.Json = False,
) -> None:
    """Declare which generation a role's sessions write.

    For applications whose sessions can't SET migrator.generation themselves: behind a pooler, or not yours to change.

    A session's own SET wins. Then the role it SET counts, then the role that logged in; memberships do not. A session
    of no declared role is taken for the old generation. Takes no lock on the table, survives cutover and rollback, and
    ends with cleanup. A role that is renamed must be declared again.

    Examples:
        migrator fence docs

        migrator fence docs --role app_v2 --generation qwen/text-embedding-v4@1024

        migrator fence docs --role app_v2 --remove
    """
    from migrator.cli import session
    from migrator.orchestrator import writers

    if listing or role is None:
        if role is not None or generation is not None or remove:
            raise typer.BadParameter("a declaration needs --role, and --list stands alone", param_hint="--role")
        _list(name, session.run(lambda worker: writers.listed(worker.engine, name)), json=json)
        return
    if (generation is None) != remove:
        raise typer.BadParameter("give either a generation or --remove", param_hint="--generation")
    wanted = generation or None
    found = session.run(lambda worker: writers.foresee(worker.engine, name, role, wanted))
    for warning in found.warnings:
        console.aside(f"Mind: {warning}.")
    if dry_run:
        _told(name, found, json=json, done=False)
        return
    if found.changes:
        console.ask(_question(name, found), verb="fence", yes=yes)
    found = session.run(lambda worker: writers.declare(worker.engine, name, role, wanted, actor=session.actor()))
    _told(name, found, json=json, done=True)


def _question(name: str, found: Declared) -> str:
    if found.generation is None:
        return f"Take sessions of {found.role} for writers of the old generation of {name} again?"
    return f"Take every session of {found.role} that does not say otherwise for a writer of {found.generation}?"


def _list(name: str, declared: dict[str, str], *, json: bool) -> None:
    if json:
        found = [{"role": role, "generation": generation} for role, generation in sorted(declared.items())]
        console.as_json({"name": name, "writers": found})
    elif declared:
        console.table(sorted(declared.items()), header=("role", "writes"))
    else:
        console.say(f"No role is declared for {name}: a session that declares nothing is taken for the old generation.")


def _told(name: str, found: Declared, *, json: bool, done: bool) -> None:
    if json:
        shown = {"role": found.role, "generation": found.generation, "before": found.before}
        changed = {"changed": found.changes} if done else {"would_change": found.changes}
        console.as_json({"name": name, **shown, **changed, "warnings": list(found.warnings)})
        return
    if found.generation is None:
        what = f"{found.role} is declared for nothing"
    else:
        what = f"{found.role} is taken for a writer of {found.generation}"
    if not found.changes:
        console.say(f"{what} already; nothing was changed.")
    elif done:
        console.say(f"{what} from now on (`migrator fence {name}` lists all).")
    else:
        console.say(f"{what} then. Nothing was done (--dry-run).")
