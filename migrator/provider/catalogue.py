"""The error catalogue: from a refusal's status, code and words to what is to be done about it.

Floor 1. Promise: every refusal is understood or treated with care, and nothing of its body is ever shown: a
provider's message may quote the text (P11). Shown are our own name for it, the HTTP status and the code's letters.
"""

from __future__ import annotations

import email.utils
import json
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

_OK, _SERVER_ERRORS = 200, 500
#: Seconds that a Retry-After may ask for; whoever asks for more is asked again after this.
LONGEST_WAIT_SECONDS = 3600.0
#: Characters of a message that are looked at; the fragments that are known stand at its beginning.
_MESSAGE_CHARACTERS = 4000
#: What a limit is called in a rule's words; a second name where one fragment has two forms of it.
_GROUPS = {
    "max_texts": "max_texts",
    "max_text_tokens": "max_text_tokens",
    "text": "max_text_tokens",
    "max_request_tokens": "max_request_tokens",
    "request": "max_request_tokens",
}


class Action(StrEnum):
    """What a refusal asks for."""

    THROTTLE = "throttle"  #: Everybody waits, then the same again.
    RETRY = "retry"  #: The same again, a bounded number of times.
    SHRINK = "shrink"  #: Smaller requests, from now on.
    BISECT = "bisect"  #: One of the texts is the reason: find it.
    STOP = "stop"  #: Nothing can go on until somebody acts: the migration pauses.
    DEFECT = "defect"  #: Our request was wrong.


@dataclass(frozen=True, slots=True)
class Rule:
    """One line of the catalogue."""

    name: str
    status: tuple[int, ...]
    action: Action
    hint: str
    codes: tuple[str, ...] = ()
    words: str | None = None
    #: Only where the profile reads insufficient_quota so.
    quota: str | None = None
    reason: str = "rejected"
    seconds: float = 5.0
    lost: bool = False
    crash: bool = False

    def fits(self, status: int, code: str, message: str, quota: str = "rate") -> re.Match[str] | bool:
        """Say whether a refusal is this one; the match where words decided. A 200 needs a code or words to fit."""
        if status != _OK and status not in self.status:
            return False
        if status == _OK and not self.codes and self.words is None:
            return False
        if self.codes and code.lower() not in self.codes:
            return False
        if self.quota is not None and self.quota != quota:
            return False
        if self.words is None:
            return True
        return re.search(self.words, message[:_MESSAGE_CHARACTERS], re.IGNORECASE) or False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal, understood. Limits and `wait_seconds` are what the provider itself said, if it did."""

    action: Action
    name: str
    hint: str
    status: int
    code: str
    reason: str
    wait_seconds: float
    max_texts: int | None = None
    #: The provider may have worked, and billed, all the same.
    lost: bool = False
    max_text_tokens: int | None = None
    max_request_tokens: int | None = None
    #: `wait_seconds` is the provider's own word, not the catalogue's.
    wait_is_theirs: bool = False
    #: Where it comes again and again, one text may be what makes the provider fail.
    crash: bool = False
    #: What the provider says of trying again (x-should-retry), if it does.
    again: bool | None = None

    def __str__(self) -> str:
        shown = f"HTTP {self.status}{f' {self.code}' if self.code else ''}"
        return f"{self.name} ({shown})"


@cache
def rules() -> tuple[Rule, ...]:
    """Read the catalogue."""
    data = tomllib.loads(files(__package__).joinpath("catalogue.toml").read_text(encoding="utf-8"))
    return tuple(
        Rule(
            **{
                **each,
                "status": tuple(each["status"]),
                "codes": tuple(each.get("codes", ())),
                "action": Action(each["action"]),
            }
        )
        for each in data["rule"]
    )


def understand(status: int, body: bytes, headers: Mapping[str, str], *, quota: str = "rate") -> Refusal:
    """Look a refusal up. A 200 with a business error in its body is looked up by what that says.

    `quota` is how the host's profile reads insufficient_quota, where the message does not tell.
    """
    code, message, inner = _read(body)
    looked_up = inner if status == _OK and inner is not None else status
    wait = _wait_seconds(headers)
    again = {"true": True, "false": False}.get(headers.get("x-should-retry", "").lower())
    for rule in rules():
        found = rule.fits(looked_up, code, message, quota)
        if found:
            return Refusal(
                rule.action,
                rule.name,
                rule.hint,
                status,
                _shown(code),
                rule.reason,
                rule.seconds if wait is None else wait,
                lost=rule.lost,
                wait_is_theirs=wait is not None,
                crash=rule.crash,
                again=again,
                **_limits(found),
            )
    return _unknown(status, looked_up, code, wait, again=again)


def _unknown(status: int, looked_up: int, code: str, wait: float | None, *, again: bool | None) -> Refusal:
    """Treat what no rule fits with care: never a bisection, never as if it had cost nothing."""
    action = Action.RETRY if looked_up >= _SERVER_ERRORS else Action.STOP
    hint = "this answer is not in the catalogue"
    if again:
        action = Action.RETRY
    if looked_up == _OK:
        # A business error under success, of a kind that is not known: tried again, then given back.
        action = Action.THROTTLE if code.lower().startswith(("throttling", "limit_")) else Action.RETRY
    return Refusal(
        action,
        "unknown refusal",
        hint,
        status,
        _shown(code),
        "rejected",
        5.0 if wait is None else wait,
        lost=True,
        wait_is_theirs=wait is not None,
        again=again,
    )


def _limits(found: object) -> dict[str, int]:
    """Read the limits that a message named; none of them may be 0."""
    if not isinstance(found, re.Match):
        return {}
    named = {_GROUPS[name]: int(value) for name, value in found.groupdict().items() if value is not None}
    return {name: value for name, value in named.items() if value >= 1}


def _read(body: bytes) -> tuple[str, str, int | None]:
    """Read code, message and a status of its own from a nested, flat or textual error body."""
    try:
        data: Any = json.loads(body)
    except (ValueError, RecursionError):
        return "", body[:_MESSAGE_CHARACTERS].decode(errors="replace"), None
    if not isinstance(data, dict):
        return "", "", None
    inner = data.get("error") or data
    if isinstance(inner, str):
        return "", inner, None
    if not isinstance(inner, dict):
        return "", "", None
    said = [inner.get("code"), inner.get("type")]
    # text-embeddings-inference, vLLM and gateways give the HTTP status as `code`, and the kind as `type`.
    code = next((each for each in said if isinstance(each, str) and each and not each.isdigit()), "")
    numbers = [int(str(each)) for each in said if re.fullmatch(r"[45]\d\d", str(each))]
    message = next((inner[key] for key in ("message", "msg", "detail") if isinstance(inner.get(key), str)), "")
    return code, message, numbers[0] if numbers else None


def _shown(code: str) -> str:
    """Return a code that may be shown: letters, digits, dots and underscores only."""
    return code if re.fullmatch(r"[A-Za-z0-9_.]{1,60}", code) else ""


def _wait_seconds(headers: Mapping[str, str]) -> float | None:
    """Read retry-after-ms, or Retry-After in seconds or as a date; None where neither is there."""
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", milliseconds):
        return min(float(milliseconds) / 1000, LONGEST_WAIT_SECONDS)
    value = headers.get("retry-after")
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,12}(\.[0-9]{1,6})?", value):
        return min(float(value), LONGEST_WAIT_SECONDS)
    parsed = email.utils.parsedate_tz(value)
    try:
        seconds = email.utils.mktime_tz(parsed) - time.time() if parsed else None
    except (ValueError, OverflowError):
        return None
    return None if seconds is None else min(max(0.0, seconds), LONGEST_WAIT_SECONDS)
