"""The plan's document: what is worked out from a scan that is not sure."""

from __future__ import annotations

import math
from dataclasses import replace

from migrator.measures.sampling import Total, error_of
from migrator.planning import document
from migrator.planning.population import Growth
from migrator.provider import profiles
from tests.unit.test_plan_findings import scanned
from tests.unit.test_preflight import index, survey


def test_memory_is_for_as_many_rows_as_there_may_be_and_disk_for_the_likely() -> None:
    found = survey()
    found.indexes = [index()]
    sure, unsure = scanned(), replace(scanned(), rows=Total(1000, 0.01))
    known = [
        document.make(found, each, Growth(None, "nobody knows"), profiles.of(found.spec.to)) for each in (sure, unsure)
    ]
    memory = [each["index_build"]["memory_bytes"] for each in known]
    assert memory == [1000 * 4804, math.ceil(1000 * (1 + 1.25 * 1.96 * 0.01)) * 4804]
    assert known[0]["disk_bytes"] == known[1]["disk_bytes"]
    assert (known[1]["rows"], known[1]["rows_low"], known[1]["rows_high"]) == (1000, 975, 1025)


def test_a_table_that_could_not_be_read_has_a_document_too() -> None:
    found = survey()
    made = document.make(found, None, Growth(None, "rows could not be read"), profiles.of(found.spec.to))
    assert (made["rows"], made["tokens"]["estimate"], made["cost_usd"]["high"], made["sample"]) == (0, 0, 0.0, None)


def test_the_samples_own_spread_stands_beside_the_band_that_allows_for_another_tokenizer() -> None:
    found = survey()
    sampled = Total(1000, 0.02)
    known = replace(scanned(), sampled_tokens=sampled, tokens=sampled.times(1.0, error_of(0.12)))
    told = document.make(found, known, Growth(None, "nobody knows"), profiles.of(found.spec.to))["tokens"]
    assert (told["sampled_low"], told["sampled_high"]) == (951, 1049)
    assert (told["low"], told["high"]) == (870, 1130)
