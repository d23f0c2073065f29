"""Pilots as tests make them: in this process, without an operator."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from migrator.orchestrator import pilot, pilot_sample
from migrator.orchestrator.pilot_sample import Prepared, Wanted
from migrator.spending.worker import Worker
from tests.deployment import Deployment


async def prepare(
    deployment: Deployment,
    worker: Worker,
    rows: int = 40,
    *,
    queries: Path | None = None,
    max_usd: str | None = None,
    resample: bool = False,
    waiver: str | None = "not looked at by this test",
) -> Prepared:
    cap = None if max_usd is None else Decimal(max_usd)
    wanted = Wanted("docs.toml", rows, queries, cap, resample, waiver)
    return await pilot_sample.prepare(worker, deployment.spec, wanted, actor="test", say=lambda _: None)


async def run(deployment: Deployment, worker: Worker, rows: int = 40, **wanted: Any) -> dict[str, Any]:
    prepared = await prepare(deployment, worker, rows, **wanted)
    looked = await pilot.look(worker, prepared, actor="test")
    return await pilot.run(worker, prepared, origin_page=looked, actor="test", say=lambda _: None)


def spent(deployment: Deployment, purpose: str = "pilot") -> int:
    query = "SELECT coalesce(sum(spent_tokens), 0)::bigint FROM migrator.ledger WHERE purpose = %s"
    return int(deployment.value(query, purpose))


def body_of(number: int) -> str:
    return "\n".join(Deployment.words(number))


def write(deployment: Deployment, queries: Sequence[dict[str, Any]]) -> Path:
    path = deployment.home / "queries.jsonl"
    path.write_text("\n".join(map(json.dumps, queries)), encoding="utf-8")
    return path
