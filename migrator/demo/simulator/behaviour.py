"""How the simulated provider behaves: every switch in one place, checked before any of them is turned.

Floor 4. Promise: a wrong name, type or value changes nothing and is told with its place and its mend, all problems at
once; what an admin request may set, a scenario's step may set, and the other way round.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from migrator.demo.simulator.dialects import DIALECTS
from migrator.demo.simulator.faults import Fault
from migrator.spec import Problem


class BehaviourInvalid(Exception):
    """What was asked for can't be set; `problems` holds every reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = list(problems)


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _dialect(name: str) -> str:
    if name not in DIALECTS:
        raise ValueError(f"there is no such dialect; known: {', '.join(DIALECTS)}")
    return name


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as error:
        raise ValueError(f"it is no regular expression ({error})") from None
    return text


Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=3600)]


class SecondRegion(_Part):
    """Where every second request goes, unknown to the client."""

    #: Length of what is added to a unit vector: its cosine with the first region's is 1 / sqrt(1 + noise^2).
    noise: Annotated[float, Field(ge=0, le=10)] = 0.0
    max_texts: Annotated[int, Field(ge=1)] | None = None
    moderation: bool | None = None


class Behaviour(_Part):
    """The switches. The defaults are a provider without limits, latency or faults that speaks DashScope's dialect."""

    # Wire
    dialect: Annotated[str, AfterValidator(_dialect)] = "dashscope"
    region: Literal["beijing", "singapore"] = "beijing"
    base64: Literal["honoured", "ignored", "refused"] = "honoured"
    #: None: as the dialect does.
    dimensions: Literal["honoured", "ignored", "refused"] | None = None
    usage: Literal["exact", "missing", "zero_prompt", "total_only", "native"] = "exact"
    echo_model: Literal["requested", "answering"] = "requested"
    #: Tokens billed by text-embedding-v3 for one of v4's: its own sample says 26 / 23.
    v3_token_ratio: Annotated[float, Field(ge=0.5, le=2)] = 1.0

    # Limits of one request; None for max_texts: as the dialect does
    max_texts: Annotated[int, Field(ge=1)] | None = None
    max_text_tokens: Annotated[int, Field(ge=1)] = 8192
    max_request_tokens: Annotated[int, Field(ge=1)] | None = None
    moderation: bool = True

    # Limits of the account
    requests_per_minute: Annotated[float, Field(gt=0)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0)] | None = None
    per_second_slices: bool = True
    #: Requests a second that are never a burst; above them a rate that more than doubles within 10 s is refused.
    burst_floor: Annotated[int, Field(ge=1)] | None = None
    retry_after: Literal["none", "seconds", "milliseconds", "date"] = "none"
    ratelimit_headers: bool = False
    account: Literal["good", "arrears", "free_tier_only", "key_revoked", "quota_exhausted", "bill_overdue"] = "good"

    # Time. `speed`: simulated seconds in a real one
    latency_seconds: Seconds = 0.0
    latency_per_text_seconds: Seconds = 0.0
    latency_jitter: Share = 0.0
    latency_tail_share: Share = 0.0
    latency_tail_seconds: Seconds = 0.0
    latency_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    speed: Annotated[float, Field(gt=0, le=10_000)] = 1.0

    # A gateway between
    #: Answer with this model's vectors whatever was asked for.
    answer_with: str | None = None
    second_region: SecondRegion | None = None
    #: 1 - cosine between what is answered and what was answered before the drift.
    drift: Annotated[float, Field(ge=0, le=1)] = 0.0
    #: Length of what is added to a unit vector for each place behind the first in its request, otherwise in each
    #: request: what batching does to the arithmetic of some servers.
    jitter: Annotated[float, Field(ge=0, le=1)] = 0.0
    #: What matches is replaced by "[REDACTED]" before it is embedded.
    redact: Annotated[str, AfterValidator(_pattern)] | None = None


class Change(_Part):
    """What one admin request, or one step of a scenario, does besides setting switches."""

    reset: bool = False
    no_faults: bool = False
    unset: list[str] = []
    faults: list[Fault] = []
    keys: list[str] | None = None


#: Keys of a change that are no switches.
ACTIONS = frozenset(Change.model_fields)


def check(wanted: Mapping[str, Any], place: str = "") -> tuple[dict[str, Any], Change]:
    """Split what is wanted into switches and actions, checked.

    Raises: BehaviourInvalid, with every problem.
    """
    switches = {name: value for name, value in wanted.items() if name not in ACTIONS}
    problems: list[Problem] = []
    try:
        Behaviour.model_validate(switches)
    except ValidationError as error:
        problems += found(error, Behaviour, place)
    try:
        change = Change.model_validate({name: value for name, value in wanted.items() if name in ACTIONS})
    except ValidationError as error:
        problems += found(error, Change, place)
    else:
        known = list(Behaviour.model_fields)
        for name in change.unset:
            if name not in known:
                problems.append(Problem(f"{place}unset", f"{name} is no switch", mend_name(name, known)))
        if not problems:
            return switches, change
    raise BehaviourInvalid(problems)


def changed(behaviour: Behaviour, switches: Mapping[str, Any]) -> Behaviour:
    """Return a behaviour with checked switches set."""
    return Behaviour.model_validate({**behaviour.model_dump(), **switches})


def found(error: ValidationError, model: type[BaseModel], place: str) -> list[Problem]:
    """Turn pydantic's findings into ours, one for each place."""
    seen: dict[str, Problem] = {}
    for detail in error.errors(include_url=False):
        where = [str(part) for part in detail["loc"] if not str(part).startswith(("function-", "constrained-"))]
        name = place + ".".join(where)
        if detail["type"] == "extra_forbidden":
            known = list(_model_at(model, where).model_fields) + (sorted(ACTIONS) if model is Behaviour else [])
            problem = Problem(name, "there is no such key", mend_name(where[-1], known))
        elif detail["type"] == "missing":
            problem = Problem(name, "it is missing", "add it")
        else:
            what = detail["msg"].removeprefix("Value error, ")
            problem = Problem(name, what[:1].lower() + what[1:], "docs/simulate.md lists what may stand here")
        seen.setdefault(name, problem)
    return list(seen.values())


def _model_at(model: type[BaseModel], where: Sequence[str]) -> type[BaseModel]:
    inner: dict[str, type[BaseModel]] = {"second_region": SecondRegion, "faults": Fault}
    return inner.get(where[0], model) if len(where) > 1 else model


def mend_name(name: str, known: Sequence[str]) -> str:
    """Say which name was probably meant."""
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
