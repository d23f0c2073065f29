"""The report of a real migration: in every status of its life, cheap for the table, and with nothing of a row in it."""

from __future__ import annotations

import itertools
import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import text as statement

from migrator.cli import app as cli
from migrator.cli import console
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator.tick import tick
from migrator.report import drawing, markdown, page
from migrator.report.gather import Report, gather
from migrator.spending.worker import Worker
from migrator.state import migrations, samples
from migrator.state.connection import transaction
from migrator.state.samples import Sample
from migrator.state.verdicts import GATES
from tests.deployment import KEY, V3, Deployment, embed, literal
from tests.integration.steps import begin, ready, start, stored, to

S = MigrationStatus
#: As a table's, a reason's or an actor's words.
HOSTILE = """<script>alert("x")</script> & 'q' | {{ 7*7 }} $x_1$"""


async def told(worker: Worker) -> tuple[Report, str]:
    """The report, and all of its forms in one text."""
    found = await gather(worker.engine, "docs")
    forms = (page.render(found), markdown.render(found), console.json_text(found.as_json()))
    return found, "\n".join(forms)


@pytest.mark.timeout(240)
async def test_report_in_every_status_of_a_life(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From planned to cleaned; each time it is a page, and says where things stand."""
    monkeypatch.chdir(deployment.home)
    deployment.make_table(60)
    spec = str(deployment.spec_file)

    async def becomes(status: S, *words: str) -> tuple[Report, str]:
        done = deployment.run(*words)
        assert done.returncode == 0, done.stderr
        found, shown = await told(worker)
        assert (found.status, deployment.status) == (status.value, status.value)
        assert [each.gate for each in found.verdicts] == list(GATES)
        return found, shown

    found, shown = await becomes(S.PLANNED, "plan", spec)
    assert found.projection is None
    assert "It was not started yet" in shown
    assert "Nothing was moved yet" in found.dependents_note
    found, shown = await becomes(S.BACKFILLING, "start", spec, "--yes")
    assert "too few rows have both vectors yet" in shown
    found, shown = await becomes(S.PAUSED, "pause", "docs")
    assert found.reason == "paused by the operator"
    await becomes(S.BACKFILLING, "resume", "docs")
    found, shown = await becomes(S.READY, "work", "docs")
    assert found.progress["rows"]["done"] == 60
    assert found.projection is not None
    assert {each.outcome for each in found.verdicts} == {"passed"}
    for plot in ("run", "cost", "health", "quality", "overlap", "latency", "projection", "spending"):
        assert f'aria-label="{page.ALTERNATIVES[plot]}"' in shown
    found, shown = await becomes(S.COMPLETED, "cutover", "docs", "--readers-ready", "--yes")
    assert "taken along in the transaction of the last cutover" in found.dependents_note
    assert {kind for kind, *_ in found.dependents} == {"index", "view"}
    found, shown = await becomes(S.ROLLED_BACK, "rollback", "docs", "--yes")
    assert "taken back in the transaction of the last rollback" in found.dependents_note
    assert [each.what for each in found.swaps] == ["cutover", "rollback"]
    found, shown = await becomes(S.CLEANED, "cleanup", "docs", "--yes")
    assert found.projection is not None, "the picture outlives the column that it shows"
    assert f'aria-label="{page.ALTERNATIVES["projection"]}"' in shown
    assert next(each.to_status for each in found.moves if not each.is_note) == "backfilling"
    assert all("@" in each.actor or ":" in each.actor for each in found.moves)


async def test_report_of_a_cancelled_migration_whose_table_is_gone(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 20)
    deployment.must("cancel", "docs", "--yes")
    deployment.query("SELECT 1")
    with deployment.connect() as connection:
        connection.execute("DROP TABLE docs CASCADE")
    found, shown = await told(worker)
    assert found.status == "cancelled"
    assert "the table is gone" in shown


async def test_report_tells_a_waiver_with_its_actor_and_reason(deployment: Deployment, worker: Worker) -> None:
    deployment.spec_data["gates"]["max_quarantined_share"] = 0.01
    deployment.make_table(30)
    with deployment.connect() as connection:
        connection.execute("INSERT INTO docs (title) VALUES ('POISON-CONTENT'), (NULL)")
    await start(deployment, worker)
    with pytest.raises(Exception, match="quarantined"):
        await to(worker, S.READY)
    found, _ = await told(worker)
    assert found.verdict("quarantined").outcome == "FAILED"
    deployment.must("validate", "docs", "--waive", "quarantined", "--reason", HOSTILE)
    found, shown = await told(worker)
    verdict = found.verdict("quarantined")
    assert (verdict.outcome, verdict.waiver) == ("waived", HOSTILE)
    assert verdict.waived_by is not None
    assert f"Waived by {verdict.waived_by}: &lt;script&gt;" in shown
    assert sorted((kind, why, rows) for kind, why, rows in found.dispositions) == [
        ("quarantined", "content", 1),
        ("skipped", "null", 1),
    ]
    assert "POISON" not in shown


async def test_p11_report_holds_no_text_no_key_and_no_secret(deployment: Deployment, worker: Worker) -> None:
    """Texts, keys and secrets that can be recognised, in a table that fails so that keys are listed."""
    deployment.make_table(
        0,
        """CREATE TABLE docs (id text PRIMARY KEY, title text, body text, n int NOT NULL DEFAULT 0,
           embedding vector(64));
           CREATE INDEX docs_embedding_idx ON docs USING hnsw (embedding vector_cosine_ops);""",
    )
    with deployment.connect() as connection:
        for number in range(60):
            title = f"canary-text-{number} alpha{number % 13} beta{number % 7}"
            values = [f"canary-key-{number:02}", title, literal(embed(V3, f"{title}\n"))]
            connection.execute("INSERT INTO docs (id, title, embedding) VALUES (%s, %s, %s)", values)
    await start(deployment, worker)
    await to(worker, S.READY)
    with deployment.connect() as connection:
        connection.execute("ALTER TABLE docs DISABLE TRIGGER USER")
        connection.execute("UPDATE docs SET embedding__migrator = embedding WHERE id < 'canary-key-03'")
        zero = "array_fill(0, ARRAY[64])::vector"
        connection.execute(f"UPDATE docs SET embedding__migrator = {zero} WHERE id > 'canary-key-57'".encode())
        connection.execute("ALTER TABLE docs ENABLE TRIGGER USER")
        connection.execute("ALTER TABLE docs ENABLE ALWAYS TRIGGER zzzz_capture__migrator")
    deployment.must("validate", "docs", code=3)
    assert "canary-key-" in str(deployment.value("SELECT string_agg(detail, ' ') FROM migrator.verdicts"))
    found, shown = await told(worker)
    assert found.verdict("structure").outcome == "FAILED"
    for secret in ("canary-key-", "canary-text-", KEY, deployment.url.split("@")[0]):
        assert secret not in shown, secret


async def test_report_escapes_whatever_a_table_is_called(deployment: Deployment, worker: Worker) -> None:
    await begin(deployment, worker, 5)
    async with transaction(worker.engine) as connection:
        await connection.execute(
            statement(
                "UPDATE migrator.migrations SET target_table = :bad, target_column = :bad, binding = :bad,"
                " binding_at = now()"
            ),
            {"bad": HOSTILE},
        )
        found = await migrations.get(connection, "docs")
        await migrations.note(connection, found.id, found.status, HOSTILE, HOSTILE)
    found_report, shown = await told(worker)
    assert found_report.projection_note == "the table is gone"
    html = shown[: shown.index("</html>")]
    assert "<script" not in html
    assert html.count("&lt;script&gt;") >= 3


async def test_report_reads_a_few_pages_of_the_table_only(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "ROWS", 10)
    rows = 2_000
    await begin(deployment, worker, rows)
    with deployment.connect() as connection:
        connection.execute("SET session_replication_role = replica")
        connection.execute("ALTER TABLE docs DISABLE TRIGGER zzzz_capture__migrator")
        connection.execute("UPDATE docs SET embedding__migrator = embedding")
        connection.execute("VACUUM (FULL, ANALYZE) docs")

    def read() -> int:
        with deployment.connect() as connection:
            connection.execute("SELECT pg_stat_clear_snapshot()")
            row = connection.execute(
                "SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_all_tables WHERE relname = 'docs'"
            ).fetchone()
        assert row is not None
        return int(row[0])

    async with transaction(worker.engine) as connection:
        await connection.execute(statement("SELECT pg_stat_force_next_flush()"))
    before = read()
    made, why = await drawing.draw(worker.engine, await stored(worker))
    assert made is not None, why
    assert len(made.old.points) == 10
    async with transaction(worker.engine) as connection:
        await connection.execute(statement("SELECT pg_stat_force_next_flush()"))
    assert read() - before < rows / 10


async def test_report_waits_for_nobody(deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drawing, "_SECONDS", 0.2)
    await begin(deployment, worker, 20)
    with deployment.connect() as blocker, blocker.transaction():
        blocker.execute("LOCK TABLE docs IN ACCESS EXCLUSIVE MODE")
        found, shown = await told(worker)
    assert "could not be looked at: A lock could not be had in time" in found.projection_note
    assert "Not drawn: the table could not be looked at" in shown


# The history


def _sample(number: int) -> Sample:
    return Sample("backfilling", number, 0, number, Decimal(number), Decimal(number), 0, 0, number, number, 0, None)


async def test_report_history_is_thinned_in_the_database_as_the_rule_says(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "KEEP", 4)
    monkeypatch.setattr(samples, "FEWEST_SECONDS", 0.0)
    monkeypatch.setattr(samples, "MOST_SECONDS", 0.0)
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    deployment.query("DELETE FROM migrator.samples RETURNING 1")
    kept: list[int] = []
    for number in range(1, 101):
        async with transaction(worker.engine) as connection:
            assert await samples.note(connection, migration.id, _sample(number), began=datetime.now(UTC))
        kept = [each for each in [*kept, number] if each not in samples.thinned_by(number)]
        if number % 10 == 0:
            async with transaction(worker.engine) as connection:
                found = await samples.read(connection, migration.id)
            assert [each.sample.rows_settled for each in found] == kept
    assert len(kept) < 16


async def test_report_history_is_taken_by_the_tick_and_no_more_often_than_it_says(
    deployment: Deployment, worker: Worker
) -> None:
    migration = await ready(deployment, worker, 30)
    for _ in range(3):
        await tick(worker.engine, actor="test")
    async with transaction(worker.engine) as connection:
        found = await samples.read(connection, migration.id)
    assert found, "the first tick takes one"
    gaps = [(later.at - each.at).total_seconds() for each, later in itertools.pairwise(found)]
    assert [gap for gap in gaps if gap < samples.FEWEST_SECONDS] == []
    # An old migration has a slower pace.
    async with transaction(worker.engine) as connection:
        began = datetime.now(UTC) - timedelta(days=1)
        newest = "(SELECT max(at) FROM migrator.samples)"
        deployment.query(f"UPDATE migrator.samples SET at = at - ({newest} - now()) - interval '5 seconds' RETURNING 1")
        assert not await samples.note(connection, migration.id, _sample(1), began=began)
        deployment.query("UPDATE migrator.samples SET at = at - interval '6 seconds' RETURNING 1")
        assert await samples.note(connection, migration.id, _sample(1), began=began)
    last = (await told(worker))[0].samples[-1].sample
    assert last == _sample(1)


async def test_report_evidence_is_numbers_only(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 80)
    found, _ = await told(worker)
    assert sum(found.evidence("churn")["kept"]) == 20
    assert len(found.evidence("latency")["milliseconds"]["new"]) == 21
    assert set(found.evidence("quality")["means"]) == {"nDCG@10", "recall@10", "MRR"}
    assert found.evidence("quality")["changes"]["all"]["count"] == 20
    words = {each for gate in GATES for each in _strings({**found.evidence(gate), "summary": None})}
    assert words <= {"known-item queries"}
    deployment.must("validate", "docs")
    kept = deployment.query("SELECT gate, count(*), count(evidence) FROM migrator.verdicts GROUP BY gate")
    found_kept = {gate: (verdicts, evidence) for gate, verdicts, evidence in kept if evidence}
    assert {"structure", "ann_recall", "churn", "latency", "quality"} <= found_kept.keys()
    assert set(found_kept.values()) == {(2, 1)}, "the newest alone keeps it"


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [each for inner in value.values() for each in _strings(inner)]
    if isinstance(value, list):
        return [each for inner in value for each in _strings(inner)]
    return [value] if isinstance(value, str) else []


# The command


def test_report_command_writes_a_page_a_ticket_and_json(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    deployment.make_table(5)
    deployment.must("plan", deployment.spec_file)
    monkeypatch.chdir(deployment.home)
    for name, value in deployment.env.items():
        monkeypatch.setenv(name, value)

    def run(*words: str) -> tuple[int, str, str]:
        capfd.readouterr()
        code = cli.run(["report", *words])
        return (code, *capfd.readouterr())

    code, out, _ = run("docs")
    assert (code, out) == (0, "The report of docs (planned) is in docs.html.\n")
    assert (deployment.home / "docs.html").read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert run("docs", "-o", "x.html")[0] == 0
    assert run("docs", "-o", "-")[1].startswith("<!DOCTYPE html>")
    assert run("docs", "--markdown")[1] == "The report of docs (planned) is in docs.md.\n"
    assert run("docs", "--markdown", "-o", "-")[1].startswith("# docs: ")
    assert json.loads(run("docs", "--json")[1])["status"] == "planned"
    assert run("docs", "--json", "-o", "x.json")[0] == 0
    assert json.loads((deployment.home / "x.json").read_text())["name"] == "docs"
    assert run("docs", "--json", "--markdown")[0] == 2
    code, _, err = run("dosc")
    assert code == 2
    assert "There is no migration named dosc" in err
    code, _, err = run("docs", "-o", ".")
    assert code == 2
    assert "could not be written to .: it is a folder" in err
    code, _, err = run("docs", "-o", "nowhere/docs.html")
    assert code == 2
    assert "No such file or directory" in err


def test_report_command_says_which_extra_is_missing(deployment: Deployment) -> None:
    """A python in which matplotlib can't be imported; the other forms do without."""
    deployment.make_table(5)
    deployment.must("plan", deployment.spec_file)
    (deployment.home / "matplotlib").mkdir()
    (deployment.home / "matplotlib/__init__.py").write_text(
        "raise ModuleNotFoundError('No module named matplotlib', name='matplotlib')"
    )
    hidden = {"PYTHONPATH": str(deployment.home)}
    done = deployment.run("report", "docs", env=hidden)
    assert done.returncode == 2
    assert "The package matplotlib, which the page's plots need, is not installed." in done.stderr
    assert "pip install 'pgvector-migrator[report]'" in done.stderr
    assert not (deployment.home / "docs.html").exists()
    for form in ("--markdown", "--json"):
        assert deployment.run("report", "docs", form, "-o", "-", env=hidden).returncode == 0
