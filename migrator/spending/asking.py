"""Making an embedder for one lease: its model, its limits as they are known by now, its purse.

Floor 1, its top.
"""

from __future__ import annotations

from migrator.generation import Side
from migrator.lifecycle import UNATTENDED, MigrationStatus
from migrator.provider import profiles
from migrator.provider.embedder import Embedder
from migrator.spending.purse import LeasePurse
from migrator.spending.worker import Worker
from migrator.state.budget import Purpose
from migrator.state.leases import Lease
from migrator.state.migrations import Migration


async def make_embedder(
    worker: Worker,
    migration: Migration,
    side: Side,
    lease: Lease,
    purpose: Purpose,
    *,
    windows_apply: bool = True,
    allowed: frozenset[MigrationStatus] = UNATTENDED,
) -> Embedder:
    """Make the embedder of one lease: its model, its limits, its purse.

    Raises: KeyMissing, ProfileUnknown.
    """
    model = migration.spec.model_of(side)
    profile = profiles.of(model)
    purse = LeasePurse(worker.engine, worker.pacer, migration, model, lease, purpose, allowed, windows_apply)
    learnt = await purse.learnt()
    profile = profile.lowered(
        max_texts=learnt.max_texts,
        max_text_tokens=learnt.max_text_tokens,
        max_request_tokens=learnt.max_request_tokens,
    )
    norm = learnt.norms.get(str(model.dimensions))
    return Embedder(worker.http(model), model, profile, purse, profile.max_texts, worker.backoff_seconds, norm)
