"""The simulator: an OpenAI-compatible /v1/embeddings with DashScope's limits, refusals and bill, over real HTTP.

Floor 4. Promise: a request that breaks any limit is refused whole, in the very words of the real endpoint; what is
answered is billed, also when the reply is lost. `GET /ledger` tells the bill, `POST /admin` switches limits and faults
at run time. It listens where it is told to, which is loopback.
"""

from __future__ import annotations

import asyncio
import base64
import uuid
from dataclasses import asdict
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from migrator.demo.simulator.account import Account, Bucket, Fault
from migrator.demo.simulator.backends import Backend, drifted
from migrator.provider import tokens

#: A text with this word is refused as moderated content, and makes the whole request fail with it.
POISON = "POISON-CONTENT"
#: A text with this word makes the server fail, always.
CRASH = "CRASH-SERVER"


class _Refused(Exception):
    def __init__(self, status: int, code: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(code)
        self.answer = JSONResponse(
            {
                "error": {"message": message, "type": code, "param": None, "code": code},
                "request_id": str(uuid.uuid4()),
            },
            status,
            headers,
        )
        self.code = code


def make_app(backend: Backend, account: Account) -> Starlette:
    """Return the ASGI application."""

    async def embeddings(request: Request) -> JSONResponse:
        account.in_flight += 1
        try:
            return await _embeddings(request, backend, account)
        except _Refused as refused:
            account.refuse(refused.code)
            return refused.answer
        finally:
            account.in_flight -= 1

    async def ledger(request: Request) -> JSONResponse:
        totals = account.totals()
        if request.query_params.get("entries"):
            totals["entries"] = [asdict(each) for each in account.entries]
        return JSONResponse(totals)

    async def admin(request: Request) -> JSONResponse:
        _change(account, await request.json())
        return JSONResponse({"ok": True})

    async def models(_: Request) -> JSONResponse:
        return JSONResponse({"object": "list", "data": [{"id": name, "object": "model"} for name in backend.models()]})

    return Starlette(
        routes=[
            Route("/{prefix:path}/embeddings", embeddings, methods=["POST"]),
            Route("/ledger", ledger),
            Route("/admin", admin, methods=["POST"]),
            Route("/{prefix:path}/models", models),
        ]
    )


def _change(account: Account, wanted: dict[str, Any]) -> None:
    """Switch what is named: plain figures, limits (as new buckets), keys, and faults to come."""
    if wanted.get("reset"):
        account.reset()
    if wanted.get("no_faults"):
        account.faults.clear()
    plain = {name: wanted[name] for name in wanted.keys() & Account.PLAIN}
    for name, value in plain.items():
        setattr(account, name, value)
    for name in ("requests", "tokens"):
        if f"{name}_per_minute" in wanted:
            setattr(account, name, Bucket(wanted[f"{name}_per_minute"]))
    if "keys" in wanted:
        account.keys = frozenset(wanted["keys"]) if wanted["keys"] is not None else None
    account.faults.extend(Fault(**fault) for fault in wanted.get("faults", []))


async def _embeddings(request: Request, backend: Backend, account: Account) -> JSONResponse:
    key = _authorised(request, account)
    fault = account.next_fault()
    if fault is not None:
        account.refuse(f"fault {fault.status}")
        return JSONResponse(fault.body, fault.status, fault.headers)
    body = await request.json()
    model, texts, dims = _read(body, backend)
    counts = _limits(texts, account)
    _pace(account, sum(counts))
    request_id = request.headers.get("x-request-id") or uuid.uuid4().hex
    if account.latency_seconds:
        await asyncio.sleep(account.latency_seconds)
    answering = account.answer_with or model
    vectors = await asyncio.to_thread(backend.embed, answering, texts, dims)
    if account.drift:
        vectors = drifted(vectors, account.drift[len(account.entries) % len(account.drift)])
    account.bill(request_id, key, model, texts, counts)
    wanted = body.get("encoding_format", "float")
    data = [
        {"object": "embedding", "index": index, "embedding": _encode(vector, wanted)}
        for index, vector in enumerate(vectors)
    ]
    usage = {"prompt_tokens": sum(counts), "total_tokens": sum(counts)}
    answer = {"object": "list", "model": body["model"], "data": data, "usage": usage, "id": request_id}
    return JSONResponse(answer)


def _authorised(request: Request, account: Account) -> str:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key or (account.keys is not None and key not in account.keys):
        raise _Refused(401, "invalid_api_key", "Incorrect API key provided. ")
    return key


def _read(body: Any, backend: Backend) -> tuple[str, list[str], int]:
    known = backend.models()
    model = str(body.get("model", "")).rsplit("/", 1)[-1]
    if model not in known:
        raise _Refused(404, "model_not_found", "The model does not exist or you do not have access to it.")
    texts = body.get("input")
    texts = [texts] if isinstance(texts, str) else texts
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        message = "<400> InternalError.Algo.InvalidParameter: Value error, contents is neither str nor list of str."
        raise _Refused(400, "InvalidParameter", f"{message}: input.contents")
    allowed = known[model]
    dims = body.get("dimensions", max(each for each in allowed if each <= 1024))  # noqa: PLR2004 - the default
    if dims not in allowed:
        raise _Refused(400, "InvalidParameter", "<400> InternalError.Algo.InvalidParameter: invalid dimensions")
    return model, texts, dims


def _limits(texts: list[str], account: Account) -> list[int]:
    algo = "<400> InternalError.Algo.InvalidParameter"
    if not 1 <= len(texts) <= account.max_texts:
        message = f"Value error, batch size is invalid, it should not be larger than {account.max_texts}."
        raise _Refused(400, "InvalidParameter", f"{algo}: {message}: input.contents")
    counts = tokens.count_all(texts)[0]
    for text, count in zip(texts, counts, strict=True):
        if not text or count > account.max_text_tokens:
            message = f"Range of input length should be [1, {account.max_text_tokens}]"
            raise _Refused(400, "InvalidParameter", f"{algo}: {message}")
    if any(POISON in text for text in texts):
        raise _Refused(400, "data_inspection_failed", "Input text data may contain inappropriate content.")
    if any(CRASH in text for text in texts):
        raise _Refused(500, "internal_error", "An internal error has occured, please try again later.")
    return counts


def _pace(account: Account, count: int) -> None:
    if not account.requests.take(1):
        message = "You exceeded your current requests list. Requests rate limit exceeded, please try again later."
        raise _Refused(429, "limit_requests", message)
    if not account.tokens.take(count):
        message = "Allocated quota exceeded, please increase your quota limit."
        raise _Refused(429, "insufficient_quota", message)


def _encode(vector: np.ndarray[Any, np.dtype[np.float32]], wanted: str) -> str | list[float]:
    if wanted == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    numbers: list[float] = vector.tolist()
    return numbers
