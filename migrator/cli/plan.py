"""`migrator plan`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from migrator.cli import console, options

if TYPE_CHECKING:
    from migrator.planning.plan import Plan


def command(spec: options.SpecFile, *, json: options.Json = False) -> int:
    """Tell what a migration would do and cost.

    Changes nothing on the table, and needs no more than SELECT on it.

    The plan is stored where the role may write schema `migrator`; `start` uses it while the table is unchanged.

    Examples:
        migrator plan docs.toml

        migrator plan docs.toml --json
    """
    from migrator import spec as specs
    from migrator.cli import session
    from migrator.orchestrator import verbs
    from migrator.spending.worker import Worker

    wanted = specs.load(spec)

    async def step(worker: Worker) -> tuple[Plan, str | None]:
        return await verbs.make_plan(worker.engine, wanted, actor=session.actor())

    made, not_stored = session.run(step, with_schema=False)
    if json:
        console.as_json({**made.document, "stored": not_stored is None, "not_stored_because": not_stored})
    else:
        show(made.document)
        console.say()
        if not_stored is None:
            console.say(f"The plan is stored. Next: `migrator start {spec}`.")
        else:
            console.say(f"The plan was not stored: {not_stored}.")
    return 2 if made.refused else 0


def show(plan: dict[str, Any]) -> None:
    """Print a plan for people."""
    from migrator.planning import provider

    tokens, cost, build = plan["tokens"], plan["cost_usd"], plan["index_build"]
    price = provider.price_line(plan["provider"], cost["prices_usd_per_mtok"])
    skipped = ", ".join(f"{count:,} {reason}" for reason, count in plan["skipped"].items() if count) or "none"
    console.heading(f"{plan['name']}   {plan['target']}   {plan['from']} -> {plan['to']}")
    console.table(
        [
            ("  rows", f"{plan['rows']:,}, of which {plan['rows_to_embed']:,} are embedded (skipped: {skipped})"),
            ("  tokens", f"{tokens['estimate']:,} ({tokens['low']:,} to {tokens['high']:,}; {tokens['method']})"),
            (
                "  cost",
                f"{console.usd(cost['low'])} to {console.usd(cost['high'])} USD (at {price})",
            ),
            ("  provider", provider.line(plan["provider"])),
            ("  time", f"{plan['hours']:.2f} h ({plan['hours_bound_by']})"),
            ("  disk", f"{console.size(plan['disk_bytes'])}, WAL {console.size(plan['wal_bytes'])}"),
            ("  index", f"{console.size(build['bytes'])}, {console.size(build['memory_bytes'])} of memory to build"),
            ("  batches", f"{plan['batches']:,} of {plan['pages_per_batch']:,} pages"),
        ]
    )
    if plan["dependents"]:
        console.heading("  hanging on the column")
        rows = [(f"    {each['kind']}", each["name"], each["action"]) for each in plan["dependents"]]
        console.table(rows)
    if plan["findings"]:
        console.heading("  findings")
        for each in plan["findings"]:
            console.say(f"    {each['severity']:6} {each['object']}: {each['message']} [{each['code']}]")
            console.say(f"           {each['mend']}")
