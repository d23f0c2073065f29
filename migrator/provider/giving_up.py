"""The ways in which the loop over a provider gives up, each with what may mend it.

Floor 1.
"""

from __future__ import annotations

from dataclasses import dataclass

from migrator.errors import OperatorError, TransientError


@dataclass(eq=False)
class ProviderStopped(OperatorError):
    """The provider refuses for a reason that only somebody outside can mend."""

    host: str
    refusal: str
    hint: str

    runbook = "provider-refusing"
    happened = "The provider at {host} refuses: {refusal}."
    state = "Nothing was written for that request; every vector paid for earlier is kept."
    next = "{hint}; then run `migrator doctor SPEC`, and `migrator resume NAME` if it was paused."


@dataclass(eq=False)
class AnswersUnbelievable(OperatorError):
    """Two answers in a row can't be what was asked for. Each try is billed, so none is made by the clock alone."""

    host: str
    why: str
    hint: str

    runbook = "provider-refusing"
    happened = "The provider at {host} answered what can't be believed: {why}."
    state = "Nothing was written for that request, which was billed; every vector paid for earlier is kept."
    next = "{hint}; then run `migrator doctor SPEC`, and `migrator resume NAME` if it was paused."


@dataclass(eq=False)
class ProviderBusy(TransientError):
    """The provider kept failing or throttling for longer than one batch should wait."""

    host: str
    why: str

    runbook = "provider-busy"
    happened = "The provider at {host} did not answer properly ({why})."
    state = "Nothing was written for that request; what may have been billed stays counted."
    next = "It is tried again by itself; `migrator status` shows what binds."
