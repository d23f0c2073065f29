"""The purse of a pilot: the migration's own, with a cap for pilots alone, and an eye on how the provider answers.

Floor 2. Promise (P7): what pilots and looks at provenance cost in all never passes the pilot's own cap, over kills and
repeats, since it is counted from the ledger before every request; the migration's cap counts all the same.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from decimal import Decimal

from sqlalchemy.ext.asyncio import AsyncEngine

from migrator.errors import AtRest
from migrator.spending.purse import LeasePurse
from migrator.state import budget
from migrator.state.budget import Purpose, price
from migrator.state.connection import transaction

#: What a pilot's own cap counts.
PURPOSES = (Purpose.PILOT, Purpose.PROVENANCE)


@dataclass(eq=False)
class PilotCapReached(AtRest):
    """The next request could pass the pilot's own cap."""

    path: str
    max_usd: Decimal

    runbook = "pilot"
    happened = "The pilot reached its own cap of {max_usd} USD: one more request could pass it."
    state = "Everything that was answered is kept and is not paid for again; nothing of the table was changed."
    next = "Run `migrator pilot {path} --max-cost X` with more: it goes on from there."


@dataclass(slots=True)
class Cap:
    """What pilots of this migration may cost in all; None where only the migration's own cap counts."""

    path: str
    max_usd: Decimal | None
    #: Requests of one pilot are admitted one after the other, so that no two see the same room.
    door: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(slots=True)
class Experience:
    """How the provider answered: seconds of each answer, and how often it failed by which name."""

    seconds: list[float] = field(default_factory=list)
    troubles: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class PilotPurse:
    """A lease's purse with the cap before it (see `provider.embedder.Purse`)."""

    inner: LeasePurse
    cap: Cap
    experience: Experience
    _sent: dict[str, float] = field(default_factory=dict)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> float | None:
        """Look at the pilot's cap, then ask the migration's purse.

        Raises: PilotCapReached, and what the purse raises.
        """
        async with self.cap.door:
            bound = price(bound_tokens, self.inner.usd_per_mtok).usd
            await require(self.inner.engine, self.inner.migration.id, self.cap, bound)
            longest = await self.inner.admit(request_id, bound_tokens=bound_tokens, likely_tokens=likely_tokens)
        self._sent[request_id] = time.monotonic()
        return longest

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Take the time."""
        if request_id in self._sent:
            self.experience.seconds.append(time.monotonic() - self._sent.pop(request_id))
        await self.inner.answered(request_id, used_tokens)

    async def failed(self, request_id: str, why: str) -> None:
        """Count it by its name."""
        self.experience.troubles[why] += 1
        await self.inner.failed(request_id, why)

    async def pause(self, seconds: float, reason: str) -> None:
        """Count it by its name: the provider wants to be left alone."""
        self.experience.troubles[reason] += 1
        await self.inner.pause(seconds, reason)

    async def refund(self, request_id: str) -> None:
        """Pass it on."""
        self._sent.pop(request_id, None)
        await self.inner.refund(request_id)

    async def write_off(self, request_id: str) -> None:
        """Pass it on."""
        self._sent.pop(request_id, None)
        await self.inner.write_off(request_id)

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Pass it on."""
        await self.inner.spend(request_id, used_tokens)

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        """Pass it on."""
        await self.inner.forfeit(request_id, used_tokens)

    async def learn_max_texts(self, max_texts: int) -> None:
        """Pass it on."""
        await self.inner.learn_max_texts(max_texts)

    async def learn_limit(self, name: str, value: int) -> None:
        """Pass it on."""
        await self.inner.learn_limit(name, value)

    async def learn_norm(self, dims: int, norm: float) -> None:
        """Pass it on."""
        await self.inner.learn_norm(dims, norm)

    async def note_estimated(self, request_id: str) -> None:
        """Pass it on."""
        await self.inner.note_estimated(request_id)


async def require(engine: AsyncEngine, migration_id: int, cap: Cap, usd: Decimal) -> None:
    """Make sure that so much more stays within the pilot's cap.

    Raises: PilotCapReached.
    """
    if cap.max_usd is None:
        return
    async with transaction(engine, read_only=True) as connection:
        committed = await budget.committed(connection, migration_id, PURPOSES)
    if committed + usd > cap.max_usd:
        raise PilotCapReached(cap.path, cap.max_usd)
