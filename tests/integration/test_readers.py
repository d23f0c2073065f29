"""Who searches the column and is ready for the other generation: heard, shown, asked for, and refused by name."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys

import psycopg
import pytest

from migrator.cutover.swapping import CUTOVER
from migrator.orchestrator import readers
from migrator.spending.worker import Worker
from migrator.state.connection import transaction
from migrator.state.readers import BELIEVED_SECONDS, FORGET_SECONDS, HEARD_SECONDS, forget_old
from tests.deployment import Deployment
from tests.integration.applications import NEW, OLD
from tests.integration.steps import ready, stored
from tests.integration.swaps import cut_over

READY = "SELECT migrator.reader_ready('public.docs', 'embedding', %s)"


def says(deployment: Deployment, *generations: str, application: str = "shop", instance: str = "1") -> list[str]:
    """An application gives a sign of life; returns what it must be prepared for."""
    query = "SELECT migrator.reader_ready('public.docs', 'embedding', %s, %s, %s)"
    found: list[str] = deployment.value(query, list(generations), application, instance)
    return found


def started_long_ago(deployment: Deployment, seconds: float = 61) -> None:
    """No reader believes any more what it was told before."""
    deployment.query(
        "UPDATE migrator.migrations SET started_at = clock_timestamp() - make_interval(secs => %s) RETURNING 1", seconds
    )


def ages(deployment: Deployment, seconds: int, application: str = "shop") -> None:
    """What waiting does."""
    deployment.query(
        "UPDATE migrator.readers SET last_seen = last_seen - make_interval(secs => %s) WHERE application = %s"
        " RETURNING 1",
        seconds,
        application,
    )


async def test_a_cutover_without_anybody_to_ask_needs_readers_that_are_ready(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    started_long_ago(deployment)
    told = deployment.must("cutover", "docs", "--yes", code=2)
    assert "No reader of docs was heard in the last 10 minutes, and it was not said that they are ready." in told
    says(deployment, OLD, NEW)
    says(deployment, OLD, application="nightly job")
    told = deployment.must("cutover", "docs", "--yes", code=2)
    assert f"Readers of docs can't embed queries with {NEW} yet: nightly job (role postgres)" in told
    assert f"reader shop (role postgres): ready for {NEW}" in told
    assert f"reader nightly job (role postgres): NOT READY for {NEW}, 1 of 1 can {OLD}, heard" in told
    assert deployment.status == "ready"
    as_json = deployment.run("cutover", "docs", "--yes", "--json")
    error = json.loads(as_json.stderr[as_json.stderr.index("{\n") :])
    assert (error["error"], error["exit_code"], error["runbook"]) == ("ReadersNotReady", 2, "runbooks/cutover.md")
    ages(deployment, HEARD_SECONDS + 1, "nightly job")
    assert "docs is completed" in deployment.must("cutover", "docs", "--yes")


async def test_a_reader_that_was_told_before_the_start_is_waited_for(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    says(deployment, OLD, NEW)
    started_long_ago(deployment, 50)
    told = deployment.must("cutover", "docs", "--yes")
    assert re.search(r"waiting \d s for readers that asked before the start to ask again", told), told
    began, cut = deployment.query("SELECT m.started_at, l.since FROM migrator.migrations m, migrator.live l")[0]
    assert (cut - began).total_seconds() >= BELIEVED_SECONDS


async def test_somebody_may_speak_for_the_readers(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    says(deployment, OLD)
    assert "docs is completed" in deployment.must("cutover", "docs", "--yes", "--readers-ready")


async def test_a_terminal_is_shown_the_readers_and_asked(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    started_long_ago(deployment)
    says(deployment, OLD)
    for answer, code, status in (("n", 2, "ready"), ("y", 0, "completed")):
        shown, found = _at_a_terminal(deployment, answer, "cutover", "docs")
        assert found == code, shown
        assert f"reader shop (role postgres): NOT READY for {NEW}" in shown
        assert shown.index("NOT READY") < shown.index("Make the new generation of docs live?")
        assert deployment.status == status


def _at_a_terminal(deployment: Deployment, answer: str, *words: str) -> tuple[str, int]:
    """Run a command whose input and output are a terminal, and answer its question."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "migrator", *words], env=deployment.env, cwd=deployment.home, stdin=theirs,
        stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    shown = b""
    try:
        while True:
            try:
                part = os.read(ours, 4096)
            except OSError:  # the other end was closed
                break
            if not part:
                break
            shown += part
            if b"[y/N]" in part:
                os.write(ours, f"{answer}\n".encode())
        return shown.decode().replace("\r\n", "\n"), process.wait(60)
    finally:
        process.kill()
        process.wait()
        os.close(ours)


async def test_what_a_process_said_last_counts_and_every_process_counts(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    migration = await stored(worker)

    async def lacking() -> list[str]:
        return [each.application for each in (await readers.look(worker, migration, CUTOVER)).lacking]

    says(deployment, OLD, instance="1")
    says(deployment, OLD, NEW, instance="2")
    assert await lacking() == ["shop"]
    says(deployment, NEW, OLD, instance="1")
    assert await lacking() == []
    says(deployment, OLD, instance="2")
    assert await lacking() == ["shop"]
    (found,) = (await readers.look(worker, migration, CUTOVER)).heard
    assert (found.processes, found.can) == (2, {OLD: 2, NEW: 1})
    ages(deployment, HEARD_SECONDS + 1)
    assert (await readers.look(worker, migration, CUTOVER)).lines() == ["no reader was heard in the last 10 minutes"]


async def test_status_tells_who_was_heard(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    assert json.loads(deployment.must("status", "docs", "--json"))["readers"] == []
    says(deployment, OLD, NEW, instance="1")
    says(deployment, OLD, instance="2")
    found = json.loads(deployment.must("status", "docs", "--json"))["readers"]
    assert [{**each, "last_seen": "...", "age_seconds": 0} for each in found] == [
        {"application": "shop", "role": "postgres", "processes": 2, "generations": [OLD], "last_seen": "...",
         "age_seconds": 0}
    ]  # fmt: skip
    assert 0 <= found[0]["age_seconds"] < 30
    told = deployment.must("status", "docs")
    assert re.search(
        rf"^  readers +shop \(role postgres\): 2 heard, the last \d+ s ago; embeds with {OLD}$", told, re.MULTILINE
    )


async def test_a_rollback_says_who_is_left_without_the_old_model(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    says(deployment, NEW)
    says(deployment, OLD, NEW, application="careful")
    told = deployment.must("rollback", "docs", "--yes")
    assert f"reader shop (role postgres): NOT READY for {OLD}, 1 of 1 can {NEW}" in told
    assert "shop will search in vain from the swap on, unless it embeds queries with the old model again." in told
    assert f"reader careful (role postgres): ready for {OLD}" in told
    assert "careful will search in vain" not in told
    assert "docs is rolled_back" in told


async def test_p11_nothing_is_kept_of_what_a_reader_says_but_what_is_asked_for(
    deployment: Deployment, worker: Worker
) -> None:
    await ready(deployment, worker, 10)
    says(deployment, "canary row text", NEW, application="shop\x1b[2J\n" + "x" * 200, instance="\x07" + "y" * 200)
    row = deployment.query("SELECT application, instance, generations FROM migrator.readers")[0]
    assert row == ("shop?[2J?" + "x" * 54, "?" + "y" * 62, [NEW])


async def test_a_reader_is_heard_while_there_is_a_swap_to_be_ready_for(deployment: Deployment, worker: Worker) -> None:
    deployment.make_table(10)
    assert says(deployment, OLD) == []
    with deployment.connect() as connection:
        connection.execute("DROP TABLE docs CASCADE")
        with pytest.raises(psycopg.errors.UndefinedObject, match="knows no target"):
            connection.execute(READY, [[OLD]])
    await ready(deployment, worker, 10)
    assert deployment.query("SELECT * FROM migrator.readers") == []
    with psycopg.connect(deployment.url, application_name="my name") as connection:
        assert connection.execute(READY, [[OLD]]).fetchone() == ([OLD, NEW],)
    assert deployment.query("SELECT application FROM migrator.readers") == [("my name",)]
    deployment.must("cancel", "docs", "--yes")
    assert says(deployment, OLD) == [OLD]
    deployment.must("cleanup", "docs", "--yes")
    assert says(deployment, OLD) == [OLD]
    assert deployment.query("SELECT * FROM migrator.readers") == [], "there is no swap to be ready for any more"


async def test_old_signs_of_life_are_forgotten(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    says(deployment, OLD, instance="1")
    ages(deployment, FORGET_SECONDS + 1)
    says(deployment, OLD, instance="2")
    async with transaction(worker.engine) as connection:
        await forget_old(connection)
    assert deployment.query("SELECT instance FROM migrator.readers") == [("2",)]


async def test_the_status_is_refused_before_the_readers_are(deployment: Deployment, worker: Worker) -> None:
    await ready(deployment, worker, 10)
    await cut_over(worker)
    assert "`cutover` needs docs to be ready" in deployment.must("cutover", "docs", "--yes", code=2)
