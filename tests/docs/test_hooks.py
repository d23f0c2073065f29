"""docs/hooks.md says what is told, and its receiver verifies it."""

from __future__ import annotations

import json
import re
import sys
import time
import tomllib
from typing import Any

import httpx
import pytest

from migrator import spec as specs
from migrator.demo import processes
from migrator.events import NOISE, Event
from migrator.hooks import webhook
from migrator.lifecycle import MigrationStatus
from migrator.orchestrator import telling, verbs
from migrator.spending.worker import Worker
from tests.deployment import Deployment
from tests.docs import pages
from tests.docs.pages import ROOT, read
from tests.integration.steps import begin, stored, to
from tests.receiving import SECRET, SECRET_ENV, receiving

PAGE = read(ROOT / "docs/hooks.md")
KEY_ENV = "MIGRATOR_HOOK_SECRET"


def block(language: str) -> str:
    (found,) = [each.body for each in pages.blocks(PAGE) if each.language == language]
    return found


def test_the_page_has_every_event_and_the_defaults() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == [*Event]
    assert "default: all but cutover_tried" in block("toml")
    assert {Event.CUTOVER_TRIED} == NOISE


def test_the_spec_of_the_page_loads(deployment: Deployment) -> None:
    hooks = specs.parse({**deployment.spec_data, **tomllib.loads(block("toml"))}, "docs.toml").hooks
    assert hooks is not None
    assert len(hooks.channels) == 2


def shape(value: Any) -> Any:
    """The keys of an object; `{}` and what stands in lists beyond the first is "anything"."""
    if isinstance(value, dict):
        return {key: shape(each) for key, each in value.items()}
    return [shape(value[0])] if isinstance(value, list) and value else None


def fits(page: Any, told: Any) -> bool:
    if page == {}:
        return isinstance(told, dict)
    if isinstance(page, dict):
        return isinstance(told, dict) and page.keys() == told.keys() and all(fits(page[key], told[key]) for key in page)
    return page == told


async def test_what_is_told_has_the_pages_keys(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SECRET_ENV, SECRET)
    with receiving() as receiver:
        deployment.spec_data["hooks"] = {"url": receiver.url, "secret_env": SECRET_ENV}
        await begin(deployment, worker, 20)
        await to(worker, MigrationStatus.READY)
    wanted = shape(json.loads(block("json")))
    assert fits(wanted, shape(receiver.bodies[-1])), (wanted, shape(receiver.bodies[-1]))


async def test_the_pages_receiver_takes_what_is_genuine_and_nothing_else(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(KEY_ENV, SECRET)
    port = processes.free_port()
    env = {"PORT": str(port), KEY_ENV: SECRET}
    process = deployment.spawn(sys.executable, "-c", block("python"), log="receiver.log", env=env)
    deployment.wait(lambda: processes.accepts(port), process, "receiver")
    url = f"http://127.0.0.1:{port}/"
    deployment.spec_data["hooks"] = {"url": url, "secret_env": KEY_ENV}
    await begin(deployment, worker, 5)
    assert await telling.deliver(worker, await stored(worker)) == 1

    def printed() -> list[str]:
        lines = (deployment.home / "receiver.log").read_text().splitlines()
        return [line for line in lines if line.startswith("docs ")]

    assert len(printed()) == 1
    assert printed()[0].startswith("docs started the operator ran `migrator start`")
    body, now = b'{"name": "docs", "event": "ready", "reason": null}', time.time()
    good = webhook.headers("id-2", body, SECRET, at=now)
    forged = [
        (body, {}),
        (body.replace(b"ready", b"other"), good),
        (body, {**good, "webhook-id": "id-3"}),
        (body, {**good, "webhook-timestamp": str(int(now) + 1)}),
        (body, webhook.headers("id-2", body, "another key", at=now)),
        (body, webhook.headers("id-2", body, SECRET, at=now - 400)),
    ]
    async with httpx.AsyncClient() as http:
        for content, headers in forged:
            assert (await http.post(url, content=content, headers=headers)).status_code == 401
        assert len(printed()) == 1
        for _ in range(2):
            assert (await http.post(url, content=body, headers=good)).status_code == 204
    assert printed()[1:] == ["docs ready None"], "the same id twice is one event"


async def test_the_runbook_has_the_news_of_a_day_told_now(
    deployment: Deployment, worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given up, and what waits for its next try for up to an hour; not what is no news any more."""
    monkeypatch.setenv(SECRET_ENV, SECRET)
    (again,) = re.findall(r'-c "(UPDATE .*?)"', read(ROOT / "runbooks/hooks.md"), re.DOTALL)
    with receiving() as receiver:
        receiver.status = 500
        deployment.spec_data["hooks"] = {"url": receiver.url, "secret_env": SECRET_ENV}
        await begin(deployment, worker, 5)
        for _ in range(2):
            await verbs.pause(worker.engine, "docs", actor="test")
            await verbs.resume(worker.engine, "docs", actor="test")
        await telling.deliver(worker, await stored(worker))
        late = "tries = 12, given_up_at = now(), at = now() - "
        for number, changed in enumerate([f"{late} interval '2 days'", f"{late} interval '1 hour'", "tries = 9"], 1):
            deployment.query(f"UPDATE migrator.hook_events SET {changed} WHERE id = {number} RETURNING 1")
        receiver.received.clear()
        receiver.status = 204
        assert await telling.deliver(worker, await stored(worker)) == 0
        with deployment.connect() as connection:
            connection.execute(again.encode())
        assert await telling.deliver(worker, await stored(worker)) == 4
        assert receiver.events == ["paused", "resumed", "paused", "resumed"]
