"""The cap of a provider account: what all migrations that ask with one key at one address may cost together.

Floor 1. Promise (P7): what these migrations have reserved, spent and possibly been billed, together, never passes it:
whoever reserves holds its row until that is committed. An account is named as specs name it, by `[to]`'s base_url and
the variable of its key, so that a cap can be set where no key is, and outlives a new one. A migration counts as a
whole, with what its old model costs, from its plan to its end and after it.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from urllib.parse import urlsplit

from sqlalchemy import CheckConstraint, Column, Table, Text, delete, func, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection

from migrator.spec import ModelSpec
from migrator.state.columns import Usd, metadata
from migrator.state.tables import budgets, migrations

#: Written by `migrator limits --account-max-cost`; no row means: each migration's own cap is all there is.
account_caps = Table(
    "account_caps",
    metadata,
    Column("base_url", Text, primary_key=True),
    Column("api_key_env", Text, primary_key=True),
    Column("max_usd", Usd, nullable=False),
    # Prevents a cap that nothing could ever be below.
    CheckConstraint("max_usd >= 0", name="never_negative"),
)


@dataclass(frozen=True, slots=True)
class AccountCap:
    """An account's cap, and what its migrations have committed of it. In US dollars."""

    where: str
    max_usd: Decimal
    committed_usd: Decimal


async def find(connection: AsyncConnection, model: ModelSpec, *, hold: bool = False) -> AccountCap | None:
    """Return the cap of a model's account, or None; `hold`: nobody else reserves under it until this transaction ends.

    Cost: one look into a table of a few rows, and where there is a cap a sum over its migrations.
    """
    mine = (account_caps.c.base_url == model.base_url, account_caps.c.api_key_env == model.api_key_env)
    query = select(account_caps.c.max_usd).where(*mine)
    cap = (await connection.execute(query.with_for_update() if hold else query)).scalar_one_or_none()
    if cap is None:
        return None
    # A statement of its own: it sees what whoever held the row has committed.
    to = migrations.c.spec["to"]
    committed = select(func.coalesce(func.sum(budgets.c.committed_usd), 0)).where(
        budgets.c.migration_id == migrations.c.id,
        to["base_url"].astext == model.base_url,
        to["api_key_env"].astext == model.api_key_env,
    )
    where = f"{model.api_key_env} at {urlsplit(model.base_url).hostname}"
    return AccountCap(where, Decimal(cap), Decimal((await connection.execute(committed)).scalar_one()))


async def put(connection: AsyncConnection, model: ModelSpec, max_usd: Decimal | None) -> None:
    """Set the cap of a model's account, also below what is committed: then nothing more is reserved; None for none."""
    if max_usd is None:
        mine = (account_caps.c.base_url == model.base_url, account_caps.c.api_key_env == model.api_key_env)
        await connection.execute(delete(account_caps).where(*mine))
        return
    values = {"base_url": model.base_url, "api_key_env": model.api_key_env, "max_usd": max_usd}
    statement = upsert(account_caps).values(**values)
    await connection.execute(
        statement.on_conflict_do_update(index_elements=["base_url", "api_key_env"], set_={"max_usd": max_usd})
    )
