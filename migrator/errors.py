"""Every way in which a request can fail, each saying what happened, the state of things, the next command.

Floor 0. Promise P13: a refusal is never exit 0. The tree:

    MigratorError
    |-- OperatorError    exit 2    the request can't be done as asked; nothing was changed
    |-- GateFailed       exit 3    a measured gate did not pass
    |-- AtRest           exit 4    at rest by a limit: cap, window, breaker
    |-- TransientError   exit 75   try again later
    `-- Defect           exit 1    an invariant of ours failed: stop, keep everything

The leaves stand in the modules that raise them, beside what they are about, and in this file where
several floors raise them. Fields, never prose, go into a leaf; its three sentences are class attributes
filled from the fields. No field may hold a row's text or a secret (P11).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar


@dataclass(eq=False)
class MigratorError(Exception):
    """The root. `happened`, `state` and `next` are format strings over the leaf's fields."""

    exit_code: ClassVar[int] = 1
    runbook: ClassVar[str] = "something-unexpected"
    happened: ClassVar[str] = "Something failed."
    state: ClassVar[str] = "Nothing was changed."
    next: ClassVar[str] = "Run `migrator doctor`."

    def sentences(self) -> tuple[str, str, str]:
        """Return what happened, what state things are in now, and the next command."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        happened, state, following = (line.format(**values) for line in (self.happened, self.state, self.next))
        return happened, state, following

    def __str__(self) -> str:
        return " ".join(self.sentences())

    def as_json(self) -> dict[str, Any]:
        """Return the shape that `--json` prints on stderr."""
        happened, state, following = self.sentences()
        return {
            "error": type(self).__name__,
            "happened": happened,
            "state": state,
            "next": following,
            "exit_code": self.exit_code,
            "runbook": f"runbooks/{self.runbook}.md",
            "fields": {name: str(value) for name, value in asdict(self).items()},
        }

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by fields: Celery's pool carries exceptions between processes, and `args` is empty."""
        return (_rebuild, (type(self), {f.name: getattr(self, f.name) for f in fields(self)}))


def _rebuild(kind: type[MigratorError], values: dict[str, Any]) -> MigratorError:
    return kind(**values)


class OperatorError(MigratorError):
    """The request can't be done as asked; nothing was changed."""

    exit_code = 2


class AtRest(MigratorError):
    """At rest by a limit that somebody set; everything paid for is kept."""

    exit_code = 4


class TransientError(MigratorError):
    """Something outside did not answer or was busy; the same request may succeed later."""

    exit_code = 75


@dataclass(eq=False)
class GateFailed(MigratorError):
    """One or more measured gates did not pass."""

    name: str
    failures: str

    exit_code = 3
    runbook = "validation-failed"
    happened = "Validation of {name} did not pass: {failures}."
    state = "The live column is untouched and every vector paid for is kept; {name} is paused."
    next = "See runbooks/validation-failed.md and `migrator status {name}`, mend it, then `migrator resume {name}`."


@dataclass(eq=False)
class Defect(MigratorError):
    """An invariant of ours failed. Never carries values from rows: only what kind, and where."""

    what: str

    exit_code = 1
    happened = "A defect of this tool: {what}."
    state = "It stopped at once and keeps everything; a transaction that was open was rolled back."
    next = "Run `migrator status`, and report this with the output of `migrator doctor`."


@dataclass(eq=False)
class StatusConflict(OperatorError):
    """A verb met a migration that is not in a status it can start from."""

    name: str
    verb: str
    expected: str
    found: str
    following: str = "migrator status"

    runbook = "first-migration"
    happened = "`{verb}` needs {name} to be {expected}, and it is {found}."
    state = "Nothing was changed."
    next = "Run `{following}`."


@dataclass(eq=False)
class Declined(OperatorError):
    """The operator said no, or there was nobody to ask."""

    verb: str
    why: str

    runbook = "first-migration"
    happened = "`{verb}` was not done: {why}."
    state = "Nothing was changed."
    next = "Run it again with --yes to do it without being asked; `migrator {verb} --help` tells what it does."
