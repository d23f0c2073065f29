"""Windows: the hours in which a migration may work, written "22:00-06:00 Asia/Shanghai".

Floor 0. Pure sums over a moment that the caller passes in (the database's clock, never this machine's).
A window is a stretch of local wall-clock time: it is evaluated by turning the moment into local time,
so a night with a clock change simply has an hour more or less of it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, time
from zoneinfo import ZoneInfo

_PATTERN = re.compile(r"^(\d{2}):(\d{2})-(\d{2}):(\d{2})\s+(\S+)$")


@dataclass(frozen=True, slots=True)
class Window:
    """From `start` to `end` (exclusive) local time in `zone`; past midnight where end <= start."""

    start: time
    end: time
    zone: str

    def __str__(self) -> str:
        return f"{self.start:%H:%M}-{self.end:%H:%M} {self.zone}"

    @classmethod
    def parse(cls, text: str) -> Window:
        """Read "HH:MM-HH:MM Zone/Name".

        Raises: ValueError, saying what is wrong.
        """
        match = _PATTERN.match(text.strip())
        if match is None:
            raise ValueError('write it as "22:00-06:00 Asia/Shanghai"')
        hours = [int(part) for part in match.groups()[:4]]
        zone = match.group(5)
        try:
            start, end = time(hours[0], hours[1]), time(hours[2], hours[3])
        except ValueError:
            raise ValueError("hours go from 00:00 to 23:59") from None
        try:
            ZoneInfo(zone)
        except (KeyError, ValueError, OSError):
            raise ValueError(f"{zone} is no time zone of the IANA database") from None
        if start == end:
            raise ValueError("start and end are the same, so it would never or always be open")
        return cls(start, end, zone)

    def is_open(self, moment: datetime) -> bool:
        """Say whether `moment` (aware) lies inside."""
        local = moment.astimezone(ZoneInfo(self.zone)).time()
        if self.start < self.end:
            return self.start <= local < self.end
        return local >= self.start or local < self.end


def is_open(windows: Sequence[Window], moment: datetime) -> bool:
    """Say whether any window is open; no windows at all means always."""
    return not windows or any(window.is_open(moment) for window in windows)
