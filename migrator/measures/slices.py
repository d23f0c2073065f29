"""Slices of queries: by script and by length, since a model may gain on average and lose a language.

Floor 0. Pure.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence

#: Characters from which a query is long: a search box's few words end before, a sentence does not.
LONG_CHARACTERS = 40
#: Scripts by the first word of their letters' Unicode names, where that is not the script's own name.
_SCRIPTS = {"cjk": "han", "hiragana": "japanese", "katakana": "japanese", "hangul": "korean"}


def script_of(text: str) -> str:
    """Return the script of most of the letters: "latin", "han", "cyrillic" ...; "none" where there are no letters."""
    counted = Counter(
        unicodedata.name(letter, "unknown").split()[0].split("-")[0].lower() for letter in text if letter.isalpha()
    )
    if not counted:
        return "none"
    # Japanese mixes its syllables with Han letters; a Chinese text has none of them.
    if counted["hiragana"] or counted["katakana"]:
        return "japanese"
    name = counted.most_common(1)[0][0]
    return _SCRIPTS.get(name, name)


def length_of(text: str) -> str:
    """Return "short" or "long"."""
    return "long" if len(text) >= LONG_CHARACTERS else "short"


def positions(texts: Sequence[str]) -> dict[str, list[int]]:
    """Return which texts belong to each slice; every text is in one by script and in one by length."""
    return by_label([(script_of(text), length_of(text)) for text in texts])


def by_label(labels: Sequence[Sequence[str]]) -> dict[str, list[int]]:
    """Return the positions that bear each label."""
    found: dict[str, list[int]] = {}
    for position, names in enumerate(labels):
        for name in names:
            found.setdefault(name, []).append(position)
    return found
