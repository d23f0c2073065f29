"""`migrator init`.

Floor 4.
"""

from __future__ import annotations

from migrator.cli import console, options


def command(*, json: options.Json = False) -> None:
    """Create or upgrade schema `migrator`. Safe to repeat.

    Examples:
        migrator init

        MIGRATOR_DATABASE_URL=postgresql://me@db.example/app migrator init
    """
    from migrator.cli import session
    from migrator.spending.worker import Worker
    from migrator.state import schema
    from migrator.state.connection import run, transaction
    from migrator.target import readers

    async def step(worker: Worker) -> tuple[str | None, str]:
        async with transaction(worker.engine) as connection:
            # Before any other lock: a swap takes it first, too.
            await run(connection, readers.functions_lock())
            before = await schema.current(connection)
            await schema.upgrade(connection)
            await readers.install(connection)
        return before, schema.head()

    before, after = session.run(step, with_schema=False)
    if json:
        console.as_json({"before": before, "revision": after})
    elif before == after:
        console.say(f"Schema migrator stands at revision {after}; nothing had to be changed.")
    else:
        console.say(f"Schema migrator is at revision {after} (before: {before or 'missing'}).")
    if not json:
        console.say("Next: `migrator doctor`, then `migrator plan SPEC`.")
