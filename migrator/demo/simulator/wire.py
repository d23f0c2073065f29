"""Delivery: how an answer's bytes reach the client, or do not.

Floor 4. Promise: a reset is one, on the socket: part of the body may have arrived, and then the connection is reset.
ASGI knows no such thing, so the server's connections are kept by their client's address.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from asyncio import Transport

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

#: Pieces of a drip: enough to outlast any read timeout that starts again with every byte.
_PIECES = 20
_FOREVER_SECONDS = 3600.0
#: close() then sends RST and drops what is unsent (socket(7), SO_LINGER).
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_connections: dict[tuple[str, int], Transport] = {}


class Cuttable(H11Protocol):
    """uvicorn's HTTP connection; it can be found and cut while it is open."""

    _address: tuple[str, int] | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Remember the connection."""
        super().connection_made(transport)
        self._address = self.client
        if self._address is not None:
            _connections[self._address] = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        if self._address is not None:
            _connections.pop(self._address, None)
        super().connection_lost(exc)


def cut(scope: Scope) -> None:
    """Reset the request's connection."""
    transport = _connections.get(tuple(scope["client"]))
    if transport is not None:
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


class Undelivered(Response):
    """An answer that goes wrong on its way: `how` is one of the faults whose work is billed."""

    def __init__(self, whole: bytes, headers: dict[str, str], how: str, seconds: float | None) -> None:
        content = whole[: len(whole) // 2] if how == "truncated" else whole
        super().__init__(content, 200, headers)
        self.how = how
        self.seconds = _FOREVER_SECONDS if seconds is None else seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it as far as it goes."""
        if self.how == "reset":
            await send(self._start())
            await send(_piece(self.body_bytes[: len(self.body_bytes) // 2], more=True))
        if self.how in {"reset", "lost"}:
            cut(scope)
            await _gone(receive)
            return
        if self.how == "stall":
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(_gone(receive), self.seconds)
                return
        if self.how == "drip":
            await self._drip(send)
            return
        await super().__call__(scope, receive, send)

    async def _drip(self, send: Send) -> None:
        await send(self._start())
        length = len(self.body_bytes) // _PIECES + 1
        pause = self.seconds / _PIECES
        for start in range(0, len(self.body_bytes), length):
            await send(_piece(self.body_bytes[start : start + length], more=True))
            await asyncio.sleep(pause)
        await send(_piece(b"", more=False))

    @property
    def body_bytes(self) -> bytes:
        """The body, as bytes."""
        return bytes(self.body)

    def _start(self) -> Message:
        return {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}


def _piece(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


async def _gone(receive: Receive) -> None:
    """Wait until the client is gone."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Dropped(Response):
    """No answer at all: the connection is reset before any work."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Cut the connection."""
        del send
        cut(scope)
        await _gone(receive)
