"""Profiles: what is known of each kind of endpoint, as dated data with the source of every figure.

Floor 1. Promise: an unknown host gets the conservative profile; what the operator's spec says stands above it; a limit
that the provider itself names is learnt downwards over both (state.pace), never upwards.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields, replace
from datetime import date
from functools import cache
from importlib.resources import files
from typing import Any, Literal
from urllib.parse import urlsplit

from migrator.endpoint import ProfileOverrides
from migrator.errors import OperatorError
from migrator.spec import ModelSpec

#: The conservative profile: every other one says only where it differs.
GENERIC = "generic"
#: Where a figure comes from that the operator's spec gave.
OPERATOR = "the spec's profile_overrides"


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
class Dialect:
    """How an endpoint is asked, and how its answers are read. The defaults are `generic`'s."""

    encoding: Literal["base64", "float"] = "base64"
    model_echo: Literal["check", "ignore"] = "check"
    missing_index: Literal["refuse", "order"] = "refuse"
    insufficient_quota: Literal["rate", "credit"] = "rate"


@dataclass(frozen=True, slots=True)
class Profile:
    """Limits per request, what may be sent, what is known of the model. Tokens are the provider's."""

    name: str
    as_of: date
    hosts: tuple[str, ...]
    max_texts: int
    max_text_tokens: int
    max_request_tokens: int
    send_dimensions: bool
    encoding: Literal["base64", "float"] = "base64"
    tokenizer: Literal["qwen", "other"] = "other"
    model_echo: Literal["check", "ignore"] = "check"
    missing_index: Literal["refuse", "order"] = "refuse"
    norm: Literal["steady", "any"] = "steady"
    insufficient_quota: Literal["rate", "credit"] = "rate"
    #: It shortens over-long texts without saying so.
    truncates: bool = False
    #: Which dimensions the model has; empty where nobody says.
    dimensions: tuple[int, ...] = ()
    #: Published, low and high; None where it is not known. Never what the cap counts with: that is the spec's.
    price_usd_per_mtok: tuple[float, float] | None = None
    #: What batch calls cost, as a share of plain ones; None where none are known. This tool sends plain ones only.
    batch_price_share: float | None = None
    #: Another profile whose endpoint has batch calls for the same models, where this one's has none.
    batch_profile: str | None = None
    #: Where texts go, for whoever must know.
    residency: str | None = None
    residency_severity: Literal["info", "warn"] = "info"
    #: Of every figure, where it comes from.
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def dialect(self) -> Dialect:
        """How this endpoint is asked and read."""
        return Dialect(**{each.name: getattr(self, each.name) for each in fields(Dialect)})

    @property
    def source(self) -> str:
        """Where the limit that binds first comes from."""
        return self.sources.get("max_texts", "")

    @property
    def overridden(self) -> dict[str, Any]:
        """What the operator's spec says of it."""
        return {name: getattr(self, name) for name, source in self.sources.items() if source == OPERATOR}

    def lowered(self, **limits: int | None) -> Profile:
        """Return it with limits that the provider named itself, where they are lower."""
        lower = {name: min(value, getattr(self, name)) for name, value in limits.items() if value is not None}
        return replace(self, **lower)


@cache
def _data() -> dict[str, Any]:
    return tomllib.loads(files(__package__).joinpath("profiles.toml").read_text(encoding="utf-8"))


def load() -> dict[str, Profile]:
    """Read the package's profiles, as they are for an unknown model."""
    return {name: _make(name, "") for name in _data()["profiles"]}


def of(model: ModelSpec) -> Profile:
    """Return what is known of a spec's endpoint and model, the operator's own word above all.

    Raises: ProfileUnknown.
    """
    found = choose(model.profile, model.base_url, model.model)
    return found if model.profile_overrides is None else _overridden(found, model.profile_overrides)


def choose(name: str | None, base_url: str, model: str = "") -> Profile:
    """Return the named profile, else the one of the URL's host, else the conservative one.

    Raises: ProfileUnknown.
    """
    known = _data()["profiles"]
    if name is not None and name not in known:
        raise ProfileUnknown(name, ", ".join(sorted(known)))
    host = (urlsplit(base_url).hostname or "").lower()
    fitting = (each for each, values in known.items() if any(_is_host(host, one) for one in values["hosts"]))
    return _make(name or next(fitting, GENERIC), bare(model))


def bare(model: str) -> str:
    """Return a model id without its vendor: qwen/text-embedding-v4 and text-embedding-v4 are one."""
    return model.rsplit("/", 1)[-1]


def _is_host(host: str, pattern: str) -> bool:
    """Say whether a host is the named one, or below it where the name begins with *."""
    return host.endswith(pattern[1:]) if pattern.startswith("*.") else host == pattern


def _make(name: str, model: str) -> Profile:
    """Put a profile together: generic, the model whoever serves it, the host, the model at that host."""
    data = _data()
    own = data["profiles"][name]
    host = {} if name == GENERIC else own
    layers = (data["profiles"][GENERIC], data["models"].get(model, {}), host, own.get("models", {}).get(model, {}))
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        values.update({key: value for key, value in layer.items() if key not in ("sources", "models")})
        sources.update(layer.get("sources", {}))
    for each in ("hosts", "dimensions", "price_usd_per_mtok"):
        if each in values:
            values[each] = tuple(values[each])
    # What a host is known for holds for it alone; when it was looked at, too.
    return Profile(name=name, **{**values, "hosts": tuple(own["hosts"]), "as_of": own["as_of"]}, sources=sources)


def _overridden(profile: Profile, overrides: ProfileOverrides) -> Profile:
    said = overrides.model_dump(exclude_none=True)
    return replace(profile, **said, sources={**profile.sources, **dict.fromkeys(said, OPERATOR)})
