"""The plan as a document: the ticket, the page, its JSON, and what of it is frozen."""

from __future__ import annotations

import json
import sys

import pytest

from migrator import spec as specs
from migrator.orchestrator import origin, verbs
from migrator.planning import plan as plans
from migrator.planning.plan import Plan, PlanStale
from migrator.report import plan_page, ticket
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.integration.steps import stored
from tests.integration.test_report_page import HOSTILE, elements


async def planned(deployment: Deployment, worker: Worker, rows: int = 60) -> Plan:
    deployment.make_table(rows)
    return await plans.make(worker.engine, deployment.spec)


async def test_a_ticket_has_no_line_of_more_than_100_columns_and_tells_what_decides(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.spec_data["to"]["price_usd_per_mtok"] = [0.12, 0.144]
    deployment.spec_data["limits"] |= {"window": ["22:00-06:00 Asia/Shanghai"], "requests_per_minute": 60}
    made = await planned(deployment, worker)
    lines = ticket.lines(made.document)
    assert max(map(len, lines)) <= 100
    assert all(line.isprintable() and line.isascii() for line in lines), lines
    whole = " ".join(" ".join(lines).split())
    for said in (
        "60, of which 60 are embedded (skipped: none)",
        "counted;",
        "tokens in the middle",
        "english 100 %",
        "arrivals unknown",
        "requests 6 of 10 texts",
        "USD likely at 0.12 (the spec)",
        "the prices contradict each other: 0.144 is 20 % above 0.12",
        "(requests_per_minute)",
        "by limit: requests a minute 6.0 s",
        "working 22:00-06:00 Asia/Shanghai",
        "HOT share",
        "of memory to build",
        "maintenance_work_mem = 1MB (asked for by the build itself)",
        "index docs_embedding_idx build again",
        "halfvec:",
        "fingerprint",
    ):
        assert said in whole, said


async def test_a_ticket_folds_even_what_has_no_spaces(deployment: Deployment, worker: Worker) -> None:
    made = await planned(deployment, worker)
    made.document["findings"][0]["object"] = "x" * 300
    assert max(map(len, ticket.lines(made.document))) <= 100


async def test_the_page_holds_no_script_fetches_nothing_and_can_not_be_written_into(
    deployment: Deployment, worker: Worker
) -> None:
    made = await planned(deployment, worker)
    document = json.loads(json.dumps(made.document))
    document["target"] = document["rows_method"] = document["hours_bound_by"] = HOSTILE
    document["cost_usd"] |= {"contradiction": HOSTILE}
    for name in ("kind", "name", "action"):
        document["dependents"][0][name] = HOSTILE
    document["alternatives"] = [{"what": HOSTILE, "text": HOSTILE}]
    document["findings"] = [dict.fromkeys(("code", "severity", "object", "message", "mend"), HOSTILE)]
    found = elements(plan_page.render(document))
    assert found.tags["script"] == found.tags["img"] == 0
    assert set(found.links) == {"data:,"}
    assert not [name for name in found.attributes if name.startswith("on")]
    assert HOSTILE in found.text


async def test_the_page_says_what_the_ticket_says(deployment: Deployment, worker: Worker) -> None:
    made = await planned(deployment, worker)
    text = elements(plan_page.render(made.document)).text
    for _, told in ticket.figures(made.document):
        assert told in text
    for each in made.document["findings"]:
        assert each["mend"] in text


def test_plan_html_writes_the_page_beside_what_is_printed(deployment: Deployment) -> None:
    deployment.make_table(20)
    path = deployment.home / "plan.html"
    printed = deployment.must("plan", deployment.spec_file, "--html", path)
    assert f"Its page is in {path}." in printed
    assert "20, of which 20 are embedded" in printed
    assert "can be started" in path.read_text(encoding="utf-8")
    missing = deployment.must("plan", deployment.spec_file, "--html", deployment.home / "no" / "plan.html", code=2)
    assert "could not be written" in missing


def test_plan_html_without_the_extra_says_what_to_install(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    from migrator.cli import plan  # noqa: PLC0415
    from migrator.report.output import PlotsMissing  # noqa: PLC0415

    monkeypatch.setitem(sys.modules, "jinja2", None)
    monkeypatch.delitem(sys.modules, "migrator.report.plan_page", raising=False)
    monkeypatch.delattr("migrator.report.plan_page", raising=False)
    with pytest.raises(PlotsMissing, match="jinja2"):
        plan._write(deployment.home / "plan.html", {})


def test_exact_counts_what_would_be_drawn(deployment: Deployment) -> None:
    deployment.make_table(20)
    found = json.loads(deployment.run("plan", deployment.spec_file, "--exact", "--json").stdout)
    assert (found["rows_method"], found["rows_low"], found["rows_high"]) == ("counted", 20, 20)
    assert {
        "lengths",
        "scripts",
        "languages",
        "growth",
        "hours_by_limit",
        "finish",
        "hot",
        "alternatives",
        "fingerprint",
    } <= set(found)


async def test_the_fingerprint_is_of_table_spec_and_catalog(deployment: Deployment, worker: Worker) -> None:
    first = await planned(deployment, worker)
    again = await plans.make(worker.engine, deployment.spec)
    assert again.document["fingerprint"] == first.document["fingerprint"]
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs ADD extra int")
    altered = await plans.make(worker.engine, deployment.spec)
    assert altered.document["fingerprint"] != first.document["fingerprint"]
    deployment.spec_data["limits"]["max_cost_usd"] = 4.0
    capped = await plans.make(worker.engine, deployment.spec)
    assert capped.document["fingerprint"] != altered.document["fingerprint"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("ALTER TABLE docs ADD extra int", "column extra was added"),
        ("ALTER TABLE docs ALTER n TYPE bigint", "column n is different"),
        ("DROP VIEW docs_view", "view public.docs_view is gone"),
        ("ALTER TABLE docs ADD CONSTRAINT few CHECK (n < 9)", "constraint few was added"),
        ("DROP TABLE docs CASCADE", "the table is gone"),
    ],
)
async def test_start_refuses_a_plan_that_does_not_hold_and_names_what_changed(
    deployment: Deployment, worker: Worker, change: str, said: str
) -> None:
    deployment.make_table(5)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    await verbs.startable(worker.engine, deployment.spec, path="docs.toml")
    with deployment.connect() as connection:
        connection.execute(change.encode())
    with pytest.raises(PlanStale, match=said):
        await verbs.startable(worker.engine, deployment.spec, path="docs.toml")


async def test_start_refuses_the_plan_of_another_spec(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(5)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    deployment.spec_data["limits"]["max_cost_usd"] = 4.0
    with pytest.raises(PlanStale, match="the spec file is different"):
        await verbs.startable(worker.engine, deployment.spec, path="docs.toml")


async def test_the_fingerprint_is_of_every_query_that_the_spec_names(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    path = deployment.home / "queries.jsonl"
    deployment.spec_data.setdefault("gates", {})["queries"] = path.name
    prints = set()
    for text, relevant in (("word1", 1), ("word2", 1), ("word2", 2)):
        path.write_text(json.dumps({"text": text, "relevant": [relevant]}), encoding="utf-8")
        prints.add((await plans.make(worker.engine, specs.load(deployment.spec_file))).document["fingerprint"])
    assert len(prints) == 3, "as many queries each time, and others"


@pytest.mark.parametrize("missing", ["plan - 'fingerprint'", "plan - 'made_at'", "plan #- '{tokens,sampled_low}'"])
async def test_a_plan_that_an_older_version_stored_is_stale_before_it_is_shown(
    deployment: Deployment, worker: Worker, missing: str
) -> None:
    deployment.make_table(20)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    deployment.query(f"UPDATE migrator.migrations SET plan = {missing} RETURNING 1")
    said = deployment.must("start", deployment.spec_file, "--yes", code=2)
    assert "The plan of docs does not hold any more: it was stored by an older version of this tool." in said
    assert "--replan" in said
    with pytest.raises(PlanStale):
        await verbs.startable(worker.engine, deployment.spec, path="docs.toml")


async def test_a_plan_of_a_table_that_has_grown_since_does_not_hold(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.make_table(200)
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title, body) SELECT title, body FROM docs, generate_series(1, 9)")
    await verbs.startable(worker.engine, deployment.spec, path="docs.toml")  # a small table may
    monkeypatch.setattr(plans, "_GROWN_PAGES", 1)
    with pytest.raises(PlanStale, match=r"it has grown from \d+ to \d+ pages"):
        await verbs.startable(worker.engine, deployment.spec, path="docs.toml")


async def test_a_plan_says_whether_the_old_vectors_are_what_the_spec_says(
    deployment: Deployment, worker: Worker
) -> None:
    """In words for somebody who is no expert, with when somebody looked; by itself a plan asks no provider."""

    async def said() -> str:
        made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
        return " ".join(" ".join(ticket.lines(made.document)).split())

    deployment.make_table(150)
    assert "old vectors no look is stored that says whether they are text-embedding-v3@64" in await said()
    migration = await stored(worker)
    await origin.gate(worker, migration, waiver=None, actor="test")
    assert "The stored vectors are text-embedding-v3@64's of the spec's text" in await said()
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert made.document["provenance"]["outcome"] == "fits"
    assert "old vectors" in plan_page.render(made.document)
    deployment.spec_data["to"]["price_usd_per_mtok"] = 0.7
    assert "The stored vectors are text-embedding-v3@64's of the spec's text" in await said(), (
        "another price is no other subject"
    )
    deployment.spec_data["target"]["text"] = "{body}"
    assert "no look is stored" in await said()
    await origin.gate(worker, await stored(worker), waiver="OPS-1", actor="test")
    assert "not looked at: somebody signed" in await said()
    await origin.gate(worker, await stored(worker), waiver=None, actor="test")
    assert "What to do:" in await said()
    await origin.gate(worker, await stored(worker), waiver="OPS-2", actor="test")
    assert "What to do:" in (told := await said()), "a waiver hides nothing"
    assert "somebody signed that it is to be passed over" in told
    assert "provenance_misfit" in told
