"""The simulator: an embeddings server with a provider's limits, refusals, faults and bill, over real HTTP.

Floor 4. Promise: a request that breaks any limit is refused whole, in the very words of the real endpoint; what is
worked for is billed, also when the reply is lost. `POST .../embeddings` is the OpenAI-compatible surface, the native
path Model Studio's own; `GET /ledger` tells the bill, `GET /seen` which texts arrived, `POST /admin` turns switches
(simulator.behaviour) at run time. It listens where it is told to, which is loopback.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from migrator.demo.simulator import faults, gateway, latency, reading, replies
from migrator.demo.simulator.account import Account, digest, make_entry
from migrator.demo.simulator.backends import Backend
from migrator.demo.simulator.behaviour import BehaviourInvalid
from migrator.demo.simulator.dialects import DIALECTS, Dialect
from migrator.demo.simulator.faults import Fault
from migrator.demo.simulator.limits import retry_after
from migrator.demo.simulator.reading import CRASH, POISON
from migrator.demo.simulator.refusals import REFUSALS, Refused
from migrator.demo.simulator.scenario import read_steps
from migrator.demo.simulator.wire import Dropped, Undelivered

__all__ = ["CRASH", "POISON", "make_app"]

#: Model Studio's own surface.
NATIVE_PATH = "/api/v1/services/embeddings/text-embedding/text-embedding"
_HTML = "<html><head><title>{0}</title></head><body><center><h1>{0}</h1></center><hr>nginx</body></html>"
#: Refusals that come as a success: Model Studio's own SDK knows the layer.
_BUSINESS = {"business_error": "server_error", "business_throttle": "requests_limit"}
_GATEWAY = {"html_502": (502, "502 Bad Gateway"), "html_504": (504, "504 Gateway Time-out")}


def make_app(backend: Backend, account: Account) -> Starlette:
    """Return the ASGI application."""

    async def ledger(request: Request) -> JSONResponse:
        totals = account.totals()
        if request.query_params.get("entries"):
            totals["entries"] = [asdict(each) for each in account.entries]
        return JSONResponse(totals)

    async def seen(_: Request) -> JSONResponse:
        return JSONResponse(account.seen)

    async def admin(request: Request) -> JSONResponse:
        try:
            wanted = await request.json()
            steps = read_steps(wanted.pop("steps", []))
            account.change(wanted)
        except BehaviourInvalid as invalid:
            return JSONResponse({"problems": [asdict(each) for each in invalid.problems]}, 422)
        account.schedule(steps)
        return JSONResponse({"ok": True})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in backend.models()]})

    async def elsewhere(_: Request) -> Response:
        return _refusal(Refused("unknown_path"), account, DIALECTS[account.behaviour.dialect])

    return Starlette(
        routes=[
            Route(NATIVE_PATH, Embeddings(backend, account, native=True), methods=["POST"]),
            Route("/{prefix:path}/embeddings", Embeddings(backend, account), methods=["POST"]),
            Route("/ledger", ledger),
            Route("/seen", seen),
            Route("/admin", admin, methods=["POST"]),
            Route("/{prefix:path}/models", models),
            Route("/{path:path}", elsewhere, methods=["GET", "POST"]),
        ]
    )


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The embeddings surface, compatible or native. A request is in flight until its last byte is sent."""

    backend: Backend
    account: Account
    native: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        self.account.in_flight += 1
        try:
            response = await self._respond(Request(scope, receive))
            await response(scope, receive, send)
        finally:
            self.account.in_flight -= 1

    async def _respond(self, request: Request) -> Response:
        account = self.account
        account.arrive()
        dialect = DIALECTS["native" if self.native else account.behaviour.dialect]
        try:
            body = await self._body(request)
            key = reading.authorised(request.headers.get("authorization", ""), account, dialect)
            fault = account.faults.meet(str(body.get("model", "")) if isinstance(body, dict) else "")
            if fault is not None and fault.kind not in faults.LOST | faults.SPOILT:
                return _before_work(fault, account)
            if fault is not None:
                account.refused[fault.name] += 1
            return await self._work(request, body, key, dialect, fault)
        except Refused as refused:
            account.refused[refused.words.code] += 1
            return _refusal(refused, account, dialect)

    async def _body(self, request: Request) -> Any:
        """Read the body, and note the texts that arrived."""
        try:
            body = json.loads(await request.body())
        except ValueError:
            raise Refused("no_json") from None
        if self.native and isinstance(body, dict):
            body = _from_native(body)
        given = body.get("input") if isinstance(body, dict) else None
        for text in [given] if isinstance(given, str) else given if isinstance(given, list) else []:
            self.account.seen[digest(str(text))] += 1
        return body

    async def _work(self, request: Request, body: Any, key: str, dialect: Dialect, fault: Fault | None) -> Response:
        account, elsewhere, number = self.account, self.account.elsewhere(), self.account.arrived
        # As it is now: who resets the account meanwhile does not want this request on the new bill.
        bill = account.entries
        asked = reading.read(body, account, self.backend, dialect, elsewhere=elsewhere)
        account.limits.admit(account.behaviour, sum(asked.counts))
        behaviour, request_id = account.behaviour, request.headers.get("x-request-id") or uuid.uuid4().hex
        await asyncio.sleep(latency.seconds(behaviour, len(asked.texts), account.random))
        vectors = await asyncio.to_thread(
            gateway.embed,
            self.backend,
            behaviour,
            asked.model,
            asked.texts,
            asked.dims,
            elsewhere=elsewhere,
            number=number,
        )
        kind = fault.kind if fault is not None else None
        line = make_entry(
            request_id=request_id,
            key=key,
            model=asked.model,
            texts=asked.texts,
            counts=asked.counts,
            number=number,
            lost=kind in faults.WASTED,
        )
        bill.append(line)
        made = replies.compose(asked, vectors, behaviour, request_id, kind, honest=dialect.any_model)
        whole, headers = replies.encoded(replies.native(made) if self.native else made, compressed=kind == "gzip")
        headers |= account.limits.headers(behaviour)
        if kind == "late_504":
            return HTMLResponse(_HTML.format("504 Gateway Time-out"), 504)
        if fault is not None and kind in faults.LOST:
            return Undelivered(whole, headers, str(kind), fault.seconds)
        return Response(whole, 200, headers)


def _from_native(body: dict[str, Any]) -> dict[str, Any]:
    """Return what the compatible surface would have been asked."""
    given, parameters = body.get("input"), body.get("parameters") or {}
    if parameters.get("text_type", "document") not in {"query", "document"}:
        raise Refused("text_type")
    made = {"model": body.get("model", ""), "input": given.get("texts") if isinstance(given, dict) else given}
    return made | ({"dimensions": parameters["dimension"]} if "dimension" in parameters else {})


def _before_work(fault: Fault, account: Account) -> Response:
    """Answer a fault for which nothing was worked or billed."""
    if fault.status is not None:
        account.refused[fault.name] += 1
        return JSONResponse(fault.body, fault.status, fault.headers)
    if fault.kind in _BUSINESS:
        account.refused[fault.name] += 1
        words = REFUSALS[_BUSINESS[fault.kind]]
        return JSONResponse(DIALECTS["native"].shape(words, 200, words.message), 200)
    if fault.kind == "dropped":
        account.refused[fault.name] += 1
        return Dropped()
    if fault.kind in _GATEWAY:
        account.refused[fault.name] += 1
        status, title = _GATEWAY[fault.kind]
        return HTMLResponse(_HTML.format(title), status)
    raise Refused(str(fault.kind), retry_seconds=fault.seconds)


def _refusal(refused: Refused, account: Account, dialect: Dialect) -> Response:
    """Say no, in the dialect's words and shape."""
    words, behaviour = refused.words, account.behaviour
    status = dialect.statuses.get(words.name, words.status)
    message = dialect.messages.get(words.name, words.message)
    message = message.format(given=refused.given, limit=refused.limit)
    headers = retry_after(behaviour.retry_after, refused.retry_seconds) | account.limits.headers(behaviour)
    return JSONResponse(dialect.shape(words, status, message), status, headers)
