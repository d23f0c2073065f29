"""Many small pools behind one client: none too big, none leaked, against a real server on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest

from migrator.provider import client, connections
from migrator.provider.connections import MAX_CONNECTIONS, Pools

_ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


class Server:
    """Answers once so many requests wait at the same time."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.waiting = 0
        self.full = asyncio.Event()
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readline():
            while (await reader.readline()).strip():
                pass
            self.waiting += 1
            if self.waiting >= self.wanted:
                self.full.set()
            await self.full.wait()
            writer.write(_ANSWER)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def running(wanted: int) -> AsyncIterator[Server]:
    server = Server(wanted)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()
    await listening.wait_closed()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


async def test_many_requests_at_once_are_spread_over_small_pools() -> None:
    """All forty are under way at the same time, which one pool of sixteen would never allow."""
    pools = Pools()
    async with running(40) as server, httpx.AsyncClient(transport=pools) as http:
        url = f"http://127.0.0.1:{server.port}/"
        answers = await asyncio.gather(*(http.get(url) for _ in range(40)))
        assert [each.text for each in answers] == ["ok"] * 40
        assert pools.count == -(-40 // MAX_CONNECTIONS)
        assert [pool.under_way for pool in pools._pools[url.rstrip("/")]] == [0, 0, 0]
        server.wanted = 1
        await http.get(url)
        assert pools.count == 3, "what is free again is used again"


async def test_a_request_that_fails_or_is_cut_short_frees_its_place() -> None:
    pools = Pools()
    async with running(1) as server, httpx.AsyncClient(transport=pools) as http:
        url = f"http://127.0.0.1:{server.port}"
        async with http.stream("GET", url):
            assert [pool.under_way for pool in pools._pools[url]] == [1]
        assert [pool.under_way for pool in pools._pools[url]] == [0]
    pools = Pools()
    async with httpx.AsyncClient(transport=pools) as http:
        with pytest.raises(httpx.ConnectError):
            await http.get(f"http://127.0.0.1:{server.port}")
        assert [pool.under_way for [pool] in pools._pools.values()] == [0]


def test_the_client_of_a_worker_uses_the_pools() -> None:
    made = client.make_http("key")
    assert isinstance(made._transport, Pools)
    asyncio.run(made.aclose())
    assert MAX_CONNECTIONS <= 32


def test_the_environments_proxy_is_used_unless_it_is_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.test:3128")
    monkeypatch.setenv("NO_PROXY", "inside.test")
    assert connections._proxy_of(httpx.URL("https://api.test/v1")) == "http://proxy.test:3128"
    assert connections._proxy_of(httpx.URL("https://inside.test/v1")) is None
