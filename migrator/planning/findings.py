"""Findings: what a plan found that an operator must know, each with its code, severity, object, message and mend.

Floor 2. Pure. `refuse` means that `start` will not begin; `warn` that somebody should think; `info` that it was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from migrator.errors import OperatorError


class Severity(StrEnum):
    """How much a finding weighs."""

    REFUSE = "refuse"
    WARN = "warn"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found. `code` is stable, for scripts."""

    code: str
    severity: Severity
    object: str
    message: str
    mend: str

    def __str__(self) -> str:
        return f"{self.severity:6} {self.code}: {self.object}: {self.message}; {self.mend}"

    def as_json(self) -> dict[str, str]:
        """Return the shape that `plan --json` prints."""
        return asdict(self)


def refuse(code: str, what: str, message: str, mend: str) -> Finding:
    """Make a finding that stops `start`."""
    return Finding(code, Severity.REFUSE, what, message, mend)


def warn(code: str, what: str, message: str, mend: str) -> Finding:
    """Make a finding to think about."""
    return Finding(code, Severity.WARN, what, message, mend)


def info(code: str, what: str, message: str, mend: str) -> Finding:
    """Make a finding that is good to know."""
    return Finding(code, Severity.INFO, what, message, mend)


@dataclass(eq=False)
class PlanRefused(OperatorError):
    """The plan found something that can't work."""

    name: str
    path: str
    findings: Sequence[Finding]

    runbook = "first-migration"
    state = "Nothing was changed."
    next = "Mend what is named, then run `migrator plan {path}`."

    def sentences(self) -> tuple[str, str, str]:
        """Return the three sentences, the first with a line per refusal."""
        lines = "".join(f"\n  - {finding}" for finding in self.findings)
        happened = f"{self.name} can't be started as things are:{lines}\n"
        return happened, self.state, self.next.format(path=self.path)


def refusals(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings that stop `start`."""
    return [finding for finding in findings if finding.severity is Severity.REFUSE]
