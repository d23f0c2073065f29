"""A purse for what is asked before any migration exists: no budget row stands behind it, so it is small and told.

Floor 1, its top. Promise (P7): what was admitted never passes `max_tokens`, what may have been billed included.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from migrator.errors import AtRest

#: Seconds that a provider's wish to be left alone is followed at most, in somebody's terminal.
_LONGEST_PAUSE_SECONDS = 20.0


@dataclass(eq=False)
class AllowanceSpent(AtRest):
    """The provider lost or refused so many answers that the rest can't be asked."""

    max_tokens: int

    runbook = "provenance"
    happened = "Without a migration, {max_tokens} tokens may be spent on a look, and the next request could pass that."
    state = "Nothing was changed; what was asked stays billed, and no migration's cap counts it."
    next = "Run `migrator doctor SPEC` again when the provider answers properly, or `migrator plan SPEC` first."


@dataclass(slots=True)
class Pocket:
    """So many tokens, in this process's memory (see `provider.embedder.Purse`)."""

    max_tokens: int
    committed_tokens: int = 0
    _open: dict[str, int] = field(default_factory=dict)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        """Reserve the bound.

        Raises: AllowanceSpent.
        """
        del likely_tokens
        if self.committed_tokens + bound_tokens > self.max_tokens:
            raise AllowanceSpent(self.max_tokens)
        self.committed_tokens += bound_tokens
        self._open[request_id] = bound_tokens

    async def refund(self, request_id: str) -> None:
        """Give it back."""
        self.committed_tokens -= self._open.pop(request_id, 0)

    async def write_off(self, request_id: str) -> None:
        """Keep it counted."""
        self._open.pop(request_id, None)

    async def spend(self, request_id: str, used_tokens: int) -> None:
        """Replace the bound by what was billed."""
        self.committed_tokens += used_tokens - self._open.pop(request_id, used_tokens)

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        """Replace the bound by what was billed for nothing."""
        await self.spend(request_id, used_tokens)

    async def pause(self, seconds: float, reason: str) -> None:
        """Wait as the provider wishes."""
        del reason
        await asyncio.sleep(min(seconds, _LONGEST_PAUSE_SECONDS))

    async def learn_max_texts(self, max_texts: int) -> None:
        """Forget it: the embedder itself knows it for as long as this lasts."""

    async def learn_limit(self, name: str, value: int) -> None:
        """Forget it: the embedder itself knows it for as long as this lasts."""

    async def learn_norm(self, dims: int, norm: float) -> None:
        """Forget it: the embedder itself knows it for as long as this lasts."""

    async def note_estimated(self, request_id: str) -> None:
        """Nothing: what was spent is told as a whole."""

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Nothing: it stays reserved until it is spent."""

    async def failed(self, request_id: str, why: str) -> None:
        """Nothing: nobody else asks with this purse."""
