"""The calibration: a plan's tokens, cost and hours mended by what a pilot was really billed, both kept side by side.

Floor 2. Pure. A pilot's bill against the plan's own estimate of the very same texts is a ratio; the plan's estimate is
multiplied by it. What the plan allowed for a tokenizer that is not the model's is replaced by the ratio's own interval,
once enough requests were billed to have one; the spread of the plan's sample stays. Tokens stay tokens: the price is
the spec's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from migrator.generation import Side
from migrator.measures.ratio import FEWEST_REQUESTS, sureness
from migrator.planning import data_findings, duration
from migrator.spec import Spec
from migrator.state import budget

#: What a pilot mends.
MENDED = ("tokens", "cost_usd", "hours", "hours_bound_by", "hours_by_limit", "finish")


@dataclass(frozen=True, slots=True)
class Calibration:
    """A pilot's word on a plan. `ratio` is billed over estimated tokens, with its 95 % interval."""

    rows: int
    ratio: float
    low: float
    high: float
    #: Seconds of a request, on average; None where the pilot sent none.
    request_seconds: float | None
    seed: int
    #: Requests whose bill was told, of which the interval is made; what was stored without it counts as too few.
    requests: int = 0
    #: How the estimate was counted that the bill was held against. None: it was not noted.
    counted: str | None = None

    @property
    def is_sure(self) -> bool:
        """Whether the ratio's interval may stand for what the plan allowed."""
        return self.requests >= FEWEST_REQUESTS

    def is_about(self, method: str) -> bool:
        """Whether a plan counted so is one that the ratio was found for: hosts have the exact tokenizer, or not."""
        return self.counted is None or method.startswith(self.counted)

    def as_json(self) -> dict[str, Any]:
        """Return what is stored."""
        return asdict(self)


def restore(data: Mapping[str, Any] | None) -> Calibration | None:
    """Read back what `as_json` wrote."""
    return None if data is None else Calibration(**data)


def apply(document: dict[str, Any], found: Calibration | None, spec: Spec) -> dict[str, Any]:
    """Return a plan's document with its estimates mended, and findings that rest on them judged again.

    What they were before stands under `calibration`. The document comes back itself where there is nothing to mend.
    """
    if found is None or not document["tokens"]["estimate"]:
        return document
    # A second pilot mends the plan's own figures, not those that the first one mended.
    before = (
        document["calibration"]["before"] if "calibration" in document else {name: document[name] for name in MENDED}
    )
    if not found.is_about(before["tokens"]["method"]):
        return document
    tokens = _tokens(before["tokens"], found)
    hours, binds = _hours(document, before, tokens["estimate"], found, spec)
    longest = max(hours.values(), default=0.0)
    mended = {
        "tokens": tokens,
        "cost_usd": _cost(before["cost_usd"], tokens, spec),
        "hours": round(longest, 3),
        "hours_bound_by": binds,
        "hours_by_limit": {name: round(each, 5) for name, each in hours.items()},
        "finish": _finish(before["finish"], longest, spec),
    }
    made = {**document, **mended, "calibration": {**found.as_json(), "before": before}}
    if "findings" in document:
        made["findings"] = data_findings.judge_again(document["findings"], spec, made)
    return made


def of(document: Mapping[str, Any]) -> Calibration | None:
    """Return what a plan's document was mended by."""
    told = document.get("calibration")
    return restore(None if told is None else {name: each for name, each in told.items() if name != "before"})


def tokens_per_row(plan: Mapping[str, Any], side: Side) -> float:
    """Return a stored plan's tokens for a row of that side.

    A pilot's ratio is the new model's; what the old one bills is told by the plan's own count, with nothing better.
    """
    known = plan["calibration"]["before"] if side is Side.FROM and "calibration" in plan else plan
    per_row: float = known["tokens"]["estimate"] / max(plan["rows_to_embed"], 1)
    return per_row


def _tokens(before: dict[str, Any], found: Calibration) -> dict[str, Any]:
    # The ends of both intervals together: the sample's, and the ratio's.
    low, high = before["sampled_low"] * found.low, before["sampled_high"] * found.high
    if not found.is_sure:
        low, high = min(low, before["low"] * found.ratio), max(high, before["high"] * found.ratio)
    return {
        **before,
        "estimate": round(before["estimate"] * found.ratio),
        # Rounded before it is rounded up or down: a ratio of 1 leaves no more than a float's last digit.
        "low": math.floor(round(low, 6)),
        "high": math.ceil(round(high, 6)),
        "method": f"{before['method']}, calibrated by a pilot of {found.rows:,} rows",
    }


def _cost(before: dict[str, Any], tokens: dict[str, Any], spec: Spec) -> dict[str, Any]:
    low, high = spec.to.price_usd_per_mtok
    counts = {"low_usd": "low", "likely_usd": "estimate", "high_usd": "high"}
    return {
        **before,
        "low": float(budget.price(tokens["low"], low).usd),
        "high": float(budget.price(tokens["high"], high).usd),
        **{
            name: [
                {
                    **each,
                    **{key: float(budget.price(tokens[of], each["usd_per_mtok"]).usd) for key, of in counts.items()},
                }
                for each in before.get(name, [])
            ]
            for name in ("by_price", "by_batch_price")
        },
    }


def _hours(
    document: dict[str, Any], before: dict[str, Any], tokens: int, found: Calibration, spec: Spec
) -> tuple[dict[str, float], str]:
    """Return the hours by limit with the tokens as billed and the provider's own latency, and what binds."""
    known: dict[str, float] = dict(before["hours_by_limit"])
    if spec.limits.tokens_per_minute is not None:
        known["tokens_per_minute"] = tokens / spec.limits.tokens_per_minute / 60
    assumed = before["hours_bound_by"]
    if found.request_seconds is not None:
        known["latency"] = document["requests"] * found.request_seconds / duration.IN_FLIGHT / 3600
        assumed = f"the provider's {found.request_seconds:.2g} s a request, {duration.IN_FLIGHT} in flight"
    binds = max(known, key=lambda name: known[name], default="latency")
    return known, assumed if binds == "latency" else binds


def _finish(before: dict[str, Any], hours: float, spec: Spec) -> dict[str, Any]:
    if before["if_started"] is None:
        return before
    done = duration.finish(datetime.fromisoformat(before["if_started"]), hours, spec.windows)
    return {**before, "backfilled": done.isoformat(timespec="seconds") if done is not None else None}


def line(calibration: dict[str, Any]) -> str:
    """Return the plan's line for people: by how much it was mended, and what it said before."""
    before = calibration["before"]
    cost = before["cost_usd"]
    sure = sureness(calibration["low"], calibration["high"], calibration.get("requests", 0))
    return (
        f"by a pilot of {calibration['rows']:,} rows: billed {calibration['ratio']:.3f} of the estimate ({sure}); "
        f"before it: {before['tokens']['estimate']:,} tokens, {cost['low']:.4g} to {cost['high']:.4g} USD, "
        f"{before['hours']:.2f} h"
    )
