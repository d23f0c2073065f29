"""Windows: the hours in which a migration may work, written "22:00-06:00 Asia/Shanghai" or "mon-fri 22:00-06:00 ...".

Floor 0. Pure sums over a moment that the caller passes in (the database's clock, never this machine's). A window's days
are those on which it opens. Each opening is a stretch of real time: in a night with a clock change it lasts an hour
more or less, is never interrupted, and never goes on past the first moment that the local clock shows its end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
EVERY_DAY = frozenset(range(7))
_DAY = rf"(?:{'|'.join(_DAYS)})"
_PATTERN = re.compile(
    rf"^(?:(?P<days>{_DAY}(?:-{_DAY})?(?:,{_DAY}(?:-{_DAY})?)*)\s+)?"
    r"(?P<times>\d{2}:\d{2}-\d{2}:\d{2})\s+(?P<zone>\S+)$",
    re.IGNORECASE,
)
#: The longest that a clock change skips is a day (the date line); whoever looks for one looks this far.
_ONE_DAY = timedelta(days=1)
_MIDNIGHT = time()


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to `end` (exclusive) local time in `zone`, opening on `days` (0 is Monday).

    It ends on the next day where end <= start; an end at midnight is written 24:00.
    """

    start: time
    end: time
    zone: str
    days: frozenset[int] = EVERY_DAY

    def __str__(self) -> str:
        days = "" if self.days == EVERY_DAY else f"{_day_words(self.days)} "
        end = "24:00" if self.end == _MIDNIGHT else f"{self.end:%H:%M}"
        return f"{days}{self.start:%H:%M}-{end} {self.zone}"

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read "HH:MM-HH:MM Zone/Name", with days before it or without: "mon-fri", "sat,sun".

        Raises: ValueError, saying what is wrong.
        """
        match = _PATTERN.match(text.strip())
        if match is None:
            raise ValueError('write it as "22:00-06:00 Asia/Shanghai", or "mon-fri 22:00-06:00 Asia/Shanghai"')
        began, _, ended = match["times"].partition("-")
        zone = match["zone"]
        try:
            start, end = time.fromisoformat(began), _MIDNIGHT if ended == "24:00" else time.fromisoformat(ended)
        except ValueError:
            raise ValueError("hours go from 00:00 to 23:59, and a window may end at 24:00") from None
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{zone} is no time zone of the IANA database") from None
        if start == end and ended != "24:00":
            raise ValueError("start and end are the same, so it would never or always be open")
        return cls(start, end, zone, _days(match["days"].lower()) if match["days"] else EVERY_DAY)

    def openings(self, moment: datetime) -> Iterator[tuple[datetime, datetime]]:
        """Yield (opens, closes) in UTC of every opening that ends after `moment`, in their order, for nine days."""
        zone = ZoneInfo(self.zone)
        today = moment.astimezone(zone).date()
        for offset in range(-1, 9):
            day = today + timedelta(days=offset)
            if day.weekday() not in self.days:
                continue
            last = day if self.start < self.end else day + _ONE_DAY
            opens, closes = _first(day, self.start, zone), _first(last, self.end, zone)
            # Both may lie in the hour that a clock change skips: then there is nothing of it.
            if closes > moment and opens < closes:
                yield opens, closes

    def is_open(self, moment: datetime) -> bool:
        """Say whether `moment` (aware) lies inside."""
        opens, _ = next(self.openings(moment), (None, None))
        return opens is not None and opens <= moment


@dataclass(frozen=True, slots=True)
class Daily:
    """A time of the day in `zone`."""

    at: time
    zone: str

    def __str__(self) -> str:
        return f"{self.at:%H:%M} {self.zone}"

    @classmethod
    def parse(cls, text: str) -> Daily:
        """Read "HH:MM Zone/Name".

        Raises: ValueError, saying what is wrong.
        """
        match = re.fullmatch(r"(\d{2}):(\d{2})\s+(\S+)", text.strip())
        if match is None:
            raise ValueError('write it as "08:05 Asia/Shanghai"')
        # As a window that opens then: what is wrong with it is told in the same words.
        whole = Window.parse(f"{match[1]}:{match[2]}-24:00 {match[3]}")
        return cls(whole.start, whole.zone)

    def before(self, moment: datetime) -> datetime:
        """Return the latest time that is not after `moment`, in UTC."""
        return max(each for each in self._around(moment) if each <= moment)

    def after(self, moment: datetime) -> datetime:
        """Return the first time after `moment`, in UTC."""
        return min(each for each in self._around(moment) if each > moment)

    def _around(self, moment: datetime) -> list[datetime]:
        zone = ZoneInfo(self.zone)
        today = moment.astimezone(zone).date()
        return [_first(today + timedelta(days=offset), self.at, zone) for offset in range(-2, 3)]


def _first(day: date, clock: time, zone: ZoneInfo) -> datetime:
    """Return the first moment of a local day at which its clock shows `clock` or later, in UTC.

    A time that comes twice is the first one; one that a clock change skips is the moment of the change.
    """
    early = datetime.combine(day, clock, zone).astimezone(UTC)
    if early.astimezone(zone).replace(tzinfo=None) == datetime.combine(day, clock):
        return early
    # Skipped: with the offset of before it lies behind the change, with that of after it lies in front of it.
    before, after = datetime.combine(day, clock, zone).replace(fold=1).astimezone(UTC), early
    offset = before.astimezone(zone).utcoffset()
    while after - before > timedelta(seconds=1):
        middle = before + (after - before) / 2
        before, after = (middle, after) if middle.astimezone(zone).utcoffset() == offset else (before, middle)
    return after.replace(microsecond=0)


def _days(words: str) -> frozenset[int]:
    """Read "mon-fri,sun"; a range may go past Sunday."""
    found: set[int] = set()
    for part in words.split(","):
        first, _, last = part.partition("-")
        begin, end = _DAYS.index(first), _DAYS.index(last or first)
        found.update(day % 7 for day in range(begin, end + 1 if begin <= end else end + 8))
    return frozenset(found)


def _day_words(days: frozenset[int]) -> str:
    """Write days as `_days` reads them, with ranges of three and more."""
    runs: list[list[int]] = []
    for day in sorted(days):
        if runs and runs[-1][-1] == day - 1:
            runs[-1].append(day)
        else:
            runs.append([day])
    told = [
        f"{_DAYS[run[0]]}-{_DAYS[run[-1]]}" if len(run) > 2 else ",".join(_DAYS[day] for day in run)  # noqa: PLR2004
        for run in runs
    ]
    return ",".join(told)


def is_open(windows: Sequence[Window], moment: datetime) -> bool:
    """Say whether any window is open; no windows at all means always."""
    return not windows or any(window.is_open(moment) for window in windows)


def closes_at(windows: Sequence[Window], moment: datetime) -> datetime | None:
    """Return when work that is allowed at `moment` is no more, through windows that follow each other without a gap.

    None where no windows are, or where they leave no gap for a week.
    """
    end = moment
    while not end - moment > 7 * _ONE_DAY:
        following = [next(each.openings(end), None) for each in windows]
        later = max((each[1] for each in following if each is not None and each[0] <= end), default=end)
        if later == end:
            return end if windows else None
        end = later
    return None


def opens_at(windows: Sequence[Window], moment: datetime) -> datetime | None:
    """Return when work is allowed next: `moment` itself where it is; None where no window opens within a week."""
    if not windows:
        return moment
    following = [next(each.openings(moment), None) for each in windows]
    return min((max(each[0], moment) for each in following if each is not None), default=None)
