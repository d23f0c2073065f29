"""Watching the model that answers: fixed texts are embedded at the start, and again and again while there is work.

Floor 2. Promise: no vector is written by a batch, a spell of catch-up or a validation before its canary is known to be
good within EVERY_BATCHES and EVERY_SECONDS (`state.canary`); one worker at a time asks, under a lease, and the others
read its answer in Postgres. After a `resume` nobody goes on before it was asked. Gateways were seen to answer for one
model with another of the same dimensions while echoing the name that was asked for (one-api, issue 1117).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.measures import cosine
from migrator.provider import tokens
from migrator.provider.embedder import Answer, Embedder
from migrator.provider.giving_up import AnswersUnbelievable, ProviderStopped
from migrator.spending.asking import make_embedder
from migrator.spending.purse import PaceWait
from migrator.spending.renewal import renewed
from migrator.spending.worker import KeyMissing, Worker
from migrator.state import canary, leases
from migrator.state.budget import Purpose
from migrator.state.canary import SAME_COSINE, OldModelAnswered
from migrator.state.connection import transaction
from migrator.state.leases import Duty, Lease
from migrator.state.migrations import Migration

#: One text each of prose, Han, code and digits: a change of model, tokenizer or precision moves at least one of them.
#: About 25 tokens each, so a check is about a hundred.
PROBES = (
    "A lighthouse keeper writes down the weather twice a day, and every ship that passes in between.",
    "图书馆在星期一闭馆。其余日子从早上九点开放到晚上八点。",
    "def area(width: float, height: float) -> float:\n    return width * height  # square metres",
    "Order 48-2071: 3 x bolt M8, 12 x washer 8.4 mm, total 17.45 EUR, due 2031-05-09",
)
#: Seconds for which work waits inside its task while somebody else asks; then it is given back for a moment.
_PATIENCE_SECONDS, _LATER_SECONDS = 10.0, 2.0
#: Seconds of the right to ask, at least: two requests with their long tails; who died with it is waited for that long.
_LEASE_SECONDS = 15.0


async def keep(
    worker: Worker,
    migration: Migration,
    *,
    must: bool = False,
    allowed: frozenset[MigrationStatus] = UNATTENDED,
) -> None:
    """Make sure that the canary is good, asking it where that is due, or in any case with `must`.

    Cost: nothing, or one request of about a hundred tokens, booked as canary.
    Raises: CanaryMoved, OldModelAnswered, PaceWait (somebody else is asking), and what provider and purse raise.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + _PATIENCE_SECONDS
    while True:
        async with transaction(worker.engine) as connection:
            found = await canary.find(connection, migration.id)
        if found is not None:
            found.refuse_moved(migration.name)
            if not (found.is_due or must):
                return
        async with _asking(worker, migration) as lease:
            if lease is not None:
                await _ask(worker, migration, lease, must=must, allowed=allowed)
                return
        if found is not None and not (found.demanded or must):
            return  # somebody is asking already; what is written meanwhile is suspect if it moved
        if loop.time() > until:
            raise PaceWait("the canary", _LATER_SECONDS)
        await asyncio.sleep(0.1)


async def renew(worker: Worker, migration: Migration) -> None:
    """Take the fingerprint anew, since an operator accepts what answers now.

    Once the old model is known to answer otherwise, rows that hold the new vectors in the old column are no alarm.
    Raises: OldModelAnswered, PaceWait, and what provider and purse raise.
    """
    async with _asking(worker, migration) as lease:
        if lease is None:
            raise PaceWait("the canary", _LATER_SECONDS)
        await _fingerprint(worker, migration, lease, allowed=frozenset(MigrationStatus), accepted=True)


@asynccontextmanager
async def _asking(worker: Worker, migration: Migration) -> AsyncIterator[Lease | None]:
    """Hold the right to ask, or None where somebody else has it."""
    tokens.exact_counter()  # read before the lease is taken: on a busy machine that takes seconds
    seconds = max(worker.lease_seconds, _LEASE_SECONDS)
    async with transaction(worker.engine) as connection:
        lease = await leases.take(connection, migration.id, Duty.CANARY, holder=worker.holder, seconds=seconds)
    if lease is None:
        yield None
        return
    try:
        async with renewed(worker, lease):
            yield lease
    finally:
        async with transaction(worker.engine) as connection:
            await leases.give_back(connection, lease, counts_as_attempt=False)


async def _ask(
    worker: Worker, migration: Migration, lease: Lease, *, must: bool, allowed: frozenset[MigrationStatus]
) -> None:
    async with transaction(worker.engine) as connection:
        found = await canary.find(connection, migration.id)
        xid = await canary.horizon(connection)
    if found is None:
        await _fingerprint(worker, migration, lease, allowed=allowed, accepted=False)
        return
    found.refuse_moved(migration.name)
    if not (found.is_due or must):
        return  # somebody was quicker
    embedder = await make_embedder(
        worker, migration, Side.TO, lease, Purpose.CANARY, windows_apply=False, allowed=allowed
    )
    again = await _embed(embedder, found.probes)
    before = np.frombuffer(found.vectors, dtype="<f4").reshape(len(found.probes), -1)
    lowest = float(cosine.paired(before, again).min())
    good = lowest >= migration.spec.gates.assignment_min_cosine
    async with transaction(worker.engine) as connection:
        await leases.hold(connection, lease)
        if good:
            await canary.passed(connection, migration.id, cosine=lowest, good_xid=xid)
            return
        await canary.moved(connection, migration.id, cosine=lowest)
        marked = await canary.find(connection, migration.id)
    assert marked is not None  # noqa: S101 - it was there, and nobody deletes it
    marked.refuse_moved(migration.name)


async def _fingerprint(
    worker: Worker, migration: Migration, lease: Lease, *, allowed: frozenset[MigrationStatus], accepted: bool
) -> None:
    async with transaction(worker.engine) as connection:
        xid = await canary.horizon(connection)
    embedder = await make_embedder(
        worker, migration, Side.TO, lease, Purpose.CANARY, windows_apply=False, allowed=allowed
    )
    vectors = await _embed(embedder, PROBES)
    told_apart = await _told_apart(worker, migration, lease, vectors, allowed)
    async with transaction(worker.engine) as connection:
        await leases.hold(connection, lease)
        await canary.fingerprint(
            connection,
            migration.id,
            PROBES,
            np.ascontiguousarray(vectors, dtype="<f4").tobytes(),
            told_apart=told_apart,
            compares_replies=not (accepted and told_apart),
            good_xid=xid,
        )


async def _told_apart(
    worker: Worker,
    migration: Migration,
    lease: Lease,
    vectors: NDArray[np.float32],
    allowed: frozenset[MigrationStatus],
) -> bool | None:
    """Ask the old model for the same texts at the new one's dimensions; None where that can't be asked.

    Raises: OldModelAnswered, when both are one.
    """
    if migration.from_generation.is_same_model(migration.to_generation):
        return None  # the same model at other dimensions: its shorter vectors are beginnings of the longer ones
    try:
        embedder = await make_embedder(
            worker, migration, Side.FROM, lease, Purpose.CANARY, windows_apply=False, allowed=allowed
        )
        dims = migration.to_generation.dims
        model = embedder.model.model_copy(update={"dimensions": dims})
        old = await _embed(replace(embedder, model=model), PROBES)
    except (ProviderStopped, AnswersUnbelievable, KeyMissing):
        return None
    if cosine.paired(old, vectors).min() >= SAME_COSINE:
        raise OldModelAnswered(migration.name, str(migration.to_generation), str(migration.from_generation))
    return True


async def _embed(embedder: Embedder, probes: Sequence[str]) -> NDArray[np.float32]:
    """Embed the probes and book what they cost.

    Raises: ProviderStopped, also when a probe is refused, and what the purse raises.
    """
    made = np.zeros((len(probes), embedder.model.dimensions), dtype=np.float32)
    for run in embedder.plan(probes):
        async for outcome in embedder.embed(probes, run):
            if not isinstance(outcome, Answer):
                refusal = f"it will not embed a text of the canary ({outcome.reason})"
                raise ProviderStopped(embedder.host, refusal, "Ask it why")
            made[list(outcome.positions)] = outcome.vectors
            await embedder.purse.spend(outcome.request_id, outcome.used_tokens)
    return made
