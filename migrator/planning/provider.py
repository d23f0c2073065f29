"""What a plan says of the provider: which profile was chosen, how old it is, where texts go, what is published.

Floor 2. Pure. Promise: nothing that the package only believes of an endpoint is used without being shown with its date
and source; the price that counts is the spec's, and a published one is only ever held beside it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from migrator.generation import Side
from migrator.planning.findings import Finding, info, warn
from migrator.provider import profiles
from migrator.provider.profiles import GENERIC, Profile
from migrator.spec import ModelSpec, Spec


def describe(profile: Profile) -> dict[str, Any]:
    """Return what `plan --json` says of the chosen profile."""
    price = profile.price_usd_per_mtok
    return {
        "profile": profile.name,
        "as_of": profile.as_of.isoformat(),
        "max_texts": profile.max_texts,
        "max_text_tokens": profile.max_text_tokens,
        "max_request_tokens": profile.max_request_tokens,
        "overridden": profile.overridden,
        "published_usd_per_mtok": None if price is None else list(price),
        "residency": profile.residency,
        "sources": profile.sources,
    }


def line(provider: dict[str, Any]) -> str:
    """Return the plan's line for people: limits, where they are from, how old that is."""
    limits = f"{provider['max_texts']:,} texts, {provider['max_request_tokens']:,} tokens a request"
    unknown = "; the conservative one: no profile knows this host" if provider["profile"] == GENERIC else ""
    changed = f"; the spec overrides {', '.join(provider['overridden'])}" if provider["overridden"] else ""
    source = provider["sources"]["max_texts"]
    return f"{limits} (profile {provider['profile']} of {provider['as_of']}{unknown}{changed}; source: {source})"


def price_line(provider: dict[str, Any], prices: list[float]) -> str:
    """Return where a price comes from, and what is published beside it."""
    published = provider["published_usd_per_mtok"]
    if published is None:
        return f"{_range(prices)} USD per million tokens, from the spec; no published price is known"
    source = provider["sources"]["price_usd_per_mtok"]
    return (
        f"{_range(prices)} USD per million tokens, from the spec; published on {provider['as_of']}: "
        f"{_range(published)} ({source})"
    )


def _range(prices: list[float] | tuple[float, float]) -> str:
    return " to ".join(f"{price:g}" for price in dict.fromkeys(prices))


def check(spec: Spec) -> list[Finding]:
    """Return what an operator should know of the endpoints before anything is sent to them."""
    found = [info("spec_mended", each.place, each.what, each.mend) for each in spec.notices]
    for side in (Side.TO, Side.FROM):
        model = spec.model_of(side)
        found += [each for each in _endpoint(side, model, profiles.of(model)) if each not in found]
    return found


def _endpoint(side: Side, model: ModelSpec, profile: Profile) -> Iterator[Finding]:
    host = urlsplit(model.base_url).hostname or ""
    if not _is_local(host):
        yield from _residency(host, profile)
        if model.base_url.startswith("http://"):
            yield warn(
                "plain_http",
                host,
                "the key and every text are sent to it unencrypted",
                "write https://, unless the network between is yours",
            )
    high, published = model.price_usd_per_mtok[1], profile.price_usd_per_mtok
    if published is not None and high < published[1]:
        yield warn(
            "price_below_published",
            f"[{side}] price_usd_per_mtok",
            f"its highest is {high:g}, and {published[1]:g} is published ({profile.sources['price_usd_per_mtok']})",
            "the cap counts with the spec's: compare it with your contract, and a pilot with the invoice",
        )
    if profile.dimensions and model.dimensions not in profile.dimensions:
        yield warn(
            "dimensions_unpublished",
            f"[{side}] dimensions",
            f"{profile.name} publishes {', '.join(map(str, profile.dimensions))} for {model.model}",
            "ask `migrator doctor SPEC`, which tries it",
        )
    if profile.truncates:
        yield warn(
            "truncates_silently",
            f"[{side}] profile",
            f"{profile.name} shortens over-long texts without saying so ({profile.sources['truncates']})",
            "set max_text_tokens in [to.profile_overrides] to the model's window, so that such texts are quarantined",
        )


def _residency(host: str, profile: Profile) -> Iterator[Finding]:
    where = profile.residency
    if where is None:
        if profile.name == GENERIC:
            yield info("data_residency", host, "nothing is known of where it processes texts", "ask whoever runs it")
        return
    severe = warn if profile.residency_severity == "warn" else info
    source = profile.sources["residency"]
    yield severe("data_residency", host, f"{where} ({source})", "make sure that these texts may go there")


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
