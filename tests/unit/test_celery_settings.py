"""Celery's settings that correctness or operation leans on, read from the application as its processes get it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from celery.beat import PersistentScheduler
from packaging.requirements import Requirement

from migrator.settings import Settings, beat_sign
from workers.schedule import Sparing

ROOT = Path(__file__).resolve().parents[2]
REDIS, RABBITMQ = "redis://127.0.0.1:1/0", "amqp://guest@127.0.0.1:1//"
DAY = 86_400

PLAIN = {"MIGRATOR_BROKER_URL": REDIS, "MIGRATOR_LEASE_SECONDS": "30", "MIGRATOR_INSTANCE": "blue"}
#: The environments that the application is imported in: what differs from the plain one.
ENVIRONMENTS: dict[str, dict[str, str]] = {
    "plain": {},
    "short lease": {"MIGRATOR_LEASE_SECONDS": "3"},
    "long lease": {"MIGRATOR_LEASE_SECONDS": "600"},
    "another instance": {"MIGRATOR_INSTANCE": "green"},
    "rabbitmq": {"MIGRATOR_BROKER_URL": RABBITMQ},
}

#: Run in a process of its own: importing the application changes the process, and must open no socket (it is forked).
_TELL = """
import json, os, socket, sys
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket.connect = refuse
from celery.app.defaults import NAMESPACES, flatten
known = {name for name, _ in flatten(NAMESPACES)}
def tell():
    for name in [name for name in sys.modules if name.startswith("workers")]:
        del sys.modules[name]
    from workers.app import app
    app.loader.import_default_modules()
    task_keys = ("acks_late", "ignore_result", "time_limit", "soft_time_limit", "reject_on_worker_lost")
    transport = app.connection().transport
    routed = app.amqp.router.route({}, "migrator.tick")["queue"]
    return {
        "conf": {name: getattr(app.conf, name) for name in known if name in app.conf.changes},
        "unknown": sorted(set(app.conf.changes) - known - {"deprecated_settings"}),
        "deprecated": list(app.conf.changes["deprecated_settings"] or []),
        "tasks": {
            name: {key: getattr(task, key) for key in task_keys}
            for name, task in app.tasks.items() if name.startswith("migrator.")
        },
        "queues": {queue.name: [queue.exchange.name, queue.routing_key] for queue in app.amqp.queues.values()},
        "tick_queue": routed.name,
        "options": dict(app.connection().transport_options),
        "options_known": list(transport.Channel.from_transport_options) if transport.driver_type == "redis" else [],
    }
told = {}
for name, environment in json.loads(sys.argv[1]).items():
    os.environ.update(environment)
    told[name] = tell()
print(json.dumps(told, default=str))
"""


@pytest.fixture(scope="module")
def told_everywhere() -> dict[str, Any]:
    whole = {name: {**PLAIN, **changed} for name, changed in ENVIRONMENTS.items()}
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _TELL, json.dumps(whole)],
        env=kept,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


@pytest.fixture(scope="module")
def told(told_everywhere: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = told_everywhere["plain"]
    return found


#: Setting, value, and what breaks otherwise (measured with celery 5.6 and 5.7 and real brokers).
SETTINGS: list[tuple[str, Any, str]] = [
    ("task_acks_late", False, "recovery is the lease; late acks redeliver after the visibility timeout"),
    ("task_reject_on_worker_lost", False, "a message that kills its child comes back for ever: 11 deaths in 9 s"),
    ("worker_disable_prefetch", True, "a reserved ticket's time runs out behind a busy child"),
    ("worker_prefetch_multiplier", 1, "the same, where the broker knows no disable_prefetch"),
    ("result_backend", None, "one key a task, that nobody reads"),
    ("task_ignore_result", True, "the result is in Postgres"),
    ("task_serializer", "json", "a pickle from a broker is code from a broker"),
    ("accept_content", ["json"], "the same"),
    ("worker_cancel_long_running_tasks_on_connection_loss", False, "what is in hand is leased and paid for"),
    ("broker_connection_retry_on_startup", True, "a worker that starts before its broker must wait for it"),
    ("broker_connection_max_retries", None, "the default ends the worker after 100 tries"),
    ("task_send_sent_event", False, "one metric label per publishing process, for ever"),
    ("worker_send_task_events", True, "Flower sees tasks by these"),
    ("task_create_missing_queues", False, "a mistyped queue would swallow tickets that nobody consumes"),
    ("worker_soft_shutdown_timeout", 10.0, "SIGQUIT gives the batch in hand ten seconds"),
    ("worker_enable_soft_shutdown_on_idle", False, "an idle worker would wait as long"),
    ("worker_max_tasks_per_child", 500, "a child that leaks is replaced"),
    ("worker_max_memory_per_child", 1_500_000, "KiB: a child that leaks is replaced"),
    ("enable_utc", True, "an expiry is compared with the worker's clock"),
    ("timezone", "UTC", "the same"),
]


@pytest.mark.parametrize(("name", "value", "why"), SETTINGS, ids=[name for name, _, _ in SETTINGS])
def test_r30_a_setting_that_something_leans_on(told: dict[str, Any], name: str, value: Any, why: str) -> None:
    assert name in told["conf"], f"it is not set: {why}"
    assert told["conf"][name] == value, why


def test_r30_celery_and_kombu_know_every_setting(told: dict[str, Any]) -> None:
    """A renamed setting is ignored in silence."""
    assert told["unknown"] == told["deprecated"] == []
    assert set(told["options"]) - set(told["options_known"]) == set()


def test_a_dead_connection_is_noticed(told: dict[str, Any]) -> None:
    """Behind a half-open connection, without a socket_timeout, a worker hangs for ever (0 of 22 messages ran)."""
    options = told["options"]
    assert 0 < options["socket_timeout"] <= 10
    assert 0 < options["socket_connect_timeout"] <= 10
    assert 0 < options["health_check_interval"] <= 30
    assert options["socket_keepalive"] is options["retry_on_timeout"] is True
    # Recovery by visibility timeout looks every interval x throttle seconds; the defaults made 91 s of 20.
    assert options["unacked_restore_interval"] * options["unacked_restore_throttle"] <= 10


def test_applications_on_one_redis_do_not_meet(told: dict[str, Any]) -> None:
    assert told["options"]["global_keyprefix"] == "migrator:"
    # The shortest timeout of any consumer wins: no task of ours may outlive it and be delivered again while it runs.
    assert told["options"]["visibility_timeout"] >= 3 * told["conf"]["task_time_limit"]


def test_a_publisher_gives_up_soon(told: dict[str, Any]) -> None:
    """The ticket's time runs out and `tick` gives it again: better than a worker that hangs in publishing."""
    policy = told["conf"]["task_publish_retry_policy"]
    assert policy["max_retries"] * policy["interval_max"] <= 5


def test_queues_are_apart_and_a_tick_is_control(told: dict[str, Any]) -> None:
    """Queue(name) alone takes the default's key, and every ticket would go to all four queues."""
    assert told["queues"] == {name: ["migrator", name] for name in ("control", "backfill", "live", "index")}
    assert told["tick_queue"] == "control"
    assert told["conf"]["task_default_queue"] == "control"


def test_time_limits_are_a_backstop_and_an_index_has_30_days(told: dict[str, Any]) -> None:
    """`None` on a task inherits the global limit, which would kill every long build."""
    conf, tasks = told["conf"], told["tasks"]
    assert set(tasks) == {"migrator.tick", "migrator.batch", "migrator.index"}
    assert 600 <= conf["task_soft_time_limit"] < conf["task_time_limit"] <= 3600
    assert tasks["migrator.index"]["time_limit"] == tasks["migrator.index"]["soft_time_limit"] == 30 * DAY
    for name in ("migrator.tick", "migrator.batch"):
        assert tasks[name]["time_limit"] in {None, conf["task_time_limit"]}


def test_no_task_overrides_early_acknowledgement(told: dict[str, Any]) -> None:
    for each in told["tasks"].values():
        assert each["acks_late"] is False
        assert each["ignore_result"] is True
        assert not each["reject_on_worker_lost"]


@pytest.mark.parametrize(("environment", "seconds"), [("plain", 10.0), ("long lease", 10.0), ("short lease", 1.0)])
def test_beat_ticks_every_third_of_a_lease_and_at_most_every_ten_seconds(
    told_everywhere: dict[str, Any], environment: str, seconds: float
) -> None:
    conf = told_everywhere[environment]["conf"]
    assert list(conf["beat_schedule"]) == ["tick"]
    entry = conf["beat_schedule"]["tick"]
    assert (entry["task"], entry["schedule"], entry["options"]["queue"]) == ("migrator.tick", seconds, "control")
    # Compared with the worker's clock: 10 s would drop every tick of a worker whose clock is 11 s ahead.
    assert entry["options"]["expires"] == 600
    assert conf["beat_max_loop_interval"] <= 1


def test_rabbitmq_gets_no_option_of_redis(told_everywhere: dict[str, Any]) -> None:
    told = told_everywhere["rabbitmq"]
    assert told["conf"]["broker_url"] == RABBITMQ
    assert told["conf"]["broker_transport_options"] == {}
    assert told["conf"]["task_acks_late"] is False


def test_two_deployments_on_one_machine_have_two_signs_of_beat() -> None:
    assert beat_sign(Settings(instance="blue")) != beat_sign(Settings(instance="green"))


def test_beat_reads_no_file_that_somebody_else_could_have_written(told_everywhere: dict[str, Any]) -> None:
    """Celery's persistent scheduler keeps a pickle where it is told, for us where temporary files go."""
    assert told_everywhere["plain"]["conf"]["beat_scheduler"] == "workers.schedule:Sparing"
    assert not issubclass(Sparing, PersistentScheduler)


def test_celery_is_pinned_below_what_kills_its_workers() -> None:
    """5.7.0's prefork workers end with the broker's connection; kombu below 5.7 never notices a dead one."""
    data = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    pins = {made.name: made.specifier for made in map(Requirement, data["project"]["dependencies"])}
    assert str(pins["celery"]) == "<5.7,>=5.6.3"
    assert "5.7.0" not in pins["celery"]
    assert "5.6.2" not in pins["kombu"]
    for name in ("celery", "kombu", "flower"):
        assert version(name) in pins[name]


#: Celery's own worker is made, which announces itself before it forks, but not started.
_MAKE_WORKER = """
import socket
def refuse(*args, **kwargs): raise AssertionError("a socket was opened")
socket.socket.connect = refuse
from workers.app import app
from migrator.provider import tokens
app.loader.import_default_modules()
before = tokens.exact_counter.cache_info().currsize
app.Worker(pool="prefork", concurrency=1)
print(before, tokens.exact_counter.cache_info().currsize)
"""


def test_a_worker_reads_the_tokenizer_before_it_forks() -> None:
    """Each child would read it under its first lease: 0.2 s of a processor and 66 MB, again for every replacement."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPYCACHEPREFIX") if name in os.environ}
    # As root, where tests may run, Celery warns of it.
    command = [sys.executable, "-W", "error", "-W", "ignore:You're running the worker", "-c", _MAKE_WORKER]
    done = subprocess.run(command, env=PLAIN | kept, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.split()) == (0, ["0", "1"]), done.stderr
