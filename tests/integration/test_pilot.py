"""`pilot`: a sample embedded by both models before anything begins, what it costs, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections import Counter

import psycopg
import pytest

from migrator.demo.servers import Postgres
from migrator.demo.simulator.account import digest
from migrator.errors import StatusConflict
from migrator.orchestrator import pilot, pilot_sample, verbs
from migrator.orchestrator.pilot import PilotFoundWorse
from migrator.orchestrator.pilot_result import OldModelInPilot
from migrator.pilot.page import lines
from migrator.pilot.purse import PilotCapReached
from migrator.provider.giving_up import ProviderBusy
from migrator.spending.purse import WorkStopped
from migrator.spending.worker import Worker
from migrator.state.budget import CapReached
from tests.deployment import KEY, V3, V4, Deployment, embed, literal, until
from tests.integration import catalog
from tests.integration.piloting import body_of, prepare, run, spent, write
from tests.integration.steps import held_open, start

#: No output and no table of ours may hold it.
CANARY = "zebra-canary-4711"


async def test_a_pilot_tells_what_the_whole_would_cost_and_mends_the_plan(
    deployment: Deployment, worker: Worker
) -> None:
    """The provider bills a quarter more than our own count: the plan says so from then on, and what it said before."""
    deployment.make_table(120)
    deployment.half_moved(range(1, 121), V4)
    deployment.spec_data["from"]["model"], deployment.spec_data["to"]["model"] = V4, V3
    deployment.simulator.admin(v3_token_ratio=1.25)
    found = await run(deployment, worker, 60, waiver=None)
    assert found["provenance"].startswith(f"The stored vectors are {V4}@64's of the spec's text: 50 of 50")
    assert found["tokens"]["billed"] == pytest.approx(1.25 * found["tokens"]["estimated"], rel=0.03)
    assert found["tokens"]["low"] <= found["tokens"]["ratio"] <= found["tokens"]["high"]
    bill = deployment.simulator.ledger()["tokens"]
    assert spent(deployment) + spent(deployment, "provenance") == bill, "every call is paid by the migration's purse"
    before, after = found["plan"]["before"], found["plan"]["after"]
    assert after["tokens"]["estimate"] == pytest.approx(1.25 * before["tokens"]["estimate"], rel=0.03)
    assert after["cost_usd"]["high"] == pytest.approx(after["tokens"]["high"] * 1e-6)
    assert after["cost_usd"]["high"] > 1.1 * before["cost_usd"]["high"] > before["tokens"]["estimate"] * 1e-6
    assert before["tokens"]["estimate"] == deployment.needed_tokens()
    stored = deployment.value("SELECT plan FROM migrator.migrations")
    assert stored["tokens"] == after["tokens"]
    assert stored["calibration"]["rows"] == 60
    # A new plan, as well as `start`'s, rests on it; and another pilot mends what the plan itself said.
    made, _ = await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    assert made.document["tokens"] == after["tokens"]
    again = await run(deployment, worker, 60, waiver=None, resample=True)
    assert {**again["plan"]["before"], "finish": before["finish"]} == before, "but for the moment that it begins at"
    assert again["plan"]["after"]["tokens"]["estimate"] == pytest.approx(after["tokens"]["estimate"], rel=0.01)


async def test_a_provider_that_tells_no_usage_calibrates_nothing(deployment: Deployment, worker: Worker) -> None:
    """What is settled then is our own bound, of some four times the tokens: it pays, and says nothing of a bill."""
    deployment.make_table(60)
    deployment.simulator.admin(usage="missing")
    found = await run(deployment, worker, 60)
    assert (found["tokens"]["billed"], found["tokens"]["ratio"], found["tokens"]["untold"]) == (None, None, 60)
    assert found["plan"]["after"] == found["plan"]["before"]
    assert "calibration" not in deployment.value("SELECT plan FROM migrator.migrations")
    assert deployment.value("SELECT calibration FROM migrator.pilots") is None
    told = "\n".join(lines(found))
    assert "what was billed is not known: the provider told no usage, and nothing is mended by it" in told
    assert "(counted at their most where no usage was told)" in told
    # What is kept of it is not asked again, and stays untold; what is told from then on counts alone.
    deployment.simulator.admin(usage="exact")
    assert (await run(deployment, worker, 60))["tokens"] == found["tokens"]
    deployment.query("DELETE FROM migrator.pilot_vectors WHERE text_hash < '\\x80' RETURNING 1")
    mixed = (await run(deployment, worker, 60))["tokens"]
    assert 0 < mixed["untold"] < 60
    assert mixed["ratio"] == 1.0
    assert mixed["billed"] == mixed["estimated"] < found["tokens"]["estimated"]


async def test_p2_what_was_paid_for_is_used_again_also_by_a_larger_pilot(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(100)
    first = await run(deployment, worker, 40)
    bill = deployment.simulator.ledger()["tokens"]
    prepared = await prepare(deployment, worker, 40)
    assert prepared.price.most_usd == 0, "and it says so before"
    assert "texts kept and paid for already" in str(prepared.price)
    second = await run(deployment, worker, 40)
    assert second["search"] == first["search"]
    assert deployment.simulator.ledger()["tokens"] == bill
    await run(deployment, worker, 100)
    billed = Counter(text for each in deployment.entries() for text in each["digests"])
    rows = {digest(body_of(number)) for number in range(1, 101)}
    assert {billed[text] for text in rows} == {1}, "each row once, in all three"
    # Once it begins, nobody can use them any more.
    await start(deployment, worker)
    assert deployment.value("SELECT count(*) FROM migrator.pilot_vectors") == 0
    with pytest.raises(StatusConflict):
        await prepare(deployment, worker, 40)


async def test_p2_a_killed_pilot_goes_on_and_pays_for_nothing_twice(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(200)
    deployment.simulator.admin(latency_seconds=1.0)
    command = [sys.executable, "-m", "migrator", "pilot", str(deployment.spec_file), "--rows", "200", "--yes"]
    process = deployment.spawn(*command, "--skip-provenance", "not looked at by this test", log="pilot.log")
    kept = "SELECT count(*) FROM migrator.pilot_vectors"
    deployment.wait(lambda: deployment.value(kept) >= 40, process, "the first answers")
    process.send_signal(signal.SIGKILL)
    process.wait()
    deployment.simulator.admin(latency_seconds=0.0)
    hashes = {bytes(each) for (each,) in deployment.query("SELECT text_hash FROM migrator.pilot_vectors")}
    assert 40 <= len(hashes) < 200
    held = "SELECT count(*) FROM migrator.duties WHERE duty = 'pilot' AND lease_until > clock_timestamp()"
    deployment.wait(lambda: deployment.value(held) == 0, log="the dead one's lease")
    seed = deployment.value("SELECT seed FROM migrator.pilots")
    found = await run(deployment, worker, 200)
    assert (found["seed"], found["rows"]["embedded"]) == (seed, 200)
    assert deployment.value("SELECT count(*) FROM migrator.pilots WHERE finished_at IS NOT NULL") == 1
    billed = Counter(text for each in deployment.entries() for text in each["digests"])
    paid = [body_of(number) for number in range(1, 201) if pilot_sample.pilots.hash_of(body_of(number)) in hashes]
    assert len(paid) == len(hashes)
    assert {billed[digest(text)] for text in paid} == {1}, "what was kept is never asked again"
    rows = {digest(body_of(number)) for number in range(1, 201)}  # queries are asked of both models
    twice = sum(count - 1 for text, count in billed.items() if text in rows)
    assert twice <= 10 * worker.concurrency, "at most what was in flight"
    # The requests in flight may have been billed: they stay counted, and nothing stays reserved.
    states = deployment.query("SELECT DISTINCT possibly_billed FROM migrator.reservations")
    assert states in ([], [(True,)])


async def test_p7_a_pilot_keeps_its_own_cap_and_the_migrations(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(100)
    most = (await prepare(deployment, worker, 100)).price.most_usd
    cap = f"{most / 3:.6f}"
    with pytest.raises(PilotCapReached):
        await run(deployment, worker, 100, max_usd=cap)
    bill = deployment.simulator.ledger()["tokens"]
    assert 0 < bill * 1e-6 <= float(cap), "1 USD per million tokens"
    with pytest.raises(PilotCapReached):
        await run(deployment, worker, 100, max_usd=cap)
    # A look at provenance counts, too.
    with pytest.raises(PilotCapReached):
        await run(deployment, worker, 100, max_usd="0.05", waiver=None)
    assert spent(deployment, "provenance") == 0
    deployment.query("UPDATE migrator.budgets SET max_usd = committed_usd + 0.0005 RETURNING 1")
    with pytest.raises(CapReached):
        await run(deployment, worker, 100)
    committed, most_usd = deployment.query("SELECT committed_usd, max_usd FROM migrator.budgets")[0]
    assert committed <= most_usd
    assert spent(deployment) == deployment.simulator.ledger()["tokens"]
    deployment.query("UPDATE migrator.budgets SET max_usd = 1 RETURNING 1")
    found = await run(deployment, worker, 100, max_usd=f"{most + 0.01:.6f}")
    assert found["rows"]["embedded"] == 100
    assert spent(deployment) == deployment.simulator.ledger()["tokens"] == found["cost"]["tokens"]
    assert found["cost"]["usd"] <= most, "the price that was told is a bound"


async def test_a_pilot_leaves_the_table_as_it_was(deployment: Deployment, worker: Worker, postgres: Postgres) -> None:
    deployment.make_table(60)
    rows = "SELECT md5(string_agg(t::text || t.xmin || t.ctid, '' ORDER BY id)) FROM docs t"
    dumped, drawn = catalog.dump(postgres, deployment.url), deployment.value(rows)
    pictured = [each for each in catalog.picture(deployment.url) if each[0] not in {"status", "transitions"}]
    await run(deployment, worker, 60, waiver=None)
    assert catalog.dump(postgres, deployment.url) == dumped
    assert deployment.value(rows) == drawn
    after = [each for each in catalog.picture(deployment.url) if each[0] not in {"status", "transitions"}]
    assert after == pictured
    assert deployment.status == "planned"


async def test_the_providers_troubles_and_latency_are_told_by_name(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(100)
    deployment.simulator.admin(
        latency_seconds=0.05, faults=[{"kind": "server_error", "count": 2}, {"kind": "throttled", "seconds": 0}]
    )
    found = await run(deployment, worker, 100)
    seen = found["provider"]
    assert seen["row_requests"] == 10
    assert 0.05 <= seen["latency_seconds"]["p50"] <= seen["latency_seconds"]["p95"]
    assert sum(seen["troubles"].values()) == 3
    assert any("HTTP 500" in name for name in seen["troubles"]), seen
    assert found["plan"]["after"]["hours_bound_by"].startswith("the provider's ")
    told = "\n".join(lines(found))
    assert f"a request of rows took {seen['latency_seconds']['p50']:.2f} s (p50)" in told


async def test_a_provider_that_is_down_keeps_what_it_answered(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(100)
    worker.concurrency = 1
    deployment.simulator.admin(faults=[{"kind": "extra_fields", "count": 4}, {"kind": "server_error", "count": None}])
    with pytest.raises(ProviderBusy):
        await run(deployment, worker, 100)
    assert deployment.value("SELECT count(*) FROM migrator.pilot_vectors") == 40
    deployment.simulator.admin(no_faults=True)
    assert (await run(deployment, worker, 100))["rows"]["embedded"] == 100


def test_a_model_that_is_worse_for_certain_ends_with_exit_3(deployment: Deployment) -> None:
    """Old vectors that were made by hand find what the words alone do not."""
    deployment.make_table(60)
    asked = [{"text": f"word{number}", "relevant": [number]} for number in range(1, 31)]
    for each in asked:
        made = literal(embed(V3, each["text"]))
        deployment.query("UPDATE docs SET embedding = %s WHERE id = %s RETURNING 1", made, each["relevant"][0])
    path = write(deployment, asked)
    words = ("--rows", 60, "--queries", path, "--skip-provenance", "made by hand", "--yes")
    done = deployment.run("pilot", deployment.spec_file, *words, "--json")
    assert done.returncode == 3
    found = json.loads(done.stdout)
    assert f"qwen/{V4}@64 is worse by " in found["verdict"]
    assert json.loads(done.stderr)["error"] == "PilotFoundWorse"
    with pytest.raises(PilotFoundWorse):
        pilot.refuse(found, "docs.toml")
    assert deployment.value("SELECT plan -> 'calibration' ->> 'rows' FROM migrator.migrations") == "60"


async def test_an_old_model_that_is_gone_leaves_tokens_and_says_so(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(60)
    deployment.spec_data["from"]["api_key_env"] = "NOWHERE_TO_BE_FOUND"
    found = await run(deployment, worker, 60)
    assert "NOWHERE_TO_BE_FOUND is not set" in found["search"]["why_not"]
    assert found["search"]["queries"] == 0
    assert found["search"]["bridge"] is not None, "rows have both vectors"
    assert found["verdict"].startswith("Nothing could be compared")
    assert found["tokens"]["ratio"] == 1.0
    pilot.refuse(found, "docs.toml")


async def test_a_gateway_that_answers_with_the_old_model_is_found_and_its_answers_are_not_kept(
    deployment: Deployment, worker: Worker
) -> None:
    deployment.make_table(40)
    deployment.simulator.admin(answer_with=V3)
    with pytest.raises(OldModelInPilot) as refused:
        await run(deployment, worker, 40)
    assert refused.value.rows == 40
    assert spent(deployment) == deployment.simulator.ledger()["tokens"]
    deployment.simulator.admin(answer_with=None)
    found = await run(deployment, worker, 40)
    assert found["provider"]["row_requests"] == 4
    assert found["search"]["overlap"] < 0.9, "the new model's own"


async def test_p4_no_transaction_is_open_while_a_pilot_asks(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    deployment.make_table(40)
    prepared = await prepare(deployment, worker, 40)
    deployment.simulator.admin(latency_seconds=2)
    running = asyncio.create_task(pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None))
    await until(lambda: asyncio.to_thread(lambda: deployment.simulator.ledger()["in_flight"] == 4))
    await asyncio.sleep(0.3)  # what came before the requests has ended by then
    for _ in range(10):
        await asyncio.sleep(0.05)
        assert await held_open(sql) == []
    assert deployment.simulator.ledger()["in_flight"] == 4, "it was still being asked"
    deployment.simulator.admin(latency_seconds=0)
    await running


async def test_a_pilot_of_a_migration_that_began_meanwhile_stops(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(30)
    prepared = await prepare(deployment, worker, 30)
    await start(deployment, worker)
    bill = deployment.simulator.ledger()["tokens"]
    with pytest.raises(WorkStopped):
        await pilot.run(worker, prepared, origin_page=None, actor="test", say=lambda _: None)
    assert deployment.simulator.ledger()["tokens"] == bill


@pytest.mark.timeout(180)
def test_a_pilot_asks_and_refuses_at_the_command_line(deployment: Deployment) -> None:
    deployment.make_table(40)
    words = ("pilot", deployment.spec_file, "--rows", 40)
    priced = json.loads(deployment.run(*words, "--dry-run", "--json").stdout)["price"]
    assert 0 < priced["likely_usd"] < priced["most_usd"]
    assert priced["rows"]["texts"] == 40
    assert "--yes was not given" in deployment.must(*words, code=2)
    assert deployment.simulator.ledger()["requests"] == 0
    assert "its own cap of 0.001 USD" in deployment.must(*words, "--yes", "--max-cost", 0.001, code=4)
    deployment.spec_data["target"]["text"] = "{body}"
    said = deployment.must("pilot", deployment.spec_file, "--rows", 40, "--yes", code=3)
    assert "planned anew, since the plan does not hold any more: the spec file is different" in said
    assert "sign with `migrator pilot " in said
    assert spent(deployment) == 0, "nothing but the look was paid for"


@pytest.mark.timeout(180)
def test_p11_nothing_of_a_row_or_a_query_is_told_or_stored(deployment: Deployment, postgres: Postgres) -> None:
    deployment.make_table(40)
    deployment.query("UPDATE docs SET body = body || %s RETURNING 1", f" {CANARY}")
    path = write(deployment, [{"text": f"{CANARY} {number}", "relevant": [number]} for number in range(1, 21)])
    words = ("pilot", deployment.spec_file, "--rows", 40, "--queries", path, "--skip-provenance", "edited", "--yes")
    told = deployment.must(*words)
    done = deployment.run(*words, "--json")
    assert done.returncode == 0, done.stderr
    stored = subprocess.run(
        [postgres.tool("pg_dump"), "--schema=migrator", "--data-only", deployment.url],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "pilot_vectors" in stored
    for place in (told, done.stdout, done.stderr, stored):
        assert CANARY not in place
        assert "gamma" not in place
        assert KEY not in place
