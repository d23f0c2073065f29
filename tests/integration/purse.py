"""A purse that only keeps books, for the provider's own loop: what became of the money of every request."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Books:
    """By request id; `state` is open, spent, refunded or possibly billed."""

    bounds: dict[str, int] = field(default_factory=dict)
    state: dict[str, str] = field(default_factory=dict)
    used: dict[str, int] = field(default_factory=dict)
    pauses: list[tuple[float, str]] = field(default_factory=list)
    learnt: list[int] = field(default_factory=list)
    #: What else it is told to remember.
    told: dict[str, object] = field(default_factory=dict)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        assert 0 < likely_tokens <= bound_tokens
        self.bounds[request_id], self.state[request_id] = bound_tokens, "open"

    async def refund(self, request_id: str) -> None:
        self._close(request_id, "refunded")

    async def write_off(self, request_id: str) -> None:
        self._close(request_id, "possibly billed")

    async def spend(self, request_id: str, used_tokens: int) -> None:
        self._close(request_id, "spent")
        self.used[request_id] = used_tokens

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        self._close(request_id, "spent")
        self.used[request_id] = used_tokens

    async def pause(self, seconds: float, reason: str) -> None:
        self.pauses.append((seconds, reason))

    async def learn_max_texts(self, max_texts: int) -> None:
        self.learnt.append(max_texts)

    async def learn_limit(self, name: str, value: int) -> None:
        self.told[name] = value

    async def learn_norm(self, dims: int, norm: float) -> None:
        self.told[f"norm of {dims}"] = norm

    async def note_estimated(self, request_id: str) -> None:
        self.told[request_id] = "estimated"

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Its money stays reserved until it is settled."""

    async def failed(self, request_id: str, why: str) -> None:
        """No breaker here."""

    def _close(self, request_id: str, state: str) -> None:
        assert self.state[request_id] == "open", "a request is closed once"
        self.state[request_id] = state
