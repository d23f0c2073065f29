"""The broker as a plan and `doctor` see it: whether it answers, and what it may lose.

Floor 2. Promise: whatever answers, or does not, becomes facts and findings, never a traceback, without a password.
It carries hints only, so nothing here keeps a migration from beginning: `migrator work NAME` needs no broker at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass

from migrator.planning.findings import Finding, info, warn
from migrator.settings import broker_tls, without_password

#: Seconds for a server that may not be there.
PATIENCE_SECONDS = 5.0
#: The one policy under which Redis refuses a write instead of dropping a queue.
KEEPS = "noeviction"
#: Keys of any Celery application that has no key prefix; ours begin with `migrator:`.
_OTHERS = ("_kombu.binding.celery", "_kombu.binding.celery.pidbox", "_kombu.binding.celeryev")
_AMQP, _REDIS = frozenset({"amqp", "amqps"}), frozenset({"redis", "rediss"})


@dataclass(frozen=True, slots=True)
class Broker:
    """What was seen. `shown` is its address without a password; only Redis tells of memory and files."""

    shown: str
    is_usable: bool = True
    #: Why it can't be reached; None where it answered.
    problem: str | None = None
    version: str | None = None
    policy: str | None = None
    keeps_file: bool | None = None
    shared: bool = False

    @property
    def answers(self) -> bool:
        """Whether it is of a kind that we can use, and there."""
        return self.is_usable and self.problem is None


async def look(url: str) -> Broker:
    """Ask a broker what it is."""
    scheme, shown = url.partition(":")[0].lower(), without_password(url)
    if scheme in _AMQP:
        return await asyncio.to_thread(_amqp, url, shown)
    if scheme not in _REDIS:
        return Broker(shown, is_usable=False)
    import redis.asyncio as redis  # noqa: PLC0415 - only where the broker is one
    from redis.exceptions import NoPermissionError  # noqa: PLC0415

    try:
        connection = redis.Redis.from_url(url, socket_timeout=PATIENCE_SECONDS, socket_connect_timeout=PATIENCE_SECONDS)
    except ValueError:  # a port that is no number, say; the error quotes it, and half a password can stand there
        return Broker(shown, problem="its address can't be read")
    try:
        # Not CONFIG: services that others run refuse it, and INFO says the same.
        told = await connection.info()
        shared = bool(await connection.exists(*_OTHERS))
    except NoPermissionError:  # it is there, and lets this user see neither: workers need no more
        return Broker(shown)
    except (redis.RedisError, OSError) as error:
        return Broker(shown, problem=type(error).__name__)
    finally:
        await connection.aclose()
    aof = told.get("aof_enabled")
    return Broker(
        shown,
        version=str(told.get("redis_version", "?")),
        policy=told.get("maxmemory_policy"),
        keeps_file=None if aof is None else bool(aof),
        shared=shared,
    )


def _amqp(url: str, shown: str) -> Broker:
    from kombu.connection import Connection  # noqa: PLC0415 - only where the broker is one

    try:
        tls = broker_tls(url) or False
        with Connection(url, ssl=tls, connect_timeout=PATIENCE_SECONDS) as connection:  # type: ignore[no-untyped-call]
            connection.ensure_connection(max_retries=1, timeout=PATIENCE_SECONDS)
    except Exception as error:  # noqa: BLE001 - each transport raises its own kinds
        return Broker(shown, problem=type(error).__name__)
    return Broker(shown)


def check(broker: Broker) -> Iterator[Finding]:
    """Return what is to be said of it."""
    if not broker.is_usable:
        yield warn(
            "broker_kind",
            broker.shown,
            "is of no kind that Celery can use here",
            "set MIGRATOR_BROKER_URL to redis://... or amqp://... (a Redis cluster can't be used by Celery)",
        )
    elif broker.problem is not None:
        yield warn(
            "broker_unreachable",
            broker.shown,
            f"can't be reached ({broker.problem}): no worker would hear of what is to be done",
            "check the server and MIGRATOR_BROKER_URL; `migrator work NAME` needs no broker",
        )
    if broker.policy not in {None, KEEPS}:
        yield warn(
            "broker_evicts",
            broker.shown,
            f"maxmemory-policy is {broker.policy}: when its memory is full, queues can vanish",
            f"set maxmemory-policy to {KEEPS}",
        )
    if broker.keeps_file is False:
        yield info(
            "broker_forgets",
            broker.shown,
            "it keeps no append-only file: a restart loses the hints that it holds, and work rests until they are given"
            " again, after about two minutes",
            "set appendonly to yes",
        )
    if broker.shared:
        yield info(
            "broker_shared",
            broker.shown,
            "another Celery application has its queues in the same database; ours have keys and a visibility timeout of"
            " their own (migrator:), but memory and FLUSHDB are shared",
            "give one of them a database of its own: redis://host:port/1",
        )
