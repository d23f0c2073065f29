"""`migrator validate`.

Floor 4.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from migrator.cli import console, options

#: What of a verdict is told in JSON.
_TOLD = ("gate", "passed", "figure", "threshold", "sample", "seed", "detail")
#: The exit code where a gate did not pass.
_NOT_PASSED = 3

if TYPE_CHECKING:
    from migrator.spending.worker import Worker
    from migrator.state.verdicts import Verdict


def command(
    name: options.Name,
    *,
    waive: Annotated[str | None, typer.Option(metavar="GATE", help="Sign that this gate may be passed over.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; recorded with your name.")] = None,
    json: options.Json = False,
) -> int:
    """Measure the gates again, or waive one that failed.

    Examples:
        migrator validate docs

        migrator validate docs --waive assignment --reason "the model is not deterministic, see OPS-123"
    """
    from migrator.cli import session
    from migrator.orchestrator import attended, verbs

    if (waive is None) is not (reason is None):
        raise typer.BadParameter("a waiver needs both --waive GATE and --reason TEXT", param_hint="--waive")
    if reason is not None and not reason.strip():
        raise typer.BadParameter("a reason says something", param_hint="--reason")
    if waive is not None and reason is not None:
        gate, why = waive, reason
        found = session.run(lambda worker: verbs.waive(worker.engine, name, gate, reason=why, actor=session.actor()))
        console.say(f"Gate {gate} is waived; {name} is {found.status}.")
        return 0

    def tell(each: Verdict) -> None:
        if not json:
            console.say(_line(each))

    async def step(worker: Worker) -> list[Verdict]:
        return await attended.validate(worker, name, actor=session.actor(), tell_verdict=tell)

    measured = session.run(step)
    if json:
        console.as_json([{key: getattr(each, key) for key in _TOLD} for each in measured])
    # A failure that only somebody can mend was raised; this one sent the migration back to the backfill.
    failed = [each for each in measured if not each.passed]
    if failed and not json:
        console.say(f"{name} went back to backfilling: those rows are embedded, proved and validated by themselves.")
    return _NOT_PASSED if failed else 0


def _line(each: Verdict) -> str:
    word = "passed" if each.passed else "FAILED"
    return f"{each.gate:12} {word}: {each.figure:.6g} against {each.threshold:.6g}, {each.detail}"
