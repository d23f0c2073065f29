"""The verdict of a pilot: one sentence, with the interval, the slices and what the whole table would cost.

Floor 2. Pure. Better and worse are said only where the 95 % interval of the difference leaves out 0, and of no fewer
queries than a slice needs: an interval drawn from a handful leaves out 0 by chance, and from one query always.
"""

from __future__ import annotations

from migrator.measures import languages
from migrator.measures.bootstrap import Interval
from migrator.measures.scores import FEWEST_IN_SLICE
from migrator.pilot.asking import JUDGED
from migrator.pilot.outcome import Outcome

#: Slices that are none of languages: the sentence is about those, the page's table holds all of them.
_LENGTHS = frozenset({"short", "middling", "long", "alike in length", "short query", "long query"})
_MINUTES, _SECONDS = 60, 3600


def sentence(new: str, found: Outcome, *, cost: tuple[float, float], hours: float) -> str:
    """Return the verdict. `cost`: of the whole table in US dollars, low and high; `new`: the new generation."""
    whole = f"whole table: {dollars(*cost)}, {duration(hours)}."
    change = found.change
    if change is None:
        return f"Nothing could be compared: no query was answered by both models; {whole}"
    on = f"your {change.count:,} queries" if found.kind == JUDGED else f"{change.count:,} known items"
    slices = [(name, each) for name, each in found.changes.items() if name != "all" and name not in _LENGTHS]
    slices.sort(key=lambda each: -each[1].mean)
    told = "".join(f", on {_title(name)} {each.mean:+.2f}" for name, each in slices).removeprefix(", ")
    return "; ".join(part for part in (f"{_judged(new, change)} on {on}", told, whole) if part)


def has_enough(found: Outcome) -> bool:
    """Say whether there were queries enough for a word on which model finds more."""
    return found.change is not None and found.change.count >= FEWEST_IN_SLICE


def _judged(new: str, change: Interval) -> str:
    if change.count < FEWEST_IN_SLICE:
        return f"Too few to tell whether {new} is better (fewer than {FEWEST_IN_SLICE}): {change.mean:+.3f}"
    if change.low > 0:
        return f"{new} is better by {change.mean:.3f} {interval(change.low, change.high)}"
    if change.high < 0:
        return f"{new} is worse by {-change.mean:.3f} {interval(-change.high, -change.low)}"
    return f"{new} is neither better nor worse for certain: {change.mean:+.3f} {interval(change.low, change.high)}"


def is_worse(found: Outcome) -> bool:
    """Say whether the new model is worse beyond chance, in all."""
    return found.change is not None and has_enough(found) and found.change.high < 0


def interval(low: float, high: float) -> str:
    """Return an interval as the sentence has it."""
    return f"[{low:.3f}, {high:.3f}]"


def _title(name: str) -> str:
    """Return a slice's name as a sentence has it: French, Cyrillic script, texts without letters."""
    if name in languages.NAMES:
        return name.capitalize()
    return "texts without letters" if name == "none" else f"{name.capitalize()} script"


def dollars(low: float, high: float) -> str:
    """Return a range of US dollars: cents, or four decimals where there would be none."""
    ends = [f"{each:,.2f}" if high >= 1 else f"{each:.4f}" for each in (low, high)]
    return f"${ends[0]}" if ends[0] == ends[1] else f"${ends[0]}-{ends[1]}"


def duration(hours: float) -> str:
    """Return a time: 3 h 10 min, 12 min, 40 s."""
    seconds = round(hours * _SECONDS)
    minutes = round(seconds / _MINUTES)
    if minutes >= _MINUTES:
        return f"{minutes // _MINUTES} h {minutes % _MINUTES} min"
    return f"{minutes} min" if minutes else f"{seconds} s"
