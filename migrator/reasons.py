"""Reasons as somebody outside may read them.

Floor 0. Promise (P11): what leaves the database names no row. A reason in the log may: the words of a gate and of the
sentinel list keys, for the operator at the terminal, and a key may be anything (an e-mail address, a name).
"""

from __future__ import annotations

import re

#: Where a verdict's words list keys of rows (structure's and the sentinel's forms).
_KEYS = (re.compile(r"; keys: .*", re.DOTALL), re.compile(r" \[.*\]", re.DOTALL))
#: What else is told with keys: reasons of failed gates, and the sentinel's notes on what writers brought.
_TELLS_KEYS = re.compile(r"a gate failed|^sentinel: ")


def without_keys(reason: str | None) -> str | None:
    """Return a reason without the keys that a failed gate's or the sentinel's words list."""
    return cut(reason) if reason is not None and _TELLS_KEYS.search(reason) else reason


def cut(told: str) -> str:
    """Return a verdict's words without the keys that they list."""
    for each in _KEYS:
        told = each.sub(" [keys: `migrator status`]", told)
    return told
