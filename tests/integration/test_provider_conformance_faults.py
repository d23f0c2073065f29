"""Every fault of the simulator against our real client: what one request makes of it, and what the whole loop does.

Of the loop two things are held for each fault: the vectors that come out are the texts' own, and no money is given back
for a request that the ledger has billed.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pytest

from migrator.demo.simulator.account import digest
from migrator.demo.simulator.app import CRASH, POISON
from migrator.demo.simulator.backends import Deterministic
from migrator.demo.simulator.control import Simulator
from migrator.demo.simulator.faults import LOST, REFUSED, SPOILT
from migrator.generation import Generation
from migrator.provider import client, profiles
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.provider.embedder import Embedder, TextRefused
from migrator.provider.giving_up import AnswersUnbelievable, ProviderBusy, ProviderStopped
from migrator.spec import ModelSpec
from tests.integration.purse import Books

V3, V4, DIMS = "text-embedding-v3", "text-embedding-v4", 64
#: Seconds of silence after which these tests' client gives a request up.
_SILENCE_SECONDS = 0.7
TEXTS = ["alpha beta", "gamma delta", "epsilon"]


@pytest.fixture
async def http() -> AsyncIterator[httpx.AsyncClient]:
    made = client.make_http("sk-faults")
    made.timeout = httpx.Timeout(_SILENCE_SECONDS, connect=5)
    yield made
    await made.aclose()


async def one(http: httpx.AsyncClient, simulator: Simulator, texts: list[str] | None = None) -> str:
    """What our client makes of one request, in a word or two."""
    try:
        reply = await client.post(
            http,
            simulator.base_url,
            Generation(V4, DIMS),
            texts or TEXTS,
            request_id="r1",
            send_dimensions=True,
        )
    except RefusedError as refused:
        return f"{refused.refusal.action}{', lost' if refused.refusal.lost else ''}"
    except LostError as lost:
        return f"no answer{', sent' if lost.sent else ''}"
    except UnbelievableError as unbelievable:
        return f"unbelievable{'' if unbelievable.used_tokens is None else ', booked'}"
    return "believed" if right(reply, texts or TEXTS) else "WRONG"


def right(reply: Reply, texts: list[str]) -> bool:
    return bool(np.allclose(reply.vectors, Deterministic().embed(V4, texts, DIMS), atol=1e-6))


#: By kind of fault: what one request makes of it.
EXPECTED = {
    "server_error": "retry, lost",
    "unavailable": "retry",
    "html_502": "retry, lost",
    "html_504": "retry, lost",
    "throttled": "throttle",
    "requests_limit": "throttle",
    "tokens_limit": "throttle",
    "burst": "throttle",
    "free_quota": "stop",
    "dropped": "no answer, sent",
    "stall": "no answer, sent",
    "reset": "no answer, sent",
    "truncated": "no answer, sent",
    "lost": "no answer, sent",
    "late_504": "retry, lost",
    "drip": "believed",
    "shuffled": "believed",
    "extra_fields": "believed",
    "no_id": "believed",
    "no_model": "believed",
    "gzip": "believed",
    "no_index": "unbelievable, booked",
    "duplicate_index": "unbelievable, booked",
    "one_short": "unbelievable, booked",
    "one_more": "unbelievable, booked",
    "wrong_dims": "unbelievable, booked",
    "nan": "unbelievable, booked",
    "infinity": "unbelievable, booked",
    "zero": "unbelievable, booked",
    "other_model": "unbelievable, booked",
    "business_throttle": "throttle",
}
#: Seen as a refusal, and never as an answer; what is done about it is below.
REFUSED_SOMEHOW = {"business_error", "no_data"}


def test_every_fault_is_expected() -> None:
    assert EXPECTED.keys() | REFUSED_SOMEHOW == REFUSED | LOST | SPOILT


@pytest.mark.parametrize("kind", EXPECTED)
async def test_what_one_request_makes_of_a_fault(http: httpx.AsyncClient, simulator: Simulator, kind: str) -> None:
    simulator.admin(faults=[{"kind": kind, "seconds": None if kind == "stall" else 0.1}])
    assert await one(http, simulator) == EXPECTED[kind]
    assert await one(http, simulator) == "believed", "and the next one is answered"


@pytest.mark.parametrize("kind", sorted(REFUSED_SOMEHOW))
async def test_r15_success_with_no_vectors_is_no_answer(
    http: httpx.AsyncClient, simulator: Simulator, kind: str
) -> None:
    simulator.admin(faults=[{"kind": kind}])
    with pytest.raises((RefusedError, UnbelievableError)):
        await client.post(http, simulator.base_url, Generation(V4, DIMS), TEXTS, request_id="r1", send_dimensions=True)


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        ("arrears", "stop"),
        ("free_tier_only", "stop"),
        ("key_revoked", "stop"),
        ("quota_exhausted", "stop"),
        ("bill_overdue", "stop"),
    ],
)
@pytest.mark.parametrize("dialect", ["dashscope", "native"])
async def test_r20_account_events_stop_and_blame_no_text(
    http: httpx.AsyncClient, simulator: Simulator, event: str, expected: str, dialect: str
) -> None:
    simulator.admin(dialect=dialect, account=event)
    assert await one(http, simulator) == expected


@pytest.mark.parametrize(
    ("dialect", "switches", "texts", "expected"),
    [
        ("dashscope", {"max_texts": 2}, TEXTS, "shrink"),
        ("native", {"max_texts": 2}, TEXTS, "shrink"),
        ("tei", {"max_texts": 2}, TEXTS, "shrink"),
        ("dashscope", {"max_text_tokens": 5}, ["a", "word " * 50], "bisect"),
        ("native", {"max_text_tokens": 5}, ["a", "word " * 50], "bisect"),
        ("dashscope", {"max_request_tokens": 5}, TEXTS, "bisect"),
        ("dashscope", {}, ["a", ""], "bisect"),
        ("dashscope", {}, ["a", POISON], "bisect"),
        ("native", {}, ["a", POISON], "bisect"),
        ("dashscope", {}, ["a", CRASH], "retry, lost"),
        ("native", {}, ["a", CRASH], "retry, lost"),
        ("tei", {}, ["a", CRASH], "retry"),
        ("ollama", {}, ["a", CRASH], "retry, lost"),
        ("vllm", {}, TEXTS, "stop"),
        ("dashscope", {"base64": "ignored"}, TEXTS, "believed"),
        ("dashscope", {"dimensions": "ignored"}, TEXTS, "unbelievable, booked"),
        ("dashscope", {"usage": "missing"}, TEXTS, "believed"),
        ("dashscope", {"usage": "total_only"}, TEXTS, "believed"),
        ("dashscope", {"answer_with": V3, "echo_model": "answering"}, TEXTS, "unbelievable, booked"),
        # Nothing in one answer can tell: these are the canary's work.
        ("dashscope", {"answer_with": V3}, TEXTS, "WRONG"),
        ("dashscope", {"drift": 0.2}, TEXTS, "WRONG"),
        ("dashscope", {"redact": "alpha"}, TEXTS, "WRONG"),
    ],
)
async def test_what_one_request_makes_of_a_servers_limits_and_habits(
    http: httpx.AsyncClient,
    simulator: Simulator,
    dialect: str,
    switches: dict[str, Any],
    texts: list[str],
    expected: str,
) -> None:
    simulator.admin(dialect=dialect, **switches)
    assert await one(http, simulator, texts) == expected


@pytest.mark.parametrize(
    ("form", "seconds", "low", "high"),
    [("none", 7, 5, 5), ("seconds", 7, 7, 7), ("milliseconds", 0.25, 0.25, 0.25), ("date", 7, 5, 8)],
)
async def test_r22_retry_after_is_understood_in_every_form(
    http: httpx.AsyncClient, simulator: Simulator, form: str, seconds: float, low: float, high: float
) -> None:
    simulator.admin(retry_after=form, faults=[{"kind": "requests_limit", "seconds": seconds}])
    with pytest.raises(RefusedError) as caught:
        await client.post(http, simulator.base_url, Generation(V4, DIMS), TEXTS, request_id="r1", send_dimensions=True)
    assert low <= caught.value.refusal.wait_seconds <= high


# The whole loop


@dataclass
class Done:
    """What the loop made of the texts."""

    vectors: dict[int, Any] = field(default_factory=dict)
    refused: dict[int, str] = field(default_factory=dict)


@dataclass
class Loop:
    """The real loop with books for a purse."""

    embedder: Embedder
    books: Books
    simulator: Simulator

    async def run(self, texts: list[str]) -> Done:
        """Embed texts, settling each answer as its writer would."""
        done = Done()
        for run in self.embedder.plan(texts):
            async for outcome in self.embedder.embed(texts, run):
                if isinstance(outcome, TextRefused):
                    done.refused[outcome.position] = outcome.reason
                else:
                    done.vectors |= dict(zip(outcome.positions, outcome.vectors, strict=True))
                    await self.books.spend(outcome.request_id, outcome.used_tokens)
        return done

    def check_books(self) -> None:
        """P7: what the ledger billed is spent in full or still counted by its bound, request by request."""
        for entry in self.simulator.ledger(entries=True)["entries"]:
            request_id = entry["request_id"]
            state = self.books.state[request_id]
            assert state in {"spent", "possibly billed"}, f"billed and {state}"
            counted = self.books.used.get(request_id, self.books.bounds[request_id])
            assert counted >= entry["tokens"]
        assert "open" not in self.books.state.values()


@pytest.fixture
async def loop(http: httpx.AsyncClient, simulator: Simulator) -> Loop:
    books = Books()
    model = ModelSpec.model_validate(
        {"model": f"qwen/{V4}", "dimensions": DIMS, "base_url": simulator.base_url, "price_usd_per_mtok": 0.1}
    )
    embedder = Embedder(http, model, profiles.load()["generic"], books, 10, backoff_seconds=0.01)
    return Loop(embedder, books, simulator)


ROWS = [f"alpha{number} beta gamma{number % 3}" for number in range(25)]


def assert_all_right(done: Done, texts: list[str]) -> None:
    wanted = Deterministic().embed(V4, texts, DIMS)
    for position, vector in done.vectors.items():
        assert np.allclose(vector, wanted[position], atol=1e-6), f"position {position} has another text's vector"
    assert done.vectors.keys() | done.refused.keys() == set(range(len(texts)))


@pytest.mark.parametrize("kind", sorted(EXPECTED.keys() - {"free_quota"}))
async def test_p7_the_loop_outlives_every_fault_that_passes_and_its_books_hold(loop: Loop, kind: str) -> None:
    loop.simulator.admin(
        retry_after="seconds", faults=[{"kind": kind, "seconds": None if kind == "stall" else 0.1, "every": 2}]
    )
    done = await loop.run(ROWS)
    assert done.refused == {}
    assert_all_right(done, ROWS)
    loop.check_books()
    assert loop.simulator.ledger()["faults_to_come"] == 0, "the fault was met"
    pauses = [reason for _, reason in loop.books.pauses]
    throttles = {"throttled", "requests_limit", "tokens_limit", "burst", "business_throttle"}
    # A failing server that says when to come back is heeded by everybody, too.
    asks_to_wait = {"server_error", "unavailable"}
    assert len(pauses) == (kind in throttles | asks_to_wait), "nothing else holds everybody back"


@pytest.mark.parametrize("kind", sorted(SPOILT & {kind for kind, what in EXPECTED.items() if "unbeliev" in what}))
async def test_answers_that_stay_unbelievable_stop_it(loop: Loop, kind: str) -> None:
    loop.simulator.admin(faults=[{"kind": kind, "count": None}])
    hint = "is known to rename models" if kind == "other_model" else "can't be believed"
    with pytest.raises(AnswersUnbelievable, match=hint):
        await loop.run(ROWS)
    loop.check_books()
    assert loop.simulator.ledger()["requests"] == 2, "asked twice, no more"


@pytest.mark.parametrize("kind", ["unavailable", "html_502", "lost", "truncated"])
async def test_an_outage_gives_the_batch_back_and_blames_no_text(loop: Loop, kind: str) -> None:
    loop.simulator.admin(faults=[{"kind": kind, "count": None}])
    with pytest.raises(ProviderBusy):
        await loop.run(ROWS)
    loop.check_books()
    assert 5 <= loop.simulator.ledger()["arrived"] <= 8, "a handful of tries, and then it waits outside"


@pytest.mark.parametrize("event", ["arrears", "free_tier_only", "key_revoked", "quota_exhausted", "bill_overdue"])
async def test_r20_an_account_that_fails_midway_stops_and_keeps_what_was_paid(loop: Loop, event: str) -> None:
    loop.simulator.admin(steps=[{"after_requests": 1, "set": {"account": event}}])
    with pytest.raises(ProviderStopped):
        await loop.run(ROWS)
    loop.check_books()
    assert loop.simulator.ledger()["arrived"] == 2, "nobody bisects an unpaid bill"
    assert list(loop.books.state.values()) == ["spent", "refunded"]


async def test_r19_poison_is_found_by_halving_and_the_rest_is_embedded(loop: Loop) -> None:
    texts = [*ROWS]
    texts[3], texts[17] = f"x {POISON}", f"y {POISON}"
    done = await loop.run(texts)
    assert done.refused == {3: "content", 17: "content"}
    assert_all_right(done, texts)
    loop.check_books()
    ledger = loop.simulator.ledger()
    # 3 requests for 25 texts; each of two bad ones among 10 costs at most 2 * ceil(log2 10) more.
    assert ledger["arrived"] <= 3 + 2 * 2 * 4
    billed = [each for entry in loop.simulator.ledger(entries=True)["entries"] for each in entry["digests"]]
    assert sorted(billed) == sorted(digest(text) for text in texts if POISON not in text), "each once"


async def test_r7_the_cap_on_texts_is_learnt_from_the_refusal(loop: Loop) -> None:
    loop.simulator.admin(max_texts=6)
    done = await loop.run(ROWS)
    assert_all_right(done, ROWS)
    assert loop.books.learnt[0] == 6
    loop.check_books()


async def test_a_request_over_the_token_total_is_halved(loop: Loop) -> None:
    loop.simulator.admin(max_request_tokens=60)
    done = await loop.run(ROWS)
    assert done.refused == {}
    assert_all_right(done, ROWS)


async def test_r23_real_limits_are_waited_for(loop: Loop) -> None:
    """Ten times as fast: 120 requests a minute are 20 a second here."""
    loop.simulator.admin(requests_per_minute=120, speed=10, retry_after="seconds")
    texts = [f"{text} {half}" for half in ("once", "more") for text in ROWS]
    done = await loop.run(texts)
    assert_all_right(done, texts)
    ledger = loop.simulator.ledger()
    assert ledger["requests"] == 5
    assert set(ledger["refused"]) <= {"limit_requests"}
    assert len(loop.books.pauses) == sum(ledger["refused"].values())


async def test_r9_a_server_that_cuts_texts_says_nothing(http: httpx.AsyncClient, simulator: Simulator) -> None:
    """TEI and Ollama answer 200 for the beginning of a text: only the usage shows it."""
    for dialect in ("tei", "ollama"):
        simulator.admin(dialect=dialect, max_text_tokens=20)
        reply = await client.post(
            http, simulator.base_url, Generation(V4, DIMS), ["word " * 90], request_id="r1", send_dimensions=True
        )
        assert reply.tokens == 20
