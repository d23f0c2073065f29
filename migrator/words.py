"""Figures and moments as people read them, the same in the plan, in `status` and in every form of the report.

Floor 0. Pure.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

_SMALL, _MINUTE, _HOUR, _DAY = 0.01, 60, 3600, 86_400
#: What is said where nothing is known.
NONE = "\N{EN DASH}"


def when(moment: datetime | None) -> str:
    """Return a moment in UTC, to the second."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if moment is not None else NONE


def count(number: float | None) -> str:
    """Return a whole number with its thousands."""
    return f"{number:,.0f}" if number is not None else NONE


def figure(number: float | None) -> str:
    """Return a measured figure, as short as it is true."""
    return f"{number:.6g}" if number is not None else NONE


def usd(amount: float | None) -> str:
    """Return US dollars: cents, or four decimals where there would be none."""
    if amount is None:
        return NONE
    return f"{dollars(amount)} USD"


def percent(share: float | None) -> str:
    """Return a share; a small one keeps two digits."""
    if share is None:
        return NONE
    return f"{100 * share:.2g} %" if 0 < share < _SMALL else f"{100 * share:.1f} %"


def span(seconds: float | None) -> str:
    """Return a time: 0.4 s, 42 s, 5 min 3 s, 5 h 31 min, 3 d 2 h."""
    if seconds is None:
        return NONE
    if seconds < _MINUTE:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"  # noqa: PLR2004 - two digits
    for size, unit, smaller, name in ((_DAY, "d", _HOUR, "h"), (_HOUR, "h", _MINUTE, "min"), (_MINUTE, "min", 1, "s")):
        if seconds >= size:
            whole, rest = divmod(round(seconds), size)
            return f"{whole} {unit} {rest // smaller} {name}"
    raise AssertionError


def signed(number: Any) -> str:
    """Return a change with its sign."""
    return f"{float(number):+.3f}"


def dollars(amount: float) -> str:
    """Return an amount of US dollars without its unit: cents, or four decimals where there would be none."""
    return f"{amount:,.2f}" if amount >= 1 or amount == 0 else f"{amount:.4f}"


def size(count: float) -> str:
    """Return bytes for people: 512 B, 1.5 MB, 12.0 GB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":  # noqa: PLR2004 - decimal units
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError
