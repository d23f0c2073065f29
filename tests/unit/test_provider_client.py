"""The door to the provider: what an answer must be before anything of it is believed."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
from collections.abc import AsyncIterator, Callable
from functools import cache
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from migrator.generation import Generation
from migrator.provider import client, tokens
from migrator.provider.catalogue import Action
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.provider.profiles import Dialect

GENERATION = Generation("qwen/text-embedding-v4", 4)
TEXTS = ["canary-first", "canary-second", "canary-third"]
#: Three vectors whose components are no short decimals: what is lost on the way would show.
VECTORS = np.random.default_rng(4).standard_normal((3, 4)).astype("<f4")
KEY = "sk-canary-key"


def encoded(vector: NDArray[np.float32]) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode()


def answer(vectors: Any = VECTORS, *, as_floats: bool = False, **changes: Any) -> dict[str, Any]:
    """A good answer, or one with something changed."""
    data = [
        {"object": "embedding", "index": index, "embedding": vector.tolist() if as_floats else encoded(vector)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": 23, "total_tokens": 23}
    return {"object": "list", "model": "text-embedding-v4", "data": data, "usage": usage, **changes}


@cache
def habits() -> dict[str, Any]:
    """What our HTTP client was made with, to be had with another transport."""
    made = client.make_http(KEY)
    asyncio.run(made.aclose())
    return {"headers": made.headers, "follow_redirects": made.follow_redirects}


def ask(
    respond: Callable[[httpx.Request], httpx.Response] | dict[str, Any],
    *,
    send_dimensions: bool = True,
    dialect: Dialect | None = None,
) -> tuple[Reply, httpx.Request]:
    """Post TEXTS through the real client to a transport that answers; returns the reply and what was sent."""
    sent: list[httpx.Request] = []

    def handle(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        # NaN is no JSON, but a provider that sends it sends it bare.
        return respond(request) if callable(respond) else httpx.Response(200, text=json.dumps(respond))

    made_with = habits()

    async def post() -> Reply:
        async with httpx.AsyncClient(transport=httpx.MockTransport(handle), **made_with) as http:
            return await client.post(
                http,
                "https://provider.test/v1",
                GENERATION,
                TEXTS,
                request_id="r1",
                send_dimensions=send_dimensions,
                dialect=dialect,
            )

    return asyncio.run(post()), sent[0]


def test_r10_base64_and_floats_give_the_same_vectors_bit_for_bit() -> None:
    from_base64, _ = ask(answer())
    from_floats, _ = ask(answer(as_floats=True))
    assert from_base64.vectors.dtype == from_floats.vectors.dtype == np.dtype("<f4")
    assert from_base64.vectors.tobytes() == from_floats.vectors.tobytes() == VECTORS.tobytes()


def test_what_is_asked_for() -> None:
    _, request = ask(answer())
    assert str(request.url) == "https://provider.test/v1/embeddings"
    assert json.loads(request.content) == {
        "model": "qwen/text-embedding-v4",
        "input": TEXTS,
        "encoding_format": "base64",
        "dimensions": 4,
    }
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert request.headers["x-request-id"] == "r1"
    _, request = ask(answer(), send_dimensions=False)
    assert "dimensions" not in json.loads(request.content)


def test_r13_vectors_come_in_the_order_of_their_indices() -> None:
    shuffled = answer()
    shuffled["data"] = [shuffled["data"][position] for position in (2, 0, 1)]
    assert ask(shuffled)[0].vectors.tobytes() == VECTORS.tobytes()


def with_index(position: int, index: Any) -> dict[str, Any]:
    made = answer()
    if index is None:
        del made["data"][position]["index"]
    else:
        made["data"][position]["index"] = index
    return made


def with_vector(value: Any) -> dict[str, Any]:
    made = answer()
    made["data"][1]["embedding"] = value
    return made


NAN, INFINITE, ZERO = (np.array([1, bad, 3, 4], dtype="<f4") for bad in (np.nan, np.inf, 0))

UNBELIEVABLE: list[tuple[str, dict[str, Any], str]] = [
    ("one vector is missing", answer(VECTORS[:2]), "2 vectors came for 3 texts"),
    ("one vector too many", answer(np.vstack([VECTORS, VECTORS[:1]])), "4 vectors came for 3 texts"),
    ("no vector at all", answer([]), "0 vectors came for 3 texts"),
    ("an index twice", with_index(1, 0), "no permutation"),
    ("an index is missing", with_index(1, None), "no permutation"),
    ("an index is beyond the texts", with_index(2, 3), "no permutation"),
    ("an index is below zero", with_index(0, -1), "no permutation"),
    ("an index is true", with_index(1, index=True), "no permutation"),
    ("an index is a fraction", with_index(1, 1.0), "no permutation"),
    ("an index is no number", with_index(0, "0"), "no permutation"),
    ("an entry is no object", answer(data=["x", "y", "z"]), "no permutation"),
    ("fewer dimensions", answer(VECTORS[:, :3]), "not of 4 dimensions"),
    ("more dimensions", answer(np.hstack([VECTORS, VECTORS])), "not of 4 dimensions"),
    ("one vector is shorter", with_vector(encoded(VECTORS[0, :2])), "not of 4 dimensions"),
    ("one vector is empty", with_vector([]), "not of 4 dimensions"),
    ("no vector but null", with_vector(None), "not of 4 dimensions"),
    ("a list of lists", with_vector([[1.0, 2.0, 3.0, 4.0]]), "not of 4 dimensions"),
    ("a ragged list", with_vector([[1.0], 2.0, 3.0, 4.0]), "not of 4 dimensions"),
    ("words for numbers", with_vector(["a", "b", "c", "d"]), "not of 4 dimensions"),
    ("numbers as words", with_vector(["1", "2", "3", "4"]), "not of 4 dimensions"),
    ("an integer beyond all floats", with_vector([1, 10**400, 3, 4]), "not of 4 dimensions"),
    ("a number beyond float32", with_vector([1.0, 1e39, 3.0, 4.0]), "NaN or infinity"),
    ("an object for a vector", with_vector({"a": 1}), "not of 4 dimensions"),
    ("no base64", with_vector("!" * 24), "not of 4 dimensions"),
    (
        "base64 with something in between",
        with_vector(f"{encoded(VECTORS[1])[:8]}!!!!{encoded(VECTORS[1])[8:]}"),
        "not of 4",
    ),
    ("base64 of half a number", with_vector(base64.b64encode(b"123").decode()), "not of 4 dimensions"),
    ("NaN", with_vector(encoded(NAN)), "NaN or infinity"),
    ("NaN among floats", with_vector([1.0, float("nan"), 3.0, 4.0]), "NaN or infinity"),
    ("null among floats", with_vector([1.0, None, 3.0, 4.0]), "NaN or infinity"),
    ("infinity", with_vector(encoded(INFINITE)), "NaN or infinity"),
    ("zero", with_vector(encoded(np.zeros(4, dtype="<f4"))), "a vector is zero"),
    ("zero among floats", with_vector([0, 0, 0, -0.0]), "a vector is zero"),
    ("another model", answer(model="text-embedding-v3"), "another model answered"),
]


@pytest.mark.parametrize(("body", "why"), [case[1:] for case in UNBELIEVABLE], ids=[case[0] for case in UNBELIEVABLE])
def test_r13_to_r16_nothing_of_an_unbelievable_answer_is_kept(body: dict[str, Any], why: str) -> None:
    with pytest.raises(UnbelievableError, match=why) as caught:
        ask(body)
    assert caught.value.used_tokens == 23, "it was billed, so it is booked"


def test_one_zero_component_is_no_zero_vector() -> None:
    assert ask(with_vector(encoded(ZERO)))[0].vectors[1].tolist() == [1, 0, 3, 4]


@pytest.mark.parametrize("model", ["text-embedding-v4", "qwen/text-embedding-v4", "other/text-embedding-v4", "", None])
def test_r16_the_models_name_is_compared_without_its_vendor(model: str | None) -> None:
    assert ask(answer(model=model))[0].vectors.tobytes() == VECTORS.tobytes()


@pytest.mark.parametrize(
    ("usage", "used", "estimated"),
    [
        ({"prompt_tokens": 23, "total_tokens": 40}, 23, False),
        ({"prompt_tokens": 0, "total_tokens": 40}, 40, False),
        ({"input_tokens": 17}, 17, False),
        ({"prompt_tokens": "23"}, None, True),
        ({"prompt_tokens": -1}, None, True),
        ({"prompt_tokens": True}, None, True),
        ({"prompt_tokens": 10**30}, None, True),
        ({"prompt_tokens": 2.5, "total_tokens": 7}, 7, False),
        ({}, None, True),
        (None, None, True),
        ("23", None, True),
    ],
)
def test_r17_usage_is_the_providers_or_our_bound_and_says_so(usage: Any, used: int | None, *, estimated: bool) -> None:
    reply, _ = ask(answer(usage=usage))
    assert reply.tokens_estimated is estimated
    assert reply.tokens == (sum(map(tokens.bound, TEXTS)) if used is None else used)


@pytest.mark.parametrize(
    ("body", "action"),
    [
        ({"code": "Arrearage", "message": "m"}, Action.STOP),
        ({"code": "Throttling.RateQuota", "message": "m"}, Action.THROTTLE),
        ({"error": {"code": "data_inspection_failed", "message": "m"}}, Action.BISECT),
    ],
)
def test_r15_status_200_with_an_error_inside_is_a_refusal(body: dict[str, Any], action: Action) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(body)
    assert caught.value.refusal.action is action


@pytest.mark.parametrize("extra", [{"code": 200}, {"code": 0}, {"code": ""}, {"code": "Success"}, {"error": None}])
def test_r15_an_envelope_that_says_all_is_well_is_no_error(extra: dict[str, Any]) -> None:
    assert ask(answer(**extra))[0].vectors.tobytes() == VECTORS.tobytes()


@pytest.mark.parametrize("extra", [{"code": "Arrearage"}, {"code": 402}, {"error": {"code": "Arrearage"}}])
def test_r15_an_error_beside_vectors_is_an_error(extra: dict[str, Any]) -> None:
    with pytest.raises(RefusedError) as caught:
        ask(answer(**extra))
    assert caught.value.refusal.action is Action.STOP


@pytest.mark.parametrize("body", [{}, {"object": "list"}, {"data": {}}, {"data": None, "usage": {}}, [], None, "x", 7])
def test_r15_an_answer_without_vectors_or_error_is_not_believed(body: Any) -> None:
    with pytest.raises(UnbelievableError, match="neither vectors nor an error") as caught:
        ask(lambda _: httpx.Response(200, text=json.dumps(body)))
    assert caught.value.used_tokens is None, "nobody knows what it cost"


def test_r13_order_without_indices_needs_the_profiles_word() -> None:
    bare = answer()
    for entry in bare["data"]:
        del entry["index"]
    with pytest.raises(UnbelievableError, match="no permutation"):
        ask(bare)
    in_order = Dialect(missing_index="order")
    assert ask(bare, dialect=in_order)[0].vectors.tobytes() == VECTORS.tobytes()
    with pytest.raises(UnbelievableError, match="2 vectors came for 3 texts"):
        ask({**bare, "data": bare["data"][:2]}, dialect=in_order)
    with pytest.raises(UnbelievableError, match="no permutation"):
        ask(with_index(1, None), dialect=in_order)


def test_r16_the_models_name_may_be_left_unchecked() -> None:
    renamed = answer(model="text-embedding-v3")
    assert ask(renamed, dialect=Dialect(model_echo="ignore"))[0].vectors.tobytes() == VECTORS.tobytes()


def test_r10_the_encoding_is_always_asked_for_and_either_is_read() -> None:
    _, request = ask(answer(), dialect=Dialect(encoding="float"))
    assert json.loads(request.content)["encoding_format"] == "float"


class Flood(httpx.AsyncByteStream):
    """A body that never ends."""

    def __init__(self, chunk: bytes) -> None:
        self.chunk = chunk
        self.sent = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while True:
            self.sent += len(self.chunk)
            assert self.sent < 4_000_000, "it is read without end"
            yield self.chunk


@pytest.mark.parametrize("chunk", [b" " * 1000, b"[" * 70_000, b'{"data": [' + b"0," * 500])
def test_an_answer_without_end_is_left(chunk: bytes) -> None:
    flood = Flood(chunk)
    with pytest.raises(LostError, match="longer than any answer") as caught:
        ask(lambda _: httpx.Response(200, stream=flood))
    assert caught.value.sent
    assert flood.sent < 300_000


def test_an_errors_body_without_end_is_judged_by_its_beginning() -> None:
    flood = Flood(b"<html>" * 100)
    with pytest.raises(RefusedError) as caught:
        ask(lambda _: httpx.Response(503, stream=flood))
    assert caught.value.refusal.action is Action.RETRY
    assert flood.sent < 100_000


def test_a_packed_answer_is_unpacked_and_never_to_more_than_it_may_be() -> None:
    packed = gzip.compress(json.dumps(answer()).encode())
    headers = {"content-encoding": "gzip"}
    assert ask(lambda _: httpx.Response(200, content=packed, headers=headers))[0].vectors.tobytes() == VECTORS.tobytes()
    bomb = gzip.compress(b" " * 2_000_000)
    with pytest.raises(LostError, match="longer than any answer"):
        ask(lambda _: httpx.Response(200, content=bomb, headers=headers))
    for coding in ("gzip, gzip", "br", "zstd"):
        with pytest.raises(LostError, match="packed in a way"):
            ask(lambda _, coding=coding: httpx.Response(200, stream=Flood(b"x"), headers={"content-encoding": coding}))


def test_an_answer_that_drips_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    class Drip(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            while True:
                await asyncio.sleep(0.001)
                yield b" "

    monkeypatch.setattr(client, "_WHOLE_SECONDS", 0.05)
    with pytest.raises(LostError, match="TimeoutError") as caught:
        ask(lambda _: httpx.Response(200, stream=Drip()))
    assert caught.value.sent


def test_json_that_is_nested_without_end_is_no_answer() -> None:
    with pytest.raises(LostError, match="no JSON"):
        ask(lambda _: httpx.Response(200, text="[" * 60_000))


def fails(error: type[httpx.HTTPError]) -> Callable[[httpx.Request], httpx.Response]:
    def respond(request: httpx.Request) -> httpx.Response:
        raise error(f"canary {request.url}")

    return respond


@pytest.mark.parametrize(
    ("error", "sent"),
    [
        (httpx.ConnectError, False),
        (httpx.ConnectTimeout, False),
        (httpx.PoolTimeout, False),
        (httpx.ReadTimeout, True),
        (httpx.WriteTimeout, True),
        (httpx.ReadError, True),
        (httpx.RemoteProtocolError, True),
        (httpx.DecodingError, True),
    ],
)
def test_r24_only_what_never_left_is_surely_not_billed(error: type[httpx.HTTPError], *, sent: bool) -> None:
    with pytest.raises(LostError) as caught:
        ask(fails(error))
    assert (caught.value.sent, caught.value.why) == (sent, error.__name__)


def test_an_answer_cut_short_may_have_been_billed() -> None:
    with pytest.raises(LostError, match="no JSON") as caught:
        ask(lambda _: httpx.Response(200, text=json.dumps(answer())[:-40]))
    assert caught.value.sent


def test_r12_the_key_goes_to_one_host_only() -> None:
    hosts = []

    def respond(request: httpx.Request) -> httpx.Response:
        hosts.append(request.url.host)
        return httpx.Response(307, headers={"location": "https://elsewhere.test/v1/embeddings"})

    with pytest.raises(RefusedError) as caught:
        ask(respond)
    assert hosts == ["provider.test"]
    assert caught.value.refusal.action is Action.STOP


def test_p11_no_text_and_no_key_is_part_of_an_error() -> None:
    quoting = json.dumps({"error": {"code": "InvalidParameter", "message": f"{TEXTS} {KEY}"}})
    responses: list[Any] = [
        lambda _: httpx.Response(400, text=quoting),
        lambda _: httpx.Response(500, text=f"<html>{TEXTS} {KEY}"),
        lambda _: httpx.Response(200, text=f"{TEXTS} {KEY}"),
        fails(httpx.ReadError),
        *(body for _, body, _ in UNBELIEVABLE),
    ]
    for respond in responses:
        with pytest.raises((RefusedError, LostError, UnbelievableError)) as caught:
            ask(respond)
        error: BaseException | None = caught.value
        while error is not None:
            assert "canary" not in f"{error} {error!r} {vars(error)}"
            error = error.__cause__ if error.__suppress_context__ else error.__cause__ or error.__context__
