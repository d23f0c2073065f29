"""What a plan says of the provider before anything is sent to it."""

from __future__ import annotations

from typing import Any

import pytest

from migrator import spec as specs
from migrator.planning import provider
from migrator.planning.findings import Severity
from migrator.provider import profiles
from migrator.spec import Spec

ROUTER = "https://api.therouter.ai/v1"
BEIJING = "https://dashscope.aliyuncs.com/compatible-mode/v1"
SINGAPORE = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
HERE = "http://127.0.0.1:8080/v1"


def spec(old: dict[str, Any] | None = None, **changes: Any) -> Spec:
    new = {
        "model": "qwen/text-embedding-v4",
        "dimensions": 1024,
        "base_url": ROUTER,
        "price_usd_per_mtok": [0.12, 0.144],
    }
    return specs.parse(
        {
            "name": "docs",
            "target": {"table": "docs", "column": "embedding", "text": "{body}"},
            "from": {"model": "qwen/text-embedding-v3", "dimensions": 1024, **(old or {})},
            "to": {**new, **changes},
            "limits": {"max_cost_usd": 1},
        },
        "docs.toml",
    )


def codes(made: Spec) -> list[tuple[str, str, str]]:
    return [(each.code, each.severity, each.object) for each in provider.check(made)]


@pytest.mark.parametrize(
    ("url", "severity", "words"),
    [
        (ROUTER, Severity.WARN, "mainland China or in Singapore"),
        (BEIJING, Severity.WARN, "mainland China"),
        (SINGAPORE, Severity.INFO, "Singapore"),
        ("https://api.openai.com/v1", Severity.INFO, "OpenAI"),
        ("https://gateway.test/v1", Severity.INFO, "nothing is known"),
    ],
)
def test_r29_the_plan_says_where_texts_go(url: str, severity: Severity, words: str) -> None:
    (found,) = [each for each in provider.check(spec(base_url=url)) if each.code == "data_residency"]
    assert found.severity is severity
    assert words in found.message


def test_a_local_endpoint_raises_no_question() -> None:
    assert codes(spec(base_url=HERE, price_usd_per_mtok=0)) == []
    assert codes(spec(base_url="http://localhost:11434/v1", price_usd_per_mtok=0)) == []


def test_the_old_models_own_endpoint_is_looked_at_too() -> None:
    found = codes(spec({"base_url": BEIJING}))
    assert ("data_residency", "warn", "api.therouter.ai") in found
    assert ("data_residency", "warn", "dashscope.aliyuncs.com") in found


def test_c2_what_was_mended_is_told() -> None:
    assert ("spec_mended", "info", "[to] base_url") in codes(spec(base_url=f"{ROUTER}/chat/completions"))


def test_a_key_that_would_go_unencrypted_is_told() -> None:
    assert ("plain_http", "warn", "gateway.test") in codes(spec(base_url="http://gateway.test/v1"))


@pytest.mark.parametrize(("price", "told"), [(0.12, True), ([0.1, 0.144], False), (0.2, False), (0.07, True)])
def test_c1_a_price_below_what_is_published_is_told(price: Any, told: bool) -> None:  # noqa: FBT001
    found = ("price_below_published", "warn", "[to] price_usd_per_mtok") in codes(spec(price_usd_per_mtok=price))
    assert found is told


def test_dimensions_that_nobody_publishes_are_told() -> None:
    assert ("dimensions_unpublished", "warn", "[to] dimensions") in codes(spec(dimensions=1000))
    assert not [each for each in codes(spec(dimensions=2048)) if each[0] == "dimensions_unpublished"]
    old = {"model": "text-embedding-v3", "dimensions": 256, "base_url": SINGAPORE}
    assert ("dimensions_unpublished", "warn", "[from] dimensions") in codes(spec(old))


@pytest.mark.parametrize("name", ["tei", "ollama"])
def test_r9_an_endpoint_that_shortens_silently_is_told(name: str) -> None:
    assert ("truncates_silently", "warn", "[to] profile") in codes(spec(base_url=HERE, profile=name))


def test_r28_the_profile_is_shown_with_its_date_and_source() -> None:
    shown = provider.line(provider.describe(profiles.of(spec().to)))
    assert "10 texts, 8,192 tokens a request (profile therouter of 2026-" in shown
    assert "source: " in shown
    assert "no profile knows this host" in provider.line(provider.describe(profiles.of(spec(base_url=HERE).to)))
    changed = spec(profile_overrides={"max_texts": 25, "norm": "any"}).to
    shown = provider.line(provider.describe(profiles.of(changed)))
    assert "25 texts" in shown
    assert "the spec overrides max_texts, norm; source: the spec's profile_overrides" in shown


def test_c1_the_price_is_shown_as_a_range_with_its_source() -> None:
    described = provider.describe(profiles.of(spec().to))
    assert provider.price_line(described, [0.12, 0.144]).startswith(
        "0.12 to 0.144 USD per million tokens, from the spec; published on 2026-"
    )
    assert "the cap counts with the higher" in provider.price_line(described, [0.2, 0.2])
    unknown = provider.describe(profiles.of(spec(base_url=HERE).to))
    assert provider.price_line(unknown, [0.2, 0.2]).endswith("from the spec; no published price is known")
