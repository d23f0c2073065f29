"""A pilot between two real models tells the truth by slice: more on French, a little less on English."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from migrator.demo import corpus, shop
from migrator.demo.endpoint import Endpoint
from migrator.demo.simulator.backends import NEW_MODEL, OLD_MODEL
from migrator.demo.simulator.control import Simulator
from tests.deployment import KEY_VARIABLE, Deployment

#: Rows of the table. Both models do some 125 of them a second on one core, twice over with the queries.
ROWS = 500


@pytest.fixture(scope="module")
def models(scratch: Path) -> Iterator[Simulator]:
    made = Simulator(scratch / "models", backend="models")
    made.start()
    yield made
    made.stop()


@pytest.mark.timeout(180)
def test_a_pilot_between_real_models_tells_the_truth_by_slice(database: str, models: Simulator, tmp_path: Path) -> None:
    deployment = Deployment(database, tmp_path, models)
    texts = corpus.load(ROWS)
    with closing(Endpoint(models.base_url)) as endpoint:
        shop.fill(deployment.url, endpoint, texts.articles)
    spec = shop.SPEC.format(old=OLD_MODEL, new=NEW_MODEL, base_url=models.base_url, key=KEY_VARIABLE)
    path = tmp_path / "docs.toml"
    path.write_text(spec, encoding="utf-8")
    keys = dict(deployment.query("SELECT title, id FROM docs WHERE language = 'en'"))
    queries = tmp_path / "queries.jsonl"
    asked = [{"text": each.text, "relevant": [keys[each.relevant]]} for each in texts.queries]
    queries.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    told = deployment.run("pilot", path, "--rows", ROWS, "--queries", queries, "--yes", "--json")
    assert told.returncode == 0, told.stdout + told.stderr
    found: dict[str, Any] = json.loads(told.stdout)
    search = found["search"]
    assert search["queries"] == len(asked)
    changes = search["changes"]
    assert changes["all"]["low"] > 0, "better in all, beyond chance"
    assert changes["french"]["low"] > 0.1, "the old model reads no French"
    assert changes["english"]["mean"] < 0, "and reads English a little better"
    assert changes["english"]["mean"] > -0.25
    assert found["verdict"].startswith(f"{NEW_MODEL}@512 is better by 0.")
    assert " on French +0." in found["verdict"]
    assert ", on English -0." in found["verdict"]
    # Two spaces that understand other things: one map of a few hundred rows does not lead from one into the other.
    assert 0.05 < search["bridge"]["recall"] < 0.8
    assert 0.1 < search["overlap"] < 0.8
    assert found["rows"]["strata"] >= 6, "three languages, three lengths"
