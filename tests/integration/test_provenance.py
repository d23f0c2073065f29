"""Provenance (R5): stored vectors are made again, and where they do not come out, what fits is said with its share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from migrator.orchestrator import origin, verbs
from migrator.provenance import check
from migrator.provenance.page import Page, lines
from migrator.provenance.sample import SAMPLE_ROWS
from migrator.provider import tokens
from migrator.spending.worker import Worker
from migrator.state import migrations
from migrator.state.connection import transaction
from migrator.state.migrations import Migration
from tests.deployment import KEY_VARIABLE, V3, V4, Deployment, embed, literal

#: Words that are all different, so that each of them counts.
LONG = " ".join(
    f"{a}{b}{c}"
    for a in ("ka", "lo", "mi", "nu", "pe", "ri", "so")
    for b in "bdgklm"
    for c in ("an", "el", "ir", "os", "um", "at")
)
#: What the application really embedded, against the spec's "{title}\n{body}".
MADE: dict[str, tuple[Callable[[str, str], str], str, str]] = {
    "only one column": (lambda _, body: body, "template", '"{body}"'),
    "another separator": (lambda title, body: f"{title}: {body}", "template", '"{title}: {body}"'),
    "another order": (lambda title, body: f"{body}\n\n{title}", "template", '"{body}\\n\\n{title}"'),
    "line breaks as spaces": (lambda title, body: f"{title} {body}", "template", '"{title} {body}"'),
    "lower case": (lambda title, body: f"{title}\n{body}".lower(), "whitespace", "lower case"),
    "cut by characters": (lambda title, body: f"{title}\n{body}"[:1000], "truncated", "after 1,000 characters"),
}


def fill(
    deployment: Deployment, made: Callable[[str, str], str], *, rows: int = 30, model: str = V3, tail: str = ""
) -> None:
    """A table whose vectors were made from `made`'s texts."""
    deployment.make_table(0)
    with deployment.connect() as connection:
        for number in range(1, rows + 1):
            title, body = deployment.words(number)
            title, body = title.upper(), f"{body} {tail}".strip()
            connection.execute(
                "INSERT INTO docs (title, body, embedding) VALUES (%s, %s, %s)",
                [title, body, literal(embed(model, made(title, body)))],
            )
        connection.execute("ANALYZE docs")


def spec_text(title: str, body: str) -> str:
    return f"{title}\n{body}"


async def planned(deployment: Deployment, worker: Worker) -> Migration:
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    async with transaction(worker.engine) as connection:
        return await migrations.get(connection, "docs")


async def look(deployment: Deployment, worker: Worker) -> Page:
    page = await origin.gate(worker, await planned(deployment, worker), waiver=None, actor="test")
    assert page is not None
    return page


def ledger(deployment: Deployment) -> int:
    found: int = deployment.value(
        "SELECT coalesce(sum(spent_tokens), 0)::bigint FROM migrator.ledger WHERE purpose = 'provenance'"
    )
    return found


async def test_r5_a_right_table_fits_and_costs_its_sample(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(300)
    page = await look(deployment, worker)
    assert (page.outcome, page.sample, page.tried, page.complete) == ("fits", SAMPLE_ROWS, 0, True)
    assert page.median > 0.99999
    assert [each.kind for each in page.findings] == ["spec"]
    assert page.sentence.endswith(f"are {V3}@64's of the spec's text: 50 of 50 sampled rows come out again.")
    assert page.tokens == ledger(deployment) == deployment.simulator.ledger()["tokens"]
    (seed, outcome) = deployment.query("SELECT seed, outcome FROM migrator.provenances")[0]
    assert (seed, outcome) == (page.seed, "fits")
    # Once more is not paid once more.
    again = await look(deployment, worker)
    assert again == page
    assert deployment.simulator.ledger()["tokens"] == page.tokens


async def test_r5_vectors_of_nothing_that_we_know_are_said_to_be_so_where_there_is_one_text_column(
    deployment: Deployment, worker: Worker
) -> None:
    """No other template can be tried there."""
    with deployment.connect() as connection:
        connection.execute("CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding vector(64))")
        connection.execute(
            "INSERT INTO docs SELECT i, 'text ' || i, array_fill(0.1, ARRAY[64])::vector FROM generate_series(1, 30) i"
        )
    deployment.spec_data["target"]["text"] = "{body}"
    page = await look(deployment, worker)
    assert (page.outcome, page.findings[0].kind, page.findings[0].rows) == ("misfits", "stranger", 30)


@pytest.mark.parametrize("name", MADE)
async def test_r5_each_hypothesis_alone_explains_its_table(deployment: Deployment, worker: Worker, name: str) -> None:
    made, kind, words = MADE[name]
    fill(deployment, made, tail=LONG if kind == "truncated" else "")
    page = await look(deployment, worker)
    assert page.outcome == "misfits"
    assert [each.kind for each in page.findings] == [kind], page
    (finding,) = page.findings
    assert words in finding.label
    assert (finding.rows, finding.share, len(finding.keys)) == (30, 1.0, 10)
    assert finding.label in page.sentence
    assert page.median < 0.999
    assert page.tokens == ledger(deployment) == deployment.simulator.ledger()["tokens"] <= 100_000


async def test_r5_a_cut_by_tokens(deployment: Deployment, worker: Worker) -> None:
    counter = tokens.exact_counter()
    assert counter is not None

    def cut(title: str, body: str) -> str:
        text = spec_text(title, body)
        while counter(text) > 512 + tokens.END_MARKS:
            text = text[:-1]
        return text

    fill(deployment, cut, rows=8, tail=LONG)
    page = await look(deployment, worker)
    assert [(each.kind, each.label, each.rows) for each in page.findings] == [
        ("truncated", "the text was cut after 512 tokens", 8)
    ]


async def test_r5_a_column_that_the_spec_does_not_name_is_found(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["target"]["text"] = "{title}"
    fill(deployment, lambda title, body: f"{title} {body}")
    page = await look(deployment, worker)
    assert page.findings[0].label == 'the text is "{title} {body}"'
    assert page.do == 'Write text = "{title} {body}" under [target], then plan again'


async def test_r5_two_generations_in_one_column_are_told_with_their_keys(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(40)
    deployment.half_moved([3, 14, 15])
    page = await look(deployment, worker)
    assert page.outcome == "misfits", "although the median fits"
    assert page.median > 0.999
    mixed = page.findings[1]
    assert (mixed.kind, mixed.rows, mixed.keys) == ("model", 3, ["14", "15", "3"])
    assert page.sentence.startswith("Two generations are mixed in one column: 3 of 40 sampled rows hold qwen/")


async def test_r5_a_table_of_the_new_generation_alone(deployment: Deployment, worker: Worker) -> None:
    fill(deployment, spec_text, model=V4)
    page = await look(deployment, worker)
    assert page.sentence == f"All 30 sampled rows hold qwen/{V4}@64's vector already."


async def test_r5_edited_rows_do_no_harm_and_are_named(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(40)
    deployment.query("UPDATE docs SET body = body || ' with a few more words at its end' WHERE id <= 4 RETURNING id")
    page = await look(deployment, worker)
    assert page.outcome == "fits"
    edited = page.findings[1]
    assert (edited.kind, edited.rows, edited.keys) == ("edited", 4, ["1", "2", "3", "4"])
    assert edited.median < 0.999


async def test_r5_unknown_vectors_are_said_to_be_nobodys(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(0)
    with deployment.connect() as connection:
        for number in range(20):
            noise = np.random.default_rng(number).standard_normal(64).tolist()
            title, body = deployment.words(number)
            connection.execute(
                "INSERT INTO docs (title, body, embedding) VALUES (%s, %s, %s)", [title, body, literal(noise)]
            )
    page = await look(deployment, worker)
    assert page.outcome == "misfits"
    assert [each.kind for each in page.findings] == ["stranger"]
    assert page.tried > 30


async def test_r5_vectors_that_are_not_normalised_fit_with_a_remark(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(30)
    deployment.query(
        "UPDATE docs SET embedding = (SELECT array_agg(x * 3)::vector FROM unnest(embedding::real[]) x) RETURNING id"
    )
    page = await look(deployment, worker)
    assert page.outcome == "fits"
    assert page.findings[1].label == "but stored 3 times as long as it is answered"
    assert "operator class" in page.do


async def test_r5_other_dimensions_in_the_column(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(20)
    with deployment.connect() as connection:
        connection.execute("DROP INDEX docs_embedding_idx; DROP VIEW docs_view")
        connection.execute("ALTER TABLE docs ALTER embedding TYPE vector")
    deployment.query("UPDATE docs SET embedding = '[1,2,3]' WHERE id = 5 RETURNING id")
    page = await look(deployment, worker)
    assert page.outcome == "misfits"
    assert [(each.kind, each.keys) for each in page.findings if each.kind != "spec"] == [("dimensions", ["5"])]


async def test_r5_an_empty_table_has_nothing_to_compare(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(0)
    page = await look(deployment, worker)
    assert (page.outcome, page.sentence.split(",")[0]) == ("fits", "No row has both a text and a vector")
    assert deployment.simulator.ledger()["requests"] == 0


async def test_p7_the_allowance_is_hard_and_told(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(deployment, lambda *_: "something else altogether", tail=LONG)
    monkeypatch.setattr(check, "SAMPLE_TOKENS", 3_000)
    monkeypatch.setattr(origin, "MAX_TOKENS", 9_000)
    page = await look(deployment, worker)
    assert not page.complete
    assert deployment.simulator.ledger()["tokens"] <= 9_000
    assert "not all: the allowance was spent" in lines(page)[-1]


async def test_p11_a_page_holds_no_text(deployment: Deployment, worker: Worker) -> None:
    fill(deployment, lambda _, body: f"canary-hidden {body}")
    deployment.query("UPDATE docs SET title = 'canary-title' RETURNING id")
    page = await look(deployment, worker)
    told = json.dumps(page.as_json()) + "\n".join(lines(page))
    told += str(deployment.query("SELECT page::text FROM migrator.provenances"))
    assert "canary" not in told
    assert "gamma" not in told


# At the command line


def test_start_refuses_a_wrong_template_with_exit_3_and_its_page(deployment: Deployment) -> None:
    fill(deployment, lambda _, body: body)
    done = deployment.run("start", deployment.spec_file, "--yes")
    assert done.returncode == 3
    assert "The stored vectors were made from another text than the spec's: for 30 of 30 sampled rows" in done.stdout
    assert 'What to do: Write text = "{body}" under [target], then plan again.' in done.stdout
    assert "--skip-provenance REASON" in done.stderr
    assert deployment.status == "planned"
    assert deployment.value("SELECT count(*) FROM information_schema.columns WHERE column_name LIKE '%%migrator'") == 0
    doctor = deployment.run("doctor", deployment.spec_file)
    assert "fail  provenance: The stored vectors were made from another text" in doctor.stdout
    # As it tells: mend the spec, plan again.
    deployment.spec_data["target"]["text"] = "{body}"
    assert "30 of 30 sampled rows come out again" in deployment.must("start", deployment.spec_file, "--yes", "--replan")
    assert deployment.status == "backfilling"


def test_start_json_holds_the_page(deployment: Deployment) -> None:
    fill(deployment, lambda _, body: body)
    done = deployment.run("start", deployment.spec_file, "--yes", "--json")
    assert done.returncode == 3
    shown = json.loads(done.stdout)
    assert shown["started"] is False
    assert shown["provenance"]["findings"][0]["share"] == 1.0
    assert json.loads(done.stderr)["runbook"] == "runbooks/provenance.md"


def test_a_waiver_is_recorded_and_asks_nothing(deployment: Deployment) -> None:
    fill(deployment, lambda _, body: body)
    reason = "known, OPS-123"
    deployment.must("start", deployment.spec_file, "--yes", "--skip-provenance", reason)
    assert deployment.status == "backfilling"
    assert deployment.simulator.ledger()["requests"] == 0
    assert deployment.query("SELECT outcome, waiver FROM migrator.provenances") == [("skipped", reason)]
    assert (f"provenance skipped: {reason}",) in deployment.query("SELECT reason FROM migrator.transitions")
    assert deployment.run("start", deployment.spec_file, "--yes", "--skip-provenance", " ").returncode == 2


@pytest.mark.parametrize("status", [404, 403])
def test_a_region_without_v3_is_said_and_may_be_signed_away(deployment: Deployment, status: int) -> None:
    deployment.make_table(20)
    fault: dict[str, Any] = {"error": {"code": "model_not_found", "message": "x"}}
    deployment.simulator.admin(faults=[{"count": 1, "status": status, "body": fault}])
    done = deployment.run("start", deployment.spec_file, "--yes")
    assert done.returncode == 3
    assert f"Nobody can say whether the stored vectors are {V3}@64's, since it can't be asked here" in done.stdout
    assert deployment.status == "planned"
    deployment.must("start", deployment.spec_file, "--yes", "--skip-provenance", "no v3 in this region")


def test_doctor_without_a_migration_spends_a_told_allowance(deployment: Deployment) -> None:
    deployment.make_table(20)
    shown = json.loads(deployment.run("doctor", deployment.spec_file, "--json").stdout)
    (found,) = [each for each in shown if each["name"] == "provenance"]
    assert found["level"] == "ok"
    page = found["page"]
    probes = sum(e["tokens"] for e in deployment.simulator.ledger(entries=True)["entries"] if len(e["digests"]) == 1)
    assert page["tokens"] + probes == deployment.simulator.ledger()["tokens"]
    assert "at most 100,000 tokens" in " ".join(deployment.must("doctor", "--help").split())


def test_start_takes_the_canarys_fingerprint_before_it_changes_anything(deployment: Deployment) -> None:
    deployment.make_table(20)
    deployment.must("plan", deployment.spec_file)
    deployment.simulator.admin(answer_with=V3)
    done = deployment.run("start", deployment.spec_file, "--yes")
    assert done.returncode == 2
    assert "answers docs with the vectors of" in done.stderr
    assert deployment.status == "planned"
    deployment.simulator.admin(answer_with=None)
    deployment.must("start", deployment.spec_file, "--yes")
    assert deployment.value("SELECT told_apart FROM migrator.canaries") is True
    spent = deployment.value("SELECT sum(spent_tokens)::bigint FROM migrator.ledger")
    assert spent == deployment.simulator.ledger()["tokens"]
    assert deployment.run("doctor", deployment.spec_file, env={KEY_VARIABLE: ""}).returncode == 2
