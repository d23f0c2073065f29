"""Hashes of keys on the wire: what psycopg makes of the same numbers, one by one."""

from __future__ import annotations

import pytest
from psycopg.adapt import PyFormat, Transformer

from migrator.state.hands import Hand


@pytest.mark.parametrize("keys", [[("1",)], [("1",), ("2",), ("a", "b")], [(f"{n}", "x") for n in range(500)]])
def test_a_hand_is_an_array_of_bigints(keys: list[tuple[str, ...]]) -> None:
    data = Hand.of(keys).data
    numbers = [int.from_bytes(data[at + 4 : at + 12], "big", signed=True) for at in range(20, len(data), 12)]
    assert len(set(numbers)) == len(keys)
    assert data == Transformer().get_dumper(numbers, PyFormat.BINARY).dump(numbers)


def test_a_key_s_hash_stays_what_it_was() -> None:
    """Workers of two versions may be at one table during an upgrade."""
    assert Hand.of([("1",)]).data[24:].hex() == "6b86b273ff34fce1"


def test_no_keys_are_an_empty_array() -> None:
    no_dimensions, no_nulls, bigint = (0).to_bytes(4, "big"), (0).to_bytes(4, "big"), (20).to_bytes(4, "big")
    assert Hand.of([]).data == no_dimensions + no_nulls + bigint
