"""What the demo proved, in figures: laid out of the provider's bill, the application's log and the tool's own books.

Floor 4.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import psycopg

from migrator.demo.application import Seen
from migrator.demo.endpoint import MIGRATOR_KEY
from migrator.demo.shop import Faults
from migrator.demo.simulator.account import digest
from migrator.demo.simulator.backends import NEW_MODEL, OLD_MODEL


@dataclass(slots=True)
class Bill:
    """The provider's bill for the tool's key, against what had to be embedded."""

    billed: int
    needed: int
    in_flight: int
    #: Requests that held texts beyond need, and were not in flight at the kill: (request id, tokens).
    again: list[tuple[str, int]] = field(default_factory=list)

    @property
    def wasted(self) -> int:
        """Tokens that were billed for nothing."""
        return self.billed - self.needed


def make_bill(url: str, entries: list[dict[str, Any]], rows: list[str], written: list[tuple[str, str]]) -> Bill:
    """Compare the provider's bill with what had to be embedded, text by text.

    Every version of a text that was ever written had to be embedded once, the samples of provenance and validation once
    more, and the canary; what was billed beyond that was wasted.
    """
    wanted: Counter[tuple[str, str]] = Counter((NEW_MODEL, digest(text)) for text in rows)
    for side, text in written:
        wanted[NEW_MODEL if side == "to" else OLD_MODEL, digest(text)] += 1
    billed = needed = 0
    for entry in entries:
        if entry["key"] != MIGRATOR_KEY:
            continue
        for text, count in zip(entry["digests"], entry["counts"], strict=True):
            billed += count
            if wanted[entry["model"], text] > 0:
                wanted[entry["model"], text] -= 1
                needed += count
    with psycopg.connect(url, autocommit=True) as connection:
        checks = connection.execute(
            "SELECT coalesce(sum(spent_tokens), 0)::bigint FROM migrator.ledger"
            " WHERE purpose IN ('validation', 'provenance', 'canary')"
        ).fetchone()
        lost = {name for (name,) in connection.execute("SELECT id FROM migrator.reservations WHERE possibly_billed")}
    in_flight = sum(entry["tokens"] for entry in entries if entry["request_id"] in lost)
    # The probes of `doctor` are nobody's rows.
    probes = sum(entry["tokens"] for entry in entries if entry["digests"] == [digest("ready")])
    return Bill(billed, needed + (checks[0] if checks else 0) + probes, in_flight)


@dataclass(slots=True)
class Summary:
    """The end of the story."""

    faults: Faults
    bill: Bill
    seen: Seen
    quality_before: dict[str, float]
    quality_after: dict[str, float]
    seconds: float
    problems: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether everything that the demo claims was so."""
        return not self.problems

    def judge(self) -> None:
        """Write down what was not as it should be."""
        checks = {
            f"{len(self.seen.wrong)} answers of a wrong generation": bool(self.seen.wrong),
            f"{len(self.seen.failed)} failed application statements": bool(self.seen.failed),
            "more tokens billed than needed and in flight at the kill": self.bill.wasted > self.bill.in_flight,
            f"{self.faults.missing} rows without a vector": self.faults.missing > 0,
            f"{self.faults.old} rows with the old model's vector": self.faults.old > 0,
            f"{self.faults.shifted} rows with another text's vector": self.faults.shifted > 0,
            "no answer was checked": self.seen.answers == 0,
            "nothing was in flight at the kill": self.bill.in_flight == 0,
        }
        self.problems = [problem for problem, found in checks.items() if found]

    def as_json(self) -> dict[str, Any]:
        """Return what `--summary FILE` holds."""
        return {
            "rows": self.faults.rows,
            "tokens_needed": self.bill.needed,
            "tokens_billed": self.bill.billed,
            "in_flight_at_kill_tokens": self.bill.in_flight,
            "answers_checked": self.seen.answers,
            "wrong_generation_answers": len(self.seen.wrong),
            "failed_statements": len(self.seen.failed),
            "quality_before": self.quality_before,
            "quality_after": self.quality_after,
            "seconds": round(self.seconds, 1),
            "problems": self.problems,
            "ok": self.ok,
        }

    def lines(self) -> list[tuple[str, str]]:
        """Return it for people."""
        before, after, bill = self.quality_before, self.quality_after, self.bill
        wasted = f"{bill.wasted:,} more than needed, {bill.in_flight:,} in flight at the kill"
        kinds = "; ".join(f"{kind} {before[kind]:.3f} -> {after[kind]:.3f}" for kind in before)
        return [
            ("rows", f"{self.faults.rows:,}"),
            ("tokens billed", f"{bill.billed:,} ({wasted})"),
            ("answers checked", f"{self.seen.answers:,}"),
            ("answers of a wrong generation", str(len(self.seen.wrong))),
            ("failed application statements", str(len(self.seen.failed))),
            ("rows not in the new generation", str(self.faults.missing + self.faults.old)),
            ("nDCG@10 on labelled queries", kinds),
            ("seconds", f"{self.seconds:.0f}"),
        ]
