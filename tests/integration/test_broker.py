"""The broker in a plan and in `doctor`: real Valkey, a port where nobody answers, and what is no broker at all."""

from __future__ import annotations

import psycopg
import pytest
import redis

from migrator.demo.processes import free_port
from migrator.demo.servers import Valkey
from migrator.orchestrator import checkup, verbs
from migrator.planning import broker
from migrator.planning import plan as plans
from migrator.planning.findings import Severity
from migrator.settings import Settings
from migrator.spending.worker import Worker
from tests.deployment import KEY_VARIABLE, Deployment

WARN, INFO = Severity.WARN, Severity.INFO


async def found(url: str) -> dict[str, Severity]:
    return {each.code: each.severity for each in broker.check(await broker.look(url))}


async def test_a_broker_as_it_should_be_is_nothing_to_say(valkey: Valkey) -> None:
    seen = await broker.look(valkey.url)
    assert (seen.answers, seen.policy, seen.keeps_file, seen.shared) == (True, "noeviction", True, False)
    assert await found(valkey.url) == {}


@pytest.mark.parametrize(
    ("setting", "value", "code", "severity"),
    [("maxmemory-policy", "allkeys-lru", "broker_evicts", WARN), ("appendonly", "no", "broker_forgets", INFO)],
)
async def test_r28_a_broker_that_may_lose_hints_is_named(
    valkey: Valkey, setting: str, value: str, code: str, severity: Severity
) -> None:
    with redis.Redis.from_url(valkey.url) as connection:
        before = connection.config_get(setting)[setting]
        connection.config_set(setting, value)
        try:
            assert await found(valkey.url) == {code: severity}
        finally:
            connection.config_set(setting, before)


async def test_another_celery_application_in_the_same_database_is_named(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as connection:
        connection.sadd("_kombu.binding.celery", "celery")
        try:
            assert await found(valkey.url) == {"broker_shared": INFO}
        finally:
            connection.delete("_kombu.binding.celery")


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
async def test_a_broker_that_is_away_is_a_warning_and_shows_no_password(scheme: str) -> None:
    seen = await broker.look(f"{scheme}://me:hunter2@127.0.0.1:{free_port()}//")
    (told,) = broker.check(seen)
    assert (told.code, told.severity) == ("broker_unreachable", WARN)
    assert "hunter2" not in repr(told)


@pytest.mark.parametrize("password", ["hunter#2", "hunter/2", "1234#hunter", "1234?hunter"])
async def test_p11_an_address_that_can_not_be_read_is_a_warning_and_shows_no_password(password: str) -> None:
    (told,) = broker.check(await broker.look(f"redis://:{password}@127.0.0.1:6379/0"))
    assert (told.code, told.severity) == ("broker_unreachable", WARN)
    assert "hunter" not in repr(told)


async def test_a_broker_that_tells_this_user_nothing_of_itself_is_there(valkey: Valkey) -> None:
    with redis.Redis.from_url(valkey.url) as connection:
        connection.execute_command("ACL", "SETUSER", "shop", "on", ">word", "+@connection", "~*")
        try:
            assert await found(valkey.url.replace("redis://", "redis://shop:word@")) == {}
        finally:
            connection.execute_command("ACL", "DELUSER", "shop")


async def test_what_celery_can_not_use_is_named_without_asking_it() -> None:
    assert await found("redis+cluster://10.0.0.1/0") == {"broker_kind": WARN}


async def test_the_broker_stands_in_the_plan_that_is_stored_and_in_doctor(
    deployment: Deployment, worker: Worker, valkey: Valkey
) -> None:
    deployment.make_table(5)
    url = f"redis://127.0.0.1:{free_port()}/0"
    made = await plans.make(worker.engine, deployment.spec, broker_url=url)
    assert [each["object"] for each in made.document["findings"] if each["code"] == "broker_unreachable"] == [url]
    assert [each for each in made.refused if each.code.startswith("broker")] == [], "`work` needs none"
    with redis.Redis.from_url(valkey.url) as connection:
        connection.config_set("maxmemory-policy", "volatile-lru")
        try:
            checks = await checkup.run(Settings(database_url=deployment.url, broker_url=valkey.url), None)
        finally:
            connection.config_set("maxmemory-policy", "noeviction")
    told = {each.name: each.level for each in checks if each.name.startswith("broker")}
    assert told == {"broker": "ok", "broker memory": "warn"}
    checks = await checkup.run(Settings(database_url=deployment.url, broker_url=url), None)
    (told_away,) = [each for each in checks if each.name == "broker"]
    assert (told_away.level, told_away.message.startswith(f"{url} can't be reached (")) == ("fail", True)


async def test_workers_that_lack_a_key_or_would_need_too_many_connections_are_named(
    deployment: Deployment, worker: Worker, sql: psycopg.Connection
) -> None:
    deployment.make_table(5)
    signed = """INSERT INTO migrator.workers (name, host, pid, slots, queues, version, keys_present)
                VALUES (%s, 'h', 1, %s, '{}', '1', %s)"""
    await verbs.make_plan(worker.engine, deployment.spec, actor="test")
    for name, slots, keys in (("with", 2, [KEY_VARIABLE]), ("without", 500, ["ANOTHER_KEY"])):
        sql.execute(signed.encode(), [name, slots, keys])
    told = {each.code: each for each in (await plans.make(worker.engine, deployment.spec)).findings}
    assert told["worker_without_key"].object == "without"
    assert told["worker_without_key"].message.startswith(f"{KEY_VARIABLE} is not set there")
    assert "502 worker processes keep up to 3012 connections" in told["connections_short"].message
    assert "no_workers" not in told
    sql.execute("UPDATE migrator.migrations SET since = now() + interval '1 minute'")
    codes = {each.code for each in (await plans.make(worker.engine, deployment.spec)).findings}
    assert "worker_without_key" not in codes, "it has not looked for it yet"
    sql.execute("DELETE FROM migrator.workers WHERE name = 'without'")
    codes = {each.code for each in (await plans.make(worker.engine, deployment.spec)).findings}
    assert codes.isdisjoint({"worker_without_key", "connections_short"})


def test_plan_looks_at_the_broker_of_its_settings(deployment: Deployment) -> None:
    deployment.make_table(5)
    assert "[broker_unreachable]" in deployment.must("plan", deployment.spec_file)
