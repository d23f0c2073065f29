"""What the database may say against more work: each signal, its threshold, and the words for it.

Floor 0. Promise (P12): a signal over its threshold, or one that can't be read, stops new requests with its name and its
numbers. Every threshold has a default with unit, reason and source below, can be set in the spec's table `[throttle]`
and live (`migrator limits NAME --throttle KEY=VALUE`), and "off" silences a signal.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

OFF = "off"
#: Seconds for which a reading is believed before whoever looks reads again: a changed threshold, or a standby that
#: begins to lag, takes effect within this.
BELIEVED_SECONDS = 5.0
#: Seconds after which a reading counts for nothing, and the missing reading itself stops new requests. Two ticks of
#: ten seconds may come late, and a reader may die once.
STALE_SECONDS = 25.0


class Signal(StrEnum):
    """What is looked at, in the order in which reasons are told; the values are the keys of `[throttle]`."""

    LAG = "lag_seconds"  #: How far the slowest physical standby is behind in replay.
    ARCHIVE = "archive_segments"  #: Finished WAL segments that wait for archive_command.
    SNAPSHOT = "snapshot_seconds"  #: Age of the oldest transaction of others that holds back pruning.
    LOCK_WAITERS = "lock_waiters"  #: Sessions of others that wait for a lock on the table.
    VACUUM = "vacuum_seconds"  #: How long a vacuum has been at work on the table.
    HOT = "hot_share"  #: Share of HOT updates lately, of what the table's pages allow.
    DEAD = "dead_share"  #: Dead tuples per live one.
    SIZE = "database_bytes"  #: Size of the database.
    SQL = "sql"  #: The number that the operator's own SQL returns.
    HTTP = "http"  #: The number that the operator's own URL answers with.


@dataclass(frozen=True, slots=True)
class Metric:
    """How a signal is told: "replica lag 3.0 s > 2.0 s". `low_is_bad` where falling below the threshold binds."""

    label: str
    unit: str = ""
    low_is_bad: bool = False

    def shown(self, value: float) -> str:
        """Return a value with its unit."""
        if self.unit == "%":
            return f"{100 * value:.1f} %"
        if self.unit == "bytes":
            return f"{value / 1e9:,.1f} GB"
        number = f"{value:,.0f}" if self.unit == "" and value == int(value) else f"{value:,.1f}"
        return f"{number} {self.unit}".rstrip()


METRICS: dict[Signal, Metric] = {
    Signal.LAG: Metric("replica lag", "s"),
    Signal.ARCHIVE: Metric("WAL segments waiting for the archiver"),
    Signal.SNAPSHOT: Metric("oldest transaction", "s"),
    Signal.LOCK_WAITERS: Metric("sessions waiting for a lock on the table"),
    Signal.VACUUM: Metric("vacuum of the table", "s"),
    Signal.HOT: Metric("HOT updates", "%", low_is_bad=True),
    Signal.DEAD: Metric("dead rows", "%"),
    Signal.SIZE: Metric("database size", "bytes"),
    Signal.SQL: Metric("the operator's SQL"),
    Signal.HTTP: Metric("the operator's HTTP signal"),
}

#: Dead rows below which their share says nothing: autovacuum looks at a table from 50 dead rows and a fifth of the
#: live ones on, so the share of a small table swings by itself.
FEWEST_DEAD_ROWS = 10_000
#: Updates from which on a HOT share is told: fewer are one batch's chance.
FEWEST_UPDATES = 200
#: Seconds for which a session must have waited for a lock to count: shorter waits are everyday traffic
#: (PostgreSQL's own deadlock_timeout, after which it logs a wait, is 1 s).
LOCK_WAIT_SECONDS = 1.0


def _threshold(value: object) -> object:
    if value == OFF:
        return OFF
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError('it must be a number from 0 on, or "off"')
    return float(value)


def _share(value: object) -> object:
    if isinstance(value, float) and value > 1:
        raise ValueError("a share goes from 0 to 1")
    return value


def _query(sql: str) -> str:
    words = sql.strip().rstrip(";").strip()
    if not words.lower().startswith(("select ", "select\n", "with ", "with\n")) or ";" in words:
        raise ValueError("it must be one SELECT that returns one number")
    return words


def _url(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ValueError("it must begin with http:// or https:// and name a host")
    if parts.username or parts.password:
        raise ValueError("it holds a user or a password, and a spec holds no secret")
    return url


_Threshold = Annotated[float | Literal["off"], BeforeValidator(_threshold)]


class ThrottleSpec(BaseModel):
    """[throttle]: the thresholds, over each of which no further request is sent until it is over."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: Readers of a standby see rows that much late. gh-ost throttles at 1.5 s of its own heartbeat (--max-lag-millis);
    #: PostgreSQL reports lag as it is replied, so half a second is left for that.
    lag_seconds: Annotated[_Threshold, Field(description='seconds of replay lag, as in 2.0, or "off"')] = 2.0
    #: 16 MB each. GitLab's background migrations stop above 42 segments (health_status/indicators/write_ahead_log.rb).
    archive_segments: Annotated[_Threshold, Field(description='a number of WAL segments, as in 42, or "off"')] = 42.0
    #: Under an older snapshot no update is HOT (measured: 85.5 % -> 0 %, the heap doubles). Five minutes let ordinary
    #: reports and index builds elsewhere pass; pg_dump and a forgotten session do not.
    snapshot_seconds: Annotated[_Threshold, Field(description='seconds, as in 300, or "off"')] = 300.0
    #: A session that waits for the table holds up everyone behind it. None is normal.
    lock_waiters: Annotated[_Threshold, Field(description='a number of sessions, as in 0, or "off"')] = 0.0
    #: GitLab holds its background migrations for ten minutes when autovacuum is on their table; vacuums of an HNSW
    #: index that are shorter than that pass unnoticed here.
    vacuum_seconds: Annotated[_Threshold, Field(description='seconds, as in 600, or "off"')] = 600.0
    #: Of the ceiling 1 - 1/(rows per page). Page lanes keep 95 % of it; with an old snapshot it is 0 % (design 6).
    hot_share: Annotated[_Threshold, AfterValidator(_share), Field(description='a share of 1, as in 0.5, or "off"')] = (
        0.5
    )
    #: Autovacuum begins at a fifth of the live rows: at half of them it does not keep up.
    dead_share: Annotated[_Threshold, Field(description='dead per live rows, as in 0.5, or "off"')] = 0.5
    #: PostgreSQL does not tell free disk space to anybody. An operator who knows the disk sets what may be filled.
    database_bytes: Annotated[_Threshold, Field(description='bytes, as in 800_000_000_000, or "off"')] = "off"
    #: A query of the operator's own, run as the workers' role in a read-only transaction.
    sql: Annotated[str, AfterValidator(_query), Field(description='"SELECT ..." that returns one number')] | None = None
    #: Above which its number holds new requests back.
    sql_max: Annotated[_Threshold, Field(description='a number, or "off"')] = "off"
    #: A URL of the operator's own that answers with a number.
    http: Annotated[str, AfterValidator(_url), Field(description='"http://host/path"')] | None = None
    #: Above which its number holds new requests back.
    http_max: Annotated[_Threshold, Field(description='a number, or "off"')] = "off"
    #: How long one writing transaction may take: it holds row locks of the application's rows that long, so a quarter
    #: of the shortest wait that people notice.
    landing_seconds: Annotated[
        float, Field(strict=False, gt=0, le=5, allow_inf_nan=False, description="seconds, as in 0.25")
    ] = 0.25

    def threshold(self, signal: Signal) -> float | None:
        """Return a signal's threshold, or None where it is off."""
        key = {Signal.SQL: "sql_max", Signal.HTTP: "http_max"}.get(signal, signal.value)
        value = getattr(self, key)
        return None if value == OFF else float(value)

    @property
    def wanted(self) -> dict[Signal, float]:
        """The signals that are on, with their thresholds."""
        found = {signal: self.threshold(signal) for signal in Signal}
        return {signal: value for signal, value in found.items() if value is not None}


def impossible(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return combinations that no single key shows, as (key, what, mend); tolerant of wrong types."""
    problems = []
    for name in ("sql", "http"):
        limit = data.get(f"{name}_max", OFF)
        if data.get(name) is not None and limit == OFF and f"{name}_max" not in data:
            problems.append((f"{name}_max", f"`{name}` has no threshold", f"add it: the highest good {name} number"))
        if data.get(name) is None and limit != OFF:
            problems.append((name, f"`{name}_max` has nothing to compare", f"add `{name}`, or leave {name}_max off"))
    return problems


def parse_change(text: str) -> tuple[str, object]:
    """Read one KEY=VALUE of `--throttle`; the value None means the spec's own again.

    Raises: ValueError, saying what is wrong.
    """
    key, sign, value = text.partition("=")
    if not sign or key not in ThrottleSpec.model_fields:
        raise ValueError(f"write it as KEY=VALUE; keys: {', '.join(ThrottleSpec.model_fields)}")
    if value == "spec":
        return key, None
    if value == OFF or key in {"sql", "http"}:
        return key, value
    try:
        return key, float(value)
    except ValueError:
        raise ValueError(f'{key} is a number, "off", or "spec" for the spec\'s own') from None


def phrase(signal: Signal, value: float | None, threshold: float, *, detail: str, problem: str | None) -> str:
    """Return the line that `binds` shows: "replica lag 3.0 s > 2.0 s (standby1)"."""
    metric = METRICS[signal]
    if problem is not None or value is None:
        return f"{metric.label} can't be read: {problem}"
    sign = "<" if metric.low_is_bad else ">"
    told = f" ({detail})" if detail else ""
    return f"{metric.label} {metric.shown(value)} {sign} {metric.shown(threshold)}{told}"


def is_over(signal: Signal, value: float, threshold: float) -> bool:
    """Say whether a value is on the wrong side of its threshold."""
    return value < threshold if METRICS[signal].low_is_bad else value > threshold
