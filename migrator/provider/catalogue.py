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


class Action(StrEnum):
    """What a refusal asks for."""

    THROTTLE = "throttle"  #: Everybody waits, then the same again.
    RETRY = "retry"  #: The same again, a bounded number of times.
    SHRINK = "shrink"  #: Fewer texts per request, from now on.
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
    reason: str = "rejected"
    seconds: float = 5.0
    lost: bool = False

    def fits(self, status: int, code: str, message: str) -> re.Match[str] | bool:
        """Say whether a refusal is this one; the match where words decided."""
        if status not in self.status:
            return False
        if self.codes and code.lower() not in self.codes:
            return False
        if self.words is None:
            return True
        return re.search(self.words, message, re.IGNORECASE) or False


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refusal, understood. `max_texts` and `wait_seconds` are what the provider itself said, if it did."""

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


def understand(status: int, body: bytes, headers: Mapping[str, str]) -> Refusal:
    """Look a refusal up. A 200 with a business error in its body is looked up as the 400 or 429 that it means."""
    code, message = _code_and_message(body)
    looked_up = status
    if status == 200:  # noqa: PLR2004 - an HTTP status
        looked_up = 429 if code.lower().startswith(("throttling", "limit_")) else 400
    wait = _wait_seconds(headers)
    for rule in rules():
        found = rule.fits(looked_up, code, message)
        if not found:
            continue
        max_texts = int(found.group(1)) if isinstance(found, re.Match) and found.re.groups else None
        return Refusal(
            rule.action,
            rule.name,
            rule.hint,
            status,
            _shown(code),
            rule.reason,
            wait if wait is not None else rule.seconds,
            max_texts,
            rule.lost,
        )
    action = Action.RETRY if looked_up >= 500 else Action.STOP  # noqa: PLR2004 - HTTP's class of server errors
    hint = "this answer is not in the catalogue"
    return Refusal(action, "unknown refusal", hint, status, _shown(code), "rejected", wait or 5.0, lost=True)


def _code_and_message(body: bytes) -> tuple[str, str]:
    """Read code and message from a nested, flat or textual error body."""
    try:
        data: Any = json.loads(body)
    except ValueError:
        return "", body[:2000].decode(errors="replace")
    if not isinstance(data, dict):
        return "", ""
    inner = data.get("error", data)
    if isinstance(inner, str):
        return "", inner
    if not isinstance(inner, dict):
        return "", ""
    return str(inner.get("code") or inner.get("type") or ""), str(inner.get("message") or "")


def _shown(code: str) -> str:
    """Return a code that may be shown: letters, digits, dots and underscores only."""
    return code if re.fullmatch(r"[A-Za-z0-9_.]{1,60}", code) else ""


def _wait_seconds(headers: Mapping[str, str]) -> float | None:
    """Read retry-after-ms, or Retry-After in seconds or as a date; None where neither is there."""
    milliseconds = headers.get("retry-after-ms")
    if milliseconds is not None and re.fullmatch(r"\d+(\.\d+)?", milliseconds):
        return float(milliseconds) / 1000
    value = headers.get("retry-after")
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value):
        return float(value)
    parsed = email.utils.parsedate_tz(value)
    return max(0.0, email.utils.mktime_tz(parsed) - time.time()) if parsed else None
