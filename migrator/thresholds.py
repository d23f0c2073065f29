"""[gates]: what must hold before cutover, every threshold with its default, unit and reason.

Floor 0. Promise: a gate has no threshold that is not here; docs/gates.md lists each with its default (a test compares
them).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Number = Annotated[float, Field(strict=False)]
_Share = Annotated[_Number, Field(ge=0, le=1)]
_Count = Annotated[int, Field(ge=1, le=100_000)]


class GatesSpec(BaseModel):
    """[gates]: what must hold before cutover."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: A file of queries, beside the spec: one JSON object a line, {"text": ..., "relevant": [key, ...]?}.
    queries: Annotated[str, Field(min_length=1, description='a file of JSON lines, as in "queries.jsonl"')] | None = (
        None
    )
    #: Rows re-embedded by the assignment gate; 300 clean ones bound the bad share below 1 % at 95 %.
    assignment_sample: _Count = 300
    #: Cosine that a re-embedded row must reach with the stored vector.
    assignment_min_cosine: Annotated[_Number, Field(gt=0, le=1)] = 0.999
    #: Quarantined rows vanish from search at cutover (H24): the largest share that may pass.
    max_quarantined_share: _Share = 0.01
    #: Rows whose vector stands beside another text, too, case and spaces aside: the largest share that may pass. Models
    #: give some texts one vector, such as cut ones; a table where many rows share theirs has the wrong ones.
    max_shared_share: _Share = 0.001
    #: Rows that may look like the old generation's and pass all the same, where they are none of its own vectors: some
    #: models place an odd text far from all others.
    max_suspect_rows: Annotated[int, Field(ge=0)] = 0
    #: Rows whose own vectors are the queries of `ann_recall`, `churn` and `latency`: a thousand ranks at depth ten.
    search_sample: Annotated[int, Field(ge=1, le=10_000)] = 100
    #: Seconds that one gate may search for. An exact search reads the whole table; what there was no time for is said.
    search_seconds: Annotated[_Number, Field(gt=0)] = 300.0
    #: By how much the new index may recall less than the old one: twice the standard error of the default sample.
    ann_recall_tolerance: _Share = 0.03
    #: What the application sets before it searches; the server's own where it is not said.
    ef_search: Annotated[int, Field(ge=1, le=1000)] | None = None
    #: The same for an IVFFlat index.
    probes: Annotated[int, Field(ge=1, le=32_768)] | None = None
    #: Overlap@10 of old and new rankings, above what chance gives: less means that vectors lie in the wrong rows.
    #: 0 asks for nothing.
    min_overlap: _Share = 0.05
    #: More means that one column holds the other's vectors. Two models share about half of the first ten.
    max_overlap: _Share = 0.9
    #: Known-item queries made from rows, where `queries` names none: each is two short texts to embed.
    known_items: _Count = 100
    #: By how much nDCG@10 may fall, at the lower end of its 95 % interval. The interval of a hundred queries is about
    #: 0.05 wide each way, so half of this is noise.
    quality_tolerance: _Share = 0.1
    #: How much slower the same searches may be, in the 95th percentile.
    max_latency_ratio: Annotated[_Number, Field(gt=0)] = 2.0
    #: Milliseconds that nobody notices, however the ratio looks.
    latency_slack_ms: Annotated[_Number, Field(ge=0)] = 5.0
    #: Share of the rows that may be written before a verdict is stale.
    max_written_share: Annotated[_Number, Field(gt=0, le=1)] = 0.1
    #: Hours until a verdict is stale: what was measured before an operator slept is measured again before the swap.
    max_age_hours: Annotated[_Number, Field(gt=0)] = 24.0
