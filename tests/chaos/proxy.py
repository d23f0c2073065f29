"""A TCP proxy that can swallow: connections stay open and nothing comes through, as behind a router that forgot them.

It runs in a thread of its own, so that a test may block. `swallow()` turns every connection that is open into a black
hole; connections made afterwards work, as they do after a failover. `cut()` has the clients told that they ended.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """Listens on a port of its own and passes everything on to `target` on loopback."""

    target: int
    port: int = 0
    _loop: asyncio.AbstractEventLoop = field(default_factory=asyncio.new_event_loop)
    _thread: threading.Thread | None = None
    #: One flag per connection: cleared, it swallows; and the way back to its client.
    _open: dict[asyncio.Event, asyncio.StreamWriter] = field(default_factory=dict)
    swallowed: int = 0

    def start(self) -> None:
        ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(ready,), daemon=True)
        self._thread.start()
        assert ready.wait(10)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        assert self._thread is not None
        self._thread.join(10)

    def swallow(self) -> None:
        """Let nothing through any more on the connections that are open now."""

        def close() -> None:
            self.swallowed += len(self._open)
            for passing in self._open:
                passing.clear()

        self._loop.call_soon_threadsafe(close)

    def cut(self) -> None:
        """End every connection for its client; the server hears nothing of it."""

        def end() -> None:
            for passing, client in self._open.items():
                passing.clear()
                client.transport.abort()

        self._loop.call_soon_threadsafe(end)

    def _serve(self, ready: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connection, "127.0.0.1", self.port))
        self.port = server.sockets[0].getsockname()[1]
        ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.run_until_complete(asyncio.sleep(0))  # aborted transports close in the next turn
        self._loop.close()

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        passing = asyncio.Event()
        passing.set()
        self._open[passing] = writer
        writers = [writer]
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.target)
            writers.append(up_writer)
            pumps = _pump(reader, up_writer, passing), _pump(up_reader, writer, passing)
            await asyncio.gather(*pumps)
        except (OSError, asyncio.CancelledError):
            pass  # either end is gone, or the proxy stops
        finally:
            self._open.pop(passing)
            for each in writers:
                each.transport.abort()


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter, passing: asyncio.Event) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            await passing.wait()
            sink.write(data)
            await sink.drain()
    await passing.wait()
    sink.close()
