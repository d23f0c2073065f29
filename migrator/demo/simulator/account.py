"""What the simulator remembers: limits, faults, and a bill that tells what a real provider would have charged.

Floor 4.
"""

from __future__ import annotations

import hashlib
import time
from collections import deque
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar


@dataclass(slots=True)
class Bucket:
    """A minute's limit that is also enforced by the second, as Model Studio does (limit / 60)."""

    per_minute: float | None = None
    level: float = 0.0
    at: float = field(default_factory=time.monotonic)

    def take(self, amount: float) -> bool:
        """Take that much if it is there; a single request larger than a second's share passes an empty bucket."""
        if self.per_minute is None:
            return True
        now = time.monotonic()
        rate = self.per_minute / 60
        self.level = max(0.0, self.level - (now - self.at) * rate)
        self.at = now
        if self.level > 0 and self.level + amount > rate:
            return False
        self.level += amount
        return True


@dataclass(slots=True)
class Fault:
    """What the next `count` requests meet instead of an answer."""

    count: int
    status: int
    body: Any
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Entry:
    """One billed request. Texts are kept as digests only."""

    request_id: str
    key: str
    model: str
    tokens: int
    digests: list[str]
    counts: list[int]
    at: float


@dataclass(slots=True)
class Account:
    """The simulated provider's state; one per process."""

    #: What the admin endpoint may set as it comes.
    PLAIN: ClassVar = frozenset({"latency_seconds", "max_texts", "max_text_tokens", "answer_with", "drift"})

    keys: frozenset[str] | None = None
    max_texts: int = 10
    max_text_tokens: int = 8192
    latency_seconds: float = 0.0
    requests: Bucket = field(default_factory=Bucket)
    tokens: Bucket = field(default_factory=Bucket)
    faults: deque[Fault] = field(default_factory=deque)
    entries: list[Entry] = field(default_factory=list)
    refused: dict[str, int] = field(default_factory=dict)
    in_flight: int = 0
    #: Answer for another model than was asked for, while echoing the name that was (one-api did).
    answer_with: str | None = None
    #: Lengths of a vector of its own that is added to every answer, one per request in turn: [0.5] is a model that
    #: drifted, [0.0, 0.03] are two regions that differ a little.
    drift: list[float] = field(default_factory=list)

    def reset(self) -> None:
        """Forget the bill, and be as at the start."""
        for each in fields(self):
            if each.name != "in_flight":
                setattr(self, each.name, getattr(Account(), each.name))

    def bill(self, request_id: str, key: str, model: str, texts: list[str], counts: list[int]) -> None:
        """Write a request onto the bill; `counts` are the texts' tokens."""
        entry = Entry(request_id, key, model, sum(counts), [digest(text) for text in texts], counts, time.time())
        self.entries.append(entry)

    def refuse(self, why: str) -> None:
        """Count a refusal."""
        self.refused[why] = self.refused.get(why, 0) + 1

    def next_fault(self) -> Fault | None:
        """Return the fault that this request meets, if any."""
        if not self.faults:
            return None
        fault = self.faults[0]
        fault.count -= 1
        if fault.count <= 0:
            self.faults.popleft()
        return fault

    def totals(self) -> dict[str, Any]:
        """Return the bill's totals, by key and by model."""
        by_key: dict[str, int] = {}
        by_model: dict[str, int] = {}
        for entry in self.entries:
            by_key[entry.key] = by_key.get(entry.key, 0) + entry.tokens
            by_model[entry.model] = by_model.get(entry.model, 0) + entry.tokens
        return {
            "requests": len(self.entries),
            "tokens": sum(by_key.values()),
            "tokens_by_key": by_key,
            "tokens_by_model": by_model,
            "refused": self.refused,
            "in_flight": self.in_flight,
        }


def digest(text: str) -> str:
    """Return what the ledger keeps of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]
