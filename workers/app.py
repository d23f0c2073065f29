"""The Celery application: every setting with its reason. Workers, beat and Flower are started from here.

Floor 4. Promise: the broker carries hints only. It may lose, repeat, delay or reorder anything: what is to be done
stands in Postgres, and `tick` hands it out again. Nothing opens a socket before the fork.

    celery -A workers.app worker          one bare worker serves one machine: it takes every queue
    celery -A workers.app beat            a tick every ten seconds; two of them are harmless
    celery -A workers.app flower          http://127.0.0.1:5555, configured by workers/flowerconfig.py
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

from celery import Celery
from kombu.entity import Exchange, Queue

from migrator import settings
from migrator.state.batches import QUEUE_BACKFILL, QUEUE_CONTROL, QUEUE_INDEX, QUEUE_LIVE
from workers import logs, presence

#: Seconds between two ticks at most. A finished batch ticks too, so this is only how long a lost hint goes unnoticed;
#: with leases shorter than the default's 30 s, a third of the lease, so that a killed worker's batch is seen in time.
TICK_SECONDS = 10.0
#: Seconds after which an unread tick is dropped: compared with the worker's clock, so far longer than clocks differ.
TICK_EXPIRES_SECONDS = 600
#: What a tick looks at, for people.
TICK_ARGUMENTS = "all migrations"
#: Seconds for a batch: a backstop, far longer than its lease, which `asyncio` and Postgres end much earlier.
BATCH_SOFT_SECONDS, BATCH_HARD_SECONDS = 1500, 1800
#: Seconds for a build: 30 days. `None` would inherit the global limit.
INDEX_SECONDS = 30 * 86_400

#: `celery -A workers.app flower` finds its settings without being told where they are.
os.environ.setdefault("FLOWER_CONF", str(Path(__file__).with_name("flowerconfig.py")))

# One line per request, and two per look at the schema, would be most of a worker's log.
for _chatty in ("httpx", "alembic"):
    logging.getLogger(_chatty).setLevel(logging.WARNING)

_settings = settings.load()

app = Celery("migrator", broker=_settings.broker_url, include=["workers.tasks"])
app.conf.update(
    # The result is in Postgres; results in Redis would be one key a task that nobody reads.
    result_backend=None,
    task_ignore_result=True,
    # JSON only: a pickle from a broker would be code from a broker.
    task_serializer="json",
    accept_content=["json"],
    enable_utc=True,
    timezone="UTC",
    # Acknowledged when taken: recovery is the lease. Late acknowledgement would add redelivery by visibility timeout,
    # endless loops of a message that kills its worker, and the crash of celery 5.7.0 on a lost connection.
    task_acks_late=False,
    task_reject_on_worker_lost=False,
    # No batch may sit behind a busy process: a reserved message would hold its ticket for nothing.
    worker_prefetch_multiplier=1,
    worker_disable_prefetch=True,
    # What is in hand when the broker goes away is leased and paid for: it is finished.
    worker_cancel_long_running_tasks_on_connection_loss=False,
    broker_use_ssl=settings.broker_tls(_settings.broker_url) or False,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    # Opened as needed. Flower asks eight questions at once and takes two connections for each: with fewer than 16 it
    # waits for itself for ever, and shows nothing (seen with 4).
    broker_pool_limit=32,
    broker_transport_options={
        # Messages are acknowledged at once, so this only bounds how long a lost reservation lingers.
        "visibility_timeout": 3 * BATCH_HARD_SECONDS,
        # A half-open connection (failover, NAT) is only noticed by a timeout; without one the worker hangs for ever.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "retry_on_timeout": True,
        "health_check_interval": 10,
        "unacked_restore_interval": 10,
        "unacked_restore_throttle": 1,
        # Two applications on one Redis must not share queues, nor each other's visibility timeout.
        "global_keyprefix": "migrator:",
    }
    if _settings.broker_url.startswith("redis")
    else {},
    # Then give up: the ticket's time runs out and `tick` gives it again.
    task_publish_retry_policy={"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 1},
    # A child that leaks is replaced now and then; memory is in KiB and looked at after a task.
    worker_max_tasks_per_child=500,
    worker_max_memory_per_child=1_500_000,
    worker_eta_task_limit=100,
    task_soft_time_limit=BATCH_SOFT_SECONDS,
    task_time_limit=BATCH_HARD_SECONDS,
    # SIGTERM finishes the batch in hand; SIGQUIT gives it ten seconds.
    worker_soft_shutdown_timeout=10.0,
    worker_enable_soft_shutdown_on_idle=False,
    worker_send_task_events=True,  # Flower sees tasks by these
    task_send_sent_event=False,  # one metric label per publishing process, for ever, in Flower
    worker_hijack_root_logger=False,
    task_create_missing_queues=False,
    task_default_queue=QUEUE_CONTROL,
    # Each queue has a key of its own. `Queue(name)` alone takes the default's, and a message then goes to all of them.
    task_queues=[
        Queue(name, Exchange("migrator", type="direct"), routing_key=name)
        for name in (QUEUE_CONTROL, QUEUE_BACKFILL, QUEUE_LIVE, QUEUE_INDEX)
    ],
    task_routes={"migrator.tick": {"queue": QUEUE_CONTROL}},
    beat_schedule={
        "tick": {
            "task": "migrator.tick",
            "schedule": min(TICK_SECONDS, _settings.lease_seconds / 3),
            # What Flower shows as its arguments, in words as those of a batch.
            "options": {"queue": QUEUE_CONTROL, "expires": TICK_EXPIRES_SECONDS, "argsrepr": TICK_ARGUMENTS},
        }
    },
    beat_max_loop_interval=1,
    # Ticks that nobody takes would fill the broker.
    beat_scheduler="workers.schedule:Sparing",
)
# Imported for what it connects: from here on nobody else configures logging.
assert logs.set_up  # noqa: S101
app.steps["consumer"].add(presence.SignOfLife)
app.steps["worker"].add(presence.Goodbye)
