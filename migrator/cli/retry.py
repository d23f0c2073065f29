"""`migrator retry`.

Floor 4.
"""

from __future__ import annotations

from migrator.cli import console, options


def command(name: options.Name, *, json: options.Json = False) -> None:
    """Try failed batches and quarantined rows again.

    Their requests are paid once more.

    Examples:
        migrator retry docs
    """
    from migrator.cli import session
    from migrator.orchestrator import verbs

    again, rows = session.run(lambda worker: verbs.retry(worker.engine, name, actor=session.actor()))
    if json:
        console.as_json({"name": name, "batches": again, "rows": rows})
    else:
        console.say(f"{again} batches and {rows} rows will be tried again. Next: `migrator status {name}`.")
