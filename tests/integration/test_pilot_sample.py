"""Which rows a pilot embeds: each kind of them, in scope, with those that the queries were judged by."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from migrator.orchestrator import pilot
from migrator.pilot import sample
from migrator.pilot.page import lines
from migrator.pilot.sample import SampleTooSlow
from migrator.planning import survey
from migrator.spending.worker import Worker
from migrator.state.connection import LockBusy, transaction
from migrator.target import facts
from migrator.target.facts import Relation
from migrator.target.relation import Target
from tests.deployment import Deployment
from tests.integration.piloting import body_of, prepare, run, spent, write


async def test_p6_every_row_of_the_sample_is_accounted_for(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(60)
    deployment.spec_data["to"]["profile_overrides"] = {"max_text_tokens": 200}
    deployment.query("UPDATE docs SET body = repeat('long ', 400) WHERE id IN (7, 8) RETURNING 1")
    deployment.query("UPDATE docs SET title = NULL, body = ' ' WHERE id = 9 RETURNING 1")
    deployment.query("UPDATE docs SET embedding = NULL WHERE id = 10 RETURNING 1")
    prepared = await prepare(deployment, worker, 59)
    deployment.query("DELETE FROM docs WHERE id = 11 RETURNING 1")
    await pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None)
    found = await run(deployment, worker, 59)
    assert found["rows"]["drawn"] == 59, "a text of spaces is none"
    assert found["rows"]["left_out"] == {"too_long": 2, "gone, out of scope or without text": 1}
    assert found["rows"]["embedded"] == 56
    assert found["rows"]["compared"] == 55, "one has no old vector"
    assert deployment.simulator.ledger()["tokens"] == spent(deployment)


async def test_texts_that_are_refused_are_told_and_not_asked_again(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(40)
    deployment.query("UPDATE docs SET body = body || ' POISON-CONTENT' WHERE id = 5 RETURNING 1")
    # Queries of its own: a known item made of that very row would be refused by both models, too.
    queries = write(deployment, [{"text": body_of(number), "relevant": [number]} for number in range(10, 41)])
    found = await run(deployment, worker, 40, queries=queries)
    assert found["rows"]["left_out"] == {"refused (content)": 1}, found["rows"]
    assert found["provider"]["troubles"]["text refused (content)"] == 1
    arrived = deployment.simulator.seen()
    again = await run(deployment, worker, 40, queries=queries)
    assert again["rows"]["left_out"] == found["rows"]["left_out"]
    assert deployment.simulator.seen() == arrived


async def test_judged_queries_bring_their_rows_into_the_sample(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(200)
    queries = write(deployment, [{"text": body_of(number), "relevant": [number]} for number in range(1, 31)])
    found = await run(deployment, worker, 40, queries=queries)
    assert found["search"]["kind"] == "judged queries"
    assert 15 <= found["search"]["queries"] <= 30, "those whose rows are half of the sample, or were drawn"
    assert found["rows"]["relevant"] + found["rows"]["drawn"] == found["rows"]["embedded"] <= 60
    assert found["search"]["means"]["MRR"] == [1.0, 1.0], "each finds its own row first"
    assert "on your" in found["verdict"]
    unjudged = write(deployment, [{"text": body_of(5)}])
    found = await run(deployment, worker, 40, queries=unjudged)
    assert (found["search"]["kind"], found["search"]["queries"]) == ("known-item queries", 20)


async def test_an_empty_table_has_nothing_to_pilot(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(0)
    found = await run(deployment, worker, 40)
    assert found["verdict"].startswith("Nothing could be compared")
    assert (found["tokens"]["ratio"], found["search"]["overlap"], found["search"]["bridge"]) == (None, None, None)
    assert deployment.simulator.ledger()["requests"] == 0
    assert "0 drawn from 0 strata" in "\n".join(lines(found))


_PARTED = """
CREATE TABLE docs (tenant text, id bigint, title text, body text, gone boolean, embedding vector(64),
                   PRIMARY KEY (tenant, id)) PARTITION BY LIST (tenant);
CREATE TABLE docs_a PARTITION OF docs FOR VALUES IN ('a');
CREATE TABLE docs_b PARTITION OF docs FOR VALUES IN ('b');
"""


async def test_a_sample_holds_rare_kinds_of_rows_over_partitions_and_in_scope_alone(
    deployment: Deployment, worker: Worker
) -> None:
    english, french = "the house of the sun is in the city", "la maison est dans les rues de la ville"
    deployment.make_table(0, sql=_PARTED)
    with deployment.connect() as connection:
        fill = b"INSERT INTO docs SELECT %s, n, 'title', %s || ' ' || n, n %% 10 = 0 FROM generate_series(1, %s) n"
        connection.execute(fill, ["a", english, 2000])
        connection.execute(fill, ["b", french, 30])
        connection.execute("ANALYZE docs, docs_a, docs_b")
    deployment.spec_data["target"] |= {"where": "NOT gone"}
    target = (await survey.make(worker.engine, deployment.spec)).target()
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, "public", "docs")
    assert relation is not None
    drawn = await sample.draw(worker.engine, target, relation, wanted=100, seed=5)
    assert len(drawn) == 100
    french_rows = [each for each in drawn if each.stratum.startswith("french, ")]
    assert len(french_rows) >= 10, "one row in seventy"
    assert sum(each.weight for each in french_rows) <= 27
    assert all(int(each.key[1]) % 10 for each in drawn), "in scope alone"
    read = await sample.read(worker.engine, target, drawn, dims=64)
    assert [each.row for each in read] == drawn
    assert {each.body.startswith("title\nla maison") for each in read if each.row in french_rows} == {True}
    assert drawn == await sample.draw(worker.engine, target, relation, wanted=100, seed=5)


async def drawable(deployment: Deployment, worker: Worker, rows: int, where: str = "true") -> tuple[Target, Relation]:
    deployment.make_table(0)
    with deployment.connect() as connection:
        fill = b"INSERT INTO docs (title, body) SELECT 'title', 'the body ' || n FROM generate_series(1, %s) n"
        connection.execute(fill, [rows])
        connection.execute("ANALYZE docs")
    deployment.spec_data["target"] |= {"where": where}
    target = (await survey.make(worker.engine, deployment.spec)).target()
    async with transaction(worker.engine, read_only=True) as connection:
        relation = await facts.relation(connection, "public", "docs")
    assert relation is not None
    return target, relation


@pytest.mark.parametrize("analyzed", ["analyzed", "never"])
async def test_no_more_pages_are_looked_at_than_the_most_however_few_rows_are_in_scope(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch, analyzed: str
) -> None:
    target, relation = await drawable(deployment, worker, 20_000, where="mod(id, 50) = 0")
    if analyzed == "never":
        relation = replace(relation, estimated_rows=-1)
    assert relation.pages > 100
    whole = await sample.draw(worker.engine, target, relation, wanted=1000, seed=5)
    assert len(whole) == 400, "all of a small table, where so few are in scope"
    monkeypatch.setattr(sample, "_MOST_PAGES", 20)
    drawn = await sample.draw(worker.engine, target, relation, wanted=1000, seed=5)
    keys = [int(each.key[0]) for each in drawn]
    pages = deployment.query("SELECT DISTINCT (ctid::text::point)[0] FROM docs WHERE id = ANY (%s)", keys)
    assert 1 <= len(pages) <= 40, "20 at random, give or take"


async def test_a_draw_that_takes_too_long_looks_at_less_of_the_table(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each row costs the server a millisecond and more: all of them more than a statement's time, some of them not."""
    target, relation = await drawable(deployment, worker, 8000, where="length(repeat(body, 50000)) > 0")
    monkeypatch.setattr(sample, "_SECONDS", 6.0)
    began = time.monotonic()
    drawn = await sample.draw(worker.engine, target, relation, wanted=1000, seed=5)
    assert 1 <= len(drawn) <= 1000
    assert sum(each.weight for each in drawn) < 8000, "of less than all"
    assert time.monotonic() - began < 8


async def test_a_draw_that_can_not_be_made_in_time_says_so_and_not_that_a_lock_was_busy(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, relation = await drawable(deployment, worker, 20_000)
    monkeypatch.setattr(sample, "_SECONDS", 0.003)
    with pytest.raises(SampleTooSlow) as refused:
        await sample.draw(worker.engine, target, relation, wanted=1000, seed=5)
    assert str(refused.value).startswith("Random rows of public.docs could not be read within 0 s.")
    monkeypatch.undo()
    with deployment.connect() as connection, connection.transaction():
        connection.execute("LOCK TABLE docs")
        with pytest.raises(LockBusy):
            await sample.draw(worker.engine, target, relation, wanted=1000, seed=5)
