"""How much of a provider's grant is used, and how fast answers become arrays.

First: four processes share one pace on a real Valkey and ask the simulator (200 ms an answer), which enforces 1,800
requests and 1,000,000 tokens a minute and their per-second slices. They use the real purse against a real PostgreSQL:
look, slot, reservation, request, settlement. Counted are 60 s after slow start, by the simulator's bill. Then, with no
limit: one process on one core, replies of ten vectors of 1,024 dims, from the bytes to the checked array, over 100,000
rows, and how its memory grew from the first tenth to the last.

Everything here shares this machine's cores with the servers, the simulator included: the figures are what was possible
beside them. 30 requests a second take about a core in all (clients, database, simulator): where others use the machine,
the share of requests falls for that reason, and `load before it began` says so.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import tempfile
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psycopg

from benchmarks import Figure
from migrator import spec as specs
from migrator.cli import console
from migrator.demo.servers import Postgres, Valkey
from migrator.demo.simulator.control import Simulator
from migrator.generation import Generation, Side
from migrator.orchestrator import verbs
from migrator.provider import client, tokens
from migrator.provider.embedder import Answer
from migrator.spending.asking import make_embedder
from migrator.spending.worker import Worker
from migrator.state import budget, leases, migrations, schema
from migrator.state.budget import Purpose, price
from migrator.state.connection import make_engine, transaction
from migrator.state.leases import Duty, Lease

_BENCH = "provider"
RPM, TPM, LATENCY_SECONDS = 1800, 1_000_000, 0.2
PROCESSES, SENDERS = 4, 8
#: Slow start is over after four seconds; the rest is for processes that start late on a busy machine.
WARM_SECONDS, MEASURED_SECONDS = 10.0, 60.0
#: Goals: the share of the grant, the share of 429s, and rows a second on one core.
_USED, _REFUSED, _ROWS_PER_SECOND = 0.97, 0.005, 2500.0
ROWS, DIMS, TEXTS = 100_000, 1024, 10
_KEY = "BENCH_PROVIDER_KEY"
#: Words a text, so that tokens bind (about 2,000 a request: documents) or requests do (about 500: short texts).
_WORDS = {"tokens": 40, "requests": 10}


def _spec(simulator: Simulator) -> specs.Spec:
    return specs.parse(
        {
            "name": "bench",
            "target": {"table": "public.docs", "column": "embedding", "text": "{body}"},
            "from": {"model": "text-embedding-v3", "dimensions": DIMS},
            "to": {
                "model": "qwen/text-embedding-v4",
                "dimensions": DIMS,
                "base_url": simulator.base_url,
                "api_key_env": _KEY,
                "price_usd_per_mtok": 0.1,
            },
            "limits": {"max_cost_usd": 1000.0, "requests_per_minute": RPM, "tokens_per_minute": TPM},
        },
        "bench",
    )


def _texts(words: int) -> list[str]:
    generator = np.random.default_rng(3)
    return [" ".join(f"w{number}" for number in generator.integers(0, 9999, words)) for _ in range(TEXTS)]


async def _start(url: str, spec: specs.Spec) -> None:
    engine = make_engine(url, "benchmark")
    async with transaction(engine) as connection:
        await schema.upgrade(connection)
    await verbs.make_plan(engine, spec, actor="bench")
    await verbs.start(engine, spec, path="bench", actor="bench", on_wait=lambda *_: None)
    await engine.dispose()


def _process(number: int, until: float, words: int) -> None:
    """Ask for as much as is let through, settling each answer; what a worker does but for the landing."""
    asyncio.run(_ask(number, until, _texts(words)))


async def _ask(number: int, until: float, texts: list[str]) -> None:
    worker = Worker.make(f"bench {number}")
    async with transaction(worker.engine) as connection:
        migration = await migrations.get(connection, "bench")
        duty = list(Duty)[number]
        lease = await leases.take(connection, migration.id, duty, holder=worker.holder, seconds=3600)
    if lease is None:
        raise RuntimeError(f"{duty} is taken")
    await asyncio.gather(*(_send(worker, migration, lease, until, texts) for _ in range(SENDERS)))
    await worker.close()


async def _send(worker: Worker, migration: migrations.Migration, lease: Lease, until: float, texts: list[str]) -> None:
    embedder = await make_embedder(worker, migration, Side.TO, lease, Purpose.BACKFILL)
    high = migration.spec.model_of(Side.TO).price_usd_per_mtok[1]
    while time.time() < until:
        async for outcome in embedder.embed(texts, range(len(texts))):
            if isinstance(outcome, Answer):
                async with transaction(worker.engine) as connection:
                    await budget.settle(connection, outcome.request_id, price(outcome.used_tokens, high))


def _paced(home: Path, binding: str) -> list[Figure]:
    home.mkdir(mode=0o711)
    postgres, valkey = Postgres(home / "postgres"), Valkey(home / "valkey")
    simulator = Simulator(home / "simulator", latency_seconds=LATENCY_SECONDS)
    try:
        for server in (postgres, valkey, simulator):
            server.start()
        with psycopg.connect(postgres.url, autocommit=True) as admin:
            admin.execute("CREATE EXTENSION vector")
            table = f"CREATE TABLE docs (id bigint PRIMARY KEY, body text, embedding vector({DIMS}))"
            admin.execute(table.encode())
            admin.execute("INSERT INTO docs SELECT i, 'text' FROM generate_series(1, 100) i")
        os.environ |= {"MIGRATOR_DATABASE_URL": postgres.url, "MIGRATOR_BROKER_URL": valkey.url, _KEY: "sk-bench"}
        asyncio.run(_start(postgres.url, _spec(simulator)))
        simulator.admin(requests_per_minute=RPM, tokens_per_minute=TPM)
        return _count(simulator, binding)
    finally:
        simulator.stop()
        valkey.remove()
        postgres.remove()


def _count(simulator: Simulator, binding: str) -> list[Figure]:
    load = os.getloadavg()[0]
    # Processes take long to start on a busy machine, and must outlast what is measured.
    until = time.time() + WARM_SECONDS + MEASURED_SECONDS + 45
    spawning = multiprocessing.get_context("spawn")
    processes = [
        spawning.Process(target=_process, args=(number, until, _WORDS[binding])) for number in range(PROCESSES)
    ]
    for process in processes:
        process.start()
    while not simulator.ledger()["requests"]:
        time.sleep(0.05)
    time.sleep(WARM_SECONDS)
    before = simulator.ledger()
    time.sleep(MEASURED_SECONDS)
    after = simulator.ledger()
    for process in processes:
        process.join()
    bill = simulator.ledger(entries=True)["entries"]
    requests, count = after["requests"] - before["requests"], after["tokens"] - before["tokens"]
    # The looks themselves take a moment: the bill's own clock says how long it really was.
    moments = sorted(entry["at"] for entry in bill)[before["requests"] : after["requests"]]
    seconds = (moments[-1] - moments[0]) * requests / (requests - 1)
    used = max(requests / (RPM * seconds / 60), count / (TPM * seconds / 60))
    refused = sum(after["refused"].values()) - sum(before["refused"].values())
    of = f"{RPM:,} requests/min, {TPM:,} tokens/min, {binding} bind; {PROCESSES} processes"
    return [
        Figure(_BENCH, "load before it began", load, "runnable", versus=of),
        Figure.at_least(_BENCH, "share of the grant that is used", used, "share", _USED, of),
        Figure.within(_BENCH, "429s", refused / (requests + refused), "share", (0, _REFUSED), of),
        Figure(_BENCH, "429s while slow start lasted", sum(before["refused"].values()), "requests", versus=of),
        Figure(_BENCH, "requests", 60 * requests / seconds, "requests/min", versus=of),
        Figure(_BENCH, "tokens", 60 * count / seconds, "tokens/min", versus=of),
    ]


def _answer(texts: list[str]) -> bytes:
    vectors = np.random.default_rng(5).standard_normal((len(texts), DIMS)).astype("<f4")
    data = [
        {"object": "embedding", "index": index, "embedding": b64encode(vector.tobytes()).decode()}
        for index, vector in enumerate(vectors)
    ]
    used = sum(tokens.count_all(texts)[0])
    return json.dumps({"object": "list", "data": data, "usage": {"prompt_tokens": used, "total_tokens": used}}).encode()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


async def _decode() -> tuple[float, int, int]:
    """Post through httpx's whole client with the network cut off below it; returns (seconds, RSS early, RSS late)."""
    texts = _texts(_WORDS["tokens"])
    body = _answer(texts)

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=body)

    generation, early = Generation("text-embedding-v4", DIMS), 0
    async with httpx.AsyncClient(transport=httpx.MockTransport(reply)) as http:
        began = time.process_time()
        for number in range(ROWS // TEXTS):
            found = await client.post(
                http, "http://localhost/v1", generation, texts, request_id=str(number), send_dimensions=True
            )
            if found.vectors.shape != (TEXTS, DIMS):
                raise RuntimeError("an answer has another shape")
            if number == ROWS // TEXTS // 10:
                early = _resident_bytes()
        return time.process_time() - began, early, _resident_bytes()


def _decoding(connection: Any) -> None:
    connection.send(asyncio.run(_decode()))


def _unlimited() -> list[Figure]:
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_decoding, args=(theirs,))
    process.start()
    seconds, early, late = ours.recv()
    process.join()
    of = f"{ROWS:,} rows of {DIMS} dims, {TEXTS} a reply, CPU time of one core"
    grown = f"after {ROWS:,} rows against after {ROWS // 10:,}"
    return [
        Figure.at_least(_BENCH, "from reply to decoded arrays", ROWS / seconds, "rows/s", _ROWS_PER_SECOND, of),
        Figure.within(_BENCH, "resident memory", late / early, "ratio", (0, 1.05), grown),
    ]


def run() -> list[Figure]:
    """Measure; returns the figures.

    Raises: ExtraMissing.
    """
    console.aside("  from reply to decoded arrays ...")
    figures = _unlimited()
    home = Path(tempfile.mkdtemp(prefix="mgb-"))
    # PostgreSQL runs as `nobody` where we are root, and must pass through.
    home.chmod(0o711)
    try:
        for binding in _WORDS:
            console.aside(f"  {PROCESSES} processes, {binding} bind ({WARM_SECONDS + MEASURED_SECONDS:.0f} s) ...")
            figures += _paced(home / binding, binding)
        return figures
    finally:
        shutil.rmtree(home, ignore_errors=True)
