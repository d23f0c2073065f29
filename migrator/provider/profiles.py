"""Profiles: what is known of each kind of endpoint, as dated data.

Floor 1. Promise: an unknown host gets the conservative profile; a limit that the provider itself names is learnt
downwards over this (state.pace), never upwards.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib.resources import files
from urllib.parse import urlsplit

from migrator.errors import OperatorError


@dataclass(eq=False)
class ProfileUnknown(OperatorError):
    """The spec names a profile that is not there."""

    profile: str
    known: str

    runbook = "first-migration"
    happened = "There is no provider profile named {profile} (known: {known})."
    state = "Nothing was changed."
    next = "Mend [to] profile in the spec, or leave it out, then run `migrator plan SPEC`."


@dataclass(frozen=True, slots=True)
class Profile:
    """Limits per request, and what may be sent. Tokens are the provider's."""

    name: str
    as_of: date
    hosts: tuple[str, ...]
    max_texts: int
    max_text_tokens: int
    max_request_tokens: int
    send_dimensions: bool
    source: str


@cache
def load() -> dict[str, Profile]:
    """Read the package's profiles."""
    data = tomllib.loads(files(__package__).joinpath("profiles.toml").read_text(encoding="utf-8"))
    return {name: Profile(name=name, **{**values, "hosts": tuple(values["hosts"])}) for name, values in data.items()}


def choose(name: str | None, base_url: str) -> Profile:
    """Return the named profile, else the one of the URL's host, else the conservative one.

    Raises: ProfileUnknown.
    """
    known = load()
    if name is not None:
        if name not in known:
            raise ProfileUnknown(name, ", ".join(sorted(known)))
        return known[name]
    host = urlsplit(base_url).hostname or ""
    return next((profile for profile in known.values() if host in profile.hosts), known["generic"])
