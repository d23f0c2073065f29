"""An endpoint and a purse of the tests' own: what is asked, what is answered, what becomes of the money."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import httpx
import numpy as np

from migrator.provider import profiles, tokens
from migrator.provider.embedder import Answer, Embedder, TextRefused
from migrator.spec import ModelSpec

DIMS = 8
MODEL = ModelSpec.model_validate(
    {
        "model": "qwen/text-embedding-v4",
        "dimensions": DIMS,
        "base_url": "https://provider.test/v1",
        "price_usd_per_mtok": 1,
    }
)
BAD, CRASH = "inappropriate", "crash"


@dataclass
class Purse:
    """Keeps what becomes of every request."""

    open: dict[str, int] = field(default_factory=dict)
    outcomes: dict[str, Any] = field(default_factory=dict)
    pauses: list[float] = field(default_factory=list)
    learnt: dict[str, float] = field(default_factory=dict)
    estimated: set[str] = field(default_factory=set)

    async def admit(self, request_id: str, *, bound_tokens: int, likely_tokens: int) -> None:
        assert 0 < likely_tokens <= bound_tokens
        self.open[request_id] = bound_tokens

    def _close(self, request_id: str, outcome: Any) -> None:
        assert self.open.pop(request_id), "an outcome for what was not reserved"
        self.outcomes[request_id] = outcome

    async def refund(self, request_id: str) -> None:
        self._close(request_id, "refunded")

    async def write_off(self, request_id: str) -> None:
        self._close(request_id, "possibly billed")

    async def spend(self, request_id: str, used_tokens: int) -> None:
        if used_tokens:
            self._close(request_id, used_tokens)

    async def forfeit(self, request_id: str, used_tokens: int) -> None:
        self._close(request_id, ("lost", used_tokens))

    async def pause(self, seconds: float, reason: str) -> None:
        assert reason
        self.pauses.append(seconds)

    async def learn_max_texts(self, max_texts: int) -> None:
        self.learnt["max_texts"] = max_texts

    async def learn_limit(self, name: str, value: int) -> None:
        self.learnt[name] = value

    async def learn_norm(self, dims: int, norm: float) -> None:
        self.learnt[f"norm of {dims}"] = norm

    async def note_estimated(self, request_id: str) -> None:
        self.estimated.add(request_id)

    async def answered(self, request_id: str, used_tokens: int) -> None:
        """Its money stays reserved until it is settled."""

    async def failed(self, request_id: str, why: str) -> None:
        """No breaker here."""

    def count(self, outcome: str) -> int:
        return sum(each == outcome for each in self.outcomes.values())


@cache
def vector(text: str) -> list[float]:
    made = np.random.default_rng(list(text.encode())).standard_normal(DIMS).astype("<f4")
    found: list[float] = (made / np.linalg.norm(made)).tolist()
    return found


def good(texts: Sequence[str], **changes: Any) -> httpx.Response:
    data = [{"index": index, "embedding": vector(text)} for index, text in enumerate(texts)]
    count = sum(tokens.count_all(texts)[0])
    return httpx.Response(200, json={"data": data, "usage": {"prompt_tokens": count}, **changes})


def error(status: int, code: str, message: str = "", **headers: str) -> httpx.Response:
    return httpx.Response(status, json={"error": {"code": code, "message": message}}, headers=headers)


def moderated(texts: list[str]) -> httpx.Response:
    if any(BAD in text for text in texts):
        return error(400, "data_inspection_failed", "Input text data may contain inappropriate content.")
    return good(texts)


def crashing(texts: list[str]) -> httpx.Response:
    return error(500, "internal_error") if any(CRASH in text for text in texts) else good(texts)


@dataclass
class Endpoint:
    """Answers by a function of the texts; keeps what was asked."""

    respond: Callable[[list[str]], httpx.Response]
    asked: list[list[str]] = field(default_factory=list)
    purse: Purse = field(default_factory=Purse)

    def handle(self, request: httpx.Request) -> httpx.Response:
        texts = json.loads(request.content)["input"]
        self.asked.append(texts)
        return self.respond(texts)

    async def embed(
        self, texts: Sequence[str], positions: Sequence[int] | None = None, **changes: Any
    ) -> tuple[dict[int, Any], list[Answer]]:
        """Embed texts as a batch would; returns what came for each position, and the answers."""
        profile = replace(profiles.of(MODEL), **changes.pop("profile", {}))
        values = {"max_texts": profile.max_texts, "backoff_seconds": 0.0, **changes}
        found: dict[int, Any] = {}
        answers = []
        async with httpx.AsyncClient(transport=httpx.MockTransport(self.handle), trust_env=False) as http:
            embedder = Embedder(http, MODEL, profile, self.purse, **values)
            runs = embedder.plan(texts) if positions is None else [list(positions)]
            for run in runs:
                async for outcome in embedder.embed(texts, run):
                    if isinstance(outcome, TextRefused):
                        assert outcome.position not in found
                        found[outcome.position] = outcome.reason
                        continue
                    answers.append(outcome)
                    await self.purse.spend(outcome.request_id, outcome.used_tokens)
                    for position, row in zip(outcome.positions, outcome.vectors, strict=True):
                        assert position not in found
                        found[position] = row
        return found, answers

    def run(self, texts: Sequence[str], **changes: Any) -> dict[int, Any]:
        return asyncio.run(self.embed(texts, **changes))[0]


def assert_right(found: dict[int, Any], texts: Sequence[str], refused: dict[int, str] | None = None) -> None:
    """Every position came out once: refused ones with their reason, all others with their own text's vector."""
    assert set(found) == set(range(len(texts)))
    reasons = {position: each for position, each in found.items() if isinstance(each, str)}
    assert reasons == (refused or {})
    for position, each in found.items():
        if position not in reasons:
            assert np.allclose(each, vector(texts[position].replace("\0", "")))
