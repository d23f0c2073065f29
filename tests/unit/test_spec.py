"""A spec is checked whole: every problem at once, each with its place and its mend."""

import json
from pathlib import Path
from typing import Any

import pytest

from migrator import spec as specs
from migrator.generation import Generation, Side
from migrator.spec import SpecInvalid


def good() -> dict[str, Any]:
    return {
        "name": "docs",
        "target": {"table": "public.docs", "column": "embedding", "text": "{title}\n\n{body}"},
        "from": {"model": "qwen/text-embedding-v3", "dimensions": 1024},
        "to": {
            "model": "qwen/text-embedding-v4",
            "dimensions": 1024,
            "base_url": "https://api.therouter.ai/v1/",
            "price_usd_per_mtok": [0.12, 0.144],
        },
        "limits": {"max_cost_usd": 50, "window": "22:00-06:00 Asia/Shanghai"},
    }


def test_a_good_spec_loads_and_survives_the_freezer() -> None:
    spec = specs.parse(good(), "docs.toml")
    assert spec.generation(Side.FROM) == Generation("qwen/text-embedding-v3", 1024)
    assert spec.model_of(Side.FROM).base_url == spec.to.base_url == "https://api.therouter.ai/v1"
    assert spec.model_of(Side.FROM).api_key_env == "THE_ROUTER_API_KEY"
    assert [str(window) for window in spec.windows] == ["22:00-06:00 Asia/Shanghai"]
    assert specs.restore(spec.dump()) == spec


def test_one_price_is_a_range_of_one() -> None:
    data = good()
    data["to"]["price_usd_per_mtok"] = 0.07
    assert specs.parse(data, "x").to.price_usd_per_mtok == (0.07, 0.07)


def test_every_problem_is_reported_at_once() -> None:
    data = good()
    data["name"] = "Docs!"
    data["colour"] = "red"
    data["target"]["colum"] = data["target"].pop("column")
    data["target"]["text"] = "{title"
    data["from"]["dimensions"] = "1024"
    data["to"]["base_url"] = "api.therouter.ai/v1"
    del data["to"]["price_usd_per_mtok"]
    data["limits"]["max_cost_usd"] = "fifty"
    data["limits"]["window"] = "25:00-06:00 Asia/Shanghai"
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(data, "docs.toml")
    problems = {problem.place: problem for problem in caught.value.problems}
    assert set(problems) == {
        "name",
        "colour",
        "[target] column",
        "[target] colum",
        "[target] text",
        "[from] dimensions",
        "[to] base_url",
        "[to] price_usd_per_mtok",
        "[limits] max_cost_usd",
        "[limits] window",
    }
    assert all(problem.what and problem.mend for problem in problems.values())
    assert problems["[target] colum"].mend == "did you mean column?"
    assert caught.value.exit_code == 2
    assert "migrator plan docs.toml" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"from": {"model": "qwen/text-embedding-v4", "dimensions": 1024}}, "[to] model"),
        ({"target": {"table": "docs", "column": "body", "text": "{body}"}}, "[target] text"),
        ({"target": {"table": "a.b.c", "column": "e", "text": "{body}"}}, "[target] table"),
        ({"target": {"table": "docs", "column": "e", "text": "no column"}}, "[target] text"),
        ({"target": {"table": "docs", "column": "e", "text": "{b}", "where": "now() > at"}}, None),
        ({"target": {"table": "docs", "column": "e", "text": "{b}", "where": "(a"}}, "[target] where"),
        ({"target": {"table": "docs", "column": "e", "text": "{b}", "key": ["id", "id"]}}, "[target] key"),
        ({"target": {"table": "docs", "column": "e", "text": "{b}", "fire_triggers": "yes"}}, "[target] fire_triggers"),
        ({"target": {"table": "docs", "column": "e", "text": "{b}", "subscribers": "none"}}, "[target] subscribers"),
        ({"limits": {"max_cost_usd": -1}}, "[limits] max_cost_usd"),
        ({"limits": {}}, "[limits] max_cost_usd"),
        ({"limits": {"max_cost_usd": 1, "too_long": "chunk"}}, "[limits] too_long"),
        ({"limits": {"max_cost_usd": 1, "requests_per_minute": 0}}, "[limits] requests_per_minute"),
        ({"gates": {"assignment_sample": 0}}, "[gates] assignment_sample"),
    ],
)
def test_impossible_values(change: dict[str, Any], place: str | None) -> None:
    data = {**good(), **change}
    if place is None:
        specs.parse(data, "x")  # whether a function is immutable is asked of the catalog, not guessed here
        return
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(data, "x")
    assert [problem.place for problem in caught.value.problems] == [place]


def test_p11_a_value_is_never_quoted_since_it_might_be_a_pasted_key() -> None:
    data = good()
    data["to"]["api_key_env"] = "sk-canary-0123456789"
    data["to"]["base_url"] = "https://user:sk-canary-0123456789@api.therouter.ai/v1"
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(data, "x")
    assert "canary" not in str(caught.value)
    assert "canary" not in repr(caught.value.as_json())


@pytest.mark.parametrize("name", ["MIGRATOR_DATABASE_URL", "migrator_hook_secret", "PGPASSWORD"])
@pytest.mark.parametrize("part", ["to", "from"])
def test_p11_our_own_secrets_are_sent_to_no_host_that_a_spec_names(tmp_path: Path, part: str, name: str) -> None:
    data = good()
    data[part]["api_key_env"] = name
    file = tmp_path / "docs.toml"
    lines = [f'name = "{data["name"]}"']
    for each in ("target", "from", "to", "limits"):
        lines += [f"[{each}]", *(f"{key} = {json.dumps(value)}" for key, value in data[each].items())]
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(SpecInvalid, match=rf"\[{part}\] api_key_env: it is no provider's"):
        specs.load(file)
    # What was frozen before this was refused is still read.
    assert specs.restore(specs.parse(data, "x").dump()).name == data["name"]


def test_a_missing_file_and_a_broken_file(tmp_path: Path) -> None:
    with pytest.raises(SpecInvalid, match="can't be read"):
        specs.load(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("name = ")
    with pytest.raises(SpecInvalid, match="no TOML"):
        specs.load(broken)


@pytest.mark.parametrize("ending", ["/embeddings", "/chat/completions", "/embeddings/", "/chat/completions/"])
def test_c2_a_pasted_base_url_loses_its_requests_path_and_says_so(ending: str) -> None:
    data = good()
    data["to"]["base_url"] = f"https://api.therouter.ai/v1{ending}"
    spec = specs.parse(data, "x")
    assert spec.to.base_url == "https://api.therouter.ai/v1"
    assert [(each.place, ending.rstrip("/") in each.what) for each in spec.notices] == [("[to] base_url", True)]
    assert specs.restore(spec.dump()) == spec, "`start` must find the plan that `plan` stored"
    assert specs.restore(spec.dump()).notices == ()
    assert specs.parse(good(), "x").notices == ()


@pytest.mark.parametrize(
    "url",
    [
        "api.therouter.ai/v1",
        "ftp://api.therouter.ai",
        "https://",
        "https://api.therouter.ai/v1?key=canary",
        "https://api.therouter.ai/v1#canary",
        "https://api.therouter.ai:99999/v1",
        "https://api.therouter.ai:canary/v1",
        "https://api the router/v1",
        "https://[canary/v1",
    ],
)
def test_a_base_url_that_no_request_can_go_to(url: str) -> None:
    data = good()
    data["to"]["base_url"] = url
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(data, "x")
    assert [problem.place for problem in caught.value.problems] == ["[to] base_url"]
    assert "canary" not in str(caught.value)


def test_r28_the_operator_overrides_the_profile() -> None:
    data = good()
    data["to"]["profile_overrides"] = {"max_texts": 25, "send_dimensions": False, "encoding": "float"}
    data["from"]["profile_overrides"] = {"model_echo": "ignore"}
    spec = specs.parse(data, "x")
    assert spec.to.profile_overrides is not None
    assert spec.to.profile_overrides.max_texts == 25
    old = spec.model_of(Side.FROM).profile_overrides
    assert old is not None
    assert (old.model_echo, old.max_texts) == ("ignore", None)
    assert specs.restore(spec.dump()) == spec
    del data["from"]["profile_overrides"]
    assert specs.parse(data, "x").model_of(Side.FROM).profile_overrides == spec.to.profile_overrides


@pytest.mark.parametrize(
    ("overrides", "place", "mend"),
    [
        ({"max_text": 5}, "[to.profile_overrides] max_text", "did you mean max_texts?"),
        ({"colour": 5}, "[to.profile_overrides] colour", "known: max_texts, max_text_tokens"),
        ({"max_texts": 0}, "[to.profile_overrides] max_texts", "write a whole number from 1"),
        ({"max_texts": "10"}, "[to.profile_overrides] max_texts", "write a whole number from 1"),
        ({"max_texts": True}, "[to.profile_overrides] max_texts", "write a whole number from 1"),
        ({"send_dimensions": "no"}, "[to.profile_overrides] send_dimensions", "write true or false"),
        ({"encoding": "hex"}, "[to.profile_overrides] encoding", 'write "base64" or "float"'),
        ({"norm": 1}, "[to.profile_overrides] norm", 'write "steady" or "any"'),
        (
            {"max_text_tokens": 9000, "max_request_tokens": 8192},
            "[to.profile_overrides] max_text_tokens",
            "no request can hold such a text",
        ),
        (5, "[to] profile_overrides", "write a table of limits and habits"),
    ],
)
def test_every_problem_of_the_overrides_has_its_place_and_its_mend(overrides: Any, place: str, mend: str) -> None:
    data = good()
    data["to"]["profile_overrides"] = overrides
    with pytest.raises(SpecInvalid) as caught:
        specs.parse(data, "x")
    (problem,) = caught.value.problems
    assert problem.place == place
    assert problem.mend.startswith(mend)
