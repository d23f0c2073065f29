"""A real HTTP receiver of hooks for tests, which verifies signatures by its own code, and behaves as it is told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "hook-secret-canary"  # noqa: S105 - of tests
SECRET_ENV = "TEST_HOOK_SECRET"  # noqa: S105 - a variable's name


@dataclass
class Receiver:
    """What was received, and how it answers: with a status, or not before `hang` is set."""

    url: str
    status: int = 204
    received: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    hang: threading.Event | None = None

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [json.loads(body) for _, body in self.received]

    @property
    def events(self) -> list[str]:
        return [each["event"] for each in self.bodies]

    def verified(self, key: bytes = SECRET.encode()) -> bool:
        """Whether every signature is right, and none is older than a minute."""
        return bool(self.received) and all(is_right(headers, body, key) for headers, body in self.received)


def is_right(headers: dict[str, str], body: bytes, key: bytes) -> bool:
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    wanted = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    fresh = abs(time.time() - int(headers["webhook-timestamp"])) < 60
    return fresh and headers["webhook-signature"] == wanted


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        receiver: Receiver = self.server.receiver  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers["content-length"]))
        receiver.received.append(({name.lower(): value for name, value in self.headers.items()}, body))
        if receiver.hang is not None:
            receiver.hang.wait(60)
        try:
            self.send_response(receiver.status)
            if 300 <= receiver.status < 400:
                self.send_header("location", f"{receiver.url}/elsewhere")
            self.end_headers()
            if self.path.startswith("/endless"):
                while True:
                    self.wfile.write(b"x" * 65_536)
        except OSError:
            pass

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def receiving() -> Iterator[Receiver]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    made = Receiver(f"http://127.0.0.1:{server.server_address[1]}")
    server.receiver = made  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    if made.hang is not None:
        made.hang.set()
    server.shutdown()
    thread.join()
    server.server_close()
