"""Events: what hooks are told of, and the spec's [hooks], which says who is told.

Floor 0. Promise: EDGES is the only place where a move of the status becomes an event; a command is a list of words,
never a shell's line; the URL is shown by its host alone, since its path or its query may be a password.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from migrator.lifecycle import TRANSITIONS, MigrationStatus


class Event(StrEnum):
    """What is told."""

    STARTED = "started"  #: Shadow column and triggers are in place.
    PAUSED = "paused"  #: By somebody, a cap, a gate or the provider: the reason says it.
    RESUMED = "resumed"  #: It goes on.
    THROTTLED = "throttled"  #: Database or provider have held it back for `throttled_minutes`.
    NOT_CONVERGING = "not_converging"  #: Rows become dirty faster than they are embedded.
    VALIDATED = "validated"  #: Every gate was measured; the reason says how it ended.
    READY = "ready"  #: It may be cut over.
    CUTOVER_TRIED = "cutover_tried"  #: Somebody began one.
    CUTOVER_FAILED = "cutover_failed"  #: It ended with the old generation live.
    CUTOVER_DONE = "cutover_done"  #: The new generation is live.
    ROLLBACK_DONE = "rollback_done"  #: The old generation is live again.
    CLEANED = "cleaned"  #: Nothing of ours is left on the table.
    COST_50 = "cost_50"  #: Half of the cap is spent, reserved or possibly billed.
    COST_80 = "cost_80"  #: Four fifths of it.
    COST_100 = "cost_100"  #: The next request could pass it, and was not sent.
    SUSPECTS = "suspects"  #: A writer's vectors look like the other generation's.


class Channel(StrEnum):
    """How it is told."""

    URL = "url"
    COMMAND = "command"


S = MigrationStatus
#: Which moves are events. A plan that is thrown away never began, and tells nothing.
EDGES: dict[tuple[MigrationStatus, MigrationStatus], Event] = {
    **{(old, S.PAUSED): Event.PAUSED for old in S if S.PAUSED in TRANSITIONS[old]},
    **{(S.PAUSED, new): Event.RESUMED for new in TRANSITIONS[S.PAUSED] if new not in {S.ROLLED_BACK, S.CANCELLED}},
    (S.ROLLED_BACK, S.BACKFILLING): Event.RESUMED,
    (S.PLANNED, S.BACKFILLING): Event.STARTED,
    (S.VALIDATING, S.READY): Event.READY,
    (S.READY, S.COMPLETED): Event.CUTOVER_DONE,
    (S.COMPLETED, S.ROLLED_BACK): Event.ROLLBACK_DONE,
    (S.PAUSED, S.ROLLED_BACK): Event.ROLLBACK_DONE,
    (S.CLEANING, S.CLEANED): Event.CLEANED,
}
#: Percents of the cap, with what tells that they are passed.
COSTS = {50: Event.COST_50, 80: Event.COST_80, 100: Event.COST_100}
#: Not told unless asked for: of every cutover that is tried, the end is told.
NOISE = frozenset({Event.CUTOVER_TRIED})
#: What binds where all is well, as it begins: the operator's own hours and order, and the pace of the limits.
FULL_SPEED = ("window", "start at", "priority", "requests/min", "tokens/min")


#: How names of environment variables look.
_VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"


def checked_url(url: str) -> str:
    """Return a URL that may be POSTed to.

    Raises: ValueError, in words that hold nothing of it.
    """
    try:
        parts = urlsplit(url)
        names_host = bool(parts.hostname)
    except ValueError:
        # Its own words quote what is wrong.
        raise ValueError("it is no URL") from None
    if parts.scheme not in {"http", "https"} or not names_host:
        raise ValueError("it must begin with https:// (or http://) and name a host")
    if parts.username or parts.password:
        raise ValueError("it holds a user or a password; what is sent is signed instead")
    if any(each.isspace() or not each.isprintable() for each in url):
        raise ValueError("it holds a blank or a control character")
    try:
        _ = parts.port
    except ValueError:
        raise ValueError("its port is no number from 0 to 65535") from None
    return url


def _words(command: list[str]) -> list[str]:
    if not command or not command[0] or any("\x00" in word for word in command):
        raise ValueError("its first word must name a program")
    return command


def _on(value: object) -> tuple[Event, ...]:
    known = ", ".join(Event)
    if not isinstance(value, list | tuple) or not value or not all(isinstance(each, str) for each in value):
        raise ValueError(f"it must be a list of events (known: {known})")
    unknown = [each for each in value if each not in {*Event}]
    if unknown:
        raise ValueError(f"there is no event of that name (known: {known})")
    return tuple(each for each in Event if each in value)


class HooksSpec(BaseModel):
    """[hooks]: who is told of what."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    #: Who is told by POST, signed.
    url: (
        Annotated[
            str, AfterValidator(checked_url), Field(max_length=2000, description='"https://host/path", without a user')
        ]
        | None
    ) = None
    #: The name of the variable that holds the URL, where that is a secret itself (a chat's webhook).
    url_env: Annotated[str, Field(pattern=_VARIABLE, description="the NAME of a variable, never a URL")] | None = None
    #: What is run, without a shell; the event comes on its standard input.
    command: (
        Annotated[
            list[str],
            AfterValidator(_words),
            Field(min_length=1, max_length=50, description='a list of words, as in ["/usr/local/bin/page", "docs"]'),
        ]
        | None
    ) = None
    #: Which events are told.
    on: Annotated[
        tuple[Event, ...],
        BeforeValidator(_on),
        Field(strict=False, description='a list of events, as in ["paused", "ready"]'),
    ] = tuple(each for each in Event if each not in NOISE)
    #: The name of the variable whose value signs what is POSTed.
    secret_env: (
        Annotated[str, Field(pattern=_VARIABLE, description="the NAME of a variable, never a secret")] | None
    ) = None
    #: Ten minutes outlast a vacuum's or a report's moment; what is longer is worth a look.
    throttled_minutes: Annotated[float, Field(strict=False, gt=0, le=10_080, description="minutes, as in 10")] = 10.0

    @property
    def channels(self) -> tuple[Channel, ...]:
        """The ways in which events are told; none where there are no hooks."""
        wanted = {Channel.URL: self.url or self.url_env, Channel.COMMAND: self.command}
        return tuple(channel for channel, value in wanted.items() if value is not None)

    def channels_of(self, event: Event) -> tuple[Channel, ...]:
        """Return the ways in which an event is told."""
        return self.channels if event in self.on else ()

    def place(self, channel: Channel) -> str:
        """Return who is told, as it may be shown."""
        if channel is Channel.URL and self.url_env is not None:
            return f"at ${self.url_env}"
        if channel is Channel.URL:
            parts = urlsplit(self.url or "")
            return f"{parts.scheme}://{parts.hostname}{f':{parts.port}' if parts.port else ''}"
        return (self.command or [""])[0].rpartition("/")[2]


def impossible(data: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return combinations that no single key shows, as (key, what, mend); tolerant of wrong types."""
    problems = []
    urls = [key for key in ("url", "url_env") if data.get(key) is not None]
    if urls and data.get("secret_env") is None:
        problems.append(
            ("secret_env", f"what is POSTed to `{urls[0]}` is signed, and nothing names the key", "name a variable")
        )
    if len(urls) > 1:
        problems.append(("url_env", "there is a `url` as well", "leave one of them out"))
    if not urls and data.get("command") is None:
        problems.append(
            ("url", "there is nobody to be told", "give `url`, `url_env` or `command`, or leave [hooks] out")
        )
    return problems
