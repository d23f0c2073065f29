"""What a pilot does to the stored plan, whoever makes plans meanwhile, and what it says of that."""

from __future__ import annotations

import json

import pytest

from migrator.orchestrator import pilot, verbs
from migrator.pilot.page import lines
from migrator.planning import plan as plans
from migrator.spending.worker import Worker
from tests.deployment import V3, V4, Deployment
from tests.integration.piloting import prepare, run

_PLAN = "SELECT plan FROM migrator.migrations"


def dearer(deployment: Deployment, rows: int = 120) -> None:
    """Make the provider bill a quarter more than our own count."""
    deployment.make_table(rows)
    deployment.half_moved(range(1, rows + 1), V4)
    deployment.spec_data["from"]["model"], deployment.spec_data["to"]["model"] = V4, V3
    deployment.simulator.admin(v3_token_ratio=1.25)


async def test_a_pilot_that_ends_while_a_plan_is_made_is_not_lost(deployment: Deployment, worker: Worker) -> None:
    dearer(deployment)
    made = await plans.make(worker.engine, deployment.spec)
    found = await run(deployment, worker, 60)
    stored, why_not = await plans.store(worker.engine, made, "test")
    assert why_not is None
    assert stored.document["tokens"] == found["plan"]["after"]["tokens"] != made.document["tokens"]
    assert deployment.value(_PLAN) == stored.document
    # One that ended before it is read with everything else.
    again = await plans.make(worker.engine, deployment.spec)
    assert again.document["tokens"] == stored.document["tokens"]


async def test_a_table_that_is_dearer_than_its_cap_by_the_bill_says_so(deployment: Deployment, worker: Worker) -> None:
    dearer(deployment, 400)
    needed = (await plans.make(worker.engine, deployment.spec)).document["tokens"]["high"] * 1e-6
    deployment.spec_data["limits"]["max_cost_usd"] = 1.1 * needed
    prepared = await prepare(deployment, worker, 20)
    assert "cap_below_estimate" not in [each["code"] for each in deployment.value(_PLAN)["findings"]]
    found = await pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None)
    assert "cap_below_estimate" in [each["code"] for each in deployment.value(_PLAN)["findings"]]
    assert [each for each in lines(found) if each.strip().startswith("plan warns") and "and the cap is" in each]


async def test_a_pilot_does_not_mend_the_plan_of_another_spec(deployment: Deployment, worker: Worker) -> None:
    dearer(deployment)
    prepared = await prepare(deployment, worker, 60)
    whole = dict(deployment.spec_data["target"])
    deployment.spec_data["target"]["text"] = "{title}"
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    planned = deployment.value(_PLAN)
    found = await pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None)
    assert deployment.value(_PLAN) == planned, "whose texts are others"
    assert not found["plan"]["mended"]
    assert "of another spec" in found["plan"]["why_not"]
    assert found["plan"]["before"]["tokens"]["estimate"] > planned["tokens"]["estimate"], "this pilot's own"
    # What it found is kept for the spec that it is about.
    deployment.spec_data["target"] = whole
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert made.document["tokens"] == found["plan"]["after"]["tokens"]


async def test_another_price_or_key_leaves_what_a_pilot_found_of_tokens(deployment: Deployment, worker: Worker) -> None:
    dearer(deployment)
    prepared = await prepare(deployment, worker, 60)
    deployment.spec_data["to"]["price_usd_per_mtok"] = [2.0, 2.0]
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    found = await pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None)
    after = found["plan"]["after"]
    assert found["plan"]["mended"]
    assert after["cost_usd"]["high"] == pytest.approx(2e-6 * after["tokens"]["high"]), "at the price that counts now"
    deployment.spec_data["to"]["price_usd_per_mtok"] = [3.0, 3.0]
    deployment.spec_data["to"]["api_key_env"] = "ANOTHER_API_KEY"
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert made.document["tokens"] == after["tokens"]
    again = await prepare(deployment, worker, 60)
    assert (again.seed, again.price.rows.kept) == (found["seed"], 60)


async def test_other_habits_of_an_endpoint_are_asked_for_again_and_other_limits_are_not(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(40)
    await run(deployment, worker, 40)
    deployment.spec_data["to"]["profile_overrides"] = {"max_texts": 5}
    assert (await prepare(deployment, worker, 40)).price.rows.kept == 40
    deployment.spec_data["to"]["profile_overrides"] = {"send_dimensions": False}
    assert (await prepare(deployment, worker, 40)).price.rows.kept == 0, "it may answer with other vectors"


@pytest.mark.timeout(180)
def test_a_plan_that_is_made_anew_is_told_also_to_scripts_and_by_a_dry_run(deployment: Deployment) -> None:
    deployment.make_table(40)

    def anew(*words: str) -> list[str]:
        rest = ("--rows", 40, "--skip-provenance", "not looked at by this test", "--json", *words)
        told: list[str] = json.loads(deployment.must("pilot", deployment.spec_file, *rest))["planned_anew"]
        return told

    assert anew("--dry-run") == ["it was never stored"]
    assert anew("--dry-run") == []
    deployment.spec_data["limits"]["max_cost_usd"] = 4.0
    assert anew("--dry-run") == ["the spec file is different"]
    deployment.spec_data["limits"]["max_cost_usd"] = 3.0
    assert anew("--yes") == ["the spec file is different"]


@pytest.mark.timeout(180)
def test_the_last_line_says_whether_the_plan_was_mended(deployment: Deployment) -> None:
    deployment.make_table(40)
    words = ("pilot", deployment.spec_file, "--rows", 40, "--skip-provenance", "not looked at by this test", "--yes")
    deployment.simulator.admin(usage="missing")
    told = deployment.must(*words)
    assert "The plan was not mended: no bill of a sampled row was told. Next: `migrator start " in told
    assert "The plan is mended" not in told
    deployment.simulator.admin(usage="exact")
    deployment.query("DELETE FROM migrator.pilot_vectors RETURNING 1")
    assert "The plan is mended and stored. Next: `migrator start " in deployment.must(*words)
