"""What a process needs to do work: an engine, a name, HTTP clients that live as long as it does.

Floor 1, its top. Promise: nothing is opened before the process needs it, so it may be made after a fork; `close` ends
it all.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator import settings
from migrator.errors import OperatorError
from migrator.measures.landing_size import LandingSize
from migrator.spec import ModelSpec
from migrator.spending.pacing import Pacer, SharedPacer
from migrator.state.connection import make_engine
from migrator.state.leases import TICKET_LEASES
from migrator.state.migrations import Migration

if TYPE_CHECKING:
    import httpx


@dataclass(eq=False)
class KeyMissing(OperatorError):
    """The provider's key is not in this process's environment."""

    variable: str
    where: str

    runbook = "provider-refusing"
    happened = "{variable} is not set on {where}, so the provider can't be asked."
    state = "Nothing was sent and nothing was changed."
    next = "Set it in the worker's environment (never in the spec), restart the worker, then `migrator resume NAME`."


def process_name() -> str:
    """Return this process's name, as leases and transitions show it: host:pid."""
    return f"{socket.gethostname()}:{os.getpid()}"


@dataclass(slots=True)
class Worker:
    """One process that does work."""

    engine: AsyncEngine
    holder: str
    lease_seconds: float
    concurrency: int
    pacer: Pacer
    #: Factor on the provider loop's waits; tests shorten them.
    backoff_seconds: float = 1.0
    #: Set where the process goes as soon as what is in hand is landed: catch-up takes up nothing further.
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    #: By key, so that an exchanged key is used at once; nothing that shows a worker shows them.
    _clients: dict[str, httpx.AsyncClient] = field(default_factory=dict, repr=False)
    _sizes: dict[int, LandingSize] = field(default_factory=dict)

    @property
    def ticket_seconds(self) -> float:
        """How long a ticket given to the broker is trusted to be under way: four leases, two minutes by default."""
        return TICKET_LEASES * self.lease_seconds

    @classmethod
    def make(cls, role: str) -> Worker:
        """Make one from the environment; `role` (worker, cli) is part of the application_name.

        Raises: SettingMissing, SettingInvalid.
        """
        found = settings.load()
        kept = settings.connections(found.concurrency)
        engine = make_engine(found.required_database_url(), f"migrator {role}", pool_size=kept)
        pacer = SharedPacer(engine, found.broker_url)
        return cls(engine, process_name(), found.lease_seconds, found.concurrency, pacer)

    def http(self, model: ModelSpec) -> httpx.AsyncClient:
        """Return the client for a model's key.

        Raises: KeyMissing.
        """
        # Most verbs ask no provider, and its client takes a quarter of a second to load.
        from migrator.provider import client

        key = settings.secret(model.api_key_env)
        if key is None:
            raise KeyMissing(model.api_key_env, socket.gethostname())
        if key not in self._clients:
            self._clients[key] = client.make_http(key)
        return self._clients[key]

    def landing_size(self, migration: Migration) -> LandingSize:
        """Return what this process has learnt of the writing transactions of a migration."""
        target = migration.thresholds.landing_seconds
        size = self._sizes.setdefault(migration.id, LandingSize(target))
        size.target_seconds = target
        return size

    async def close(self) -> None:
        """Close every connection."""
        for http in self._clients.values():
            await http.aclose()
        await self.pacer.close()
        await self.engine.dispose()
