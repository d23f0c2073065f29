"""Connections to a provider: many small pools behind one HTTP client.

Floor 1. Promise: no pool ever holds more than `MAX_CONNECTIONS` connections, however many requests are under way, and
the operator's proxies (HTTPS_PROXY, NO_PROXY) are used as they are by everybody else. Why: a pool looks at each of its
connections for each request; measured on one core at 200 ms a request, 145 requests/s with 32 connections and 52 with
64, against 258 with four pools of 16 (httpx#3215).
"""

from __future__ import annotations

import ssl
import urllib.request
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

#: Connections of one pool: half of the number at which it begins to slow down.
MAX_CONNECTIONS = 16

_Make = Callable[[str | None], httpx.AsyncBaseTransport]


@dataclass(eq=False, slots=True)
class _Pool:
    transport: httpx.AsyncBaseTransport
    under_way: int = 0


class Pools(httpx.AsyncBaseTransport):
    """Sends each request through the least busy pool of its origin, and opens another when all are full."""

    def __init__(self, make: _Make | None = None) -> None:
        self._make = make or _make_pool()
        self._pools: dict[str, list[_Pool]] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; its pool counts it until its answer is closed."""
        pool = self._pick(request.url)
        pool.under_way += 1
        try:
            answer = await pool.transport.handle_async_request(request)
        except BaseException:
            pool.under_way -= 1
            raise
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous transport's
        answer.stream = _Counted(answer.stream, pool)
        return answer

    def _pick(self, url: httpx.URL) -> _Pool:
        pools = self._pools.setdefault(f"{url.scheme}://{url.netloc.decode('ascii')}", [])
        free = min(pools, key=lambda pool: pool.under_way, default=None)
        if free is None or free.under_way >= MAX_CONNECTIONS:
            free = _Pool(self._make(_proxy_of(url)))
            pools.append(free)
        return free

    @property
    def count(self) -> int:
        """How many pools there are."""
        return sum(map(len, self._pools.values()))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close every connection."""
        for pools in self._pools.values():
            for pool in pools:
                await pool.transport.aclose()
        self._pools.clear()


class _Counted(httpx.AsyncByteStream):
    """An answer's body, which frees its place in the pool once, when it is closed."""

    def __init__(self, stream: httpx.AsyncByteStream, pool: _Pool) -> None:
        self._stream = stream
        self._pool: _Pool | None = pool

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            yield chunk

    async def aclose(self) -> None:
        if self._pool is not None:
            self._pool.under_way -= 1
            self._pool = None
        await self._stream.aclose()


def _make_pool() -> _Make:
    """Return a maker of pools that share one TLS context: reading the certificates takes longer than a request."""
    context: list[ssl.SSLContext] = []

    def make(proxy: str | None) -> httpx.AsyncBaseTransport:
        if not context:
            context.append(httpx.create_ssl_context())
        limits = httpx.Limits(max_connections=MAX_CONNECTIONS, max_keepalive_connections=MAX_CONNECTIONS)
        return httpx.AsyncHTTPTransport(verify=context[0], limits=limits, proxy=proxy)

    return make


def _proxy_of(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names for a URL, if any."""
    if urllib.request.proxy_bypass(url.host):
        return None
    named = urllib.request.getproxies()
    return named.get(url.scheme) or named.get("all")
