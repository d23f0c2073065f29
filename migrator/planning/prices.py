"""The price: every figure that is known of it with where it is from, and what the whole table costs at each.

Floor 2. Pure. Promise: what counts is the spec's; where published figures contradict each other or the spec, both stand
there with their sums, and nobody has to guess which one was used.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from migrator.measures.sampling import Total
from migrator.provider import profiles
from migrator.provider.profiles import Profile
from migrator.state import budget

#: The source of the prices that count.
SPEC = "the spec"
#: Where nothing is to be embedded, or could be read.
NOTHING = Total(0.0)


def cost(tokens: Total, prices: tuple[float, float], profile: Profile, model: str) -> dict[str, Any]:
    """Return what `plan --json` says of money, in US dollars; of batch calls too, which this tool does not send."""
    low, high = prices
    by_price = [_at(price, SPEC, tokens) for price in dict.fromkeys(prices)]
    published = profile.price_usd_per_mtok
    if published is not None:
        source = f"published on {profile.as_of.isoformat()}: {profile.sources['price_usd_per_mtok']}"
        by_price += [_at(price, source, tokens) for price in dict.fromkeys(published)]
    return {
        "by_batch_price": list(_batch(tokens, prices, profile, model)),
        "low": float(_usd(tokens.low, low)),
        "high": float(_usd(tokens.high, high)),
        "prices_usd_per_mtok": [low, high],
        "by_price": by_price,
        "contradiction": contradiction(prices, published),
    }


def _batch(tokens: Total, prices: tuple[float, float], profile: Profile, model: str) -> Iterator[dict[str, Any]]:
    """Give the sums at the price of batch calls: a share of the spec's, or of what is published elsewhere."""
    share, source = profile.batch_price_share, profile.sources.get("batch_price_share")
    of, plain = "the spec's prices", prices
    if share is None and profile.batch_profile is not None:
        other = profiles.choose(profile.batch_profile, "", model)
        share, source = other.batch_price_share, other.sources.get("batch_price_share")
        of, plain = f"the prices that {other.name} publishes", other.price_usd_per_mtok or prices
    if share is not None:
        for price in dict.fromkeys(plain):
            yield _at(price * share, f"{100 * share:g} % of {of}: {source}", tokens)


def contradiction(prices: tuple[float, float], published: tuple[float, float] | None) -> str | None:
    """Say that figures for the same thing differ, and by how much; None where they agree."""
    known = sorted({*prices, *(published or ())})
    if len(known) < 2 or not known[0]:  # noqa: PLR2004 - two figures
        return None
    more = 100 * (known[-1] / known[0] - 1)
    return (
        f"the prices contradict each other: {known[-1]:g} is {more:.0f} % above {known[0]:g} USD per million tokens;"
        f" the cap counts with {prices[1]:g}, the spec's highest, and the invoice will tell"
    )


def _at(price: float, source: str, tokens: Total) -> dict[str, Any]:
    return {
        "usd_per_mtok": price,
        "source": source,
        "low_usd": float(_usd(tokens.low, price)),
        "likely_usd": float(_usd(tokens.value, price)),
        "high_usd": float(_usd(tokens.high, price)),
    }


def _usd(tokens: float, usd_per_mtok: float) -> Decimal:
    return budget.price(round(tokens), usd_per_mtok).usd
