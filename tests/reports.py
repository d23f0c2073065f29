"""Reports made by hand: a whole life of two days with everything in it, for tests of how it is told."""

from __future__ import annotations

from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

import numpy as np

from migrator.measures import projection
from migrator.report import timeline
from migrator.report.gather import Move, Report, Verdict
from migrator.state.samples import Sample, Taken
from migrator.state.verdicts import GATES

BEGAN = datetime(2026, 11, 2, 8, 0, tzinfo=UTC)
OLD, NEW = "qwen/text-embedding-v3@1024", "qwen/text-embedding-v4@1024"
ROWS = 752_900
#: (hours since the start, from, to, reason, actor).
_LIFE: list[tuple[float, str | None, str, str, str]] = [
    (-1.0, "planned", "planned", "planned", "ana@ops-1"),
    (0.0, "planned", "backfilling", "the operator ran `migrator start`", "ana@ops-1"),
    (1.6, "backfilling", "paused", "paused by the operator", "ben@ops-1"),
    (2.3, "paused", "backfilling", "the operator ran `migrator resume`", "ben@ops-1"),
    (6.2, "backfilling", "indexing", "the proof found no row in scope without a vector", "w1@host-a:812"),
    (6.9, "indexing", "indexing", "index docs_embedding_idx__migrator built in 41 min", "w2@host-b:77"),
    (6.9, "indexing", "validating", "every index stands valid on the shadow column", "w2@host-b:77"),
    (7.2, "validating", "ready", "every gate passed or was waived", "w1@host-a:812"),
    (9.0, "ready", "completed", "the operator ran `migrator cutover`", "ana@ops-1"),
]


def _hour(hours: float) -> datetime:
    return BEGAN + timedelta(hours=hours)


def samples() -> list[Taken]:
    """One every five minutes, none while it was paused."""
    made, settled, random = [], 0.0, np.random.default_rng(7)
    updates = hot = 0
    for number in range(1, 133):
        hours = number / 12
        if 1.6 < hours < 2.3:
            continue
        status = next(to for at, old, to, *_ in reversed(_LIFE) if at <= hours and old != to)
        throttled = 3.6 < hours < 4.2
        speed = (6_000 if throttled else 12_600) * (1 + 0.08 * random.standard_normal()) if settled < ROWS else 0
        settled = min(float(ROWS), settled + (speed if status == "backfilling" else 0))
        updates += int(speed) + 40
        hot += int((speed + 40) * (0.83 + 0.02 * random.random()))
        usd = Decimal(str(round(settled * 1.1e-5, 6)))
        sample = Sample(
            status, int(settled), 40 * number, int(settled * 92), usd, usd + Decimal("0.01"),
            int(abs(20 * random.standard_normal())), 0, updates, hot, 900,
            "replica lag 3.0 s > 2.0 s" if throttled else None,
        )  # fmt: skip
        made.append(Taken(_hour(hours), sample))
    return made


@cache
def _evidence() -> dict[str, dict[str, Any]]:
    random = np.random.default_rng(11)
    centres = random.standard_normal((5, 64)) * 2
    rows = centres[random.integers(0, 5, 120)] + random.standard_normal((120, 64))
    turned = rows @ np.linalg.qr(random.standard_normal((64, 64)))[0] + 1.5
    made = projection.make(rows.astype(np.float32), turned.astype(np.float32))
    assert made is not None
    changes = {"all": (0.041, 0.012, 0.07, 240), "latin": (0.02, -0.01, 0.05, 150), "han": (0.09, 0.04, 0.14, 70),
               "cyrillic": (-0.06, -0.1, -0.02, 20), "short": (0.05, 0.01, 0.09, 160)}  # fmt: skip
    steps = list(range(0, 101, 5))
    return {
        "churn": {"kept": [0, 1, 2, 5, 11, 18, 24, 20, 12, 6, 1], "allowed": [0.05, 0.9], "projection": asdict(made)},
        "latency": {
            "percentiles": steps,
            "milliseconds": {"old": [1.1 + (p / 60) ** 3 for p in steps], "new": [1.2 + (p / 62) ** 3 for p in steps]},
        },
        "ann_recall": {"old": 0.981, "new": 0.985},
        "quality": {
            "kind": "judged queries",
            "means": {"nDCG@10": [0.702, 0.743], "recall@10": [0.81, 0.85], "MRR": [0.66, 0.7]},
            "changes": {
                name: dict(zip(("mean", "low", "high", "count"), each, strict=True)) for name, each in changes.items()
            },
        },
    }


def _verdicts() -> list[Verdict]:
    evidence = _evidence()
    figures = {"quality": (0.012, -0.1), "latency": (1.06, 2.0), "churn": (0.56, 0.05), "ann_recall": (0.985, 0.951)}
    made = []
    for gate in GATES:
        figure, threshold = figures.get(gate, (0.0, 0.0))
        made.append(
            Verdict(gate, "passed", figure, threshold, 300, 42, 12.5, _hour(7), f"what {gate} counted",
                    evidence=evidence.get(gate))
        )  # fmt: skip
    waiver = {"waived_by": "ana@ops-1", "waiver": "known junk rows, see OPS-123"}
    made[1] = replace(made[1], outcome="waived", figure=0.03, threshold=0.01, **waiver)
    return made


def progress() -> dict[str, Any]:
    """What `status --json` would tell."""
    return {
        "rows": {"total": ROWS, "done": 752_600, "skipped": 260, "quarantined": 40, "dirty": 3, "remaining": 0,
                 "arrived": 1_204, "share": 1.0},
        "batches": {"total": 800, "done": 800, "leased": 0, "pending": 0, "failed": 0},
        "cost": {"tokens": 69_266_800, "estimated_tokens": 0, "unwritten_tokens": 1_204, "usd": 8.2819,
                 "reserved_usd": 0.0, "possibly_billed_usd": 0.0021, "max_usd": 50.0, "estimated_usd": [7.9, 9.6]},
        "rate": {"rows_per_second": 0.0, "tokens_per_minute": 0.0, "eta_seconds": None},
        "catch_up": {"converging": True, "arrivals_per_second": 0.4, "embeddings_per_second": 0.4},
        "throttle": {"binding": None, "signals": []},
        "writes": {"hot_ratio": 0.838},
        "live": {"generation": NEW, "since": None},
        "rollback": {"window_open": True, "debt_rows": 1_204, "debt_usd": 0.0141},
        "index": {"building": None, "built": ["index docs_embedding_idx__migrator built in 41 min"]},
        "diverted": {"billing (role app)": 12},
        "suspects": [{"writer": "billing (role app)", "generation": OLD, "rows": 2}],
        "workers": 2,
        "canary": {"moved": False, "steady": True, "lowest_cosine": 0.99998, "checks": 214, "good_at": "",
                   "old_model_answers_otherwise": True},
    }  # fmt: skip


def whole(**changes: Any) -> Report:
    """A report of a migration that was paused once, throttled once, and cut over."""
    moves = [Move(_hour(at), *rest) for at, *rest in _LIFE]
    taken, now = samples(), _hour(11)
    values: dict[str, Any] = {
        "name": "docs", "target": "public.docs.embedding", "from_generation": OLD, "to_generation": NEW,
        "status": "completed", "reason": None, "since": _hour(9), "next_step": "`migrator rollback docs`",
        "made_at": now, "version": "0.1.0", "started_at": BEGAN,
        "plan": {
            "rows": ROWS, "rows_to_embed": ROWS - 260, "hours": 5.2, "hours_bound_by": "tokens per minute",
            "batches": 800, "pages_per_batch": 134, "cost_usd": {"low": 7.9, "high": 9.6},
            "tokens": {"low": 66_000_000, "high": 70_000_000},
        },
        "progress": progress(), "rows_in_scope": ROWS, "rows_settled": ROWS,
        "dispositions": [("quarantined", "content", 12), ("quarantined", "too_long", 28), ("skipped", "empty", 210)],
        "verdicts": _verdicts(), "moves": moves, "samples": taken,
        "statuses": timeline.statuses(moves, now), "swaps": timeline.swaps(moves),
        "throttles": timeline.throttles(taken, taken[-1].at),
        "spending": [("backfill", 9_410, 69_000_000, 8.21), ("catch-up", 402, 180_000, 0.05),
                     ("validation", 44, 86_000, 0.02)],
        "dependents": [("index", "docs_embedding_idx", "build again"), ("view", "public.docs_search", "re-point")],
        "dependents_note": "All of it was taken along in the transaction of the last cutover.",
        "projection": projection.Projection.restore(_evidence()["churn"]["projection"]),
        "projection_note": "the rows that the gate churn drew",
        "provenance": {"outcome": "fits", "actor": "ana@ops-1", "waiver": None, "at": BEGAN},
    }  # fmt: skip
    return Report(**{**values, **changes})


def unstarted() -> Report:
    """A report of a plan."""
    told = progress()
    told["rows"] |= {"done": 0, "skipped": 0, "remaining": ROWS - 260, "quarantined": 0, "dirty": 0, "arrived": None}
    told["cost"] |= {"usd": 0.0, "tokens": 0, "unwritten_tokens": 0, "possibly_billed_usd": 0.0}
    told |= {
        "canary": None,
        "diverted": {},
        "suspects": [],
        "writes": {"hot_ratio": None},
        "live": {"generation": OLD, "since": None},
    }
    told["index"] = {"building": None, "built": []}
    told["rollback"] = {"window_open": False, "debt_rows": 0, "debt_usd": 0.0}
    return whole(
        status="planned", started_at=None, since=_hour(-1), progress=told, rows_settled=0, dispositions=[], samples=[],
        verdicts=[Verdict(gate, "not measured") for gate in GATES], statuses=[], swaps=[], throttles=[], spending=[],
        moves=[Move(_hour(-1), *_LIFE[0][1:])], projection=None, provenance=None,
        projection_note="it was not started yet: there is only one space", dependents_note="Nothing was moved yet.",
    )  # fmt: skip
