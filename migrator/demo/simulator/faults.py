"""Faults: what the next requests meet instead of a good answer, or spoilt within one.

Floor 4. Promise: faults are met in the order in which they were given, each as often as it says, so that a test and a
rehearsal are the same every time. A fault with `status` is a canned answer; one with `kind` is made from what the
request would have been answered.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, model_validator

#: Refusals before any work: nothing is billed.
REFUSED = frozenset({
    "server_error", "unavailable", "html_502", "html_504", "throttled", "requests_limit", "tokens_limit", "burst",
    "free_quota", "dropped", "business_error", "business_throttle",
})  # fmt: skip
#: The work was done and is billed; the answer is late, cut, or never comes.
LOST = frozenset({"stall", "reset", "truncated", "drip", "lost", "late_504"})
#: An answer comes whole, and something in it is wrong or unusual.
SPOILT = frozenset({
    "shuffled", "no_index", "duplicate_index", "one_short", "one_more", "no_data", "wrong_dims", "nan", "infinity",
    "zero", "extra_fields", "no_id", "no_model", "other_model", "gzip",
})  # fmt: skip
#: Billed, and of no use to the client.
WASTED = (LOST | SPOILT) - {"drip", "shuffled", "extra_fields", "no_id", "no_model", "gzip"}


def _kind(name: str) -> str:
    known = REFUSED | LOST | SPOILT
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        raise ValueError(f"there is no such fault{f' (did you mean {near[0]}?)' if near else ''}")
    return name


class Fault(BaseModel):
    """One fault; see `kind` for what happens, `count` and `every` for how often."""

    model_config = ConfigDict(extra="forbid", strict=True)

    kind: Annotated[str, AfterValidator(_kind)] | None = None
    #: How many requests meet it; None: all, until `no_faults`.
    count: Annotated[int, Field(ge=1)] | None = 1
    #: It is met by every n-th request only.
    every: Annotated[int, Field(ge=1)] = 1
    #: Only requests for this model meet it, with a vendor's prefix or without; None: all do.
    model: str | None = None
    #: How long a stall or a drip lasts, and what a throttle's Retry-After says; None: for ever, or nothing.
    seconds: Annotated[float, Field(ge=0, le=3600)] | None = None
    #: A canned answer.
    status: Annotated[int, Field(ge=200, le=599)] | None = None
    body: Any = None
    headers: dict[str, str] = {}
    _asked: int = PrivateAttr(default=0)
    _met: int = PrivateAttr(default=0)

    @model_validator(mode="after")
    def _one_or_the_other(self) -> Fault:
        if (self.kind is None) == (self.status is None):
            raise ValueError("a fault has a kind, or a status with a body")
        return self

    @property
    def name(self) -> str:
        """What the ledger counts it as."""
        return f"fault {self.kind or self.status}"

    @property
    def over(self) -> bool:
        """Whether it was met as often as it says."""
        return self.count is not None and self._met >= self.count

    def hits(self, model: str) -> bool:
        """Say whether a request for a model meets it, and count."""
        if self.model is not None and self.model != model.rsplit("/", 1)[-1]:
            return False
        self._asked += 1
        if self._asked % self.every:
            return False
        self._met += 1
        return True


class Queue:
    """The faults to come. The first that hits is met; those behind it wait their turn."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []

    def extend(self, faults: Iterable[Fault]) -> None:
        """Append faults, each with a count of its own."""
        self._faults += [fault.model_copy(deep=True) for fault in faults]

    def clear(self) -> None:
        """Forget all of them."""
        self._faults.clear()

    def meet(self, model: str) -> Fault | None:
        """Return the fault that a request for a model meets, if any."""
        for fault in self._faults:
            if fault.hits(model):
                self._faults = [each for each in self._faults if not each.over]
                return fault
        return None

    def __len__(self) -> int:
        return len(self._faults)
