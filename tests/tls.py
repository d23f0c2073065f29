"""TLS in front of a server that speaks none, as managed servers have it: what comes out of it goes on in plain."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import trustme

#: What a PostgreSQL client sends first when it wants TLS: length 8, code 80877103.
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)


class Authority:
    """A certificate authority, and what it has signed for `localhost`."""

    def __init__(self, home: Path, name: str) -> None:
        self._ca = trustme.CA()
        self.file = home / f"{name}.pem"
        self._ca.cert_pem.write_to_path(self.file)

    def server(self, host: str = "localhost") -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._ca.issue_cert(host).configure_cert(context)
        return context


@contextmanager
def in_front_of(port: int, context: ssl.SSLContext, *, postgres: bool = False) -> Iterator[int]:
    """Listen for TLS in front of a port of this machine; its own port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    opened: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        opened.append(writer)
        with contextlib.suppress(OSError, ssl.SSLError, asyncio.IncompleteReadError):
            if postgres:
                if await reader.readexactly(8) != _SSL_REQUEST:
                    writer.close()
                    return
                writer.write(b"S")
                await writer.drain()
                await writer.start_tls(context)
            inner_reader, inner_writer = await asyncio.open_connection("127.0.0.1", port)
            opened.append(inner_writer)
            await asyncio.gather(_pass_on(reader, inner_writer), _pass_on(inner_reader, writer))

    async def listen() -> asyncio.Server:
        return await asyncio.start_server(serve, "127.0.0.1", 0, ssl=None if postgres else context)

    async def stop(server: asyncio.Server) -> None:
        server.close()
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        for writer in opened:
            # Not closed: that would wait for the other side's goodbye. One that was closed twice has nothing left to
            # abort, which Python before 3.11.4 does not look at.
            with contextlib.suppress(AttributeError):
                writer.transport.abort()
        await asyncio.sleep(0.1)

    server = asyncio.run_coroutine_threadsafe(listen(), loop).result(10)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(server), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()


async def _pass_on(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    try:
        while data := await source.read(65_536):
            sink.write(data)
            await sink.drain()
    finally:
        sink.close()
