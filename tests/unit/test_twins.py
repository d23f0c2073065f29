"""An index over a column of another type: its operator class is that type's, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from migrator.target import twins
from tests.unit.test_preflight import index

_COLUMN = "embedding__migrator"


@pytest.mark.parametrize(
    ("definition", "opclass", "expected"),
    [
        (
            f"hnsw ({_COLUMN} public.vector_cosine_ops) WITH (m='8') WHERE (n > 0)",
            "vector_cosine_ops",
            f"hnsw ({_COLUMN} public.halfvec_cosine_ops) WITH (m='8') WHERE (n > 0)",
        ),
        # PostgreSQL does not say a default.
        (
            f"ivfflat ({_COLUMN}) WITH (lists='4')",
            "vector_l2_ops",
            f"ivfflat ({_COLUMN} public.halfvec_l2_ops) WITH (lists='4')",
        ),
        (f"btree ({_COLUMN}, n)", "vector_ops", f"btree ({_COLUMN} public.halfvec_ops, n)"),
        (f"btree (n) INCLUDE ({_COLUMN})", "int4_ops", f"btree (n) INCLUDE ({_COLUMN})"),
        (f"btree (n, {_COLUMN})", "int4_ops", f"btree (n, {_COLUMN})"),
    ],
)  # fmt: skip
def test_the_first_columns_operator_class_is_the_new_types(definition: str, opclass: str, expected: str) -> None:
    live = replace(index(), opclass=opclass)
    assert twins.reclassed(definition, live, _COLUMN, "halfvec") == expected
    assert twins.reclassed(definition, live, _COLUMN, "vector") == definition, "of the same type it says the same"


def test_a_schema_that_needs_quotes_has_them() -> None:
    live = replace(index(), opclass="halfvec_ip_ops", opclass_schema="My Types")
    definition = f'hnsw ({_COLUMN} "My Types".halfvec_ip_ops)'
    assert twins.reclassed(definition, live, _COLUMN, "vector") == f'hnsw ({_COLUMN} "My Types".vector_ip_ops)'
