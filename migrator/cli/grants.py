"""`migrator grants`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.planning.grants import Block, Kind

#: Names that GRANT takes for something else, quoted or not; and what PostgreSQL keeps of a name, in bytes.
_TAKEN, _MAX_BYTES = frozenset({"public", "none"}), 63


def command(
    spec: options.SpecFile,
    *,
    role: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND=NAME", help="Name a role: of kind migrate, plan, watch or application; repeatable."),
    ] = None,
    json: options.Json = False,
) -> int:
    """Print the SQL that gives each role of a deployment the rights it needs, and no more.

    One block for each role: who migrates, who only plans, who only watches, and the application. It reads the catalog
    and changes nothing; an administrator runs what it prints, again after `init` or a new index, view or trigger. Each
    line says why it is there, and may be run again. Roles are named migrator, migrator_plan and migrator_watch unless
    they are given; a role that is missing is made, without a password.

    Examples:
        migrator grants docs.toml

        migrator grants docs.toml | psql

        migrator grants docs.toml --role migrate=deploy --role application=shop
    """
    from migrator import spec as specs
    from migrator.cli import session
    from migrator.planning import grants

    names = _named(role or [])
    wanted = specs.load(spec)
    blocks = session.run(lambda worker: grants.look(worker.engine, wanted, names), with_schema=False)
    if json:
        console.as_json({"name": wanted.name, "blocks": [each.as_json() for each in blocks]})
    else:
        for each in blocks:
            _show(each)
    lacks = [lack for each in blocks for lack in each.lacks]
    for lack in lacks if not json else ():
        console.aside(f"Not among the lines: {lack}.")
    return 2 if lacks else 0


def _named(given: list[str]) -> dict[Kind, str]:
    from migrator.planning.grants import DEFAULTS, Kind

    names: dict[Kind, str] = {}
    for each in given:
        kind, equals, name = each.partition("=")
        if not equals or kind not in [*Kind] or not name:
            raise typer.BadParameter(f"write it as KIND=NAME, KIND one of {', '.join(Kind)}", param_hint="--role")
        if name in _TAKEN or len(name.encode()) > _MAX_BYTES:
            raise typer.BadParameter(f"`{name}` is no name of a role", param_hint="--role")
        names[Kind(kind)] = name
    roles = [*{**DEFAULTS, **names}.values()]
    if len(set(roles)) < len(roles):
        raise typer.BadParameter("two kinds have the same role; name one for each", param_hint="--role")
    return names


def _show(block: Block) -> None:
    from migrator.planning.grants import ABOUT

    # No name stands in a comment: one with a line break in it would go on as SQL.
    console.say(f"-- The role that {ABOUT[block.kind]}.")
    if not block.lines:
        console.say("-- Nothing to grant: what readers call is granted to PUBLIC, and LISTEN takes no right.")
        console.say(f"-- `--role {block.kind}=NAME` prints what lets it keep its declaration as a setting of its role.")
    if block.lacks:
        console.say("-- Incomplete: what no grant can give is told on stderr.")
    for line in block.lines:
        console.say(f"-- {line.why}")
        console.say(f"{line.sql};")
    console.say()
