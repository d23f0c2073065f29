"""Which language a text is in, as far as a few function words tell: for slices and shares, never a decision.

Floor 0. Pure. Promise: a text that says too little is told by its script alone, so a slice by language holds what is
certain and the slice "latin" the rest.
"""

from __future__ import annotations

import re
from collections import Counter

from migrator.measures.slices import script_of

#: Words of each language without which hardly a sentence is written. One that several languages have counts for each of
#: them a part, so that "de" alone tells nothing.
_WORDS = {
    "english": "the of and in is to was for with on as by from that it his her an are were which or at this not be has",
    "french": "le la les de des du et est un une dans en pour par au aux qui que sur avec il elle son sa ses ou ne pas",
    "spanish": "el la los las de del y es un una en por para con que se su sus al fue como lo entre más no desde era",
    "german": "der die das und ist ein eine in von zu den mit auf für im dem des nicht als auch sich wird war bei nach",
    "italian": "il lo la gli le di del della e è un una in per con che si da nel nella sono come al dei non anche",
    "portuguese": "o a os as de do da dos das e é um uma em no na por para com que se foi ao como mais não sua seu",
    "dutch": "de het een en van in is op te dat die voor met zijn aan was door als bij ook naar uit niet om werd",
}
#: The languages that are told; whatever else `language_of` returns is a script.
NAMES = frozenset(_WORDS)
_LANGUAGES = {name: frozenset(words.split()) for name, words in _WORDS.items()}
_SHARED = Counter(word for words in _LANGUAGES.values() for word in words)
#: Letters that are looked at: a page tells no more than its beginning.
LETTERS = 600
#: What the best language must have, in words that are its own, and beyond the second best.
_ENOUGH, _AHEAD = 1.0, 0.5


def script_of_language(name: str) -> str:
    """Return the script of what `language_of` told."""
    return "latin" if name in NAMES else name


def language_of(text: str) -> str:
    """Return "english", "french" ... where function words tell; else the script's name, as `slices.script_of`."""
    beginning = text[:LETTERS]
    script = script_of(beginning)
    if script != "latin":
        return script
    counted = Counter(re.findall(r"[^\W\d_]+", beginning.lower()))
    weights = {
        name: sum(counted[word] / _SHARED[word] for word in words if word in counted)
        for name, words in _LANGUAGES.items()
    }
    first, second = sorted(weights, key=lambda name: -weights[name])[:2]
    certain = weights[first] >= _ENOUGH and weights[first] - weights[second] >= _AHEAD
    return first if certain else script
