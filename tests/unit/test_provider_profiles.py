"""Profiles: dated data with a source for every figure; the host chooses, the operator overrides, unknown is careful."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from migrator.endpoint import ProfileOverrides
from migrator.provider import profiles
from migrator.provider.profiles import OPERATOR, ProfileUnknown
from migrator.spec import ModelSpec

V3, V4 = "qwen/text-embedding-v3", "qwen/text-embedding-v4"
HOSTS = {
    "https://api.therouter.ai/v1": "therouter",
    "https://dashscope-intl.aliyuncs.com/compatible-mode/v1": "dashscope-singapore",
    "https://DASHSCOPE-INTL.aliyuncs.com/compatible-mode/v1": "dashscope-singapore",
    "https://ws-1.ap-southeast-1.maas.aliyuncs.com/compatible-mode/v1": "dashscope-singapore",
    "https://dashscope.aliyuncs.com/compatible-mode/v1": "dashscope-beijing",
    "https://ws-1.cn-beijing.maas.aliyuncs.com/compatible-mode/v1": "dashscope-beijing",
    "https://cn-hongkong.dashscope.aliyuncs.com/compatible-mode/v1": "dashscope-hongkong",
    "https://api.openai.com/v1": "openai",
    "http://127.0.0.1:11434/v1": "generic",
    "https://api.therouter.ai.evil.test/v1": "generic",
    "https://evilapi.therouter.ai/v1": "generic",
    "https://maas.aliyuncs.com/v1": "generic",
    "https://wscn-beijing.maas.aliyuncs.com/v1": "generic",
}


def spec(**changes: Any) -> ModelSpec:
    values = {"model": V4, "dimensions": 1024, "base_url": "https://api.therouter.ai/v1", "price_usd_per_mtok": 0.144}
    return ModelSpec.model_validate({**values, **changes})


@pytest.mark.parametrize(("url", "name"), HOSTS.items())
def test_r28_the_host_chooses_and_an_unknown_one_is_treated_with_care(url: str, name: str) -> None:
    assert profiles.choose(None, url).name == name


def test_r28_the_kinds_that_no_host_tells_are_named() -> None:
    assert set(profiles.load()) >= {"generic", "vllm", "tei", "ollama", "openai", "therouter"}
    assert profiles.choose("tei", "https://api.openai.com/v1").max_texts == 32
    with pytest.raises(ProfileUnknown, match="vllm"):
        profiles.choose("vlm", "https://api.openai.com/v1")


def _figures(values: dict[str, Any]) -> set[str]:
    return set(values) - {"as_of", "hosts", "sources", "models"}


def _sections() -> list[tuple[str, dict[str, Any]]]:
    data = profiles._data()
    found = [(f"{kind} {name}", values) for kind in ("models", "profiles") for name, values in data[kind].items()]
    below = [
        (f"{name} {model}", values)
        for name, profile in data["profiles"].items()
        for model, values in profile.get("models", {}).items()
    ]
    return found + below


@pytest.mark.parametrize(("name", "values"), _sections(), ids=[each[0] for each in _sections()])
def test_r28_every_figure_has_its_source(name: str, values: dict[str, Any]) -> None:
    assert set(values["sources"]) == _figures(values), name
    assert all(len(source) > 8 for source in values["sources"].values())


@pytest.mark.parametrize("name", profiles.load())
def test_r28_every_profile_is_dated_and_possible(name: str) -> None:
    found = profiles.load()[name]
    assert date(2025, 1, 1) <= found.as_of
    assert found.max_texts >= 1
    assert 1 <= found.max_text_tokens <= found.max_request_tokens
    assert found.price_usd_per_mtok is None or 0 <= found.price_usd_per_mtok[0] <= found.price_usd_per_mtok[1]
    assert found.source


def test_r28_the_unknown_host_is_promised_no_more_than_any_known_service() -> None:
    careful = profiles.load()["generic"]
    for each in profiles.load().values():
        assert careful.max_texts <= each.max_texts
        assert careful.max_text_tokens <= each.max_text_tokens
        assert careful.max_request_tokens <= each.max_request_tokens


@pytest.mark.parametrize("url", HOSTS)
def test_a_models_tokenizer_is_known_whoever_serves_it(url: str) -> None:
    assert profiles.of(spec(base_url=url)).tokenizer == "qwen"
    assert profiles.of(spec(base_url=url, model="text-embedding-v4")).tokenizer == "qwen"
    assert profiles.of(spec(base_url=url, model=V3)).tokenizer == "other"
    assert profiles.of(spec(base_url=url, model="something")).tokenizer == "other"


def test_what_a_region_grants_a_model_is_its_own() -> None:
    singapore = "https://dashscope-intl.aliyuncs.com/compatible-mode/v1"
    beijing = "https://dashscope.aliyuncs.com/compatible-mode/v1"
    assert profiles.of(spec(base_url=singapore, model=V3)).dimensions == (1024, 768, 512)
    assert 64 in profiles.of(spec(base_url=beijing, model=V3)).dimensions
    assert profiles.of(spec(base_url=singapore, model="qwen3.7-text-embedding")).max_texts == 20
    assert profiles.of(spec(base_url=singapore)).max_texts == 10


def test_c1_the_published_price_is_a_range_where_the_page_contradicts_itself() -> None:
    assert profiles.of(spec()).price_usd_per_mtok == (0.12, 0.144)


def test_c3_no_host_stands_in_for_another() -> None:
    """No built-in alternates: a profile has no address of its own that anything could be sent to."""
    assert not [name for _, values in _sections() for name in _figures(values) if "url" in name or "endpoint" in name]


@pytest.mark.parametrize("name", ["tei", "ollama"])
def test_r9_who_shortens_texts_silently_is_known(name: str) -> None:
    assert profiles.load()[name].truncates
    assert not profiles.load()["generic"].truncates


def test_the_operators_word_stands_above_the_profile() -> None:
    found = profiles.of(spec(profile_overrides={"max_texts": 25, "send_dimensions": False, "model_echo": "ignore"}))
    assert (found.name, found.max_texts, found.send_dimensions) == ("therouter", 25, False)
    assert found.dialect.model_echo == "ignore"
    assert found.overridden == {"max_texts": 25, "send_dimensions": False, "model_echo": "ignore"}
    assert found.sources["max_texts"] == OPERATOR
    assert found.max_text_tokens == 8192
    assert profiles.of(spec()).overridden == {}


def test_every_key_of_the_overrides_is_one_of_the_profile() -> None:
    names = {name: getattr(profiles.load()["generic"], name) for name in ProfileOverrides.model_fields}
    assert len(names) == 10


def test_r7_a_learnt_limit_is_only_ever_lower() -> None:
    found = profiles.of(spec())
    assert found.lowered(max_texts=6, max_text_tokens=None, max_request_tokens=100_000).max_texts == 6
    assert found.lowered(max_request_tokens=100_000).max_request_tokens == 8192
    assert found.lowered() == found
