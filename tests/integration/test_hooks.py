"""Hooks told by the engine: each event of a life once, its deliverer killed, receivers that fail, commands, costs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from migrator.hooks import webhook
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import attended, progress, telling, verbs
from migrator.spending.worker import Worker
from migrator.state import migrations, outbox
from migrator.state.connection import transaction
from tests.deployment import KEY, V3, Deployment, until
from tests.integration.hooking import due_now, tell
from tests.integration.steps import begin, ready, stored, to
from tests.integration.swaps import cut_over, quiet, roll_back
from tests.receiving import SECRET, SECRET_ENV, Receiver

S = MigrationStatus


def notes(deployment: Deployment) -> list[str]:
    query = "SELECT reason FROM migrator.transitions WHERE from_status = to_status AND starts_with(reason, 'hook ')"
    return [str(reason) for (reason,) in deployment.query(f"{query} ORDER BY id")]


async def test_each_event_of_a_whole_life_is_told_once(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    deployment.spec_data["hooks"]["on"] = [*telling.Event]
    await begin(deployment, worker, 40)
    await verbs.pause(worker.engine, "docs", actor="test")
    await tell(worker)
    assert receiver.events == ["started", "paused"], "a migration at rest is told, too"
    await verbs.resume(worker.engine, "docs", actor="test")
    await to(worker, S.READY)
    assert receiver.events[2:] == ["resumed", "validated", "ready"], "`work` tells of its own end, with no worker alive"
    await cut_over(worker)
    await roll_back(worker)
    await attended.clean_up(worker, "docs", close_window=True, strays_gone=True, actor="test", tell=quiet)
    assert deployment.status == "cleaned"
    assert await telling.waiting(worker.engine, "docs") == (
        "4 events wait for their hooks: no worker is alive, and whoever works next tells them."
    )
    await tell(worker)
    await tell(worker)
    assert receiver.events[5:] == ["cutover_tried", "cutover_done", "rollback_done", "cleaned"]
    assert await telling.waiting(worker.engine, "docs") is None
    assert receiver.verified()
    told = receiver.bodies
    assert len({each["id"] for each in told}) == len(told)
    assert [headers["webhook-id"] for headers, _ in receiver.received] == [each["id"] for each in told]
    assert {each["name"] for each in told} == {"docs"}
    assert [each["status"] for each in told[:2]] == ["backfilling", "paused"]
    assert told[1]["reason"] == verbs.BY_OPERATOR
    figures = told[4]["progress"]
    assert figures["rows"]["done"] == 40
    assert figures["live"]["generation"] == f"{V3}@64"
    assert all(each["passed"] for each in figures["verdicts"])
    everything = b"".join(body for _, body in receiver.received)
    for canary in (b"alpha", b"title 1", KEY.encode(), SECRET.encode(), b"url-canary"):
        assert canary not in everything, "P11"
    assert max(len(body) for _, body in receiver.received) <= telling.MAX_BYTES


async def test_an_event_is_there_if_and_only_if_what_it_tells_was_committed(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    query = "SELECT event FROM migrator.hook_events ORDER BY id"
    assert deployment.query(query) == [("started",)]
    with contextlib.suppress(ZeroDivisionError):
        async with transaction(worker.engine) as connection:
            assert await migrations.pause(connection, migration.id, reason="test", actor="test")
            raise ZeroDivisionError
    assert deployment.status == "backfilling"
    assert deployment.query(query) == [("started",)]
    assert receiver.events == []


async def test_without_hooks_nothing_is_written(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker)
    await cut_over(worker)
    assert deployment.query("SELECT 1 FROM migrator.hook_events UNION ALL SELECT 1 FROM migrator.hook_watches") == []


async def test_a_deliverer_killed_between_claim_and_delivery_is_made_good(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    """SIGKILL while the receiver has been asked and has not answered: nobody knows, so it is told again."""
    await begin(deployment, worker, 5)
    await verbs.pause(worker.engine, "docs", actor="test")
    receiver.hang = threading.Event()
    command, env = (sys.executable, "-m", "migrator", "work", "docs"), {SECRET_ENV: SECRET}
    teller = deployment.spawn(*command, log="teller.log", env=env)
    deployment.wait(lambda: receiver.events == ["started"], teller, "the first event")
    deployment.kill(teller)
    receiver.hang.set()
    receiver.hang = None
    await tell(worker)
    assert receiver.events == ["started", "paused"], "what is claimed is left to whoever claimed it"
    due_now(deployment)
    await tell(worker)
    assert receiver.events == ["started", "paused", "started"]
    first, _, again = receiver.bodies
    assert (first["id"], first["at"], first["try"], again["try"]) == (again["id"], again["at"], 1, 2)
    assert receiver.verified()
    assert deployment.query("SELECT count(*) FROM migrator.hook_events WHERE told_at IS NULL") == [(0,)]


async def test_a_pause_is_over_while_somebody_is_still_told_of_it(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    await begin(deployment, worker, 5)
    await verbs.pause(worker.engine, "docs", actor="test")
    receiver.hang = threading.Event()
    telling_it = asyncio.create_task(tell(worker))
    await until(lambda: asyncio.to_thread(lambda: receiver.received))
    assert deployment.query("SELECT 1 FROM migrator.duties WHERE duty = 'hooks' AND status = 'leased'") == [(1,)]
    async with transaction(worker.engine) as connection:
        found = await progress.read(connection, await migrations.get(connection, "docs"))
    assert progress.status_word(found) == "paused"
    receiver.hang.set()
    await telling_it


async def test_two_workers_do_not_both_tell(deployment: Deployment, worker: Worker, receiver: Receiver) -> None:
    await begin(deployment, worker, 5)
    for _ in range(5):
        await verbs.pause(worker.engine, "docs", actor="test")
        await verbs.resume(worker.engine, "docs", actor="test")
    migration = await stored(worker)
    told = await asyncio.gather(*(telling.deliver(worker, migration) for _ in range(4)))
    assert sum(told) == 11
    assert len(receiver.received) == len({each["id"] for each in receiver.bodies}) == 11


async def test_a_late_teller_settles_nothing(deployment: Deployment, worker: Worker, receiver: Receiver) -> None:
    await begin(deployment, worker, 5)
    migration = await stored(worker)
    async with transaction(worker.engine) as connection:
        slept = await outbox.claim(connection, migration.id)
        assert slept is not None
        assert await outbox.claim(connection, migration.id) is None
    due_now(deployment)
    async with transaction(worker.engine) as connection:
        again = await outbox.claim(connection, migration.id)
        assert again is not None
        assert not await outbox.settle(connection, slept)
        assert not await outbox.put_back(connection, slept, "late")
        assert await outbox.settle(connection, again)
    assert receiver.events == []


async def test_a_failing_hook_harms_nothing_and_is_given_up_with_a_note(
    deployment: Deployment, worker: Worker, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.status = 500
    deployment.spec_data["hooks"]["on"] = ["started"]
    await begin(deployment, worker, 40)
    await to(worker, S.READY)
    assert deployment.mismatches("embedding__migrator", "text-embedding-v4") == []
    migration = await stored(worker)
    for _ in range(outbox.TRIES + 2):
        due_now(deployment)
        await telling.deliver(worker, migration)
    assert receiver.events == ["started"] * outbox.TRIES
    place = receiver.url
    assert notes(deployment) == [
        f"hook {place} was not told started: HTTP 500; tried again",
        f"hook {place} was not told started: HTTP 500; given up after 12 tries",
    ]
    assert f"docs: hook {place} was not told started: HTTP 500 (try 1 of 12)" in caplog.text
    assert "url-canary" not in caplog.text + json.dumps(notes(deployment))
    assert deployment.query("SELECT told_at, given_up_at IS NOT NULL FROM migrator.hook_events") == [(None, True)]
    assert deployment.status == "ready"
    page = deployment.home / "page.html"
    said = deployment.must("report", "docs", "-o", page) + deployment.must("status", "docs", "--json")
    assert "url-canary" not in said + page.read_text()
    receiver.status = 204
    await cut_over(worker)


async def test_whatever_a_way_of_telling_raises_is_a_failed_try(
    deployment: Deployment, worker: Worker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.spec_data["hooks"]["on"] = ["started"]

    async def post(*_: Any) -> None:
        raise KeyError(receiver.url + "/url-canary")

    await begin(deployment, worker, 5)
    with monkeypatch.context() as patched:
        patched.setattr(webhook, "post", post)
        await tell(worker)
    assert notes(deployment) == [f"hook {receiver.url} was not told started: KeyError; tried again"]
    assert deployment.query("SELECT status FROM migrator.duties WHERE duty = 'hooks'") == [("done",)]
    due_now(deployment)
    await tell(worker)
    assert receiver.events == ["started"]


async def test_tries_are_further_and_further_apart(deployment: Deployment, worker: Worker, receiver: Receiver) -> None:
    receiver.status = 503
    await begin(deployment, worker, 5)
    await tell(worker)
    await tell(worker)
    assert len(receiver.received) == 1, "it is not due"
    deployment.query("UPDATE migrator.hook_events SET tries = 6, not_before = now() RETURNING 1")
    await tell(worker)
    seconds = deployment.value("SELECT extract(epoch FROM not_before - clock_timestamp()) FROM migrator.hook_events")
    assert 310 < seconds <= 320


async def test_nothing_is_sent_unsigned(
    deployment: Deployment, worker: Worker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SECRET_ENV)
    await begin(deployment, worker, 5)
    await tell(worker)
    assert receiver.received == []
    assert "TEST_HOOK_SECRET is not set on" in notes(deployment)[0]
    assert "nothing is sent unsigned" in notes(deployment)[0]


@pytest.mark.parametrize("allowed", [False, True])
async def test_a_command_runs_only_where_the_workers_environment_allows_it(
    deployment: Deployment, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, allowed: bool
) -> None:
    body = tmp_path / "body.json"
    deployment.spec_data["hooks"] = {"command": ["/bin/sh", "-c", f"cat > {body}"], "on": ["started"]}
    if allowed:
        monkeypatch.setenv("MIGRATOR_ALLOW_COMMAND_HOOKS", "1")
    await begin(deployment, worker, 5)
    await tell(worker)
    assert body.exists() is allowed
    if allowed:
        assert json.loads(body.read_text())["event"] == "started"
        assert notes(deployment) == []
    else:
        assert "hook sh was not told started: MIGRATOR_ALLOW_COMMAND_HOOKS is not 1 on" in notes(deployment)[0]


async def test_url_and_command_are_told_the_same_event_each_by_itself(
    deployment: Deployment, worker: Worker, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MIGRATOR_ALLOW_COMMAND_HOOKS", "1")
    log = tmp_path / "log"
    deployment.spec_data["hooks"]["command"] = ["/bin/sh", "-c", f"cat >> {log}; echo >> {log}"]
    receiver.status = 500
    await begin(deployment, worker, 5)
    await tell(worker)
    due_now(deployment)
    receiver.status = 200
    await tell(worker)
    (by_command,) = [json.loads(line) for line in log.read_text().splitlines()]
    assert [each["id"] for each in receiver.bodies] == [by_command["id"]] * 2


async def test_a_hanging_receiver_costs_a_shutdown_nothing(
    deployment: Deployment, worker: Worker, receiver: Receiver
) -> None:
    receiver.hang = threading.Event()
    await begin(deployment, worker, 5)
    task: asyncio.Task[Any] = asyncio.create_task(telling.deliver(worker, await stored(worker)))
    await until(lambda: asyncio.to_thread(lambda: receiver.received))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    rows = deployment.query("SELECT tries, not_before <= clock_timestamp(), failure FROM migrator.hook_events")
    assert rows == [(0, True, "shut down")]


async def test_a_url_that_is_a_secret_stays_in_the_workers_environment(
    deployment: Deployment, worker: Worker, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = deployment.spec_data["hooks"].pop("url")
    deployment.spec_data["hooks"]["url_env"] = "TEST_HOOK_URL"
    await begin(deployment, worker, 5)
    await tell(worker)
    (said,) = notes(deployment)
    assert said.startswith("hook at $TEST_HOOK_URL was not told started: TEST_HOOK_URL is not set on ")
    for value, words in (
        ("postgresql://me:url-canary@h/app", "is no URL for a hook: it must begin"),
        ("https://[url-canary]/", "is no URL for a hook: it is no URL"),
    ):
        monkeypatch.setenv("TEST_HOOK_URL", value)
        due_now(deployment)
        await tell(worker)
        assert words in str(deployment.value("SELECT failure FROM migrator.hook_events WHERE told_at IS NULL"))
    monkeypatch.delenv("TEST_HOOK_URL")
    monkeypatch.setenv("TEST_HOOK_URL_FILE", "/nowhere/url")
    due_now(deployment)
    await tell(worker)
    failure = str(deployment.value("SELECT failure FROM migrator.hook_events WHERE told_at IS NULL"))
    assert failure.startswith("TEST_HOOK_URL_FILE can't be used: /nowhere/url can't be read")
    monkeypatch.delenv("TEST_HOOK_URL_FILE")
    assert receiver.received == []
    monkeypatch.setenv("TEST_HOOK_URL", url)
    due_now(deployment)
    await tell(worker)
    assert receiver.events == ["started"]
    assert receiver.verified()
    stored_specs = deployment.value("SELECT string_agg(spec::text, '') FROM migrator.migrations")
    assert "TEST_HOOK_URL" in stored_specs
    assert "url-canary" not in stored_specs
