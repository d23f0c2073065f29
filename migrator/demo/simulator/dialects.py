"""Dialects: how different servers behind the same path differ in limits, habits and the shape of a refusal.

Floor 4. Sources: Model Studio's error page (compatible and native shapes); text-embeddings-inference,
router/src/http/server.rs; Ollama, middleware/openai.go and server/routes.go; vLLM's OpenAI server and a report of its
matryoshka refusal (coze-studio#838).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from migrator.demo.simulator.refusals import Words

Shape = Callable[[Words, int, str], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Dialect:
    """One kind of server."""

    name: str
    shape: Shape
    max_texts: int
    #: Long texts are cut without a word instead of refused.
    truncates: bool = False
    needs_key: bool = True
    dimensions: Literal["honoured", "ignored", "refused"] = "honoured"
    #: It serves one model, by whatever name it is asked for.
    any_model: bool = False
    takes_empty: bool = False
    moderates: bool = False
    #: Refusals that it answers with another status than DashScope does.
    statuses: dict[str, int] = field(default_factory=dict)
    #: Refusals that it words differently.
    messages: dict[str, str] = field(default_factory=dict)


def _compatible(words: Words, _: int, message: str) -> dict[str, Any]:
    request_id = str(uuid.uuid4())
    error = {"message": message, "type": words.code, "param": None, "code": words.code}
    return {"error": error, "id": request_id, "request_id": request_id}


def _native(words: Words, _: int, message: str) -> dict[str, Any]:
    return {"request_id": str(uuid.uuid4()), "code": words.native, "message": message}


def _tei(words: Words, status: int, message: str) -> dict[str, Any]:
    return {"message": message, "code": status, "type": _TEI_TYPES.get(words.name, "Validation")}


def _ollama(words: Words, status: int, message: str) -> dict[str, Any]:
    del words
    kind = {400: "invalid_request_error", 404: "not_found_error"}.get(status, "api_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": None}}


def _vllm(words: Words, status: int, message: str) -> dict[str, Any]:
    del words
    kind = {400: "BadRequestError", 401: "Unauthorized", 404: "NotFoundError"}.get(status, "InternalServerError")
    return {"error": {"message": message, "type": kind, "param": None, "code": status}}


_TEI_TYPES = {
    "contents": "Validation", "no_texts": "Empty", "crash": "Backend", "requests_limit": "Overloaded",
    "tokens_limit": "Overloaded", "burst": "Overloaded", "throttled": "Overloaded", "unavailable": "Unhealthy",
    "server_error": "Backend",
}  # fmt: skip

DIALECTS = {
    each.name: each
    for each in (
        Dialect("dashscope", _compatible, 10, moderates=True),
        Dialect("native", _native, 10, moderates=True),
        Dialect(
            "tei",
            _tei,
            32,
            truncates=True,
            needs_key=False,
            any_model=True,
            statuses={"too_many_texts": 422, "length": 422, "crash": 424, "server_error": 424},
            messages={
                "too_many_texts": "batch size {given} > maximum allowed batch size {limit}",
                "no_texts": "`input` cannot be empty",
                "length": "`inputs` cannot be empty",
                "crash": "backend error",
                "requests_limit": "Model is overloaded",
                "tokens_limit": "Model is overloaded",
                "burst": "Model is overloaded",
                "throttled": "Model is overloaded",
                "unavailable": "unhealthy",
            },
        ),
        Dialect(
            "ollama",
            _ollama,
            1_000_000,
            truncates=True,
            needs_key=False,
            takes_empty=True,
            messages={
                "unknown_model": 'model "{given}" not found, try pulling it first',
                "contents": "invalid input type",
                "no_texts": "invalid input",
            },
        ),
        Dialect(
            "vllm",
            _vllm,
            2048,
            needs_key=False,
            dimensions="refused",
            messages={
                "unknown_model": "The model `{given}` does not exist.",
                "matryoshka": 'Model "{given}" does not support matryoshka representation, changing output dimensions '
                "will lead to poor results.",
                "length": "This model's maximum context length is {limit} tokens. However, you requested {given} "
                "tokens in the input for embedding generation. Please reduce the length of the input.",
            },
        ),
    )
}
