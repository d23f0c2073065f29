"""What the exporter reads of a migration that rests."""

from __future__ import annotations

from migrator.orchestrator import metrics
from migrator.orchestrator.tick import tick
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration.steps import begin


async def test_signals_that_were_not_read_lately_are_left_out(deployment: Deployment, worker: Worker) -> None:
    """Else a lag that held a migration back when it was paused would hold it back, and alert, for ever."""
    await begin(deployment, worker, 10)
    await tick(worker.engine, actor="test")
    of_signals = [each for each in metrics.METRICS if each.name.startswith("migrator_signal_")]

    async def told() -> list[int]:
        (reading,), _ = await metrics.read(worker.engine)
        return [len(list(each.told(reading))) for each in of_signals]

    assert all(count > 0 for count in await told())
    deployment.query("UPDATE migrator.migrations SET signals_at = signals_at - interval '30 s' RETURNING 1")
    assert await told() == [0, 0, 0]
