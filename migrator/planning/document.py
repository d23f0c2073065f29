"""The plan's document: everything that was found out and worked out, as `plan --json` prints it and Postgres keeps it.

Floor 2. Pure. Promise (P11): it holds counts, names and sums, never a text of a row. Keys are only ever added.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime
from typing import Any

from migrator.generation import Side
from migrator.planning import alternatives, duration, estimate, preflight, prices, provider
from migrator.planning.population import Growth, Population
from migrator.planning.survey import Survey
from migrator.provider import embedder
from migrator.provider.profiles import Profile
from migrator.provider.tokens import counts_exactly
from migrator.target import capture, facts, pages

#: Processes that build an index: the leader, and PostgreSQL's default max_parallel_maintenance_workers.
_BUILDERS = 3
#: What the scan's counts are called in `skipped`.
_WITHOUT_TEXT = {"null": "all_null", "empty": "empty", "whitespace": "blank"}


def make(found: Survey, scanned: Population | None, growth: Growth, profile: Profile) -> dict[str, Any]:
    """Return the document without its findings. `scanned` is None where rows could not be read."""
    spec = found.spec
    counts = scanned.counts if scanned is not None else {}
    rows = counts.get("rows", 0)
    skipped = {reason: counts.get(name, 0) for reason, name in _WITHOUT_TEXT.items()}
    to_embed = max(0, counts.get("in_scope", 0) - sum(skipped.values()))
    skipped["filtered"] = rows - counts.get("in_scope", 0)
    kind = found.column.type_name if found.column is not None else "vector"
    dims = spec.generation(Side.TO).dims
    heap_pages = found.relation.pages if found.relation is not None else 0
    step = pages.width(heap_pages, rows)
    indexes = _whole_indexes(found)
    return {
        "name": spec.name,
        "target": f"{spec.target.schema_name}.{spec.target.table_name}.{spec.target.column}",
        "from": str(spec.generation(Side.FROM)),
        "to": str(spec.generation(Side.TO)),
        "provider": provider.describe(profile),
        "rows": rows,
        **_rows(scanned),
        "rows_to_embed": to_embed,
        "skipped": skipped,
        **_money_and_time(found, scanned, profile, to_embed),
        **estimate.sizes(
            spec.to.column_type or kind, dims, to_embed, index_count=indexes, most_rows=_most(scanned, to_embed)
        ),
        **_on_the_server(found, scanned, to_embed, indexes),
        "growth": {"rows_per_day": growth.per_day, "how": growth.how},
        "alternatives": alternatives.of(
            spec,
            profile,
            kind=kind,
            rows=to_embed,
            indexes=indexes,
            duplicates=scanned.duplicates() if scanned is not None else None,
        ),
        "dependents": [{"kind": each.kind, "name": each.name, "action": each.action} for each in found.dependents],
        "batches": -(-heap_pages // step),
        "pages_per_batch": step,
        **_column(found, kind, dims),
        "partitioned": found.relation is not None and found.relation.kind == "p",
        "knows_chunks": found.server.get("version", 0) >= capture.CHUNK_IDS_SINCE,
        "silence_triggers": preflight.silences(found),
        "made_at": _iso(found.server.get("now")),
        "fingerprint": fingerprint(found),
    }


def _column(found: Survey, kind: str, dims: int) -> dict[str, Any]:
    column = found.column
    return {
        "vector_schema": found.extension[1] if found.extension is not None else "public",
        "vector_type": kind,
        "shadow_type": found.spec.to.column_type or kind,
        # Declared with dimensions only where the live column is, so that views keep their column's type.
        "shadow_dims": dims if column is not None and facts.dims_of(column) is not None else None,
    }


def fingerprint(found: Survey) -> str:
    """Return one word for table, spec and catalog as they were planned: `start` looks at each part of it again."""
    asked = [asdict(each) for each in found.spec.queries]
    parts = {"spec": found.spec.dump(), "catalog": found.fingerprint, "queries": asked}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def is_whole(plan: Mapping[str, Any]) -> bool:
    """Say whether a stored document holds what is shown of it, and what a pilot mends; an older version's may not."""
    return plan.keys() >= {"fingerprint", "made_at"} and plan["tokens"].keys() >= {"sampled_low", "sampled_high"}


def _rows(scanned: Population | None) -> dict[str, Any]:
    if scanned is None:
        return {"rows_low": 0, "rows_high": 0, "rows_method": "rows could not be read", "sample": None}
    return {
        "rows_low": math.floor(scanned.rows.low),
        "rows_high": math.ceil(scanned.rows.high),
        "rows_method": scanned.method,
        "sample": scanned.sample(),
        "lengths": scanned.lengths(),
        "scripts": scanned.scripts(),
        "languages": scanned.languages(),
        "duplicate_share": scanned.duplicates(),
        "too_long": scanned.counts["too_long"],
    }


def _money_and_time(found: Survey, scanned: Population | None, profile: Profile, rows: int) -> dict[str, Any]:
    spec, limits = found.spec, found.spec.limits
    if scanned is None:
        tokens, counted, method = None, [], "no text was found in the sample"
    else:
        tokens, method = scanned.tokens, scanned.tokens_method
        counted = [each.tokens for each in scanned.drawn.texts]
    slack = 1.0 if counts_exactly(profile.tokenizer) else embedder.FILL
    per_request = duration.texts_per_request(
        counted, max_texts=profile.max_texts, max_tokens=int(profile.max_request_tokens * slack)
    )
    likely = round(tokens.value) if tokens is not None else 0
    took = duration.hours(
        rows,
        likely,
        texts_per_request=per_request,
        requests_per_minute=limits.requests_per_minute,
        tokens_per_minute=limits.tokens_per_minute,
    )
    start = found.server.get("now")
    done = duration.finish(start, took.hours, spec.windows) if start is not None else None
    return {
        "tokens": {
            "estimate": likely,
            "low": math.floor(tokens.low) if tokens is not None else 0,
            "high": math.ceil(tokens.high) if tokens is not None else 0,
            # The sample's spread alone: what a pilot's ratio is laid on, in place of what is allowed above.
            "sampled_low": math.floor(scanned.sampled_tokens.low) if scanned is not None else 0,
            "sampled_high": math.ceil(scanned.sampled_tokens.high) if scanned is not None else 0,
            "method": method,
        },
        "requests": math.ceil(rows / per_request),
        "texts_per_request": round(per_request, 2),
        "cost_usd": prices.cost(tokens or prices.NOTHING, spec.to.price_usd_per_mtok, profile, spec.to.model),
        "hours": round(took.hours, 3),
        "hours_bound_by": took.binds,
        "hours_by_limit": {name: round(hours, 5) for name, hours in took.by_limit.items()},
        "finish": {"if_started": _iso(start), "backfilled": _iso(done), "windows": list(limits.window)},
    }


def _on_the_server(found: Survey, scanned: Population | None, rows: int, indexes: int) -> dict[str, Any]:
    dims = found.spec.generation(Side.TO).dims
    per_page = scanned.rows_per_page if scanned is not None else 0.0
    heap_pages = found.relation.pages if found.relation is not None else 0
    low, high = estimate.build_seconds(dims, rows, _BUILDERS)
    return {
        "hot": estimate.hot(per_page),
        "heap_growth_bytes": estimate.heap_growth_bytes(heap_pages, per_page),
        "live_index_bytes": sum(each.bytes for each in found.indexes),
        "index_seconds": [round(indexes * low), round(indexes * high)],
    }


def _most(scanned: Population | None, rows: int) -> int:
    """Return how many rows there may be: a graph that outgrows its memory by a few is built many times slower."""
    return math.ceil(rows * (1 + scanned.rows.spread)) if scanned is not None else rows


def _whole_indexes(found: Survey) -> int:
    """Return how many indexes over every row there are: as much as partitions have alone counts as their share."""
    alone = [each for each in found.indexes if found.relation is not None and each.heap_oid != found.relation.oid]
    return len(found.indexes) - len(alone) + -(-len(alone) // max(len(found.heaps), 1))


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat(timespec="seconds") if moment is not None else None
