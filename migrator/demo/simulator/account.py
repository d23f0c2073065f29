"""What the simulator remembers: its behaviour, faults and steps to come, and a bill as a provider keeps it.

Floor 4. Promise: every request that was worked for is billed once, also where its answer was lost; texts are kept as
digests only, of every request that arrived.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from migrator.demo.simulator.behaviour import Behaviour, changed, check
from migrator.demo.simulator.faults import Queue
from migrator.demo.simulator.limits import Limits
from migrator.demo.simulator.scenario import Scenario, Step


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
    #: Which of the requests that arrived it was, from 1.
    number: int = 0
    #: The answer did not come whole, or could not be believed.
    lost: bool = False


@dataclass(slots=True)
class Account:
    """The simulated provider's state; one per process."""

    #: What `reset` goes back to.
    start: Behaviour = field(default_factory=Behaviour)
    scenario: Scenario = field(default_factory=Scenario)
    #: Told of every step that is taken.
    tell: Callable[[str], None] = field(default=lambda _: None)
    behaviour: Behaviour = field(init=False)
    limits: Limits = field(init=False)
    faults: Queue = field(init=False)
    keys: frozenset[str] | None = field(init=False)
    entries: list[Entry] = field(init=False)
    refused: Counter[str] = field(init=False)
    #: How often each text arrived, by its digest, answered or not.
    seen: Counter[str] = field(init=False)
    arrived: int = field(init=False)
    in_flight: int = field(init=False, default=0)
    random: random.Random = field(init=False)
    _steps: list[Step] = field(init=False)
    _first_at: float | None = field(init=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the bill, and be as at the start."""
        self.behaviour, self.keys = self.start, None
        self.limits, self.faults = Limits(), Queue()
        self.entries, self.refused, self.seen = [], Counter(), Counter()
        self.arrived, self._first_at = 0, None
        # Seeded: a rehearsal has the same latencies every time.
        self.random = random.Random(0)  # noqa: S311 - no secret hangs on it
        self._steps = list(self.scenario.steps)
        self.change(self.scenario.start)

    def change(self, wanted: Mapping[str, Any]) -> None:
        """Turn switches, and do what else is asked for.

        Raises: BehaviourInvalid; then nothing was changed.
        """
        switches, change = check(wanted)
        if change.reset:
            self.reset()
        if change.no_faults:
            self.faults.clear()
        back = {name: getattr(self.start, name) for name in change.unset}
        self.behaviour = changed(self.behaviour, {**back, **switches})
        # A limit that is set again starts with an empty bucket.
        self.limits.follow(self.behaviour, anew=bool({"requests_per_minute", "tokens_per_minute"} & switches.keys()))
        if "keys" in wanted:
            self.keys = frozenset(change.keys) if change.keys is not None else None
        self.faults.extend(change.faults)

    def arrive(self) -> int:
        """Count a request, after taking the steps that are due; returns its number."""
        now = self.limits.clock.now()
        self._first_at = now if self._first_at is None else self._first_at
        due = [step for step in self._steps if step.due(self.arrived, now - self._first_at)]
        self._steps = [step for step in self._steps if step not in due]
        for step in due:
            self.change(step.set)
            self.tell(f"request {self.arrived + 1}: {step.told}")
        self.arrived += 1
        return self.arrived

    def schedule(self, steps: Sequence[Step]) -> None:
        """Append steps, counted as those of the scenario are."""
        self._steps += steps

    def elsewhere(self) -> bool:
        """Say whether this request goes to the second region: every second one does, where there is one."""
        return self.behaviour.second_region is not None and self.arrived % 2 == 0

    def totals(self) -> dict[str, Any]:
        """Return the bill's totals, by key and by model."""
        by_key: Counter[str] = Counter()
        by_model: Counter[str] = Counter()
        for entry in self.entries:
            by_key[entry.key] += entry.tokens
            by_model[entry.model] += entry.tokens
        lost = [entry.tokens for entry in self.entries if entry.lost]
        return {
            "arrived": self.arrived,
            "requests": len(self.entries),
            "tokens": by_key.total(),
            "requests_lost": len(lost),
            "tokens_lost": sum(lost),
            "tokens_by_key": by_key,
            "tokens_by_model": by_model,
            "refused": self.refused,
            "in_flight": self.in_flight,
            "steps_to_come": len(self._steps),
            "faults_to_come": len(self.faults),
        }


def digest(text: str) -> str:
    """Return what the ledger keeps of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_entry(
    *, request_id: str, key: str, model: str, texts: Sequence[str], counts: list[int], number: int, lost: bool
) -> Entry:
    """Return a line of the bill."""
    digests = [digest(text) for text in texts]
    return Entry(request_id, key, model, sum(counts), digests, counts, time.time(), number, lost)
